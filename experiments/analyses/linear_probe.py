"""Trains linear classifiers on the frozen features of a run's nets."""

import pathlib
import re
from collections.abc import Sequence

import numpy as np

from experiments import command, data, display, locks, weights
from experiments import options as command_options
from experiments.analyses import frozen_features, logistic_regression, runs
from experiments.results import aggregate, markdown
from experiments.training import recording
from rdljax import errors, files, nets

# Test accuracy in percent, table 4 of the paper: students WRN-16-2, teacher WRN-40-2.
PUBLISHED = {
    "stl10": {
        "teacher": 68.6,
        "student": 69.7,
        "KD": 70.9,
        "AT": 70.7,
        "FitNet": 70.3,
        "CRD": 71.6,
        "CRD+KD": 72.2,
    },
    "tinyimagenet": {
        "teacher": 31.5,
        "student": 33.7,
        "KD": 33.9,
        "AT": 34.2,
        "FitNet": 33.5,
        "CRD": 35.6,
        "CRD+KD": 35.5,
    },
}


def run(options: command_options.Probe) -> None:
    """Probes every net of a run; writes `probe.json` and `probe.md`.

    Args:
      options: The settings.

    Raises:
      UsageError: If the run, the data, or the folder to write to cannot be used.
      UnknownName: If there is no such layer.
    """
    folder, summary = runs.read_run(options.results)
    name = options.data.replace("/", "-")
    default = str(folder / f"probe-{name}")
    out = command.path("out", default if options.out is None else options.out)
    _check_free(out, options.overwrite)
    try:
        dataset = data.load(
            options.data, options.data_dir, train_per_class=options.train_per_class
        )
    except ValueError as error:
        raise command.UsageError(str(error)) from error
    if not len(dataset.validation.label):
        raise command.UsageError(f"{dataset.name} has too few images for validation")
    every = runs.trained_nets(folder, summary)
    for net in every:
        known = nets.build(net.trained.name, net.trained.classes).layers
        errors.check_name(f"layer of {net.trained.name}", options.layer, known)
        frozen_features.resize_to_net(dataset, net.trained, few=1)
    with locks.hold(out):
        _check_free(out, options.overwrite)
        found = []
        with display.progress_bar(total=len(every), unit="net") as bar:
            for net in every:
                bar.set_description(f"{net.method}, seed {net.seed}")
                probed = probe(net.trained, dataset, options.layer)
                found.append({"method": net.method, "seed": net.seed} | probed)
                bar.update()
        try:
            text = write(out, summary, dataset, options.layer, found)
        except OSError as error:
            raise command.UsageError(f"cannot write to {out}: {error}") from error
    print(f"{text}\n{out}: probe.json, probe.md")


def _check_free(out: pathlib.Path, overwrite: bool) -> None:
    """Raises `UsageError` if a file that should be kept would be replaced.

    (`probe.json` is written first, so that only a probe's own `probe.md` is replaced.)
    """
    record = out / "probe.json"
    if not record.exists():
        if (out / "probe.md").exists():
            raise command.UsageError(
                f"{out} holds a probe.md that no probe has written; use another "
                "folder: --out=FOLDER"
            )
        return
    if not overwrite:
        raise command.UsageError(
            f"{out} holds a probe; --overwrite replaces it, or use another folder: "
            "--out=FOLDER"
        )
    try:
        if not {"run", "layer", "nets"} <= files.read_json(record).keys():
            raise ValueError("it has no run, layer and nets")
    except Exception as error:  # (A file of another kind raises many kinds of errors.)
        raise command.UsageError(
            f"{record} is not a probe ({error}); use another folder: --out=FOLDER"
        ) from error


def probe(trained: weights.TrainedNet, dataset: data.Dataset, layer: str) -> dict:
    """Returns the errors of a linear classifier on the features of a frozen net.

    Args:
      trained: The net.
      dataset: The data set, not converted; the test images are read once, at the end.
      layer: The name of the layer whose activations are the features.

    Returns:
      `l2`, the chosen L2 weight; `validation_loss` (nats), `validation_error` and
      `test_error` in percent; `predicted` classes, a list over the test images.
    """
    dataset = frozen_features.resize_to_net(dataset, trained)
    net = trained.wrap_net(dataset, nets.build(trained.name, trained.classes))

    def of(split):
        return frozen_features.extract(
            net, trained.variables, dataset, split.image, layer
        )

    train, held_out, test = dataset.train, dataset.validation, dataset.test
    seen = of(train)
    mean, deviation = frozen_features.moments(seen)
    held_out_seen = (of(held_out) - mean) / deviation
    l2, loss, parameters = logistic_regression.choose(
        (seen - mean) / deviation,
        train.label,
        held_out_seen,
        held_out.label,
        dataset.classes,
    )

    def error(features, label):
        predicted = logistic_regression.predict(parameters, features)
        return predicted, float(100 * np.mean(predicted != label))

    _, validation_error = error(held_out_seen, held_out.label)
    predicted, test_error = error((of(test) - mean) / deviation, test.label)
    return {
        "l2": l2,
        "validation_loss": loss,
        "validation_error": validation_error,
        "test_error": test_error,
        "predicted": predicted.tolist(),
    }


def write(
    out: pathlib.Path,
    summary: dict,
    dataset: data.Dataset,
    layer: str,
    found: Sequence[dict],
) -> str:
    """Writes `probe.json` and `probe.md`, and returns the text of the latter.

    Args:
      out: The folder.
      summary: The content of the run's `result.json`.
      dataset: The images.
      layer: The name of the probed layer.
      found: The `method`, `seed` and results of `probe` for each net, the teacher's
        first.
    """
    # (A probe counts as one epoch, and its time is not reported.)
    results = [{**one, "history": [one], "seconds": 0.0} for one in found]
    probed = aggregate.summarise(results, dataset.test.label)
    for of in probed["methods"].values():
        del of["best_validation_error"], of["seconds"]
    probed |= {
        "run": summary["config"],
        "run_data": summary["data"],
        "data_name": dataset.name,
        "data": dataset.note,
        "layer": layer,
        "l2_tried": logistic_regression.L2,
        "versions": recording.versions(),
        "nets": list(found),
    }
    text = table(probed)
    files.write_json(out / "probe.json", probed)
    files.write(out / "probe.md", text)
    return text


def table(probed: dict) -> str:
    """Returns the content of `probe.json` as Markdown."""
    baseline, config = probed["baseline"], probed["run"]
    head = (
        f"Data: {probed['data_name']}: {probed['data']}\n"
        f"Linear probes of {probed['layer']} of frozen nets, trained on "
        f"{config['data']}: {probed['run_data']}\n"
        "Logistic regression on standardised features; its L2 weight, of "
        f"{', '.join(f'{x:g}' for x in probed['l2_tried'])}, has the smallest "
        "cross-entropy on the validation images. Difference: test error minus that of "
        f"{baseline}, paired over seeds, with its 95 % t interval. McNemar: the number "
        f"of seeds in which the method is better or worse than {baseline} (p < 0.05 "
        "after Holm's correction over all tests)."
    )
    columns = ["method", "test error, %", "difference", "McNemar"]
    columns += ["validation error, %", "L2 weight"]
    rows = [
        ["teacher", f"{one['test_error']:.2f}", "–", "–"]
        + [f"{one['validation_error']:.2f}", f"{one['l2']:g}"]
        for one in probed["nets"]
        if one["method"] == "teacher"
    ]
    for name, of in probed["methods"].items():
        chosen = {one["l2"] for one in probed["nets"] if one["method"] == name}
        rows.append(
            [
                name,
                markdown.plus_minus(of["test_error"], 2),
                markdown.interval(of.get("difference")),
                markdown.significant(name, probed["mcnemar"]),
                markdown.plus_minus(of["validation_error"], 2),
                ", ".join(f"{l2:g}" for l2 in sorted(chosen)),
            ]
        )
    parts = [head, markdown.grid(columns, rows)]
    parts += markdown.mcnemar(probed["mcnemar"], baseline)
    return "\n\n".join([*parts, *_published_rows(probed["data_name"])]) + "\n"


def _published_rows(name: str) -> list[str]:
    """Returns the paper's numbers as Markdown, if it has any for a data set."""
    letters = re.sub("[^a-z0-9]", "", name.lower())
    for known, numbers in PUBLISHED.items():
        if letters.startswith(known):
            rows = [[k, f"{x:.1f}", f"{100 - x:.1f}"] for k, x in numbers.items()]
            return [
                "Published (Tian et al. 2020, table 4; WRN-16-2 of CIFAR-100, taught "
                "by WRN-40-2; the recipe is not known):",
                markdown.grid(["method", "accuracy, %", "error, %"], rows),
            ]
    return []
