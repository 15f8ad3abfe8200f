"""Reads finished runs: their settings and their nets."""

import pathlib
from typing import NamedTuple

from experiments import command, weights
from experiments.results import folder as results_folder
from rdljax import files

# The settings that the record of a run must have.
SETTINGS = {
    *("data", "data_dir", "train_per_class", "resize"),
    *("teacher", "teacher_from", "student", "methods", "seeds"),
}


def read_run(results: str) -> tuple[pathlib.Path, dict]:
    """Returns the folder of a finished run, and the content of its `result.json`.

    Raises:
      UsageError: If it is not a run's folder, or the run is not finished.
    """
    folder = command.path("RESULTS", results)
    try:
        settings = files.read_json(folder / results_folder.RunFile.CONFIG)
        if not results_folder.is_run(settings):
            raise ValueError("its config.json is not one of experiments.run")
    except Exception as error:  # (A damaged file raises many kinds of errors.)
        raise command.UsageError(f"{folder} is not a run's folder ({error})") from error
    record = folder / results_folder.RunFile.RESULT
    if not record.exists():
        raise command.UsageError(
            f"the run of {folder} is not finished; experiments.run with its settings "
            "and --resume continues it"
        )
    try:
        summary = files.read_json(record)
        if missing := SETTINGS - summary["config"].keys():
            raise ValueError(f"it has no setting {', '.join(sorted(missing))}")
    except Exception as error:
        raise command.UsageError(
            f"{record} is damaged, or of another version ({error!r})"
        ) from error
    return folder, summary


class Net(NamedTuple):
    """A net of a run.

    Attributes:
      method: The method; "teacher" for a teacher.
      seed: The seed.
      trained: The trained net.
    """

    method: str
    seed: int
    trained: weights.TrainedNet


def trained_nets(folder: pathlib.Path, summary: dict) -> list[Net]:
    """Returns the nets of a finished run: the teacher, if any, and all students.

    Args:
      folder: The folder of the run.
      summary: The content of its `result.json`.

    Raises:
      UsageError: If a net is missing, or the teacher's weights have changed.
    """
    config = summary["config"]

    def load(method: str, seed: int, ensemble: int = 1) -> Net:
        place = folder / results_folder.net_folder(method, seed, ensemble)
        trained = weights.load(place / results_folder.WEIGHTS_FOLDER)
        return Net(method, seed, trained)

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
        found = [load("teacher", seed, count) for seed in range(count)]
    seeds = range(config["seeds"])
    return found + [
        load(method, seed) for method in config["methods"] for seed in seeds
    ]
