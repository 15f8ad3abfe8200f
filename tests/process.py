"""One of two processes of a training: `process.py FOLDER PORT NUMBER [HOW WHO]`.

Started by tests/test_training.py, whose losses and data it takes. The program of
`docs/devices.md` takes the first steps, word for word; after the first of them the
process WHO ends as HOW says.
"""

import functools
import os
import pathlib
import re
import signal
import sys

import jax

folder, port, number, *ending = sys.argv[1:]
number = int(number)
docs = pathlib.Path(__file__).parents[1] / "docs" / "devices.md"
text = docs.read_text().partition("## Several processes")[2].partition("\n## ")[0]
begins, trains = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
initialize = jax.distributed.initialize


def initialized(**seconds):
    """What a cluster tells is given; who waits for the end waits shorter."""
    seconds = dict.fromkeys(seconds, 10) if ending else seconds
    initialize(f"127.0.0.1:{port}", 2, number, **seconds)


jax.distributed.initialize = initialized
exec(begins, {"jax": jax})

import numpy as np  # noqa: E402

from rdljax import checkpoints, training  # noqa: E402
from tests import test_training as setting  # noqa: E402

assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 4, 2)
student, teacher, arrays = setting.setting(training.AXIS)
batches, metrics = setting.batches(4), []


def ends(how, who):
    if number == int(who):
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("something is wrong here")


def seen(batches):
    """The batches, with a look at the metrics behind each."""
    for batch in batches:
        yield batch
        assert names["own"]["index"].shape == (2, setting.BATCH // 4)
        metrics.append(jax.device_get(names["metrics"]))
        if ending:
            ends(*ending)


about = {"devices": jax.device_count(), "processes": jax.process_count()}
names = {"jax": jax, "checkpoints": checkpoints, "training": training}
names |= {"key": jax.random.key(0), "net": student, "teacher": teacher}
names |= {"plan": [setting.PHASE], "optimizer": setting.OPTIMIZER}
names |= {"view": setting.view, "arrays": arrays, "batch": batches[0]}
names |= {"settings": {"seed": 0, "learning rate": 0.05, "layers": ("pooled",)}}
names |= {"batches": seen(batches[:2]), "about": about}
names |= {"folder": f"{folder}/middle", "number": 2}
exec(trains, names)

begin = functools.partial(setting.begin, student, teacher, arrays)
restored, _, _ = checkpoints.restore(
    f"{folder}/middle", lambda about: jax.eval_shape(lambda: begin(about["devices"]))
)


def differ(call, words):
    try:
        call()
    except training.ProcessesDiffer as error:
        assert str(error) == f"the {words}"
    else:
        raise AssertionError(words)


def changed(state):
    """The state, in the second process with another bias."""
    params = {**state.replicated.params}
    student = {**params["student"]}
    layer = sorted(student)[-1]
    student[layer] = student[layer] | {"bias": student[layer]["bias"] + number}
    where = f"params/student/{layer}/bias"
    params["student"] = student
    return state._replace(replicated=state.replicated._replace(params=params)), where


step, arrays = names["step"], names["arrays"]
own = training.shard(training.local_batch(batches[2]))
of = "of process 1 differs from that of process 0"
for mine, where in (
    ({"seed": 3, "learning rate": 0.1 if number else 0.01}, "learning rate"),
    ({"seed": 3} | dict.fromkeys(["more"][:number]), "the names of its entries"),
):
    settings = functools.partial(training.check_alike, "settings", mine)
    differ(settings, f"settings {of}: {where}")
other, where = changed(restored)
differ(lambda: step(other, arrays, own), f"state {of}: replicated/{where}")
state, metric = step(restored, arrays, own)
metrics.append(jax.device_get(metric))
other, where = changed(state)
differ(lambda: training.gather_state(other), f"state {of}: {where}")

own = training.shard(training.local_batch(batches[3]))
state, metric = step(state, arrays, own)
metrics.append(jax.device_get(metric))
state = training.gather_state(state)
if number == 0:
    rows = dict(enumerate(state.per_device["crd/sharded"]))
    rows = {f"crd/sharded{i}": np.asarray(x) for i, x in rows.items()}
    np.savez(f"{folder}/per_device.npz", count=state.per_device["count"], **rows)
end = {"state": setting.key_words(state.replicated), "metrics": metrics}
checkpoints.save(f"{folder}/end", 4, end, about)
