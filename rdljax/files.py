"""Writes files completely or not at all, and reads untrusted files safely.

    files.write(folder / "table.md", text)
    with files.draft(folder / "rdms.npz") as file:
        np.savez(file, **rdms)
    with files.draft(folder / "figure.png") as file:
        figure.savefig(file.name)

No code from a file is run, only the given file is read, and links are not followed when
writing. `is_draft` recognises the files that a killed process may leave in a folder; a
`draft` of the same file removes them after a minute or more. `npz` reads the arrays and
`read_json` the JSON of a file from anyone.
"""

import contextlib
import functools
import glob
import hashlib
import io
import json
import math
import os
import pathlib
import re
import secrets
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from rdljax import _extras, errors

try:
    import fcntl
except ImportError:  # On Windows, where drafts of killed processes stay.
    fcntl = None  # type: ignore[assignment]

# A function from the shapes of all arrays of a file, by name, to the names of those to
# read. If it raises an error, no array is read.
Choose = Callable[[Mapping[str, tuple[int, ...]]], Iterable[str]]
# The largest size of the arrays of a file in bytes, and in multiples of the file's
# size, if that is more: a few kilobytes can expand to many gigabytes.
LIMIT, TIMES = 2**30, 20


# The prefix of the names of drafts, and the age in seconds from which one may belong to
# a killed process.
_DRAFT, _OLD = ".partial-", 60
# Folders of the system, and a folder among them that is an ordinary one.
_SYSTEM, _MEMORY = ("/dev", "/proc"), "/dev/shm"

# A number of bytes above the length of any array header that NumPy reads.
_HEADER = 2**14
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}

# The cause of an error of PyTorch's reader of weights, which follows lines of advice.
_MET = re.compile(
    r"Weights only load failed.*?"
    r"(?:WeightsUnpickler error:\s*|(?=Trying to load |Unsupported ))"
    r"(?P<what>.*?)(?= was not |\. Please |$)",
    re.DOTALL | re.MULTILINE,
)


def as_path(path: str | os.PathLike) -> pathlib.Path:
    """Returns a path with `~` or `~user` replaced by the home folder.

    If there is no such user, the path is unchanged: a file may be called `~kept.npz`.
    """
    return pathlib.Path(os.path.expanduser(path))


def suffix(path: pathlib.Path) -> str:
    """Returns the suffix of a file's name in lower case, such as `.npz`."""
    return path.suffix.lower()


def needs(package: str, path: pathlib.Path) -> errors.CannotRead:
    """Returns the error for a file whose reader needs a package that is missing."""
    return errors.CannotRead(_extras.missing(package, str(path)))


def one_line(error: Exception) -> str:
    """Returns the text of an error in one line, without PyTorch's advice."""
    text = re.sub(r"\x1b\[\d*m", "", str(error)).strip()
    met = _MET.match(text)
    text = met.group("what") if met else text.partition("\n")[0].strip()
    return f"{type(error).__name__}: {text[:200]}"


def sha256_of_manifest(manifest: Mapping[str, Any]) -> str:
    """Computes the hash of a manifest, without its own hash."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_json(path: pathlib.Path) -> Any:
    """Returns the JSON in a file.

    Raises:
      OSError: The file does not exist or is not a regular file (for example a pipe).
      ValueError: The file is not JSON.
      RecursionError: The JSON is nested too deeply.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return json.loads(path.read_bytes())


def describe_mismatch(value: Any, form: Any, name: str) -> str:
    """Describes how JSON differs from the expected form; "" if it does not.

    Args:
      value: The JSON value.
      form: Expected form: a type; a pair of a description and a function that returns
        whether a value fits it; a list with the form of all entries; or a dict of forms
        by key, in which `...` stands for all other keys, and keys that end with "?" are
        optional.
      name: Name of the value in the description.
    """
    kind = type(form) if isinstance(form, dict | list) else form
    expected, fits = (
        kind if isinstance(kind, tuple) else (kind.__name__, lambda x: type(x) is kind)
    )
    if not fits(value):
        return f"{name} is {str(value)[:80]!r}, expected {expected}"
    if isinstance(form, list):
        each = [(x, form[0], f"{name}[{i}]") for i, x in enumerate(value)]
    elif isinstance(form, dict):
        forms = {str(key).rstrip("?"): of for key, of in form.items() if key is not ...}
        if absent := [key for key in forms if key in form and key not in value]:
            return f"{name} lacks {absent[0]!r}"
        forms = {key: forms.get(key, form.get(...)) for key in value}
        each = [(value[key], of, f"{name}.{key}") for key, of in forms.items() if of]
    else:
        return ""
    return next(filter(None, (describe_mismatch(*one) for one in each)), "")


# Forms for `describe_mismatch`.
SIZE = ("a whole number of 0 or more", lambda x: type(x) is int and x >= 0)
COUNT = ("a whole number of 1 or more", lambda x: type(x) is int and x >= 1)


def write(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file completely or not at all: see `draft`. Text is written in UTF-8."""
    with draft(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Writes JSON completely or not at all, with null for NaN and infinity."""
    write(path, json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: _finite(v) for k, v in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(v) for v in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


@contextlib.contextmanager
def draft(path: str | os.PathLike, *, new: bool = False) -> Iterator[BinaryIO]:
    """Opens a file that appears at `path` when it is complete, or not at all.

    A file that exists at `path` stays until then, and for good if the block raises an
    error. The draft is a new file in the same folder, which is then renamed and has the
    permissions of the previous one: a link at `path` is replaced, and its target is not
    changed. Drafts of the file that killed processes have left are removed if they are
    a minute old or older.

        with draft("rdms.npz") as file:
            np.savez(file, **rdms)
        with draft("figure.pdf") as file:
            figure.savefig(file.name)  # The name has the same suffix as `path`.

    Args:
      path: Path of the file, in an existing folder.
      new: Whether the file must be new: it must not exist, even when the draft is
        complete.

    Raises:
      OSError: The file cannot be written, or `path` is not a regular file, but for
        example a folder or a device.
      FileExistsError: The file exists, and `new` is set.
      PermissionError: The file exists and is read-only.
    """
    path = as_path(path)
    mode = _mode(path, new)
    _remove_drafts(path)
    # Only the end of a long name, since the length of file names is limited.
    name = path.with_name(f"{_DRAFT}{secrets.token_hex(4)}-{path.name[-50:]}")
    # Not with `tempfile`, whose files only their owner can read. O_EXCL does not follow
    # links.
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    opener = functools.partial(_open, flags=flags, mode=mode or 0o666)
    try:
        with open(os.fspath(name), "w+b", opener=opener) as file:
            _lock(file.fileno())
            if mode and mode != _permissions(os.fstat(file.fileno())):
                os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:  # While locked, so that no other process removes it.
                _place(name, path, new)
        if fcntl is None:  # Windows cannot rename open files.
            _place(name, path, new)
    finally:
        name.unlink(missing_ok=True)


def _mode(path: pathlib.Path, new: bool) -> int | None:
    """Returns the permissions of the file that a draft replaces; None without one.

    Raises:
      OSError: The file must not be replaced: see `draft`.
    """
    # /dev/stdout, a link to some file, would itself be replaced.
    folder = pathlib.Path(os.path.realpath(path.parent))
    if any(map(folder.is_relative_to, _SYSTEM)) and not folder.is_relative_to(_MEMORY):
        raise OSError(
            f"{path} is not a regular file: {folder} is a folder of the system"
        )
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file: nothing can be written there")
    if new and os.path.lexists(path):
        raise FileExistsError(f"there is a file {path} already")
    if path.is_symlink() or not path.exists():
        return None
    mode = _permissions(path.stat())
    # For root every file is writable, so the mode is checked too.
    if not mode & 0o222 or not os.access(path, os.W_OK):
        raise PermissionError(f"{path} is read-only: it is not replaced")
    return mode


def _permissions(of: os.stat_result) -> int:
    return of.st_mode & 0o777


def _place(name: pathlib.Path, path: pathlib.Path, new: bool) -> None:
    """Gives a file its final name; if `new`, no file may have it."""
    if new:
        with contextlib.suppress(OSError):  # Some file systems have no hard links.
            os.link(name, path)
            return
        if os.path.lexists(path):
            raise FileExistsError(f"there is a file {path} already")
    name.replace(path)


def is_draft(path: pathlib.Path) -> bool:
    """Returns whether a file has the name of a draft, as killed processes leave it."""
    return path.name.startswith(_DRAFT)


def _remove_drafts(path: pathlib.Path) -> None:
    """Removes the drafts of a file that no process writes any more."""
    if fcntl is None:
        return
    # Opened for writing, since NFS only locks such files.
    opener = functools.partial(_open, flags=os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    random = "[0-9a-f]" * 8
    for left in path.parent.glob(f"{_DRAFT}{random}-{glob.escape(path.name[-50:])}"):
        # Files that cannot be opened or removed belong to other users.
        with contextlib.suppress(OSError), open(left, "rb", opener=opener) as file:
            # A new draft may not be locked yet, and must not be locked here.
            old = time.time() - os.fstat(file.fileno()).st_mtime > _OLD
            if old and _lock(file.fileno()):
                left.unlink()


def _open(path: str, _: int, *, flags: int, mode: int = 0o666) -> int:
    return os.open(path, flags, mode)


def _lock(file: int) -> bool:
    """Locks an open file until it is closed; False if another process has the lock."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # Also on file systems without locks.
        return False
    return True


def check_size(
    path: pathlib.Path, size: int, limit: int | None, own: int | None = None
) -> None:
    """Checks that the arrays of a file do not take more memory than allowed.

    Args:
      path: Path of the file or folder.
      size: Size of the arrays in bytes.
      limit: Largest size in bytes; or `TIMES` times that of the file, if that is more.
        None: no limit.
      own: Size of the files in a folder in bytes. None: the size of the file `path`.

    Raises:
      CannotRead: The arrays are larger.
    """
    own = path.stat().st_size if own is None else own
    if limit is not None and size > max(limit, TIMES * own):
        raise errors.CannotRead(
            f"{path} has {own:,} bytes, and its arrays would take {size:,}: they may "
            f"take {TIMES} times the size of the file, or the limit of {limit:,} "
            "(`limit` changes it; arrays that are stored without compression have no "
            "limit)"
        )


def npz(
    path: pathlib.Path, choose: Choose = list, limit: int | None = LIMIT
) -> dict[str, np.ndarray]:
    """Reads the chosen arrays of an .npz file."""
    with (
        _report_errors(path, "is not an .npz file of arrays"),
        zipfile.ZipFile(path) as archive,
    ):
        members = {x.removesuffix(".npy"): x for x in archive.namelist()}
        forms = {name: _form(archive, member) for name, member in members.items()}
        shapes = {name: form[0] if form else () for name, form in forms.items()}
        chosen = list(choose(shapes))
        if wrong := [name for name in chosen if forms[name] is None]:
            raise errors.CannotRead(
                f"{path} is not an .npz file of arrays: {wrong[0]!r}"
            )
        sizes = [forms[name] or ((), 0) for name in chosen]
        asked = sum(math.prod(shape) * size for shape, size in sizes)
        check_size(path, asked, limit)
        found = {}
        for name in chosen:
            with archive.open(members[name]) as file:
                found[name] = np.lib.format.read_array(file, allow_pickle=False)
        return found


def _form(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], int] | None:
    """Returns shape and item size of an array in an .npz file; None if it is no array.

    Only the first bytes are read, since a header may claim to have gigabytes.
    """
    with archive.open(member) as file:
        start = io.BytesIO(file.read(_HEADER))
    try:
        version = np.lib.format.read_magic(start)
        shape, _, dtype = _HEADERS[version](start)
    except (ValueError, KeyError):
        return None
    return shape, dtype.itemsize


def npy(
    path: pathlib.Path, choose: Choose = list, limit: int | None = LIMIT
) -> dict[str, np.ndarray]:
    """Memory-maps the array of an .npy file; its name is the file's, without `.npy`."""
    del limit  # The array is not larger than the file.
    with _report_errors(path, "is not an .npy file of an array"):
        array = np.lib.format.open_memmap(path, mode="r")
        return dict.fromkeys(choose({path.stem: array.shape}), array)


def safetensors(
    path: pathlib.Path, choose: Choose = list, limit: int | None = LIMIT
) -> dict[str, np.ndarray]:
    """Reads the chosen arrays of a .safetensors file."""
    del limit  # The arrays are not larger than the file.
    package = package_safetensors(path)
    with (
        _report_errors(
            path, "is not a .safetensors file of arrays that NumPy supports"
        ),
        package.safe_open(path, framework="numpy") as file,
    ):
        names = file.keys()
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        return {name: file.get_tensor(name) for name in choose(shapes)}


def hdf5(
    path: pathlib.Path,
    choose: Choose = list,
    limit: int | None = LIMIT,
    *,
    attributes: bool = False,
) -> dict[str, np.ndarray]:
    """Reads the chosen arrays of an HDF5 file; names of groups are joined by "/".

    With `attributes`, the attributes of groups and arrays are included, with names of
    the same form.

    Raises:
      CannotRead: An array is in another file (external storage, a virtual data set, a
        link), or the arrays are too large.
    """
    h5py = package_h5py(path)
    found, links = {}, {}

    def take(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item
        if attributes:
            found.update({f"{name}/{key}": x for key, x in item.attrs.items()})

    def look(name, link):
        if isinstance(link, h5py.ExternalLink):
            links[name] = link

    def value(item):
        return np.asarray(item[()] if isinstance(item, h5py.Dataset) else item)

    with _report_errors(path, "is not an HDF5 file of arrays"), h5py.File(path) as file:
        # Neither follows links: the target of a soft link is listed by its own name.
        file.visititems(take)
        file.visititems_links(look)
        chosen = list(
            choose({name: np.shape(x) for name, x in (found | links).items()})
        )
        arrays = [found[name] for name in chosen if name in found]
        stored = [x for x in arrays if isinstance(x, h5py.Dataset)]
        others = [name for name in chosen if name in links]
        others += [x.name for x in stored if x.external or x.is_virtual]
        if others:
            raise errors.CannotRead(
                f"{path}: {', '.join(others[:3])} is stored in another file, and only "
                "this file is read: copy the data into it"
            )
        # HDF5 unpacks whole chunks, even if they are larger than their array.
        sizes = (
            max(x.size or 0, math.prod(x.chunks or ())) * x.dtype.itemsize
            for x in stored
        )
        check_size(path, sum(sizes), limit)
        return {name: value(found[name]) for name in chosen}


def package_h5py(path: pathlib.Path) -> Any:
    """Returns the package h5py, to read or write a file.

    Raises:
      CannotRead: The package is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise needs("h5py", path) from error
    return h5py


def package_safetensors(path: pathlib.Path) -> Any:
    """Returns the package safetensors, to read or write a file.

    Raises:
      CannotRead: The package is not installed.
    """
    try:
        import safetensors.numpy
    except ImportError as error:
        raise needs("safetensors", path) from error
    return safetensors


@contextlib.contextmanager
def _report_errors(path: pathlib.Path, what: str) -> Iterator[None]:
    """Raises `CannotRead` with the name of the file for any error of a parser.

    Damaged files make parsers raise errors of many kinds. It raises immediately if
    `path` is not a regular file, since reading a pipe would block.
    """
    try:
        if not path.is_file():
            raise errors.CannotRead(f"there is no file {path}")
        yield
    except (errors.UnknownName, errors.CannotRead):
        raise
    except Exception as error:
        raise errors.CannotRead(f"{path} {what}: {one_line(error)}") from error
