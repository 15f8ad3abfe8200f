"""A short training that is broken off, again and again: `broken.py`.

Started by tests/test_crash.py, which asks for one training after another, each as a
line of JSON: `[folder, how, number, epochs]`. HOW it ends: `end` (as it should),
`copies` (the same, and before each step the folder is copied as it would be if it were
killed there), `step` (killed before that step), `event` (killed at that change of the
folder with the checkpoints, counted from the first save on: a file opened, a folder
made, moved or removed by Python, while orbax's own threads write), `disk` (files may be
no longer than so many bytes), `events` (the disk takes that many bytes of the events).
Each is answered by a line: a status and what was said, of which the last line has the
hash of all that was trained and measured, and how many changes of the folder there
were.
"""

import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import pathlib
import resource
import shutil
import signal
import sys

import jax
import numpy as np
from tensorboardX import record_writer

from experiments.training import loop
from rdljax import training
from tests import test_training as setting

CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


class Breaking:
    """An interrupt that kills, or copies, and that watches the checkpoints."""

    def __init__(self, folder, how, number):
        self.folder, self.how, self.number = folder, how, number
        self.looks = self.changes = 0
        self.copying = False

    def watch(self, event, args):
        if event not in CHANGES or f"{self.folder}/checkpoint" not in str(args[0]):
            return
        if not self.copying:
            self.changes += bool(self.changes or ".writing" in str(args[0]))
        if self.how == "event" and self.changes == self.number:
            killed()

    @property
    def requested(self):
        if self.how == "step" and self.looks == self.number:
            killed()
        if self.how == "copies":
            self.copying = True
            shutil.copytree(self.folder, f"{self.folder} before step {self.looks}")
            self.copying = False
        self.looks += 1
        return False


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


# A checkpoint after every step.
loop.STEPS_IN_FLIGHT, loop.SECONDS_BETWEEN_CHECKPOINTS = 1, -1.0
names = ("task", "hint", "rdl/pairs", "crd", "crd/sharded", "count")
phase = training.Phase({name: setting.LOSS[name] for name in names}, epochs=2)
student, teacher, arrays = setting.setting(training.AXIS)
setup = (student, teacher, phase)
step = training.make_step(*setup, setting.OPTIMIZER, setting.view)


@functools.partial(jax.jit, static_argnums=1)
def begin(seed, devices):
    return setting.begin(student, teacher, arrays, devices, phase)


def evaluate(state, job, epoch):
    kernels = jax.tree.leaves(state.replicated.params["student"])
    total = float(sum(np.abs(x).sum() for x in kernels))
    return lambda: {"validation": total}


method = loop.Trainer(
    begin,
    training.replicate(arrays),
    training.pmap(training.scan_steps(step, unrolled=True)),
    1,
    training.pmap(training.make_finite_check(*setup, setting.view)),
    evaluate,
    student.layers,
)


@contextlib.contextmanager
def files_no_longer_than(size):
    """Limits this process's files."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Full(io.RawIOBase):
    """A file on a disk that has room for so many bytes."""

    def __init__(self, room):
        self.room = room

    def writable(self):
        return True

    def write(self, content):
        if self.room < len(content):
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(content)
        return len(content)


@contextlib.contextmanager
def events_no_longer_than(size):
    """Limits the files of events."""
    opened, record_writer.open_file = (
        record_writer.open_file,
        lambda _: io.BufferedWriter(Full(size), 100),
    )
    try:
        yield
    finally:
        record_writer.open_file = opened


def train(breaking, epochs):
    """Trains to the end; prints the hash, or what could not be written."""
    breaking.folder.mkdir(exist_ok=True)
    settings = (5, 0, epochs, setting.N, setting.BATCH, {})
    job = loop.Job("short", breaking.folder, *settings)
    try:
        ((state, history, _),) = loop.fit([job], method, breaking, lambda *_: None)
    except OSError as error:
        print(error)
        return 1
    leaves = jax.tree.leaves(setting.key_words(state))
    content = b"".join(np.asarray(x).tobytes() for x in leaves)
    found = hashlib.sha256(content + json.dumps(history).encode()).hexdigest()
    changes = breaking.changes
    print(json.dumps({"hash": found, "changes": changes, "leaves": len(leaves)}))
    return 0


breaking = None  # (An audit hook is there for good.)
sys.addaudithook(lambda *event: breaking and breaking.watch(*event))
for line in sys.stdin:
    folder, how, number, epochs = json.loads(line)
    breaking = Breaking(pathlib.Path(folder), how, number)
    with contextlib.ExitStack() as stack:
        said = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if how == "disk":
            stack.enter_context(files_no_longer_than(number))
        if how == "events":
            stack.enter_context(events_no_longer_than(number))
        status = train(breaking, epochs)
    print(json.dumps([status, said.getvalue().strip()]), flush=True)
