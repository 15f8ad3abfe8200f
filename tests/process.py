"""One of two processes of a training: `process.py FOLDER PORT NUMBER`.

Started by tests/test_training.py, whose losses and data it takes.
"""

import functools
import sys

import jax

folder, port, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)

import numpy as np  # noqa: E402

from rdljax import checkpoints, training  # noqa: E402
from tests import test_training as setting  # noqa: E402

assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 4, 2)
student, teacher, arrays = setting.setting(training.AXIS)
begin = functools.partial(setting.begin, student, teacher, arrays)
# (As one program: operation by operation it takes a second more.)
state = jax.jit(lambda: begin(devices=None))()
step = training.pmap(
    training.body(student, teacher, setting.PHASE, setting.OPTIMIZER, setting.view)
)
arrays, metrics = training.replicate(arrays), []
# Before the first step every process has all rows.
jax.tree.map(
    np.testing.assert_array_equal, training.whole(state).per_device, state.per_device
)


def go(state, batches):
    for batch in batches:
        own = training.of_this_process(batch)
        assert len(own["index"]) == setting.BATCH // 2
        state, metric = step(state, arrays, training.shard(own))
        metrics.append(jax.device_get(metric))
    return state


batches = setting.batches(4)
state = go(state, batches[:2])
about = {"devices": jax.device_count(), "processes": jax.process_count()}
checkpoints.save(f"{folder}/middle", 2, training.whole(state), about)

restored, _, _ = checkpoints.restore(
    f"{folder}/middle", lambda about: jax.eval_shape(lambda: begin(about["devices"]))
)
state = go(restored, batches[2:])
state = training.whole(state)
if number == 0:
    rows = dict(enumerate(state.per_device["crd/sharded"]))
    rows = {f"crd/sharded{i}": np.asarray(x) for i, x in rows.items()}
    np.savez(f"{folder}/per_device.npz", count=state.per_device["count"], **rows)
end = {"state": setting.key_words(state.replicated), "metrics": metrics}
checkpoints.save(f"{folder}/end", 4, end, about)
