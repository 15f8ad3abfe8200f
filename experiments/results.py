"""The folder that a run writes its results to: whose it is, and what may be deleted."""

import dataclasses
import json
import os
import pathlib
import shutil
import string
from typing import Any

from experiments import command, findings, loop
from experiments import config as configs

# What a run may have more of when it is resumed.
GROWS = ("seeds", "methods")
# What changes nothing but rounding, and the time.
OF_THE_CALL = (
    *("out", "resume", "overwrite"),
    *("driver", "together", "stream", "compilation_cache", "profile"),
)


def settings(config: configs.Config) -> dict[str, Any]:
    """The settings that make a run another one, as JSON reads them."""
    every = dataclasses.asdict(config).items()
    return json.loads(json.dumps({k: v for k, v in every if k not in OF_THE_CALL}))


def claim(
    name: str, config: configs.Config, fingerprints: dict[str, str] | None = None
) -> pathlib.Path:
    """The results folder, if it is free or holds this config's run to be resumed.

    Args:
      name: Of the config.
      config: The settings.
      fingerprints: Of what the run reads besides images, such as `teacher_weights`.

    Raises:
      UsageError: It holds something else, or `resume` or `overwrite` is missing.
    """
    folder = command.path("out", _named(name, config))
    if folder.exists() and not folder.is_dir():
        raise command.UsageError(f"{folder} is a file, not a folder for results")
    if config.overwrite:
        _check_spares_sources(folder, config)
    mine = {"name": name, **settings(config), **(fingerprints or {})}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # (A run that is killed while it claims its folder leaves a draft alone.)
        if {path.name for path in folder.iterdir()} - {"config.partial"}:
            theirs = _check_taken(folder, mine, config)
            if config.overwrite:
                _empty(folder)
            elif any(theirs.get(k) != mine[k] for k in GROWS):
                # (Its nets stay; what is told of all of them is told anew.)
                (folder / "result.json").unlink(missing_ok=True)
        loop.write_json(folder / "config.json", mine)
    except OSError as error:
        raise command.UsageError(f"cannot write to {folder}: {error}") from error
    return folder


def _named(name: str, config: configs.Config) -> str:
    """`out` with the names of config and data in it."""
    names = {"config": name, "data": config.data.replace("/", "-")}
    try:
        for _, *field in string.Formatter().parse(config.out):
            if field[0] is not None and (field[0] not in names or any(field[1:])):
                raise ValueError
        return config.out.format(**names)
    except ValueError as error:
        raise command.UsageError(
            f"out may name {{config}} and {{data}}, got {config.out!r}"
        ) from error


def _check_spares_sources(folder: pathlib.Path, config: configs.Config) -> None:
    """Raises `UsageError` if what a run reads lies in the folder to be emptied."""
    for field in ("teacher_from", "student_from", "brain", "activations", "data_dir"):
        given = getattr(config, field)
        if given is None:
            continue
        source = command.path(field, given).resolve()
        if folder.resolve() in (source, *source.parents):
            raise command.UsageError(
                f"overwrite would delete what {field} names, {given}; --out=FOLDER "
                "names another folder for results"
            )


def _empty(folder: pathlib.Path) -> None:
    """Deletes what a folder holds, last what shows that it was a run.

    (Not the folder itself, which may be a link or the working directory.)
    """
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.json"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def differing(theirs: dict, mine: dict) -> list[str]:
    """The settings for which a run cannot be resumed with others.

    Args:
      theirs: Of the run in a folder, what its `config.json` holds.
      mine: Those it would be resumed with. They may have more seeds and more methods.
    """

    def value(of, key):
        # (Earlier versions recorded `~` as it was given.)
        found = of.get(key)
        return os.path.expanduser(found) if isinstance(found, str) else found

    changed = [k for k in mine | theirs if value(mine, k) != value(theirs, k)]
    # (What a damaged file has there may be anything.)
    seeds, methods = theirs.get("seeds"), theirs.get("methods")
    more = {
        "seeds": isinstance(seeds, int) and seeds <= mine["seeds"],
        "methods": isinstance(methods, list)
        and all(method in mine["methods"] for method in methods),
    }
    return [k for k in changed if not more.get(k, False)]


def _check_taken(folder: pathlib.Path, mine: dict, config: configs.Config) -> dict:
    """What a folder in use holds, if it may be overwritten or resumed.

    Raises:
      UsageError: It may not.
    """
    record = folder / "config.json"
    try:
        theirs = json.loads(record.read_text()) if record.exists() else None
    except (ValueError, RecursionError) as error:
        raise command.UsageError(
            f"{record} is damaged ({error}); --out=FOLDER leaves it alone"
        ) from error
    ours = {"name", "teacher", "student", "methods"}
    if not isinstance(theirs, dict) or not ours <= theirs.keys():
        raise command.UsageError(f"{folder} holds something that is not a run")
    if config.overwrite:
        return theirs
    changed = differing(theirs, mine)
    if changed:
        changes = ", ".join(
            f"{k} {theirs.get(k)!r} there and {mine.get(k)!r} here" for k in changed
        )
        raise command.UsageError(
            f"{folder} holds a run with other settings ({changes}); --overwrite "
            "deletes it, --out=FOLDER leaves it alone"
        )
    if not config.resume:
        raise command.UsageError(
            f"{folder} holds a run with these settings; --resume continues it (or "
            "shows its table again), --overwrite deletes it"
        )
    result = folder / "result.json"
    try:
        if result.exists():
            findings.table(json.loads(result.read_text()))
    except Exception as error:  # What is not a result fails in many ways.
        raise command.UsageError(
            f"{result} is damaged ({error!r}); where it is deleted, --resume writes it "
            "again from what the nets left"
        ) from error
    return theirs
