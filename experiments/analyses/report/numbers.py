"""Computes the numbers of the page of a run, or of a table of runs."""

import os
import pathlib
import urllib.parse
from typing import Any

import numpy as np

from experiments import command, data, methods
from experiments import options as command_options
from experiments.analyses.report import encoding, measured, page
from experiments.results import table as result_table
from experiments.results.folder import (
    EPOCH_RDMS_FOLDER,
    EPOCH_RDMS_PREFIX,
    NetFile,
    RunFile,
    net_folder,
)
from rdljax import errors, files, nets

# The learning curves: their keys in a history, and their labels.
CURVES = {
    "validation_error": "Validation error, %",
    "task": "Cross-entropy on training images, nats",
}
# The largest number of classes named along a matrix.
NAMED = 20


def run(options: command_options.Report) -> None:
    """Writes the report of a run or a table as one HTML page.

    Args:
      options: The folder, and the file to write.

    Raises:
      UsageError: If the folder has neither a run nor a table, or its files are damaged,
        or the page cannot be written.
    """
    folder = command.path("folder", options.folder)
    out = folder / RunFile.REPORT
    if options.out is not None:
        out = command.path("out", options.out)
    try:
        if (folder / result_table.TableFile.RECORD).exists():
            text = page.table_page(*table_numbers(folder, out))
        elif (folder / RunFile.RESULT).exists():
            text = page.run_page(*run_numbers(folder, options.data_dir, options.brain))
        else:
            raise command.UsageError(
                f"{folder} holds no table (table.json) and no finished run "
                "(result.json): python -m experiments.run NAME --resume finishes one"
            )
    except command.UsageError:
        raise
    except Exception as error:  # (A damaged file raises many kinds of errors.)
        raise command.UsageError(
            f"{folder} is damaged, or of another version ({error!r})"
        ) from error
    try:
        files.write(out, text.encode(errors="replace"))
    except OSError as error:
        raise command.UsageError(f"cannot write {out}: {error}") from error
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


def run_numbers(
    folder: pathlib.Path, data_dir: str | None = None, brain: str | None = None
) -> tuple[dict, dict[str, Any], str]:
    """Returns the arguments of `page.run_page` for a run.

    Args:
      folder: The results folder of a finished run.
      data_dir: The folder that holds the TFDS sets; None for the run's.
      brain: The file of stimuli and their measured RDMs; None for the run's.

    Returns:
      The content of `result.json`, the numbers for the script of the page, and the
      reason why there are no confusion matrices ("" if there are some).

    Raises:
      UsageError: If a file is missing or damaged.
    """
    summary = _json(folder / RunFile.RESULT)
    config, runs = dict(summary["config"]), results(folder, summary)
    config["data_dir"] = data_dir or config["data_dir"]
    # (A teacher of another task predicts none of these classes.)
    judged = {name: of for name, of in runs.items() if of[0]["predicted"] is not None}
    truth, unknown = true_classes(judged, config)
    classes = 1 + int(
        np.append(predictions(judged), -1 if truth is None else truth).max()
    )
    if classes > encoding.MOST:
        unknown = f"{classes:,} classes are too many to be shown"
    numbers = {
        "curves": [*curves(runs), *measured.curves(runs, summary)],
        "rdms": rdms_by_epoch(runs, config),
        "classes": classes if truth is not None and classes <= NAMED else 0,
        "compared": [methods.pair(layer) for layer in config["layers"]],
        "similarity": similarity(runs, config) if "teacher" in runs else None,
        "confusion": None,
        "class_names": class_names(summary, classes),
        "brain": measured.numbers(folder, summary, brain),
        "viridis": encoding.viridis(),
    }
    if truth is not None and not unknown:
        numbers["confusion"] = confusions(judged, truth, classes)
    return summary, numbers, unknown


def table_numbers(
    folder: pathlib.Path, out: pathlib.Path
) -> tuple[dict, dict[int, list[dict]], dict[int, str]]:
    """Returns the arguments of `page.table_page` for a table of runs.

    Args:
      folder: The folder with `table.json`.
      out: The path of the page, for relative links.

    Returns:
      The content of `table.json`, and by the number of a column the learning curves of
      its run and the link to the page of its run.

    Raises:
      UsageError: If a file is damaged.
    """
    table = _json(folder / result_table.TableFile.RECORD)
    found, links = {}, {}
    for place, column in enumerate(table["columns"]):
        own = folder / column["folder"]
        record, report = own / RunFile.RESULT, own / RunFile.REPORT
        if record.exists():
            found[place] = curves(results(own, _json(record)))
        if report.exists():
            links[place] = urllib.parse.quote(os.path.relpath(report, out.parent))
    return table, found, links


def results(folder: pathlib.Path, summary: dict) -> dict[str, list[dict]]:
    """Returns the results and `folder`s of all seeds by method, the teacher's first."""
    folders = {}
    if summary["teacher"] is not None:
        count = summary["config"]["ensemble"]
        names = [net_folder("teacher", seed, count) for seed in range(count)]
        folders["teacher"] = [folder / name for name in names]
    for method, of in summary["methods"].items():
        seeds = range(len(of["test_error"]["values"]))
        folders[method] = [folder / net_folder(method, seed) for seed in seeds]
    return {
        method: [_json(own / NetFile.RESULT) | {"folder": own} for own in of]
        for method, of in folders.items()
    }


def _json(path: pathlib.Path) -> Any:
    try:
        return files.read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise command.UsageError(f"{path} is missing or damaged ({error})") from error


def curves(runs: dict[str, list[dict]]) -> list[dict]:
    """Returns the learning curves: a `label` and a `series` for each of `CURVES`.

    Args:
      runs: The results, from `results`. (A teacher that was trained elsewhere has no
        history.)

    Returns:
      A series has for each method its `name`, and by epoch the statistics of
      `encoding.OVER_SEEDS`.
    """
    panels = []
    for key, label in CURVES.items():
        series = []
        for name, of in runs.items():
            if of[0]["history"]:
                values = [[epoch[key] for epoch in own["history"]] for own in of]
                series.append({"name": name, **encoding.over_seeds(values)})
        about = {"section": "curves", "axis": "epoch", "label": label}
        panels.append({**about, "series": series})
    return panels


def rdms_by_epoch(runs: dict[str, list[dict]], config: dict) -> dict[str, dict]:
    """Returns the RDMs of each net of seed 0, by recorded epoch, or the final ones.

    Returns:
      By method, `epochs` and `layers`: for each layer the percentiles of each epoch, in
      base64.
    """
    found = {}
    for name, (own, *_) in runs.items():
        pattern = f"{EPOCH_RDMS_PREFIX}*.npz"
        files: dict[int | None, pathlib.Path] = {
            int(file.stem.removeprefix(EPOCH_RDMS_PREFIX)): file
            for file in (own["folder"] / EPOCH_RDMS_FOLDER).glob(pattern)
        }
        if not files and (own["folder"] / NetFile.RDMS).exists():
            files = {None: own["folder"] / NetFile.RDMS}
        if not files:
            continue
        epochs = sorted(files, key=lambda epoch: epoch or 0)
        rdms = [_rdms(files[epoch], name, config) for epoch in epochs]
        layers = {k: [encoding.percentiles(of[k]) for of in rdms] for k in rdms[0]}
        found[name] = {"epochs": epochs, "layers": layers}
    return found


def _rdms(file: pathlib.Path, name: str, config: dict) -> dict[str, np.ndarray]:
    """Returns the condensed RDMs of a file by layer, in depth order."""
    try:
        rdms = {layer: x.astype(np.float64) for layer, x in files.npz(file).items()}
    except Exception as error:  # (A damaged file raises many kinds of errors.)
        raise command.UsageError(f"{file} is damaged ({error!r})") from error
    net = config["teacher" if name == "teacher" else "student"]
    try:
        order = nets.build(net, classes=2).layers
    except errors.UnknownName:
        order = ()
    known = [layer for layer in order if layer in rdms]
    return {layer: rdms[layer] for layer in dict.fromkeys([*known, *rdms])}


def similarity(runs: dict[str, list[dict]], config: dict) -> dict | None:
    """Returns the agreement of final RDMs for all pairs of layers of two nets.

    Returns:
      `rows` (the students' layers), `columns` (the teacher's) and by method `pearson`
      and `spearman`, means over seeds; None if a net has no RDMs.
    """
    files = {m: [own["folder"] / NetFile.RDMS for own in of] for m, of in runs.items()}
    if not all(file.exists() for of in files.values() for file in of):
        return None
    (teacher,) = (_rdms(file, "teacher", config) for file in files.pop("teacher"))
    methods = {}
    for name, of in files.items():
        students = [_rdms(file, name, config) for file in of]
        each = [correlations(student, teacher) for student in students]
        methods[name] = {
            kind: encoding.round_numbers(np.mean([of[kind] for of in each], axis=0))
            for kind in ("pearson", "spearman")
        }
    return {"rows": [*students[0]], "columns": [*teacher], "methods": methods}


def correlations(
    student: dict[str, np.ndarray], teacher: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the correlations of RDMs for all pairs of layers of student and teacher.

    Args:
      student: The student's condensed RDMs `[pairs]`, by layer.
      teacher: The teacher's condensed RDMs `[pairs]` of the same stimuli, by layer.

    Returns:
      `pearson` and `spearman`, `[student's layers, teacher's layers]`; NaN for a
      constant RDM.
    """
    from scipy import stats

    rows, own = np.array([*student.values(), *teacher.values()]), len(student)
    with np.errstate(invalid="ignore", divide="ignore"):
        pearson, spearman = map(np.corrcoef, (rows, stats.rankdata(rows, axis=1)))
    return {"pearson": pearson[:own, own:], "spearman": spearman[:own, own:]}


def true_classes(
    runs: dict[str, list[dict]], config: dict
) -> tuple[np.ndarray | None, str]:
    """Returns the classes `[N]` of the test images.

    The class of an image is known from any correct prediction; if there are images
    without one, the data are read.

    Returns:
      The classes and "", or None and the reason why they are not known.

    Raises:
      UsageError: If two predictions recorded as correct disagree.
    """
    every = [own for of in runs.values() for own in of]
    predicted = predictions(runs)
    right = np.array([own["correct"] for own in every], bool)
    known = np.where(right, predicted, -1).max(axis=0)
    if (right & (predicted != known)).any():
        raise command.UsageError("the nets' results are for different test images")
    missing = np.count_nonzero(known < 0)
    if not missing:
        return known, ""
    name, few = config["data"], config["train_per_class"]
    try:
        dataset = data.load(name, config["data_dir"], train_per_class=few)
        truth = dataset.test.label
        if truth.shape != known.shape or ((predicted == truth) != right).any():
            raise ValueError(f"the data set {name!r} there has other test images")
    except (ValueError, command.UsageError) as error:
        return None, f"no net classifies {missing:,} test images correctly, and {error}"
    return truth, ""


def predictions(runs: dict[str, list[dict]]) -> np.ndarray:
    """Returns the predicted classes `[nets, N]` of the test images."""
    return np.array([own["predicted"] for of in runs.values() for own in of])


def class_names(summary: dict, classes: int) -> list[str]:
    """Returns the names of the classes; their numbers if the run has not recorded any.

    Args:
      summary: The content of `result.json`.
      classes: The number of classes.
    """
    names = summary.get("class_names") or []
    return [*names[:classes], *map(str, range(len(names), classes))]


def confusions(runs: dict[str, list[dict]], truth: np.ndarray, classes: int) -> dict:
    """Returns the number of `images` of each class, and confusion matrices by method.

    Args:
      runs: The results, from `results`.
      truth: The classes of the test images, `[N]`.
      classes: The number of classes.
    """
    counts = {
        name: encoding.round_numbers(confusion(truth, predictions({name: of}), classes))
        for name, of in runs.items()
    }
    return {"images": np.bincount(truth, minlength=classes).tolist(), "nets": counts}


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Returns the confusion matrix, averaged over nets.

    Args:
      truth: The true classes `[N]`.
      predicted: The predicted classes `[nets, N]`.
      classes: The number of classes.

    Returns:
      The number of images `[classes, classes]`: rows true, columns predicted.
    """
    counts = np.bincount((truth * classes + predicted).ravel(), minlength=classes**2)
    return counts.reshape(classes, classes) / len(predicted)
