"""Runs a table of experiments: `python -m experiments.table NAME --field=value ...`.

Runs what is not in the results folder yet, goes on where it was stopped, and prints and
writes test accuracy (mean and deviation over seeds), the last and the best epoch on the
validation images, differences, McNemar's tests, the published numbers beside ours and
how the settings differ. `--plan` shows the runs and what they will take first. NAME is
a file of `experiments/tables`; fields are those of `experiments.run`, for all columns.
A column with other data or nets than the table's is called so, and nothing published
stands beside it.
"""

import contextlib
import csv
import dataclasses
import functools
import io
import os
import pathlib
import shlex
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# (As in experiments.run: before jax is imported.)
os.environ.setdefault("PJRT_NPROC", "32")

import jax
import numpy as np
import tqdm
import tyro

from experiments import (
    checks,
    columns,
    findings,
    locks,
    loop,
    methods,
    programs,
    results,
    run,
    tables,
    trainings,
    weights,
)
from experiments import command as commands
from experiments import config as configs
from experiments import context as contexts
from rdljax import checkpoints, errors, files, teachers, training

# What a table writes beside its columns, in this order.
WRITTEN = ("table.json", "table.md", "table.csv", "table.png")
# What a table sets for each column itself.
OWN = ("out", "resume", "overwrite")
# What leaves one column undone, and the others as they are.
CANNOT_GO_ON = (
    loop.Diverged,
    programs.OutOfMemory,
    checkpoints.CheckpointDamaged,
    checkpoints.CheckpointMismatch,
)
STEPS_MEASURED = 5
# Of columns that have all other data or nets.
OTHERS = "data or nets are not those of the table, so that nothing is published of them"


class Call(NamedTuple):
    """What is asked for.

    Attributes:
      name: Of the table.
      table: The table, with the changes that were asked for.
      folder: For results.
      plan: Show what would be run, and run nothing.
      only: The columns to run; all if there are none.
    """

    name: str
    table: tables.Table
    folder: pathlib.Path
    plan: bool
    only: tuple[str, ...] = ()

    @property
    def chosen(self) -> list[str]:
        """Returns the columns that are asked for."""
        return [*self.only] or [*self.table.columns]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
      The exit status: 0 done, 1 it cannot go on, 2 a wrong call or data that are
      missing; stopped by a signal 128 and its number: 130 for Ctrl-C.
    """
    arguments = commands.line(arguments)

    def command():
        call = parse(arguments)
        if call.plan:
            print(planned(call))
            return
        with loop.Interrupt() as interrupt:
            make(call, interrupt)

    try:
        return run.answer(command)
    except loop.Interrupted as stopped:
        again = shlex.join([sys.executable, "-m", "experiments.table", *arguments])
        print(f"\nstopped in {stopped}; to continue:\n{again}", file=sys.stderr)
        return stopped.status


def parse(arguments: list[str]) -> Call:
    """Returns what is asked for, from `NAME --field=value ...`.

    Raises:
      UnknownName: Of a table, a column or a field.
      UsageError: A field that a table sets itself, or one that makes its columns one.
      SystemExit: A value of the wrong type (2), or `--help` (0).
    """
    name, rest = commands.first(arguments, __doc__, "Tables", tables.names())
    table = tables.load(name)
    plan, folder, only, changes = "--plan" in rest, f"results/{name}", [], []
    rest = iter([argument for argument in rest if argument != "--plan"])
    for argument in rest:
        key, equals, value = argument.partition("=")
        if key in ("--out", "--only"):
            value = value if equals else next(rest, "")
            folder = value if key == "--out" else folder
            only += value.split(",") if key == "--only" else []
        else:
            changes.append(argument)
    for column in only:
        errors.check_name(f"column of {name}", column, table.columns)
    fields = [field.name for field in dataclasses.fields(configs.Config)]
    known = [field for field in fields if field not in OWN]
    commands.check_keys(changes, [*known, "out", "only", "plan"])
    config = tyro.cli(
        configs.Config,
        default=next(iter(table.columns.values())).config,
        args=changes,
        prog=f"python -m experiments.table {name} [--plan] [--out=FOLDER] "
        "[--only=COLUMN,...]",
        description=tables.module(name).__doc__,
    )
    keys = {a[2:].partition("=")[0].replace("-", "_") for a in changes if a[:2] == "--"}
    changed = {
        field: getattr(config, field)
        for field in known
        if field in keys or f"no_{field}" in keys
    }
    if "{" in folder:
        raise commands.UsageError(f"out of a table is a folder as it is, got {folder}")
    own = {
        column: of._replace(config=_changed(of.config, changed))
        for column, of in table.columns.items()
    }
    place = commands.path("out", folder)
    call = Call(name, table._replace(columns=own), place, plan, tuple(only))
    columns.check_apart(table, call.table, call.chosen)
    return call


def _changed(config: configs.Config, changes: dict[str, Any]) -> configs.Config:
    """A column's settings with the changes; of its weights those not named stay."""
    if "weights" in changes:
        named = {entry.rpartition("=")[0] for entry in changes["weights"]}
        kept = [w for w in config.weights if w.rpartition("=")[0] not in named]
        changes = changes | {"weights": (*kept, *changes["weights"])}
    return dataclasses.replace(config, **changes)


def make(call: Call, interrupt: loop.Interrupt) -> dict:
    """Runs what is missing and writes the table.

    Args:
      call: What is asked for.
      interrupt: Whether to stop.

    Returns:
      What `table.json` holds.

    Raises:
      UsageError: A column cannot be run; the others were, and the table written.
      Interrupted: Stopped; what is done stays.
    """
    with locks.held(call.folder):
        _check_own(call)
        found, missing = _make(call, interrupt)
    print(f"\n{text(found)}\n{call.folder}: table.md, table.csv, table.json")
    if missing:
        raise commands.UsageError(
            f"not run: {', '.join(missing)}. (What a column's folder holds of other "
            "settings is left alone: --out names another folder for the table.)"
        )
    return found


def _make(call: Call, interrupt: loop.Interrupt) -> tuple[dict, dict[str, str]]:
    """Returns what `table.json` holds, and why columns were not run.

    Of a column that is not run again, what its folder holds of an earlier run stays.
    """
    summaries, missing = _finished(call), {}
    for column in call.chosen:
        print(f"\n== {call.name}: {column}")
        try:
            config = settled(call, column)
            summaries[column] = run.run(f"{call.name}/{column}", config, interrupt)
        except (*CANNOT_GO_ON, commands.UsageError, errors.UnknownName) as error:
            missing[column] = str(error)
            if column in summaries:
                missing[column] += "; shown is what an earlier run has left"
            print(f"{column}: {error}", file=sys.stderr)
        found = gathered(call, summaries, missing)
        write(call.folder, found)
    return found, missing


def _check_own(call: Call) -> None:
    """Raises `UsageError` where the folder holds another table, or files of its names.

    (`table.json` is the first that a table writes.)
    """
    record = call.folder / "table.json"
    others = [name for name in WRITTEN if (call.folder / name).exists()]
    if not others:
        return
    try:
        name = files.words(record)["name"]
    except FileNotFoundError:
        name = None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise commands.UsageError(
            f"{record} is no table ({error!r}); --out=FOLDER leaves it alone"
        ) from error
    if name != call.name:
        what = "what no table has written" if name is None else f"the table {name}"
        raise commands.UsageError(
            f"{call.folder} holds {what}: {', '.join(others)}; --out=FOLDER leaves it "
            "alone"
        )


def _finished(call: Call) -> dict[str, dict]:
    """Returns the summaries of the columns that are in the folder already."""
    found = {}
    for column in call.table.columns:
        record = call.folder / column / "result.json"
        # (What is missing, damaged or another's is told when the column is run.)
        with contextlib.suppress(Exception):
            summary = files.words(record)
            findings.table(summary)
            if summary["config"]["name"] == f"{call.name}/{column}":
                found[column] = summary
    return found


def settled(call: Call, column: str) -> configs.Config:
    """Returns the settings of a column's run: where to, and whose teacher."""
    of = call.table.columns[column]
    changes: dict[str, Any] = {"out": str(call.folder / column), "resume": True}
    if of.teacher_of is not None and of.config.teacher_from is None:
        if of.config.ensemble > 1:
            raise commands.UsageError("the teachers of an ensemble are not shared")
        there = call.folder / of.teacher_of / "teacher" / "weights"
        if not there.exists():
            raise commands.UsageError(
                f"the teacher is that of {of.teacher_of}, which is not run yet"
            )
        changes["teacher_from"] = str(there)
    return dataclasses.replace(of.config, **changes)


# ---- the plan


class Cost(NamedTuple):
    """Seconds of steps, and of compiling them."""

    steps: float = 0.0
    compiling: float = 0.0


def planned(call: Call) -> str:
    """Returns the runs of a table, which are done, and an estimate of the rest."""
    rows, known, unknown = [], [], []
    table = tables.load(call.name)
    for column in call.chosen:
        of, folder = call.table.columns[column], call.folder / column
        config = of.config
        nets = [(m, i) for m in config.methods for i in range(config.seeds)]
        if config.teacher_from is None and of.teacher_of is None and config.teacher:
            nets = [("teacher", i) for i in range(config.ensemble)] + nets
        done = [net for net in nets if _result(folder, config, *net).exists()]
        left = [net for net in nets if net not in done]
        cost, how = Cost(), "done"
        try:
            _check_same(call, column)
            if left:
                cost, how = _estimate(config, folder, left)
            known.append(cost)
        except (OSError, ValueError) as error:
            cost, how = None, str(error)
            unknown.append(column)
        taught = config.teacher_from or of.teacher_of or config.teacher or "nobody"
        what = f"{taught} > {config.student}, {config.data}"
        changed = columns.changes(table, {column: results.settings(config)}, column)
        rows.append(
            [columns.name(table, column, changed), what]
            + [len(config.methods), config.seeds, config.epochs]
            + [f"{len(done)} of {len(nets)}", _duration(cost), how]
        )
    head = ["column", "what", "methods", "seeds", "epochs", "nets done"]
    grid = findings.grid([*head, "left", "estimated from"], rows)
    total = _duration(Cost(*map(sum, zip(*known, strict=True))) if known else None)
    if known and unknown:
        total += f", without {', '.join(unknown)} (not known)"
    return (
        f"{grid}\n\nLeft in all: {total}. An estimate: "
        "a method's step counts, and is compiled, as a plain step and, where images "
        "are cropped or mirrored, an answer of the teacher; the losses' own time comes "
        "on top, and that of evaluation."
    )


def _check_same(call: Call, column: str) -> None:
    """Raises `UsageError` where a column's folder holds a run of other settings."""
    record = call.folder / column / "config.json"
    if not record.exists():
        return
    config, _ = contexts.trained_elsewhere(settled(call, column))
    name = f"{call.name}/{column}"
    mine = {"name": name, **results.settings(config)}
    theirs = files.words(record)
    known = {k: v for k, v in theirs.items() if k in mine}
    if changed := results.differing(known, mine):
        raise commands.UsageError(f"other settings are there: {', '.join(changed)}")


def _result(
    folder: pathlib.Path, config: configs.Config, method: str, seed: int
) -> pathlib.Path:
    name = trainings.folder(method, seed, config.ensemble)
    return folder / name / "result.json"


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
    """Returns what the nets that are left take, and what that was estimated from.

    Of a method of which a seed is done, that seed's steps; of the others a few steps.
    Each method is compiled once for all its seeds.

    Raises:
      UsageError: The data are missing.
    """
    config, given = contexts.trained_elsewhere(config)
    checks.check(config)
    dataset = contexts.load(config)
    steps = len(dataset.train.label) // config.batch
    measured = _measured(config, dataset, given)
    # (A teacher that sees images as they are looks at each once.)
    asks = any(contexts.augmentation(config, dataset).values())
    total, compiling, known = 0.0, 0.0, 0
    for method in dict.fromkeys(method for method, _ in left):
        if method == "teacher":
            step, phases = measured["teacher"], [config.teacher_epochs]
        else:
            plan = contexts.plan(config, dataset, given, method)
            step, phases = measured["student"], [phase.epochs for phase in plan]
            if asks and methods.reads_teacher(method):
                step = Cost(*map(sum, zip(step, measured["answer"], strict=True)))
        compiling += len(phases) * step.compiling
        seeds = range(max(config.seeds, config.ensemble))
        records = [_result(folder, config, method, seed) for seed in seeds]
        found = [files.words(one)["seconds"] for one in records if one.is_file()]
        known += bool(found)
        one = float(np.mean(found)) if found else sum(phases) * steps * step.steps
        total += one * sum(name == method for name, _ in left)
    how = [f"{known} methods' seeds"] if known else []
    return Cost(total, compiling), " and ".join([*how, "a few steps"])


def _measured(
    config: configs.Config, dataset: Any, given: contexts.Inputs
) -> dict[str, Cost]:
    """Returns a plain step of student and teacher, and a teacher's answer."""
    with tempfile.TemporaryDirectory() as scratch, tqdm.tqdm(disable=True) as bar:
        folder = pathlib.Path(scratch)
        context = contexts.build_context(
            config, dataset, folder, loop.Interrupt(), bar, given
        )

        def step(net, name):
            began = time.perf_counter()
            recipe = trainings.prepare(context, net, teachers.none(), "plain", name)
            (how, _), *_ = recipe.phases
            batch = how.feed(np.arange(config.batch * how.chunk, dtype=np.int32))
            batch = {
                k: x.reshape(how.chunk, config.batch, *x.shape[1:])
                for k, x in batch.items()
            }
            batch = training.shard(batch, axis=1)
            state = how.begin(0, jax.device_count())

            def once():
                nonlocal state
                state, metrics = how.step_fn(state, how.arrays, batch)
                return metrics

            return _cost(once, began, how.chunk)

        found = {
            "student": step(
                contexts.student(config, dataset, given, training.AXIS), None
            )
        }
        if config.teacher is not None and given.teacher is None:
            found["teacher"] = step(
                contexts.teacher(config, dataset, training.AXIS), "teacher"
            )
        if config.teacher is not None:
            net = contexts.teacher(config, dataset)
            images = np.zeros((config.batch, *dataset.shape), np.float32)
            variables = jax.jit(net.init)(jax.random.key(0), images[:1])
            answer = functools.partial(weights.activations, net, variables, images)
            cost = _cost(lambda: answer(net.layers), time.perf_counter())
            found["answer"] = Cost(*(config.ensemble * seconds for seconds in cost))
    return found


def _cost(call: Callable[[], Any], began: float, chunk: int = 1) -> Cost:
    """Returns the median of a few calls of `chunk` steps, after one that compiles."""
    jax.block_until_ready(call())
    first, taken = time.perf_counter() - began, []
    for _ in range(STEPS_MEASURED):
        began = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - began)
    one = float(np.median(taken))
    return Cost(one / chunk, max(first - one, 0.0))


# ---- the table


def gathered(
    call: Call, summaries: dict[str, dict], missing: dict[str, str]
) -> dict[str, Any]:
    """Returns the table as JSON has it.

    Args:
      call: What was asked for.
      summaries: Of the columns that were run, what `run.run` answered.
      missing: Why the others were not.

    Returns:
      `columns`, a list: for each the summary's numbers, and what is published; `rows`,
      the methods; `differences`; `missing`.
    """
    keys = ("config", "data", "device", "seconds", "teacher", "baseline", "methods")
    table, found = tables.load(call.name), []
    # (In the order of the table.)
    runs = {c: summaries[c]["config"] for c in table.columns if c in summaries}
    changed = {column: columns.changes(table, runs, column) for column in runs}
    for column in runs:
        name, summary = columns.name(table, column, changed[column]), summaries[column]
        published = table.columns[column].published if name == column else {}
        found.append(
            {
                "name": name,
                "folder": column,
                **{key: summary[key] for key in (*keys, "mcnemar", "versions")},
                "published": dict(published),
            }
        )
    rows = [m for of in call.table.columns.values() for m in of.config.methods]
    note, differences = tables.module(call.name).__doc__, list(table.differences)
    if found and all(of["name"] != of["folder"] for of in found):
        note = f"Other experiments than those of the table {call.name}\n\n{OTHERS}"
        differences = [OTHERS]
    return {
        "name": call.name,
        "note": note,
        "columns": found,
        "rows": list(dict.fromkeys(rows)),
        "differences": differences + columns.sentences(changed),
        "missing": missing,
    }


def write(folder: pathlib.Path, found: dict[str, Any]) -> None:
    """Writes `table.json`, `table.md`, `table.csv` and `table.png`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        loop.write_json(folder / "table.json", found)
        files.write(folder / "table.md", text(found))
        rows = io.StringIO(newline="")
        csv.writer(rows).writerows(_rows(found))
        files.write(folder / "table.csv", rows.getvalue())
        if found["columns"]:
            picture(folder / "table.png", found)
    except OSError as error:
        raise commands.UsageError(f"cannot write to {folder}: {error}") from error


def text(found: dict[str, Any]) -> str:
    """Returns the table as Markdown."""
    title, *_ = found["note"].strip().splitlines()
    given, rows = found["columns"], ["teacher", *found["rows"]]
    parts = [f"# {title}"]
    for name, reason in found["missing"].items():
        parts.append(f"Not run: {name} ({reason}).")
    if given:
        names = [column["name"] for column in given]
        published = any(column["published"] for column in given)
        parts += [
            "Test accuracy, %, at the last epoch: mean ± deviation over seeds"
            f"{'; in brackets the published one' if published else ''}.",
            findings.grid(["method", *names], _grid(rows, given, _accuracy)),
            "Difference of test accuracy from the baseline, paired over seeds, with "
            "its 95 % t interval; how many seeds differ by McNemar's test (p < 0.05 "
            "after Holm's correction within the column).",
            findings.grid(["method", *names], _grid(rows, given, _difference)),
            "Validation accuracy, %: last epoch / best epoch.",
            findings.grid(["method", *names], _grid(rows, given, _validation)),
        ]
    for column in given:
        config = column["config"]
        parts.append(
            f"{column['name']}: {config['teacher']} > {config['student']}, "
            f"{config['epochs']} epochs, {config['seeds']} seeds, batch "
            f"{config['batch']}, rate {config['learning_rate']}. {column['data']} "
            f"{column['seconds'] / 60:.0f} minutes of training on {column['device']}."
        )
    if found["differences"]:
        lines = [f"- {sentence}" for sentence in found["differences"]]
        parts += ["Differences from the published setting:", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _grid(rows, columns, cell) -> list[list[str]]:
    cells = [[row, *(cell(column, row) for column in columns)] for row in rows]
    return [row for row in cells if any(x != "–" for x in row[1:])]


def _accuracy(column: dict, method: str) -> str:
    published = column["published"].get(method)
    beside = "" if published is None else f" ({published:.2f})"
    if method == "teacher":
        error = column["teacher"] and column["teacher"]["test_error"]
        return ("–" if error is None else f"{100 - error:.2f}") + beside
    of = column["methods"].get(method)
    if of is None:
        return "–" + beside
    return findings.plus_minus(_of_accuracy(of["test_error"]), 2) + beside


def _of_accuracy(error: dict) -> dict:
    mean = error["mean"]
    return error | {"mean": None if mean is None else 100 - mean}


def _difference(column: dict, method: str) -> str:
    error = column["methods"].get(method, {}).get("difference")
    if error is None:
        return "–"
    ends = {"mean": "mean", "low": "high", "high": "low"}
    accuracy = {k: None if error[of] is None else -error[of] for k, of in ends.items()}
    seeds = findings.significant(method, column["mcnemar"])
    return f"{findings.interval(accuracy)}, {seeds}"


def _validation(column: dict, method: str) -> str:
    of = column["methods"].get(method)
    if of is None:
        return "–"
    last, best = (
        findings.plus_minus(_of_accuracy(of[key]), 2)
        for key in ("validation_error", "best_validation_error")
    )
    return f"{last} / {best}"


def _rows(found: dict[str, Any]) -> list[list[Any]]:
    """Returns a line for each student."""
    head = ["column", "method", "seed", "test_accuracy", "validation_accuracy_last"]
    head += ["validation_accuracy_best", "only_right", "only_baseline_right"]
    rows = [[*head, "p", "p_holm", "seconds", "published"]]
    for column in found["columns"]:
        tests = {(t["method"], t["seed"]): t for t in column["mcnemar"]}
        for method, of in column["methods"].items():
            numbers = [
                of[key]["values"]
                for key in ("test_error", "validation_error", "best_validation_error")
            ]
            for seed, of_seed in enumerate(zip(*numbers, strict=True)):
                test = tests.get((method, seed), {})
                keys = ("only_first", "only_second", "p_value", "holm")
                rows.append(
                    [column["name"], method, seed]
                    + [round(100 - error, 6) for error in of_seed]
                    + [test.get(key, "") for key in keys]
                    + [round(of["seconds"]["values"][seed], 1)]
                    + [column["published"].get(method, "")]
                )
    return rows


def picture(path: pathlib.Path, found: dict[str, Any]) -> None:
    """Saves a panel a column: accuracies of all seeds, their mean, the published."""
    from matplotlib import pyplot as plt

    given = found["columns"]
    across = min(4, len(given))
    down = -(-len(given) // across)
    rows = [m for m in found["rows"] if any(m in c["methods"] for c in given)]
    figure, axes = plt.subplots(
        down,
        across,
        figsize=(max(5.8, 2.9 * across + 1.2), down * (0.26 * len(rows) + 1.1)),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis in axes.flat[len(given) :]:
        axis.set_visible(False)
    places = {method: i for i, method in enumerate(rows)}
    for axis, column in zip(axes.flat, given, strict=False):
        ours, blue, red = findings.COLOURS[0], findings.COLOURS[2], findings.COLOURS[1]
        for method, of in column["methods"].items():
            values = 100 - np.array(of["test_error"]["values"], float)
            at = places[method]
            axis.plot(values, np.full(len(values), at), ".", color=blue, alpha=0.45)
            axis.plot(values.mean(), at, "|", color=ours, markersize=11, mew=2)
        baseline = column["methods"].get(column["baseline"])
        if baseline is not None:
            mean = 100 - baseline["test_error"]["mean"]
            axis.axvline(mean, color=ours, linewidth=0.8, linestyle=":")
        for method, value in column["published"].items():
            if method in places:
                axis.plot(value, places[method], "D", color=red, mfc="none", ms=5)
        axis.set_title(textwrap.fill(column["name"], 40), fontsize=9)
        axis.set_yticks(range(len(rows)), rows, fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
        axis.grid(axis="x", alpha=0.25, linewidth=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    published = any(column["published"] for column in given)
    words = "Test accuracy, %: seeds, their mean (bar), the baseline's (dotted)"
    words += ", published (diamond)" if published else ""
    figure.suptitle(words, fontsize=9)
    findings.save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
