"""Finished runs: their settings and their nets."""

import pathlib
from typing import NamedTuple

from experiments import command, weights
from experiments.results import folder as results_folder
from experiments.training import recording
from rdljax import files

# What must be known of a run.
SETTINGS = {
    *("data", "data_dir", "train_per_class", "resize"),
    *("teacher", "teacher_from", "student", "methods", "seeds"),
}
# The L2 weights that are tried.


def read_run(results: str) -> tuple[pathlib.Path, dict]:
    """Returns the folder of a finished run, and what its `result.json` holds.

    Raises:
      UsageError: It is not a run's folder, or the run is not finished.
    """
    folder = command.path("RESULTS", results)
    try:
        settings = files.words(folder / "config.json")
        if not results_folder.is_run(settings):
            raise ValueError("its config.json is not one of experiments.run")
    except Exception as error:  # What is damaged fails in many ways.
        raise command.UsageError(f"{folder} is not a run's folder ({error})") from error
    record = folder / "result.json"
    if not record.exists():
        raise command.UsageError(
            f"the run of {folder} is not finished; experiments.run with its settings "
            "and --resume goes on with it"
        )
    try:
        summary = files.words(record)
        if missing := SETTINGS - summary["config"].keys():
            raise ValueError(f"it has no setting {', '.join(sorted(missing))}")
    except Exception as error:
        raise command.UsageError(
            f"{record} is damaged, or of another version ({error!r})"
        ) from error
    return folder, summary


class Net(NamedTuple):
    """A net of a run: `method` is "teacher" for the teacher."""

    method: str
    seed: int
    trained: weights.Trained


def trained_nets(folder: pathlib.Path, summary: dict) -> list[Net]:
    """Returns the nets of a finished run: the teacher, if any, and all students.

    Args:
      folder: Of the run.
      summary: What its `result.json` holds.

    Raises:
      UsageError: A net is not there, or the teacher is not the one that taught.
    """
    config = summary["config"]
    found = []
    if config["teacher_from"] is not None:
        trained = weights.load(config["teacher_from"])
        if trained.fingerprint != summary["teacher_source"]["fingerprint"]:
            raise command.UsageError(
                f"{config['teacher_from']} holds other weights than those that taught "
                f"the run of {folder}"
            )
        found = [Net("teacher", 0, trained)]
    elif config["teacher"] is not None:
        count = config["ensemble"]
        names = [recording.folder("teacher", seed, count) for seed in range(count)]
        found = [
            Net("teacher", seed, weights.load(folder / name / "weights"))
            for seed, name in enumerate(names)
        ]
    return found + [
        Net(
            method,
            seed,
            weights.load(folder / recording.folder(method, seed) / "weights"),
        )
        for method in config["methods"]
        for seed in range(config["seeds"])
    ]
