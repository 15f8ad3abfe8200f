"""Trains students with every setting of a grid; evaluates on validation images."""

import dataclasses
import math
import pathlib
import tempfile
from typing import Any

import tqdm

from experiments import config as configs
from experiments import display
from experiments.training import builder, fitting, interrupts, loop
from experiments.training import context as contexts
from rdljax import statistics, teachers, training

LAYERS = ("stage1", "stage2", "pooled", "logits")
# The method of the students, and the settings of the config that are changed.
Trial = tuple[str, dict]


def distances_and_comparisons() -> list[Trial]:
    """Returns trials of plain students, and of RDL with every combination.

    A combination is a distance, a comparison and a weight.
    """
    trials: list[Trial] = [("plain", {})]
    for distance in ("MeanSquared", "Euclidean", "Cosine", "Correlation"):
        for weight in (0.1, 0.3, 1.0, 3.0, 10.0):
            change = {"distance": distance, "comparison": "Pearson"}
            trials.append(("rdl", {**change, "weights": (f"rdl={weight}",)}))
    for comparison in ("Cosine", "MSE", "MSE_norm", "MSE_least_squares"):
        for distance in ("MeanSquared", "Cosine", "Correlation"):
            for weight in (0.1, 1.0, 10.0):
                change = {"distance": distance, "comparison": comparison}
                trials.append(("rdl", {**change, "weights": (f"rdl={weight}",)}))
    return trials


def around_the_default() -> list[Trial]:
    """Returns trials of layers, schedule, pairs, and KD with and without RDL."""
    trials: list[Trial] = [("plain", {}), ("rdl", {})]
    for layers in (LAYERS[:2], LAYERS[2:], LAYERS[:3], LAYERS[2:3], LAYERS[3:]):
        trials.append(("rdl", {"layers": layers}))
    trials.append(("rdl", {"rdl_decay": True}))
    trials += [("rdl", {"pairs": pairs}) for pairs in (50, 500)]
    trials += [
        ("kd", {"weights": (f"kd={weight}",)}) for weight in (0.1, 0.3, 1.0, 3.0)
    ]
    trials += [("kd+rdl", {"weights": (f"kd={weight}",)}) for weight in (0.1, 0.3, 1.0)]
    return trials


PARTS = {"1": distances_and_comparisons, "2": around_the_default}


def run_trials(
    base: configs.Config, trials: list[Trial], interrupt: interrupts.Interrupt
) -> None:
    """Trains a teacher and the students of each trial; prints a row for each trial.

    Args:
      base: The settings that the trials change.
      trials: The trials.
      interrupt: The request to stop.
    """
    dataset = contexts.load(base)
    print(dataset.note, "\n")
    print("| method | setting | validation error, % | of each seed |")
    print("|---|---|---|---|")
    with (
        tempfile.TemporaryDirectory() as scratch,
        display.progress_bar(unit="step") as bar,
    ):
        context = contexts.build_context(
            base, dataset, pathlib.Path(scratch), interrupt, bar
        )
        net = contexts.teacher(base, dataset, training.AXIS)
        no_teacher = teachers.none()
        method_trainers = builder.prepare(context, net, no_teacher, "plain", "teacher")
        (outcome,) = fitting.fit(context, {"teacher": 0}, method_trainers)
        context = contexts.for_students(context)
        error = outcome.history[-1]["validation_error"]
        print(f"| teacher | | {error:.2f} | |", flush=True)
        for i, (method, change) in enumerate(trials):
            own = configs.change(base, **change)
            tried = dataclasses.replace(context, config=own)
            errors = students(
                tried, method, teachers.net(net, outcome.variables), f"{i}-{method}"
            )
            mean, deviation, _ = statistics.spread(errors)
            setting = ", ".join(_format_change(*item) for item in change.items())
            each = " ".join(f"{e:.2f}" for e in errors)
            row = f"| {method} | {setting} | {mean:.2f} ± {deviation:.2f} | {each} |"
            print(row, flush=True)


def _format_change(field: str, value: Any) -> str:
    """Returns the text of a changed field, such as `distance=Cosine` or `rdl=0.1`."""
    return ", ".join(value) if field == "weights" else f"{field}={value}"


def students(
    context: contexts.Context, method: str, teacher: teachers.Teacher, name: str
) -> list[float]:
    """Trains students; returns the validation error of each seed at the last epoch.

    It is in percent; NaN if training diverged.
    """
    net = contexts.student(
        context.config, context.dataset, context.inputs, training.AXIS
    )
    method_trainers = builder.prepare(context, net, teacher, method)

    def error(seed):
        try:
            (outcome,) = fitting.fit(context, {f"{name}-{seed}": seed}, method_trainers)
        except loop.Diverged as diverged:
            tqdm.tqdm.write(str(diverged))
            return math.nan
        return outcome.history[-1]["validation_error"]

    return [error(seed) for seed in range(context.config.training.seeds)]
