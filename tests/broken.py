"""A short training that is broken off: `broken.py FOLDER HOW NUMBER EPOCHS`.

Started by tests/test_crash.py. HOW it ends: `end` (as it should), `step` (killed before
that step), `event` (killed at that change of the folder with the checkpoints, counted
from the first save on: a file opened, a folder made, moved or removed by Python, while
orbax's own threads write), `disk` (files may be no longer than so many bytes). At the
end it prints the hash of all that was trained and measured, and how many changes of the
folder there were.
"""

import hashlib
import json
import os
import pathlib
import resource
import signal
import sys

import jax
import numpy as np

from experiments import loop
from rdljax import checkpoints, training
from tests import test_training as setting

folder, how, number = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
DEVICES = jax.local_device_count()
CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
changes = 0


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def watch(event, args):
    global changes
    if event not in CHANGES or f"{folder}/checkpoint" not in str(args[0]):
        return
    changes += bool(changes or ".writing" in str(args[0]))
    if how == "event" and changes == number:
        killed()


class Steps:
    """An interrupt that kills."""

    left = number if how == "step" else -1

    @property
    def requested(self):
        if self.left == 0:
            killed()
        self.left -= 1
        return False


# A checkpoint after every step.
loop.STEPS_IN_FLIGHT, loop.SECONDS_BETWEEN_CHECKPOINTS = 1, -1.0
names = ("task", "hint", "rdl/pairs", "crd", "crd/sharded", "count")
phase = training.Phase({name: setting.LOSS[name] for name in names}, epochs=2)
student, teacher, arrays = setting.setting(training.AXIS)
setup = (student, teacher, phase)
job = loop.Job("short", folder, 5, 0, int(sys.argv[4]), setting.N, setting.BATCH, {})
step = training.body(*setup, setting.OPTIMIZER, setting.view)


def begin(seed, devices):
    return setting.begin(student, teacher, arrays, devices, phase)


def evaluate(state, job, epoch):
    kernels = jax.tree.leaves(state.replicated.params["student"])
    total = float(sum(np.abs(x).sum() for x in kernels))
    return lambda: {"validation": total}


method = loop.Method(
    begin,
    training.replicate(arrays),
    training.pmap(training.successive(step, unrolled=True)),
    1,
    training.pmap(training.examination(*setup, setting.view)),
    evaluate,
    student.layers,
)
folder.mkdir(exist_ok=True)
sys.addaudithook(watch)
if how == "disk":
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, resource.RLIM_INFINITY))
try:
    ((state, history, _),) = loop.fit([job], method, Steps(), lambda *_: None)
except checkpoints.CheckpointNotWritten as error:
    print(error)
    sys.exit(1)
leaves = jax.tree.leaves(setting.key_words(state))
content = b"".join(np.asarray(x).tobytes() for x in leaves)
found = hashlib.sha256(content + json.dumps(history).encode()).hexdigest()
print(json.dumps({"hash": found, "changes": changes, "leaves": len(leaves)}))
