"""The trials that the defaults of RDL were chosen by: `python -m experiments.trials`.

Trains one teacher, then students by every setting of a grid, and prints their error on
the validation images (mean and standard deviation over seeds, last epoch). The test
images are not looked at. The table of one run stands in `experiments/README.md`.
"""

import argparse
import dataclasses
import pathlib
import sys
import tempfile

import numpy as np
import tqdm

from experiments import config as configs
from experiments import data, loop, run
from rdljax import nets, statistics, teachers, training

WEIGHTS = (0.1, 0.3, 1.0, 3.0, 10.0)
LAYERS = ("stage1", "stage2", "pooled", "logits")


def grid() -> list[tuple[str, dict]]:
    """Every setting tried: the method and the fields of the config it changes."""
    settings: list[tuple[str, dict]] = [("plain", {})]
    for distance in ("MeanSquared", "Euclidean", "Cosine", "Correlation"):
        for weight in WEIGHTS:
            change = {"distance": distance, "comparison": "Pearson"}
            settings.append(("rdl", {**change, "rdl_weight": weight}))
    for comparison in ("Cosine", "MSE", "MSE_norm", "MSE_least_squares"):
        for distance in ("MeanSquared", "Correlation"):
            for weight in (0.1, 1.0, 10.0):
                change = {"distance": distance, "comparison": comparison}
                settings.append(("rdl", {**change, "rdl_weight": weight}))
    for layers in (LAYERS[:2], LAYERS[2:], LAYERS[2:3], LAYERS[3:]):
        settings.append(("rdl", {"layers": layers}))
    settings += [("rdl", {"rdl_decay": True}), ("rdl", {"pairs": 50})]
    settings += [("kd", {"kd_weight": weight}) for weight in (0.1, 0.3, 1.0, 3.0)]
    settings += [("kd+rdl", {"kd_weight": weight}) for weight in (0.1, 0.3, 1.0)]
    return settings


def main() -> int:
    """Runs the grid and prints a Markdown table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data_dir")
    parser.add_argument("--train_per_class", type=int)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    base = configs.load("mnist_rdl", **vars(options))
    dataset = data.load(base.data, base.data_dir, train_per_class=base.train_per_class)
    print(dataset.note, "\n")
    print("| method | setting | validation error, % | of each seed |")
    print("|---|---|---|---|")
    with (
        tempfile.TemporaryDirectory() as scratch,
        loop.Interrupt() as interrupt,
        tqdm.tqdm(unit="step") as bar,
    ):
        images = training.replicate(dataset.train._asdict())
        lab = run.Lab(
            base, dataset, np.arange(0), pathlib.Path(scratch), interrupt, bar, images
        )
        net = nets.build(base.teacher, dataset.classes)
        nobody = teachers.nobody()
        recipe = run.prepare(lab, net, nobody, "plain", base.teacher_epochs)
        trained, history = run.fit(lab, "teacher", recipe, 0)
        print(f"| teacher | | {history[-1]['validation_error']:.2f} | |", flush=True)
        for i, (method, change) in enumerate(grid()):
            tried = lab._replace(config=dataclasses.replace(base, **change))
            errors = students(
                tried, method, teachers.net(net, trained), f"{i}-{method}"
            )
            mean, deviation, _ = statistics.spread(errors)
            setting = ", ".join(f"{k}={v}" for k, v in change.items())
            each = " ".join(f"{e:.2f}" for e in errors)
            print(
                f"| {method} | {setting} | {mean:.2f} ± {deviation:.2f} | {each} |",
                flush=True,
            )
    return 0


def students(
    lab: run.Lab, method: str, teacher: teachers.Teacher, name: str
) -> list[float]:
    """The validation errors at the last epoch of the students of all seeds."""
    net = nets.build(lab.config.student, lab.dataset.classes)
    recipe = run.prepare(lab, net, teacher, method, lab.config.epochs)
    histories = (
        run.fit(lab, f"{name}-{seed}", recipe, seed)[1]
        for seed in range(lab.config.seeds)
    )
    return [history[-1]["validation_error"] for history in histories]


if __name__ == "__main__":
    sys.exit(main())
