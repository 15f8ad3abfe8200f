"""Claims the folder of a comparison of detectors, and reads its records."""

import pathlib
import sys
from typing import Any

from experiments import command, locks
from experiments.analyses.detection import options as detection_options
from rdljax import files

# Settings that do not affect the result of a backbone and a seed.
RUNTIME_FLAGS = ("backbones", "seeds", "data_dir", "out", "resume")


def find_path(options: detection_options.Options) -> pathlib.Path:
    """Returns the path of the results folder, without checking its content."""
    return command.path("out", options.out)


def claim(options: detection_options.Options, settings: dict[str, Any]) -> pathlib.Path:
    """Returns the results folder, if it is free or has the same comparison to resume.

    Args:
      options: The settings.
      settings: The settings that define a comparison, with the fingerprint of images.

    Raises:
      UsageError: If it has something else, or `resume` is missing.
    """
    folder = find_path(options)
    record = folder / "detection.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # (A run that is killed while it claims its folder leaves only a draft.)
        nothing = ("detection.partial", locks.NAME)
        there = [path for path in folder.iterdir() if not files.is_draft(path)]
        if {path.name for path in there}.difference(nothing):
            _check_taken(folder, record, settings, options.resume)
        files.write_json(record, settings)
    except OSError as error:
        raise command.UsageError(f"cannot write to {folder}: {error}") from error
    return folder


def _check_taken(
    folder: pathlib.Path, record: pathlib.Path, settings: dict[str, Any], resume: bool
) -> None:
    """Raises `UsageError` unless a folder in use may be resumed."""
    if not record.exists():
        raise command.UsageError(
            f"{folder} holds something that is not a comparison of detectors; use "
            "another folder: --out=FOLDER"
        )
    theirs = read(record, "use another folder: --out=FOLDER")
    unknown = "images" not in theirs  # (It was recorded by an earlier version.)
    theirs = {"images": settings.get("images"), **theirs}
    changed = [
        f"{k} {theirs.get(k)!r} there and {settings.get(k)!r} here"
        for k in settings | theirs
        if theirs.get(k) != settings.get(k)
    ]
    if changed:
        raise command.UsageError(
            f"{folder} holds a run with other settings ({', '.join(changed)}); "
            "use another folder: --out=FOLDER"
        )
    if not resume:
        raise command.UsageError(
            f"{folder} holds a run with these settings; --resume continues it, or adds "
            "backbones and seeds"
        )
    if unknown:
        print(
            f"{folder} has no fingerprint of its images (it is of an earlier version): "
            "whether the images are still the same is not checked",
            file=sys.stderr,
        )


def read(record: pathlib.Path, hint: str) -> dict:
    """Returns the content of a JSON file.

    Raises:
      UsageError: If it is damaged; the message ends with the hint.
    """
    try:
        found = files.read_json(record)
        if not isinstance(found, dict):
            raise ValueError("it is not a dictionary")
    except (OSError, ValueError, RecursionError) as error:
        raise command.UsageError(f"{record} is damaged ({error}); {hint}") from error
    return found
