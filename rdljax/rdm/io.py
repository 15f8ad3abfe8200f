"""Reads RDMs measured in brains or behaviour from files, checks and writes them.

A file holds RDMs of the same stimuli, for one or several subjects and sessions. They
are read as `[subjects, sessions, pairs]`, with the names of subjects and stimuli if the
file has them.

    human = rdm.io.read("92images.npz", "human_it_subject_session")
    each = rdm.subjects.mean_over_sessions(human)  # [subjects, pairs]
    teacher = teachers.rdms({"human_it": each})
    term = terms.rdl_subjects(subject_weights=rdm.subjects.reliability(human))
    loss = terms.on_layers(("stimuli/pooled", "human_it"), term)
"""

import operator
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from rdljax import errors, files
from rdljax.rdm import _condensed

# The descriptors in files of rsatoolbox that name subjects, sessions and stimuli.
SUBJECTS = ("subject", "subj", "sub", "participant", "subject_id", "participant_id")

SESSIONS = ("session", "ses", "run")

STIMULI = ("stimulus", "stim", "stimuli", "conds", "condition", "label", "name")


class Rdms(NamedTuple):
    """Measured RDMs of the same stimuli.

    Attributes:
      distances: Condensed RDMs `[subjects, sessions, pairs]`, float64: upper triangles
        row by row. NaN: not measured; all NaN in a session that a subject lacks.
      subjects: Names of the subjects, or None.
      stimuli: Names of the stimuli, in order, or None.
    """

    distances: np.ndarray
    subjects: tuple[str, ...] | None = None
    stimuli: tuple[str, ...] | None = None


def read(
    path: str | os.PathLike,
    name: str | None = None,
    *,
    stimuli: int | Sequence[Any] | None = None,
    missing: bool = False,
    signed: bool = False,
    limit: int | None = files.LIMIT,
) -> Rdms:
    """Reads the RDMs in a file.

    Args:
      path: An `.npz` file with an array `name` and, optionally, an array `stimuli` (the
        names of the stimuli); or an HDF5 file (`.h5`, `.hdf5`) saved by rsatoolbox,
        whose descriptors name subjects, sessions and stimuli (`SUBJECTS`, `SESSIONS`,
        `STIMULI`). They are descriptors of each RDM, or of the object, where
        `rsatoolbox.rdm.concat` puts values that all RDMs share. Without subjects and
        sessions, each RDM is a subject; without subjects only, all RDMs belong to one
        subject. A descriptor of the stimuli with repeated values, such as their
        category, is not used as names.
      name: Name of the array in an `.npz` file, if it has several. Its shape is
        `[pairs]`, `[subjects, pairs]` or `[subjects, sessions, pairs]`, or the same
        with matrices `[n, n]` in place of pairs.
      stimuli: Expected number of stimuli, or their names in order. None: not checked.
      missing: Whether to allow NaN for pairs that were not measured.
      signed: Whether to allow negative distances, such as crossvalidated ones.
      limit: Largest size of the arrays in bytes; or 20 times that of the file, if that
        is more. None: no limit.

    Raises:
      CannotRead: The file does not exist or holds no RDMs; the RDMs differ in something
        other than subjects and sessions, such as the region; they are in other files
        (external or virtual data of HDF5), or larger than `limit`; or `check` refuses
        them.
      UnknownName: An `.npz` file has no array of that name.
    """
    path = files.as_path(path)
    suffix = files.suffix(path)
    if suffix in (".h5", ".hdf5") and name is not None:
        raise errors.CannotRead(
            f"{path} has one set of RDMs without a name, got the name {name!r}"
        )
    if suffix == ".npz":
        found = _of_npz(path, name, limit)
    else:
        found = _of_rsatoolbox(path, limit)
    what = f"{path.name}: {name}" if name else path.name
    return check(found, what, stimuli=stimuli, missing=missing, signed=signed)


def from_array(array: npt.ArrayLike, what: str = "the RDMs") -> np.ndarray:
    """Converts RDMs, of any shape that `read` takes, to `[subjects, sessions, pairs]`.

    Raises:
      CannotRead: The shape is another, or a matrix is, up to rounding, not symmetric
        with a diagonal of 0 (NaN counts as equal to NaN).
    """
    x = np.asarray(array)
    if x.dtype.kind not in "iuf":
        raise errors.CannotRead(f"{what}: expected numbers, got {x.dtype}")
    x = x.astype(np.float64)
    square = x.ndim > 1 and x.shape[-1] == x.shape[-2] and _is_square(x, what)
    if x.ndim < 1 or x.ndim - square > 3 or not x.size:
        raise errors.CannotRead(
            f"{what}: expected [pairs], [subjects, pairs], [subjects, sessions, pairs] "
            f"or squares in place of pairs, got {x.shape}"
        )
    if square:
        gap = np.abs(x - np.swapaxes(x, -1, -2))
        one_is_nan = np.isnan(x) != np.isnan(np.swapaxes(x, -1, -2))
        largest = np.nanmax(np.abs(x), initial=0)
        if one_is_nan.any() or np.nanmax(gap, initial=0) > 1e-6 * largest:
            raise errors.CannotRead(
                f"{what}: an RDM is symmetric, here the two triangles differ by "
                f"{np.nanmax(gap, initial=0):.3g}"
            )
        x = x[..., *np.triu_indices(x.shape[-1], 1)]
    try:
        _condensed.stimuli(x.shape[-1])
    except ValueError as error:
        is_square = x.ndim > 1 and x.shape[-1] == x.shape[-2]
        hint = " (a square RDM has a diagonal of 0)" if is_square else ""
        raise errors.CannotRead(f"{what}: {error}{hint}") from error
    return x.reshape((1,) * (3 - x.ndim) + x.shape) if x.ndim != 2 else x[:, None]


def check(
    rdms: Rdms,
    what: str = "the RDMs",
    *,
    stimuli: int | Sequence[Any] | None = None,
    missing: bool = False,
    signed: bool = False,
) -> Rdms:
    """Checks RDMs and returns them.

    Args:
      rdms: The RDMs.
      what: Name of the RDMs in messages.
      stimuli: Expected number of stimuli, or their names in order. None: not checked.
      missing: Whether to allow NaN for pairs that were not measured.
      signed: Whether to allow negative distances, such as crossvalidated ones.

    Raises:
      CannotRead: A different number of stimuli, different stimuli or a different order,
        NaN, infinity, a negative distance, or a subject without any distance.
    """
    distances, subjects, names = rdms
    n = _condensed.stimuli(distances.shape[-1])
    for kind, of, count in (
        ("stimuli", names, n),
        ("subjects", subjects, len(distances)),
    ):
        if of is not None and len(of) != count:
            raise errors.CannotRead(
                f"{what}: {count} {kind} and {len(of)} names of {kind}"
            )
    if stimuli is not None:
        _check_stimuli(n, names, stimuli, what)
    finite = np.isfinite(distances)
    nan = np.isnan(distances)
    # Sessions that a subject lacks do not count as missing pairs.
    absent = nan.all(axis=-1, keepdims=True) & ~nan.all(axis=(1, 2), keepdims=True)
    if np.isinf(distances).any() or (not missing and (nan & ~absent).any()):
        raise errors.CannotRead(
            f"{what}: expected finite distances, got NaN or infinity for "
            f"{int((~finite & ~absent).sum())} of {distances.size}, the first of them "
            f"{_where(~finite & ~absent)} (missing=True lets NaN stand for pairs that "
            "were not measured)"
        )
    if nan.all(axis=(1, 2)).any():
        raise errors.CannotRead(f"{what}: a subject without any distance")
    below = finite & (distances < 0)
    if below.any() and not signed:
        raise errors.CannotRead(
            f"{what}: expected distances of 0 or more, got "
            f"{distances[below].min():.3g}, {int(below.sum())} of {distances.size} "
            f"are below, the first of them {_where(below)} (signed=True takes "
            "crossvalidated ones)"
        )
    return rdms


def write(rdms: Rdms, path: str | os.PathLike, measure: str = "unknown") -> None:
    """Writes RDMs to an HDF5 file for `read` and for rsatoolbox (`load_rdm`).

    Args:
      rdms: The RDMs.
      path: Path of a new file, `.h5` or `.hdf5`.
      measure: Description of the distances, in words.

    Raises:
      FileExistsError: The file exists.
      CannotRead: The package h5py is not installed.
    """
    path = files.as_path(path)
    h5py = files.package_h5py(path)
    subjects, sessions, pairs = rdms.distances.shape
    n = _condensed.stimuli(pairs)
    names = rdms.subjects or tuple(str(i) for i in range(subjects))
    with files.draft(path, new=True) as draft, h5py.File(draft, "w") as file:
        file["dissimilarities"] = rdms.distances.reshape(-1, pairs)
        file.attrs["dissimilarity_measure"] = measure
        file.create_group("descriptors")
        of_rdms = file.create_group("rdm_descriptors")
        of_rdms["subject"] = np.repeat(_bytes(names), sessions)
        of_rdms["session"] = np.tile(np.arange(sessions), subjects)
        of_rdms["index"] = np.arange(subjects * sessions)
        of_stimuli = file.create_group("pattern_descriptors")
        of_stimuli["index"] = np.arange(n)
        if rdms.stimuli is not None:
            of_stimuli["stimulus"] = _bytes(rdms.stimuli)


def _of_npz(path: pathlib.Path, name: str | None, limit: int | None) -> Rdms:
    named = ("stimuli", "subjects")

    def choose(arrays):
        chosen = name
        if chosen is None:
            candidates = [k for k in arrays if k not in named]
            if len(candidates) != 1:
                raise errors.CannotRead(
                    f"{path} has {len(candidates)} arrays, {', '.join(candidates)}: "
                    "select one by `name`"
                )
            (chosen,) = candidates
        errors.check_name(f"array in {path.name}", chosen, arrays)
        return [chosen, *(k for k in named if k in arrays)]

    found = files.npz(path, choose, limit)
    names = {k: _texts(found.pop(k)) for k in named if k in found and k != name}
    ((chosen, array),) = found.items()
    return Rdms(from_array(array, f"{path.name}: {chosen}"), **names)


def _of_rsatoolbox(path: pathlib.Path, limit: int | None) -> Rdms:
    arrays = files.hdf5(path, limit=limit, attributes=True)
    if "dissimilarities" not in arrays:
        raise errors.CannotRead(
            f"{path} has no dissimilarities: rsatoolbox did not save it as RDMs"
        )
    distances = from_array(arrays["dissimilarities"], path.name)[:, 0]
    count = len(distances)
    shared, of_rdms, of_stimuli = (
        _descriptors(arrays, group)
        for group in ("descriptors/", "rdm_descriptors/", "pattern_descriptors/")
    )
    named = {k: x for k, x in shared.items() if k.lower() in (*SUBJECTS, *SESSIONS)}
    known = {name: x * count for name, x in named.items() if len(x) == 1} | of_rdms
    subjects, sessions = (_first(known, names) for names in (SUBJECTS, SESSIONS))
    others = _others(of_rdms)
    if subjects is None and sessions is None:
        if others:
            raise errors.CannotRead(f"{path}: {others}")
        subjects = tuple(map(str, range(count)))
    subjects, sessions = subjects or ("0",) * count, sessions or ("0",) * count
    if len(subjects) != count or len(sessions) != count:
        raise errors.CannotRead(
            f"{path}: a descriptor does not have one value for each RDM"
        )
    people, occasions = (
        {name: place for place, name in enumerate(dict.fromkeys(x))}
        for x in (subjects, sessions)
    )
    # Each subject may have another session: the array can be larger than the file.
    asked = len(people) * len(occasions) * distances[0].nbytes
    files.check_size(path, asked, limit)
    found = np.full((len(people), len(occasions), distances.shape[-1]), np.nan)
    seen = set()
    for distance, *place in zip(distances, subjects, sessions, strict=True):
        if tuple(place) in seen:
            raise errors.CannotRead(
                f"{path} has several RDMs of subject {place[0]}, session {place[1]}"
                f"{others and ': '}{others}"
            )
        seen.add(tuple(place))
        found[people[place[0]], occasions[place[1]]] = distance
    names = {name: x for name, x in of_stimuli.items() if len(set(x)) == len(x)}
    return Rdms(found, tuple(people), _first(names, STIMULI))


def _descriptors(arrays: Mapping[str, np.ndarray], group: str) -> dict[str, tuple]:
    """Returns the descriptors of a group that are scalars or vectors, by name."""
    return {
        name.removeprefix(group): _texts(values)
        for name, values in arrays.items()
        # rsatoolbox writes None as a single object.
        if name.startswith(group)
        and (values.ndim, values.dtype) != (0, object)
        and values.ndim < 2
    }


def _others(of_rdms: Mapping[str, tuple]) -> str:
    """Describes how RDMs differ other than in subject and session; empty if not."""
    for name, values in of_rdms.items():
        known = name.lower() in (*SUBJECTS, *SESSIONS, "index")
        if not known and len(set(values)) > 1:
            return (
                f"they differ in {name!r} ({', '.join(dict.fromkeys(values))}), which "
                f"is neither a subject ({', '.join(SUBJECTS)}) nor a session "
                f"({', '.join(SESSIONS)}). Save the RDMs of one value with rsatoolbox: "
                f"rdms.subset({name!r}, {values[0]!r}).save(...)"
            )
    return ""


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(
        x.decode(errors="backslashreplace") if isinstance(x, bytes) else str(x)
        for x in np.atleast_1d(np.asarray(values)).tolist()
    )


def _first(found: Mapping[str, tuple], names: Sequence[str]) -> tuple | None:
    lowered = {name.lower(): x for name, x in found.items()}
    return next((lowered[name] for name in names if name in lowered), None)


def _bytes(names: Sequence[str]) -> np.ndarray:
    return np.array([name.encode() for name in names])


def _is_square(x: np.ndarray, what: str) -> bool:
    """Returns whether `[..., n, n]` are RDMs: whether their diagonals are 0 (or NaN).

    Raises:
      CannotRead: The matrices are symmetric, but their diagonals are not 0.
    """
    rounding = 1e-6 * np.nanmax(np.abs(x), initial=0)
    diagonal = np.diagonal(x, axis1=-2, axis2=-1)
    if not np.nanmax(np.abs(diagonal), initial=0) > rounding:
        return True
    if np.allclose(x, np.swapaxes(x, -1, -2), 1e-6, equal_nan=True):
        raise errors.CannotRead(
            f"{what}: a square RDM has a diagonal of 0, here it reaches "
            f"{np.nanmax(np.abs(diagonal)):.3g}: similarities are not distances"
        )
    return False


def _check_stimuli(
    n: int, names: tuple[str, ...] | None, stimuli: int | Sequence[Any], what: str
) -> None:
    """Checks the number of stimuli, and their names if these are expected."""
    expected = _texts(stimuli) if np.ndim(stimuli) else None
    count = operator.index(cast(int, stimuli)) if expected is None else len(expected)
    if n != count:
        raise errors.CannotRead(f"{what}: expected {count} stimuli, got {n}")
    if expected is not None and names is None:
        raise errors.CannotRead(
            f"{what}: the stimuli have no names to compare; stimuli={n} checks how "
            "many there are"
        )
    if expected is not None and names is not None and names != expected:
        raise errors.CannotRead(f"{what}: {_describe_mismatch(names, expected)}")


def _describe_mismatch(names: tuple[str, ...], expected: tuple[str, ...]) -> str:
    if sorted(names) == sorted(expected):
        place = next(
            i
            for i, two in enumerate(zip(names, expected, strict=True))
            if two[0] != two[1]
        )
        return (
            f"the stimuli are in another order: {names[place]} comes where "
            f"{expected[place]} is expected"
        )
    other = [name for name in names if name not in expected]
    return f"other stimuli than expected, {', '.join(other[:3]) or 'one twice'}"


def _where(bad: np.ndarray) -> str:
    subject, session, pair = np.argwhere(bad)[0]
    n = _condensed.stimuli(bad.shape[-1])
    i, j = (int(x[pair]) for x in np.triu_indices(n, 1))
    return f"of stimuli {i} and {j} (subject {subject}, session {session})"
