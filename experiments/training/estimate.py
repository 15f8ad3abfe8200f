"""Plans a table of experiments: lists its runs and estimates their time."""

import functools
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from experiments import command as commands
from experiments import config as configs
from experiments import data, display, methods, tables, weights
from experiments.results import columns, markdown
from experiments.results import folder as results_folder
from experiments.training import builder, checks, interrupts, table_runs
from experiments.training import context as contexts
from rdljax import files, nets, teachers, training

STEPS_MEASURED = 5


class Cost(NamedTuple):
    """The seconds of steps, and of their compilation."""

    steps: float = 0.0
    compiling: float = 0.0


class Plan(NamedTuple):
    """The plan of a table.

    Attributes:
      text: All runs, the finished ones, and an estimate for the others, in Markdown.
      wrong: The columns that cannot be run; the text has the reasons.
    """

    text: str
    wrong: list[str]


class _Column(NamedTuple):
    """The plan of a column.

    Attributes:
      cells: The cells of its row in the table.
      cost: The cost of the nets that are not trained yet; None if it is not known.
    """

    cells: list[Any]
    cost: Cost | None


def print_plan(call: table_runs.Call) -> int:
    """Prints the plan of a table; returns 1 if a column cannot be run, otherwise 0."""
    text, wrong = plan_table(call)
    print(text)
    return 1 if wrong else 0


def plan_table(call: table_runs.Call) -> Plan:
    """Returns the plan of a table."""
    table = tables.load(call.name)
    plans = [(column, _plan_column(call, table, column)) for column in call.chosen]
    head = ["column", "what", "methods", "seeds", "epochs", "nets done"]
    rows = [plan.cells for _, plan in plans]
    grid = markdown.grid([*head, "left", "estimated from"], rows)
    known = [plan.cost for _, plan in plans if plan.cost is not None]
    unknown = [column for column, plan in plans if plan.cost is None]
    total = _duration(Cost(*map(sum, zip(*known, strict=True))) if known else None)
    if known and unknown:
        total += f", without {', '.join(unknown)} (not known)"
    text = (
        f"{grid}\n\nLeft in all: {total}. This is an estimate: it counts a step of a "
        "method, and its compilation, as a plain step and, where images are cropped "
        "or mirrored, a forward pass of the teacher; the time of the losses and of "
        "evaluation is not included."
    )
    return Plan(text, unknown)


def _plan_column(call: table_runs.Call, table: tables.Table, column: str) -> _Column:
    """Returns the plan of a column: its nets, finished and not.

    Args:
      call: The request.
      table: The table without the changes of the command line.
      column: The name of the column.
    """
    of, folder = call.table.columns[column], call.folder / column
    config = of.config
    every = _nets_to_train(of)
    left = [net for net in every if not _result(folder, config, *net).exists()]
    cost: Cost | None
    cost, how = Cost(), "done"
    try:
        call.check(column)
        _check_same(call, column)
        if left:
            cost, how = _estimate(config, folder, left)
    except (OSError, ValueError, commands.UsageError) as error:
        cost, how = None, str(error)
    taught = (
        config.nets.teacher_from or of.teacher_of or config.nets.teacher or "no teacher"
    )
    changed = columns.changes(table, {column: results_folder.settings(config)}, column)
    cells = [
        columns.name(table, column, changed),
        f"{taught} > {config.nets.student}, {config.data.name}",
        *(len(config.method.names), config.training.seeds, config.training.epochs),
        *(f"{len(every) - len(left)} of {len(every)}", _duration(cost), how),
    ]
    return _Column(cells, cost)


def _nets_to_train(of: tables.Column) -> list[tuple[str, int]]:
    """Returns the method and the seed of each net of a column, the teacher's first."""
    config = of.config
    found = [(m, i) for m in config.method.names for i in range(config.training.seeds)]
    elsewhere = config.nets.teacher_from is not None or of.teacher_of is not None
    if config.nets.teacher and not elsewhere:
        found = [("teacher", i) for i in range(config.nets.ensemble)] + found
    return found


def _check_same(call: table_runs.Call, column: str) -> None:
    """Raises `UsageError` if a column's folder has a run with other settings."""
    record = call.folder / column / results_folder.RunFile.CONFIG
    if not record.exists():
        return
    config, _ = contexts.trained_elsewhere(table_runs.column_settings(call, column))
    name = f"{call.name}/{column}"
    mine = {"name": name, **results_folder.settings(config)}
    theirs = files.read_json(record)
    known = {k: v for k, v in theirs.items() if k in mine}
    if changed := results_folder.differences(known, mine):
        raise commands.UsageError(
            f"its folder has a run with other settings: {', '.join(changed)}"
        )


def _result(
    folder: pathlib.Path, config: configs.Config, method: str, seed: int
) -> pathlib.Path:
    name = results_folder.net_folder(method, seed, config.nets.ensemble)
    return folder / name / results_folder.NetFile.RESULT


def _duration(cost: Cost | None) -> str:
    if cost is None:
        return "not known"
    seconds = round(cost.steps + cost.compiling)
    hours, rest = divmod(seconds, 3600)
    words = f"{rest // 60} min {rest % 60} s"
    if hours:
        words = f"{hours} h {rest // 60:02d} min"
    if cost.compiling:
        words += f" ({round(cost.compiling)} s to compile)"
    return words


def _estimate(
    config: configs.Config, folder: pathlib.Path, left: list[tuple[str, int]]
) -> tuple[Cost, str]:
    """Returns the cost of the nets that are left, and the source of the estimate.

    The cost of a method with a finished seed is that seed's time; for other methods a
    few steps are measured. Each method is compiled once for all its seeds.

    Raises:
      UsageError: If the data are missing.
    """
    config, inputs = contexts.trained_elsewhere(config)
    checks.check(config)
    dataset = contexts.load(config)
    students = data.for_students(dataset, config.data.student_per_class)
    measured = _measure(config, dataset, inputs)
    # (Without augmentation a teacher sees each image only once.)
    asks = any(contexts.augmentation(config, dataset).values())
    total, compiling, known = 0.0, 0.0, 0
    for method in dict.fromkeys(method for method, _ in left):
        images = dataset if method == "teacher" else students
        steps = len(images.train.label) // config.training.batch
        if method == "teacher":
            step, phases = measured["teacher"], [config.training.teacher_epochs]
        else:
            plan = contexts.plan(config, students, inputs, method)
            step, phases = measured["student"], [phase.epochs for phase in plan]
            if asks and methods.reads_teacher(method):
                step = Cost(*map(sum, zip(step, measured["teaching"], strict=True)))
        compiling += len(phases) * step.compiling
        seeds = range(max(config.training.seeds, config.nets.ensemble))
        records = [_result(folder, config, method, seed) for seed in seeds]
        found = [files.read_json(one)["seconds"] for one in records if one.is_file()]
        known += bool(found)
        one = float(np.mean(found)) if found else sum(phases) * steps * step.steps
        total += one * sum(name == method for name, _ in left)
    how = [f"seeds of {display.count_of(known, 'method')}"] if known else []
    return Cost(total, compiling), " and ".join([*how, "a few steps"])


def _measure(
    config: configs.Config, dataset: data.Dataset, inputs: contexts.Inputs
) -> dict[str, Cost]:
    """Measures plain steps of student and teacher, and a teacher's forward pass.

    The pass is over the images of a step.
    """
    with tempfile.TemporaryDirectory() as scratch, tqdm.tqdm(disable=True) as bar:
        folder = pathlib.Path(scratch)
        context = contexts.build_context(
            config, dataset, folder, interrupts.Interrupt(), bar, inputs
        )
        student = contexts.student(config, dataset, inputs, training.AXIS)
        found = {"student": _cost_of_step(context, student)}
        if config.nets.teacher is not None and inputs.teacher is None:
            teacher = contexts.teacher(config, dataset, training.AXIS)
            found["teacher"] = _cost_of_step(context, teacher, "teacher")
        if config.nets.teacher is not None:
            found["teaching"] = _cost_of_teaching(config, dataset)
    return found


def _cost_of_step(
    context: contexts.Context, net: nets.NetLike, name: str | None = None
) -> Cost:
    """Returns the cost of a step of a net with only its task."""
    began = time.perf_counter()
    method_trainers = builder.prepare(context, net, teachers.none(), "plain", name)
    trainer, size = method_trainers.trainers[0], context.config.training.batch
    images = np.arange(size * trainer.chunk, dtype=np.int32)
    batches = data.Batches(images.reshape(trainer.chunk, size))
    batch = training.shard(trainer.feed(batches), axis=1)
    state = trainer.begin(0, jax.device_count())

    def step():
        nonlocal state
        state, metrics = trainer.step_fn(state, trainer.arrays, batch)
        return metrics

    return _cost(step, began, trainer.chunk)


def _cost_of_teaching(config: configs.Config, dataset: data.Dataset) -> Cost:
    """Returns the cost of a forward pass of all teachers for the images of a step."""
    net = contexts.teacher(config, dataset)
    images = np.zeros((config.training.batch, *dataset.shape), np.float32)
    variables = net.init(jax.random.key(0), images[:1])
    activate = functools.partial(weights.activations, net, variables, images)
    cost = _cost(lambda: activate(net.layers), time.perf_counter())
    return Cost(*(config.nets.ensemble * seconds for seconds in cost))


def _cost(call: Callable[[], Any], began: float, chunk: int = 1) -> Cost:
    """Returns the cost of a step: the median of a few calls, after one that compiles.

    Args:
      call: A call of `chunk` steps.
      began: The time when the first call's preparation began, in seconds.
      chunk: The number of steps of a call.
    """
    jax.block_until_ready(call())
    first, taken = time.perf_counter() - began, []
    for _ in range(STEPS_MEASURED):
        began = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - began)
    one = float(np.median(taken))
    return Cost(one / chunk, max(first - one, 0.0))
