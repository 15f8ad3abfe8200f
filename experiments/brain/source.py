"""Reads the stimuli of a brain and their measured RDMs.

The stimuli of a file are divided at random, with a fixed seed: students are trained on
one part, and their agreement with the brain is measured on the other.
"""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments import command, data, display, methods
from experiments import config as configs
from rdljax import errors, files, rdm

# An array NAME_subject_session has RDM NAME of each subject and session.
EACH = "_subject_session"
# The suffix to the name of an RDM for a control with its stimuli in random order.
SHUFFLED = "_shuffled"
# Names that an RDM may not have, in addition to the parts of methods: RDMs are parts of
# methods' names, and runs use these names otherwise.
TAKEN = ("plain", "teacher", "before")
# Seeds of the division of the stimuli, and of the random order of the controls.
SEED, SEED_SHUFFLED = 0, 1


class Brain(NamedTuple):
    """Stimuli and their measured RDMs.

    Attributes:
      images: The images of the stimuli, uint8 `[n, H, W, C]`, in the size and with the
        channels of the task's images.
      thumbnails: The images as they are in the file, uint8 `[n, h, w, c]`.
      rdms: The RDMs, by name.
      shown: The indices of the stimuli that students are trained with.
      held_out: The indices of the other stimuli.
      fingerprint: The SHA-256 of the file.
    """

    images: np.ndarray
    thumbnails: np.ndarray
    rdms: dict[str, rdm.io.Rdms]
    shown: np.ndarray
    held_out: np.ndarray
    fingerprint: str = ""


def names(config: configs.Config) -> list[str]:
    """Returns the names of the RDMs in the config's file and of shuffled controls.

    Raises:
      UsageError: If there is no such file, or it has no images or no RDM.
    """
    found = [] if config.brain.file is None else list(_arrays(config.brain.file)[1])
    return [*found, *(f"{name}{SHUFFLED}" for name in found)]


def load(config: configs.Config, dataset: data.Dataset) -> Brain:
    """Returns the stimuli in the form of the task's images, and the config's RDMs.

    Raises:
      UsageError: If the file cannot be read, or an array in it is not an RDM, or one
        part of the stimuli is too small.
    """
    images, keys = _arrays(config.brain.file)
    path, n = command.path("brain", config.brain.file), len(images)
    parted = divide(n, config.brain.held_out)
    shown, held_out = map(len, parted)
    step, devices = _size(config, shown), jax.device_count()
    if min(held_out, shown, step) < 3 or step > shown:
        raise command.UsageError(
            f"of {n} stimuli {held_out} are held out and {shown} are for training, "
            f"{step} in a step: an RDM needs 3 stimuli or more"
        )
    if step % devices:
        raise command.UsageError(
            f"{step} stimuli in a step do not divide by {devices} devices; --stimuli "
            "sets another number"
        )
    wanted = {part.partition("@")[0] for m in config.method.names for part in parts(m)}
    names = sorted(wanted | {*config.brain.rdms})
    rdms = _read(path, keys, names, parted, signed=config.brain.signed)
    *size, channels = dataset.shape
    return Brain(
        _resize(images, size, channels),
        images,
        rdms,
        *parted,
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def read(
    file: str, names: Sequence[str], held_out: float, *, signed: bool
) -> tuple[np.ndarray, dict[str, rdm.io.Rdms]]:
    """Returns the images of a file, uint8 `[n, h, w, c]`, and some of its RDMs.

    Args:
      file: The file.
      names: The names of the RDMs, also of shuffled controls.
      held_out: The fraction of the stimuli that are held out.
      signed: Whether distances may be negative.

    Raises:
      UsageError: If the file cannot be read, or an array in it is not an RDM.
      KeyError: If it has no such RDM.
    """
    images, keys = _arrays(file)
    parted = divide(len(images), held_out)
    path = command.path("brain", file)
    return images, _read(path, keys, names, parted, signed=signed)


def divide(n: int, held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the stimuli for training, and of those held out.

    Args:
      n: The number of stimuli.
      held_out: The fraction of the stimuli that are held out.
    """
    order = np.random.default_rng(SEED).permutation(n)
    count = round(held_out * n)
    return np.sort(order[count:]), np.sort(order[:count])


def _read(
    path: pathlib.Path,
    keys: dict[str, str],
    names: Sequence[str],
    parted: Sequence[np.ndarray],
    *,
    signed: bool,
) -> dict[str, rdm.io.Rdms]:
    """Reads RDMs by name.

    Args:
      path: The path of the file.
      keys: The key of the array of each RDM in the file.
      names: The names of the RDMs to read, also of shuffled controls.
      parted: The stimuli of each part; each must have enough pairs.
      signed: Whether distances may be negative.
    """
    rdms = {}
    for name in names:
        own = name.removesuffix(SHUFFLED) if name not in keys else name
        n = sum(map(len, parted))
        try:
            found = rdm.io.read(path, keys[own], stimuli=n, missing=True, signed=signed)
        except errors.CannotRead as error:
            hint = str(error).replace("signed=True", "--brain_signed")
            raise command.UsageError(hint) from error
        rdms[name] = found if name in keys else _shuffle_stimuli(found, parted)
        for part in parted:
            _check_measured(name, rdm.subjects.select(rdms[name], part))
    return rdms


def _shuffle_stimuli(rdms: rdm.io.Rdms, parted: Sequence[np.ndarray]) -> rdm.io.Rdms:
    """Returns a control: an RDM in which the stimuli of each part are shuffled.

    A student taught by it learns the same distances, but of other stimuli.
    """
    rng = np.random.default_rng(SEED_SHUFFLED)
    order = np.empty(sum(map(len, parted)), np.int64)
    for part in parted:
        order[part] = rng.permutation(part)
    return rdm.subjects.select(rdms, order)._replace(stimuli=rdms.stimuli)


def _check_measured(name: str, rdms: rdm.io.Rdms) -> None:
    """Raises `UsageError` if a subject has fewer than three pairs of a part."""
    known = np.isfinite(rdm.subjects.mean_over_sessions(rdms)).sum(axis=1)
    if known.min() < 3:
        raise command.UsageError(
            f"{name}: subject {known.argmin()} has "
            f"{display.count_of(known.min(), 'measured pair')} of "
            f"{rdm.stimuli(rdms.distances.shape[-1])} stimuli; at least 3 measured "
            "pairs are required in each part (the stimuli for training, and those held "
            "out)"
        )


def _arrays(file: str | None) -> tuple[np.ndarray, dict[str, str]]:
    """Returns the images in a file, and the key of its array for each RDM's name."""
    path, shapes = command.path("brain", file), {}

    def choose(found):
        shapes.update(found)
        return [name for name in found if name == "images"]

    try:
        images = files.npz(path, choose).get("images")
    except Exception as error:  # (A damaged file raises many kinds of errors.)
        raise command.UsageError(
            f"brain cannot be read from {path}: {error}"
        ) from error
    if images is None or images.ndim != 4 or images.dtype != np.uint8:
        raise command.UsageError(
            f"{path} needs stimuli, an array `images` uint8 [n, height, width, "
            "channels]"
        )
    n = len(images)
    ends = (n * (n - 1) // 2,), (n, n)
    keys = [k for k, s in shapes.items() if s[-1:] == ends[0] or s[-2:] == ends[1]]
    # (If a name has both arrays, the array with each subject is used.)
    found: dict[str, str] = {}
    for key in sorted(keys, key=lambda key: key.endswith(EACH)):
        name = key.removesuffix(EACH)
        if not name or name in (*TAKEN, *methods.PARTS) or {*"+@/"} & {*name}:
            raise command.UsageError(
                f"an RDM of {path} may not be called {key}: any name is allowed except "
                f"{', '.join((*TAKEN, *methods.PARTS))}, and names with +, @ or /"
            )
        found[name] = key
    if both := [name for name in found if f"{name}{SHUFFLED}" in found]:
        raise command.UsageError(
            f"an RDM of {path} may not be called {both[0]}{SHUFFLED}, which is the "
            f"name of the control of its {both[0]}"
        )
    if not keys:
        raise command.UsageError(
            f"{path} has no RDM of its {n} stimuli: none of {', '.join(shapes)} ends "
            f"in {ends[0][0]} pairs"
        )
    return images, found


def _resize(images: np.ndarray, size: Sequence[int], channels: int) -> np.ndarray:
    """Returns images in another size and with another number of channels, uint8."""
    seen = images.astype(np.float32)
    if channels == 1 and seen.shape[-1] == 3:
        # (Rec. 601 luma, as Pillow's "L".)
        seen = seen @ np.array([[0.299], [0.587], [0.114]], np.float32)
    elif seen.shape[-1] == 1:
        seen = np.repeat(seen, channels, axis=-1)
    if seen.shape[-1] != channels:
        raise command.UsageError(
            f"the stimuli have {display.count_of(images.shape[-1], 'channel')} and the "
            f"images {channels}"
        )
    if seen.shape[1:3] != tuple(size):
        shape = (len(seen), *size, channels)
        seen = np.asarray(jax.image.resize(seen, shape, "linear", antialias=True))
    return np.clip(np.round(seen), 0, 255).astype(np.uint8)


def parts(method: str) -> list[str]:
    """Returns the parts of a method that are RDMs, such as `human_it@stage1`."""
    known = {"plain", *methods.PARTS}
    return [name for name in method.split("+") if name not in known]


def layers(config: configs.Config) -> list[str]:
    """Returns the student's layers that methods or the report compare with a brain."""
    named = [part.partition("@")[2] for m in config.method.names for part in parts(m)]
    return list(dict.fromkeys([*config.brain.layers, *filter(None, named)]))


def size(config: configs.Config, brain: Brain) -> int:
    """Returns the number of stimuli in a step."""
    return _size(config, len(brain.shown))


def _size(config: configs.Config, shown: int) -> int:
    return config.brain.stimuli or shown - shown % 8 or shown
