"""The trials that RDL's defaults were chosen by: `python -m experiments.trials 1`.

Trains one teacher, then students by every setting of a part of the grid (1: distances,
comparisons and weights; 2: layers, schedule, pairs and KD around the default), and
prints their error on the validation images (mean and standard deviation over seeds,
last epoch). The test images are not looked at. The table of one run stands in
`experiments/README.md`.
"""

import argparse
import dataclasses
import math
import pathlib
import sys
import tempfile
from typing import Any

import tqdm

from experiments import command as commands
from experiments import config as configs
from experiments import context as contexts
from experiments import loop, run, trainings
from rdljax import statistics, teachers, training

LAYERS = ("stage1", "stage2", "pooled", "logits")


Setting = tuple[str, dict]


def distances_and_comparisons() -> list[Setting]:
    """Returns the method and the fields of the config that it changes."""
    settings: list[Setting] = [("plain", {})]
    for distance in ("MeanSquared", "Euclidean", "Cosine", "Correlation"):
        for weight in (0.1, 0.3, 1.0, 3.0, 10.0):
            change = {"distance": distance, "comparison": "Pearson"}
            settings.append(("rdl", {**change, "weights": (f"rdl={weight}",)}))
    for comparison in ("Cosine", "MSE", "MSE_norm", "MSE_least_squares"):
        for distance in ("MeanSquared", "Cosine", "Correlation"):
            for weight in (0.1, 1.0, 10.0):
                change = {"distance": distance, "comparison": comparison}
                settings.append(("rdl", {**change, "weights": (f"rdl={weight}",)}))
    return settings


def around_the_default() -> list[Setting]:
    """Layers, schedule, random pairs, and KD with and without RDL."""
    settings: list[Setting] = [("plain", {}), ("rdl", {})]
    for layers in (LAYERS[:2], LAYERS[2:], LAYERS[:3], LAYERS[2:3], LAYERS[3:]):
        settings.append(("rdl", {"layers": layers}))
    settings.append(("rdl", {"rdl_decay": True}))
    settings += [("rdl", {"pairs": pairs}) for pairs in (50, 500)]
    settings += [
        ("kd", {"weights": (f"kd={weight}",)}) for weight in (0.1, 0.3, 1.0, 3.0)
    ]
    settings += [
        ("kd+rdl", {"weights": (f"kd={weight}",)}) for weight in (0.1, 0.3, 1.0)
    ]
    return settings


PARTS = {"1": distances_and_comparisons, "2": around_the_default}


def main(arguments: list[str] | None = None) -> int:
    """Runs a part of the grid and prints a Markdown table as it grows."""
    arguments = commands.line(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m experiments.trials", description=__doc__
    )
    parser.add_argument("part", choices=PARTS, help="of the grid")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data_dir")
    parser.add_argument("--train_per_class", type=int)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--teacher_epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)

    def command():
        known = [action.dest for action in parser._actions]
        commands.check_keys(arguments, known)
        options = vars(parser.parse_args(arguments))
        settings = PARTS[options.pop("part")]()
        with loop.Interrupt() as interrupt:
            try_all(configs.load("mnist_rdl", **options), settings, interrupt)

    try:
        return run.answer(command)
    except loop.Interrupted as stopped:
        print("\nstopped", file=sys.stderr)
        return stopped.status


def try_all(
    base: configs.Config, settings: list[Setting], interrupt: loop.Interrupt
) -> None:
    """Trains a teacher and the students of every setting; prints a row for each."""
    dataset = contexts.load(base)
    print(dataset.note, "\n")
    print("| method | setting | validation error, % | of each seed |")
    print("|---|---|---|---|")
    with (
        tempfile.TemporaryDirectory() as scratch,
        tqdm.tqdm(unit="step") as bar,
    ):
        context = contexts.build_context(
            base, dataset, pathlib.Path(scratch), interrupt, bar
        )
        net = contexts.teacher(base, dataset, training.AXIS)
        nobody = teachers.none()
        recipe = trainings.prepare(context, net, nobody, "plain", "teacher")
        (outcome,) = trainings.fit(context, {"teacher": 0}, recipe)
        error = outcome.history[-1]["validation_error"]
        print(f"| teacher | | {error:.2f} | |", flush=True)
        for i, (method, change) in enumerate(settings):
            tried = context._replace(config=dataclasses.replace(base, **change))
            errors = students(
                tried, method, teachers.net(net, outcome.variables), f"{i}-{method}"
            )
            mean, deviation, _ = statistics.spread(errors)
            setting = ", ".join(_said(*item) for item in change.items())
            each = " ".join(f"{e:.2f}" for e in errors)
            row = f"| {method} | {setting} | {mean:.2f} ± {deviation:.2f} | {each} |"
            print(row, flush=True)


def _said(field: str, value: Any) -> str:
    """Returns a changed field: `distance=Cosine`, but `rdl=0.1` of a weight."""
    return ", ".join(value) if field == "weights" else f"{field}={value}"


def students(
    context: contexts.Context, method: str, teacher: teachers.Teacher, name: str
) -> list[float]:
    """Returns the validation errors at the last epoch of the students of all seeds.

    Of one that diverged, NaN.
    """
    net = contexts.student(
        context.config, context.dataset, context.given, training.AXIS
    )
    recipe = trainings.prepare(context, net, teacher, method)

    def error(seed):
        try:
            (outcome,) = trainings.fit(context, {f"{name}-{seed}": seed}, recipe)
        except loop.Diverged as diverged:
            tqdm.tqdm.write(str(diverged))
            return math.nan
        return outcome.history[-1]["validation_error"]

    return [error(seed) for seed in range(context.config.seeds)]


if __name__ == "__main__":
    sys.exit(main())
