"""Trains students: the training state and the optax step, mapped over devices.

================== =====================================================================
module             contents
================== =====================================================================
`training.state`   `Phase` (a part of the plan), `TrainState`, `Replicated`, `Arrays`;
                   `student_variables`; the types `Batch`, `View` and `Weight`
`training.begin`   `init`, `begin_phase`: the initial state
`training.step`    `make_step`: one step of a phase (of the type `Step`);
                   `compute_loss`: the loss of a phase, for a step of your own
`training.many`    `scan_steps`: several steps in one call; `vmap_trainings`,
                   `vmap_over`, `stack_trainings`, `check_same_step`,
                   `select_training`, `check_one_training`: several trainings in one
                   program
`training.devices` `pmap`, `compile_step` (a `Program`), `shard`, `replicate`, `AXIS`;
                   for several processes `local_batch`, `gather_state`, `check_alike`
                   (raises `ProcessesDiffer`); `reshard_like`
`training.finite`  `make_finite_check`, `FiniteReport`: finds where a loss became NaN
================== =====================================================================

All names are available as `training.NAME`.

A training plan is a sequence of phases. A phase has the terms of its loss with their
weights, the parameters that it trains, and a number of epochs. The step depends on the
devices only by the name of an axis, so the same step runs under `pmap`,
`vmap(axis_name=...)`, `jit(shard_map(...))`, or unmapped with `axis_name=None`. With
several processes (`jax.distributed`), each holds the part of its own devices: see the
documentation's page `docs/devices.md`.

    plan = [training.Phase({"task": (1.0, terms.cross_entropy())}, epochs=20)]
    arrays = training.replicate(training.Arrays(teacher.arrays, data))
    state = training.init(key, net, teacher, plan, view, arrays, batch)
    state = training.begin_phase(state, plan[0], optimizer)
    step = training.pmap(training.make_step(net, teacher, plan[0], optimizer, view))
    state, metrics = step(state, arrays, training.shard(batch))
"""

from rdljax.training.begin import begin_phase, init
from rdljax.training.devices import (
    AXIS,
    ProcessesDiffer,
    Program,
    check_alike,
    compile_step,
    gather_state,
    local_batch,
    pmap,
    replicate,
    reshard_like,
    shard,
)
from rdljax.training.finite import FiniteReport, make_finite_check
from rdljax.training.many import (
    check_one_training,
    check_same_step,
    scan_steps,
    select_training,
    stack_trainings,
    vmap_over,
    vmap_trainings,
)
from rdljax.training.state import (
    Arrays,
    Batch,
    Phase,
    Replicated,
    TrainState,
    View,
    Weight,
    student_variables,
)
from rdljax.training.step import Step, compute_loss, make_step

__all__ = [
    "AXIS",
    "Arrays",
    "Batch",
    "FiniteReport",
    "Phase",
    "ProcessesDiffer",
    "Program",
    "Replicated",
    "Step",
    "TrainState",
    "View",
    "Weight",
    "begin_phase",
    "check_alike",
    "check_one_training",
    "check_same_step",
    "compile_step",
    "compute_loss",
    "gather_state",
    "init",
    "local_batch",
    "make_finite_check",
    "make_step",
    "pmap",
    "replicate",
    "reshard_like",
    "scan_steps",
    "select_training",
    "shard",
    "stack_trainings",
    "student_variables",
    "vmap_over",
    "vmap_trainings",
]
