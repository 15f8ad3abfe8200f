"""Files: written whole or not at all, and read without trust in who wrote them.

    files.write(folder / "table.md", text)
    with files.draft(folder / "rdms.npz") as file:
        np.savez(file, **rdms)
    with files.draft(folder / "figure.png") as file:
        figure.savefig(file.name)

No code that a file may hold is run, nothing is read from other files than the one that
was named, and no link is followed on writing. `is_draft` tells what a process that was
killed may leave in a folder; a `draft` of the same file removes it, a minute later or
more. `npz` reads the arrays and `words` the JSON of a file that may be anyone's.
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

# From the shapes of all arrays of a file, by name, to the names of those that are read.
# What it raises is raised before any of them is.
Choose = Callable[[Mapping[str, tuple[int, ...]]], Iterable[str]]
# Bytes that the arrays of a file may take, and how often the file's own where that is
# more: few kilobytes can stand for many gigabytes.
LIMIT, TIMES = 2**30, 20


# How the names of drafts begin, and after how many seconds one may be a dead process's.
_DRAFT, _OLD = ".partial-", 60
# Where names are no files of anybody's, and a folder there that is like any other.
_SYSTEM, _MEMORY = ("/dev", "/proc"), "/dev/shm"

# More bytes than the header of an array that NumPy reads.
_HEADER = 2**14
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}

# What PyTorch's reader of weights met, which stands behind lines of advice.
_MET = re.compile(
    r"Weights only load failed.*?"
    r"(?:WeightsUnpickler error:\s*|(?=Trying to load |Unsupported ))"
    r"(?P<what>.*?)(?= was not |\. Please |$)",
    re.DOTALL | re.MULTILINE,
)


def as_path(path: str | os.PathLike) -> pathlib.Path:
    """Returns a path to read or to write, with `~` as the home folder of its user.

    Where there is no such user, it is as it was: a file may be called `~kept.npz`.
    """
    return pathlib.Path(os.path.expanduser(path))


def suffix(path: pathlib.Path) -> str:
    """Returns the end of a file's name that tells its kind, as `.npz`, of any case."""
    return path.suffix.lower()


def needs(package: str, path: pathlib.Path) -> errors.CannotRead:
    """Returns the error for a file whose reader is an absent package."""
    return errors.CannotRead(_extras.missing(package, str(path)))


def brief(error: Exception) -> str:
    """Returns an error in one line, without PyTorch's advice."""
    text = re.sub(r"\x1b\[\d*m", "", str(error)).strip()
    met = _MET.match(text)
    text = met.group("what") if met else text.partition("\n")[0].strip()
    return f"{type(error).__name__}: {text[:200]}"


def sha256_of_words(manifest: Mapping[str, Any]) -> str:
    """Computes the hash of a manifest, without its own hash."""
    words = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def words(path: pathlib.Path) -> Any:
    """Returns the JSON in a file.

    Raises:
      OSError: It is absent, or no file (a pipe, say, that nobody writes to).
      ValueError: It is no JSON.
      RecursionError: It is nested too deeply.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return json.loads(path.read_bytes())


def misfit(value: Any, form: Any, name: str) -> str:
    """Returns in words what of JSON is not of the form that was expected, or "".

    Args:
      value: What was read.
      form: A type; a pair of words and a function, which tells whether a value is what
        the words say; a list of the form of each entry; or a dictionary of forms by
        key, of which that of `...` is of all other keys, and those that end with "?"
        may be absent.
      name: What the value is called.
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
    return next(filter(None, (misfit(*one) for one in each)), "")


# Forms for `misfit`.
SIZE = ("a whole number of 0 or more", lambda x: type(x) is int and x >= 0)
COUNT = ("a whole number of 1 or more", lambda x: type(x) is int and x >= 1)


def write(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file whole or not at all: see `draft`. Text is written in UTF-8."""
    with draft(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Writes a file whole or not at all; what is not finite becomes null."""
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
    """Opens a file that appears at `path` when all of it is written, or not at all.

    What was there before stays until then, and for good if the block raises. It is a
    new file in the same folder that is renamed, with the permissions of the one before:
    a link at `path` is replaced, and what it points to is not touched. Drafts of the
    file that killed processes have left are removed, a minute old or older.

        with draft("rdms.npz") as file:
            np.savez(file, **rdms)
        with draft("figure.pdf") as file:
            figure.savefig(file.name)  # The name ends as that of `path` does.

    Args:
      path: Of the file; its folder is there.
      new: It must not exist, also not when all is written.

    Raises:
      OSError: It cannot be written, or something is there that is no file, such as a
        folder or a device.
      FileExistsError: It exists, and was to be `new`.
      PermissionError: It exists and is read-only.
    """
    path = as_path(path)
    mode = _mode(path, new)
    _remove_drafts(path)
    # (Of a long name the end: the longest that a folder takes would be too long.)
    name = path.with_name(f"{_DRAFT}{secrets.token_hex(4)}-{path.name[-50:]}")
    # (Not by `tempfile`, whose files nobody else may read. O_EXCL follows no link.)
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
            if fcntl is not None:  # While it is locked: nobody takes it for a dead one.
                _place(name, path, new)
        if fcntl is None:  # Windows renames no file that is open.
            _place(name, path, new)
    finally:
        name.unlink(missing_ok=True)


def _mode(path: pathlib.Path, new: bool) -> int | None:
    """Returns the permissions of the file that a draft replaces; None without one.

    Raises:
      OSError: What is there is not to be replaced: see `draft`.
    """
    # (Of /dev/stdout, a link to any file, the link would be replaced.)
    folder = pathlib.Path(os.path.realpath(path.parent))
    if any(map(folder.is_relative_to, _SYSTEM)) and not folder.is_relative_to(_MEMORY):
        raise OSError(f"{path} is no file: {folder} is the system's")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no file: nothing can be written there")
    if new and os.path.lexists(path):
        raise FileExistsError(f"there is a file {path} already")
    if path.is_symlink() or not path.exists():
        return None
    mode = _permissions(path.stat())
    # (Of root every file is writable: the mode says what its owner wants.)
    if not mode & 0o222 or not os.access(path, os.W_OK):
        raise PermissionError(f"{path} is read-only: it is not replaced")
    return mode


def _permissions(of: os.stat_result) -> int:
    return of.st_mode & 0o777


def _place(name: pathlib.Path, path: pathlib.Path, new: bool) -> None:
    """Gives a file its name, which none may have where it is `new`."""
    if new:
        with contextlib.suppress(OSError):  # Some file systems have no hard links.
            os.link(name, path)
            return
        if os.path.lexists(path):
            raise FileExistsError(f"there is a file {path} already")
    name.replace(path)


def is_draft(path: pathlib.Path) -> bool:
    """Returns whether a name is one that `draft` gives, which a kill may leave."""
    return path.name.startswith(_DRAFT)


def _remove_drafts(path: pathlib.Path) -> None:
    """Removes the drafts of a file that no process writes any more."""
    if fcntl is None:
        return
    # (To read alone would not do: NFS locks what is open for writing.)
    opener = functools.partial(_open, flags=os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    random = "[0-9a-f]" * 8
    for left in path.parent.glob(f"{_DRAFT}{random}-{glob.escape(path.name[-50:])}"):
        # (What cannot be opened or removed is another's.)
        with contextlib.suppress(OSError), open(left, "rb", opener=opener) as file:
            # (A new one may not be locked yet, and is not locked here either.)
            old = time.time() - os.fstat(file.fileno()).st_mtime > _OLD
            if old and _lock(file.fileno()):
                left.unlink()


def _open(path: str, _: int, *, flags: int, mode: int = 0o666) -> int:
    return os.open(path, flags, mode)


def _lock(file: int) -> bool:
    """Locks an open file until it is closed; False where another process has it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # Also of file systems that have no locks.
        return False
    return True


def check_size(
    path: pathlib.Path, size: int, limit: int | None, own: int | None = None
) -> None:
    """Raises `CannotRead` where arrays take more memory than a file may ask for.

    Args:
      path: Of the file, or of a folder.
      size: Bytes of the arrays.
      limit: Bytes that are allowed, or `TIMES` those of the file; None for any number.
      own: Bytes of what is in a folder.
    """
    own = path.stat().st_size if own is None else own
    if limit is not None and size > max(limit, TIMES * own):
        raise errors.CannotRead(
            f"{path} has {own:,} bytes, and its arrays would take {size:,}: a file may "
            f"take {TIMES} times its bytes, or the limit of {limit:,} (`limit` raises "
            "it; arrays that are stored without compression have none)"
        )


def npz(
    path: pathlib.Path, choose: Choose = list, limit: int | None = LIMIT
) -> dict[str, np.ndarray]:
    """Reads the chosen arrays of an .npz file."""
    with (
        _telling(path, "is not an .npz file of arrays"),
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
    """Returns shape and bytes of a number of an array in an .npz file, or None.

    From its first bytes alone: a header may say that it has gigabytes.
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
    """Maps the array of an .npy file into memory, by the file's name without `.npy`."""
    del limit  # It has no more bytes than its file.
    with _telling(path, "is not an .npy file of an array"):
        array = np.lib.format.open_memmap(path, mode="r")
        return dict.fromkeys(choose({path.stem: array.shape}), array)


def safetensors(
    path: pathlib.Path, choose: Choose = list, limit: int | None = LIMIT
) -> dict[str, np.ndarray]:
    """Reads the chosen arrays of a .safetensors file."""
    del limit  # They have no more bytes than their file.
    package = package_safetensors(path)
    with (
        _telling(path, "is not a .safetensors file that NumPy can hold"),
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

    With `attributes`, those of groups and arrays are among them, named alike.

    Raises:
      CannotRead: One of them lies in another file (external storage, a virtual data
        set, a link), or they are too large.
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

    with _telling(path, "is not an HDF5 file of arrays"), h5py.File(path) as file:
        # (Neither follows a link: what a soft one names has a name of its own.)
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
                f"{path}: {', '.join(others[:3])} lies in another file, and no other "
                "is read: copy it into this one"
            )
        # (HDF5 unpacks a chunk as a whole, also where it is larger than its array.)
        sizes = (
            max(x.size or 0, math.prod(x.chunks or ())) * x.dtype.itemsize
            for x in stored
        )
        check_size(path, sum(sizes), limit)
        return {name: value(found[name]) for name in chosen}


def package_h5py(path: pathlib.Path) -> Any:
    """Returns the package h5py, for a file.

    Raises:
      CannotRead: The package is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise needs("h5py", path) from error
    return h5py


def package_safetensors(path: pathlib.Path) -> Any:
    """Returns the package safetensors, for a file.

    Raises:
      CannotRead: The package is not installed.
    """
    try:
        import safetensors.numpy
    except ImportError as error:
        raise needs("safetensors", path) from error
    return safetensors


@contextlib.contextmanager
def _telling(path: pathlib.Path, what: str) -> Iterator[None]:
    """Tells what a file is not; at once if it is none, since a pipe is waited for.

    What a damaged file makes a parser raise has no end: whatever it is, it is told with
    the file's name.
    """
    try:
        if not path.is_file():
            raise errors.CannotRead(f"there is no file {path}")
        yield
    except (errors.UnknownName, errors.CannotRead):
        raise
    except Exception as error:
        raise errors.CannotRead(f"{path} {what}: {brief(error)}") from error
