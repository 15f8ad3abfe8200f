"""Claims and empties the results folder; names all files of a run."""

import enum
import json
import os
import pathlib
import re
import shutil
import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from experiments import command, locks
from experiments import config as configs
from experiments.results import markdown
from rdljax import files

# Settings that may grow when a run is resumed.
GROWING = ("seeds", "methods")
# Settings that affect only rounding and time.
RUNTIME_FLAGS = tuple(
    flag for flag, field in configs.FIELDS.items() if field.group == "runtime"
)
# Values of settings that are missing in the record of an earlier version.
DEFAULTS = json.loads(json.dumps(configs.flat(configs.make())))
# Fingerprints of the images, as arrays or (if streamed) by their files: a run has one.
IMAGES = ("images", "image_files")
# The settings that every version has recorded.
REQUIRED_SETTINGS = {
    *("name", "data", "data_dir", "train_per_class", "crop", "flip"),
    *("teacher", "student", "methods", "seeds", "layers", "distance", "comparison"),
    *("pairs", "layer_weights", "kd_temperature", "hint_layer"),
    *("epochs", "teacher_epochs", "batch", "learning_rate", "momentum"),
    *("weight_decay", "clip"),
}
# The form of a checkpoint's record.
NUMBER = ("a number", lambda x: type(x) in (int, float))
ABOUT = {
    "job": str,
    "settings?": dict,
    "seconds": NUMBER,
    "devices": ("a few devices", lambda x: type(x) is int and 0 < x < 2**20),
    "history": [{...: NUMBER}],
    "partial": [{...: NUMBER}],
}

# ---- names of files and folders, for all that write and read them


class RunFile(enum.StrEnum):
    """The files of a run that are written once for all its nets."""

    CONFIG = "config.json"
    RESULT = "result.json"
    TABLE = "table.md"
    RDMS = "rdms.png"
    LEARNING_CURVES = "learning_curves.png"
    BRAIN_RDMS = "brain_rdms.png"
    BRAIN_MDS = "brain_mds.png"
    BRAIN_AGREEMENT = "brain_agreement.png"
    REPORT = "report.html"


class NetFile(enum.StrEnum):
    """The files in the folder of each net of a run."""

    RESULT = "result.json"
    RDMS = "rdms.npz"
    BRAIN_RDMS = "brain.npz"


# The files of `experiments.correlations`: their common name, and the suffixes of the
# figure, the numbers and the table.
CORRELATIONS, CORRELATIONS_SUFFIXES = "correlations", (".png", ".json", ".md")
# Folders of a run, and the file in the folder of each profile.
TEACHER, PROFILES, PROFILE_FILE = "teacher", "profile", "profile.json"
# Folders of a net.
CHECKPOINT_FOLDER, WEIGHTS_FOLDER = "checkpoint", "weights"
EPOCH_RDMS_FOLDER, START_UP_FOLDER = "rdms", "start-up"
# Names with numbers, for `str.format`: the suffix of a net's folder, the RDMs of the
# stimuli before a training and of an epoch, and the metrics for TensorBoard.
SEED_SUFFIX = "-seed{seed}"
BEFORE_FILE = f"before{SEED_SUFFIX}.npz"
EPOCH_RDMS_PREFIX = "epoch-"
EPOCH_RDMS_FILE = f"{EPOCH_RDMS_PREFIX}{{epoch:04d}}.npz"
EVENTS_FILE = "events.out.tfevents.{time:.6f}.{host}"
# The name of a folder that is being deleted; it may remain after a kill.
DELETED = ".deleted"


def net_folder(name: str, seed: int, ensemble: int = 1) -> str:
    """Returns the name of a net's folder; each teacher of an ensemble has its own."""
    alone = name == TEACHER and ensemble == 1
    return name if alone else name + SEED_SUFFIX.format(seed=seed)


# ---- forms of a run's content: regular expressions of names, with None for a file, and
# for a folder the forms of its content. (The content of the profiler's traces and of
# orbax's drafts is not checked.)

Forms = dict[str, Any]
ANYTHING = ...


def _files_of(*names: str) -> Forms:
    return {re.escape(name): None for name in names}


def _drafts_of(*records: str) -> Forms:
    """Returns the forms of the drafts of JSON files that earlier versions wrote."""
    return _files_of(*map(_draft, records))


def _draft(record: str) -> str:
    return str(pathlib.PurePath(record).with_suffix(".partial"))


def _pattern(template: str, inserted: str = r"\d+") -> str:
    """Returns the regular expression of the names that a template gives.

    Args:
      template: The template for `str.format`.
      inserted: The regular expression of the inserted values.
    """
    found = ""
    for text, field, *_ in string.Formatter().parse(template):
        found += re.escape(text) + ("" if field is None else inserted)
    return found


# The files that orbax writes.
STORED = {
    r"_\w+|commit_success\.txt|manifest\.ocdbt|metadata": None,
    "d": {"[0-9a-f]{32}": None},
    r"ocdbt\.process_\d+": {r"manifest\.ocdbt": None, "d": {"[0-9a-f]{32}": None}},
    "array_metadatas": {r"process_\d+": None},
}
CHECKPOINT = {
    **_files_of("manifest.json", "_CHECKPOINT_METADATA", "commit_success.txt"),
    **{"state": STORED, "about": STORED},
}
CHECKPOINTS = {
    r"\d+": CHECKPOINT,
    r"\d+\.orbax-checkpoint-tmp.*": ANYTHING,
    r"\.writing": ANYTHING,
}
TRAINING = {
    _pattern(EVENTS_FILE, ".*"): None,
    CHECKPOINT_FOLDER: CHECKPOINTS,
    EPOCH_RDMS_FOLDER: {_pattern(EPOCH_RDMS_FILE): None},
}
NET = {
    **_files_of(*NetFile),
    **_drafts_of(NetFile.RESULT),
    **TRAINING,
    WEIGHTS_FOLDER: CHECKPOINTS,
    START_UP_FOLDER: TRAINING,
}
PROFILE = {
    **_files_of(PROFILE_FILE),
    **_drafts_of(PROFILE_FILE),
    "plugins": ANYTHING,
}
RUN = {
    **_files_of(*RunFile, *(f"{CORRELATIONS}{x}" for x in CORRELATIONS_SUFFIXES)),
    **_files_of(locks.NAME),
    **_drafts_of(RunFile.CONFIG, RunFile.RESULT),
    _pattern(BEFORE_FILE): None,
    f"{TEACHER}({_pattern(SEED_SUFFIX)})?": NET,
    re.escape(DELETED): ANYTHING,
    PROFILES: {".*": PROFILE},
}

# ---- the run of a folder


def settings(config: configs.Config) -> dict[str, Any]:
    """Returns the settings that define a run, as they are read back from JSON."""
    return json.loads(json.dumps(without_runtime(configs.flat(config))))


def without_runtime(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Returns recorded settings without those that do not define a run."""
    return {k: v for k, v in recorded.items() if k not in RUNTIME_FLAGS}


def is_run(recorded: Any) -> TypeGuard[dict[str, Any]]:
    """Returns whether a value is the content of `config.json` of `experiments.run`."""
    return (
        isinstance(recorded, dict)
        and recorded.keys() >= REQUIRED_SETTINGS
        and isinstance(recorded["name"], str)
        and type(recorded["seeds"]) is int
        and isinstance(recorded["methods"], list)
        and bool(recorded["methods"])
        and all(isinstance(method, str) for method in recorded["methods"])
    )


def find_path(name: str, config: configs.Config) -> pathlib.Path:
    """Returns the path of the results folder, without checking its content.

    Raises:
      UsageError: If the path cannot be a results folder, or if `overwrite` would delete
        files that the run reads.
    """
    folder = command.path("out", _insert_names(name, config))
    if folder.exists() and not folder.is_dir():
        raise command.UsageError(f"{folder} is a file, not a folder for results")
    if config.runtime.overwrite:
        _check_spares_sources(folder, config)
    return folder


def claim(
    name: str, config: configs.Config, fingerprints: dict[str, str] | None = None
) -> pathlib.Path:
    """Returns the results folder, if it is free or has this config's run to resume.

    The caller has locked the folder (`locks.hold`).

    Args:
      name: The name of the config.
      config: The settings.
      fingerprints: The fingerprints of the images (one of `IMAGES`), and of other
        inputs of the run, such as `teacher_weights`.

    Raises:
      UsageError: If it has something else, or `resume` or `overwrite` is missing.
    """
    folder = find_path(name, config)
    mine = {"name": name, **settings(config), **(fingerprints or {})}
    known = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # (A run that is killed while it claims its folder leaves only a draft.)
        if any(not _is_nothing(path) for path in folder.iterdir()):
            theirs = _check_taken(folder, mine, config)
            if config.runtime.overwrite:
                _empty(folder, theirs["methods"])
            else:
                known = {k: theirs[k] for k in IMAGES if k in theirs}
                _warn_of_unknown_images(folder, known, mine)
        files.write_json(folder / RunFile.CONFIG, mine | known)
    except OSError as error:
        raise command.UsageError(f"cannot write to {folder}: {error}") from error
    return folder


def _is_nothing(path: pathlib.Path) -> bool:
    """Returns whether a file is a lock or a draft."""
    nothing = (locks.NAME, _draft(RunFile.CONFIG))
    return path.name in nothing or files.is_draft(path)


def _warn_of_unknown_images(folder: pathlib.Path, known: dict, mine: dict) -> None:
    """Prints a warning if the images that a run began with are not known."""
    if mine.keys() & {*IMAGES} and not known.keys() & mine.keys():
        print(
            f"{folder} has no fingerprint of its images to compare with (it is of an "
            "earlier version, or of another --stream): whether the images are still "
            "the same is not checked",
            file=sys.stderr,
        )


def _insert_names(name: str, config: configs.Config) -> str:
    """Returns `out` with the names of config and data inserted."""
    names = {"config": name, "data": config.data.name.replace("/", "-")}
    try:
        for _, *field in string.Formatter().parse(config.runtime.out):
            if field[0] is not None and (field[0] not in names or any(field[1:])):
                raise ValueError
        return config.runtime.out.format(**names)
    except ValueError as error:
        raise command.UsageError(
            f"out may contain {{config}} and {{data}}, got {config.runtime.out!r}"
        ) from error


def _check_spares_sources(folder: pathlib.Path, config: configs.Config) -> None:
    """Raises `UsageError` if a run's inputs are in the folder to be emptied."""
    for field, given in configs.flat(config).items():
        if not configs.FIELDS[field].path:
            continue
        if given is None:
            continue
        source = command.path(field, given).resolve()
        if folder.resolve() in (source, *source.parents):
            raise command.UsageError(
                f"overwrite would delete {given}, which {field} names; use another "
                "folder: --out=FOLDER"
            )


def _empty(folder: pathlib.Path, methods: Sequence[str]) -> None:
    """Deletes the files of a run in a folder; nothing, if there are any other files.

    The records of finished nets are deleted first, and the file that marks the folder
    as a run last; each net is complete or deleted at any time, so that the run may also
    be resumed. (The folder itself stays: it may be a link or the working directory.)

    Args:
      folder: The folder.
      methods: The methods of the run.

    Raises:
      UsageError: If the folder has other files.
    """
    nets = {re.escape(name) + _pattern(SEED_SUFFIX): NET for name in methods}
    if foreign := list(_find_foreign(folder, RUN | nets)):
        names = ", ".join(str(path.relative_to(folder)) for path in foreign[:5])
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise command.UsageError(
            f"{folder} holds files that no run has written: {names}{more}; move them "
            "elsewhere for --overwrite, or use another folder: --out=FOLDER"
        )
    results = folder / RunFile.RESULT, *folder.glob(f"*/{NetFile.RESULT}")
    for record in results:
        record.unlink(missing_ok=True)
    deleted = folder / DELETED
    if deleted.exists():
        shutil.rmtree(deleted)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == RunFile.CONFIG):
        if path.is_dir():
            shutil.rmtree(path.rename(deleted))
        elif path.name != locks.NAME:
            path.unlink()


def _find_foreign(folder: pathlib.Path, forms: Forms) -> Iterator[pathlib.Path]:
    """Yields the paths in a folder, and below it, that match none of the forms."""
    for path in sorted(folder.iterdir()):
        matching = [of for form, of in forms.items() if re.fullmatch(form, path.name)]
        if not matching and files.is_draft(path):
            matching = [None]
        holds = matching[0] if matching else None
        if not matching or path.is_symlink() or path.is_dir() == (holds is None):
            yield path
        elif isinstance(holds, dict):
            yield from _find_foreign(path, holds)


def differences(theirs: dict, mine: dict) -> list[str]:
    """Returns the settings whose values prevent a run from being resumed.

    Args:
      theirs: The content of the `config.json` of the run in a folder.
      mine: The settings with which it would be resumed. They may have more seeds and
        more methods.
    """

    def value(of, key):
        # (Earlier versions recorded `~` as it was given.)
        found = of.get(key, None if key in REQUIRED_SETTINGS else DEFAULTS.get(key))
        return os.path.expanduser(found) if isinstance(found, str) else found

    changed = [k for k in mine | theirs if value(mine, k) != value(theirs, k)]
    # (Earlier versions recorded no images.)
    unknown = {k for k in IMAGES if k not in mine or k not in theirs}
    changed = [k for k in changed if k not in unknown]
    # (In a damaged file these may be any values.)
    seeds, methods = theirs.get("seeds"), theirs.get("methods")
    more = {
        "seeds": isinstance(seeds, int) and seeds <= mine["seeds"],
        "methods": isinstance(methods, list)
        and all(method in mine["methods"] for method in methods),
    }
    return [k for k in changed if not more.get(k, False)]


def _check_taken(folder: pathlib.Path, mine: dict, config: configs.Config) -> dict:
    """Returns the recorded settings of a folder in use.

    Raises:
      UsageError: If it may neither be overwritten nor resumed.
    """
    record = folder / RunFile.CONFIG
    try:
        theirs = files.read_json(record) if record.exists() else None
    except (OSError, ValueError, RecursionError) as error:
        raise command.UsageError(
            f"{record} is damaged ({error}); use another folder: --out=FOLDER"
        ) from error
    if not is_run(theirs):
        raise command.UsageError(f"{folder} holds something that is not a run")
    if config.runtime.overwrite:
        return theirs
    if changes := _describe_differences(theirs, mine):
        raise command.UsageError(
            f"{folder} holds a run with other settings ({changes}); --overwrite "
            "deletes it, or use another folder: --out=FOLDER"
        )
    if not config.runtime.resume:
        raise command.UsageError(
            f"{folder} holds a run with these settings; --resume continues it (or "
            "shows its table again), --overwrite deletes it"
        )
    read_finished(folder, mine["name"], config)
    return theirs


def _describe_differences(theirs: dict, mine: dict) -> str:
    """Describes the settings that differ."""
    return ", ".join(
        f"{k} {theirs.get(k)!r} there and {mine.get(k)!r} here"
        for k in differences(theirs, mine)
    )


def read_finished(
    folder: pathlib.Path, name: str, config: configs.Config
) -> dict[str, Any] | None:
    """Returns the `result.json` of a run, if it has all seeds and methods.

    A result with fewer seeds or methods is kept until the complete one replaces it.

    Args:
      folder: The folder of the run.
      name: The name of its config.
      config: The settings of the run.

    Returns:
      The content of the file; None if it is missing or incomplete.

    Raises:
      UsageError: If it is damaged, or of another run.
    """
    record, mine = folder / RunFile.RESULT, {"name": name, **settings(config)}
    if not record.exists():
        return None
    try:
        summary = files.read_json(record)
        markdown.table(summary)
        theirs = without_runtime(summary["config"])
        changes = _describe_differences(theirs, mine)
    except Exception as error:  # (A damaged file raises many kinds of errors.)
        raise command.UsageError(
            f"{record} is damaged ({error!r}); if it is deleted, --resume writes it "
            "again from the nets' records"
        ) from error
    if changes:
        raise command.UsageError(
            f"{record} is of another run ({changes}); if it is deleted, --resume "
            "writes it again from the nets' records"
        )
    return summary if all(theirs[k] == mine[k] for k in GROWING) else None


def check_net(
    recorded: Mapping[str, Any], method: str, seed: int, config: configs.Config
) -> None:
    """Raises `ValueError` if the content of a `result.json` is that of another net."""
    theirs = {k: recorded[k] for k in ("method", "seed")}
    theirs |= without_runtime(recorded["config"])
    if changes := _describe_differences(
        theirs, {"method": method, "seed": seed, **settings(config)}
    ):
        raise ValueError(f"it is of another run: {changes}")


def check_checkpoint(about: Any, name: str, mine: dict) -> None:
    """Raises `ValueError` if a checkpoint is that of another net.

    Args:
      about: The record in the checkpoint.
      name: The name of the net.
      mine: The settings. (Checkpoints of the first versions do not record them.)
    """
    epochs = {"history": [{"validation_error": NUMBER, ...: NUMBER}]}
    if wrong := files.describe_mismatch(about, ABOUT | epochs, "its record"):
        raise ValueError(wrong)
    theirs = {"job": about["job"], **about.get("settings", mine)}
    if changes := _describe_differences(theirs, {"job": name, **mine}):
        raise ValueError(f"it is of another run: {changes}")
