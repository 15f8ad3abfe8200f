"""A folder is written by one process at a time.

`hold` is for a folder of results: another process is refused. `turn` is for what one
process writes for all: another waits.
"""

import contextlib
import errno
import json
import os
import pathlib
import platform
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import filelock

from experiments import command
from rdljax import files

NAME = ".rdljax.lock"
# Seconds between two signs of life of who holds a folder, and without one until it
# counts as dead where no kernel says so.
BEAT, DEAD_AFTER = 15.0, 120.0
# Seconds after which one of two that began at once finds that it is the other's.
SETTLED = 1.0
# Error numbers of file systems without locks.
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class InUse(command.UsageError):
    """An error for a folder that another process holds."""


class Owner(NamedTuple):
    """The process that holds a folder.

    Attributes:
      host: The name of its host.
      pid: The process's number there.
      since: The time when it began, in words.
      token: A random text that tells it from others with the same number.
    """

    host: str
    pid: int
    since: str
    token: str = ""


@contextlib.contextmanager
def hold(folder: pathlib.Path) -> Iterator[None]:
    """Holds a folder: any other who asks for it is told who has it, since when.

    The lock is the kernel's (`flock`), which ends with its process, however that ends.
    Some network file systems have none, or keep it from other hosts. So the file also
    says who holds it, and it is touched as long as its owner lives: on another host,
    and where there are no locks of the kernel, an owner without a sign of life for
    `DEAD_AFTER` seconds counts as dead. (Its number alone may be another process's by
    now.)

    Args:
      folder: The folder; it is made where it is missing.

    Raises:
      InUse: Another process holds it.
      UsageError: It cannot be written to.
    """
    with _locked(folder):
        yield


@contextlib.contextmanager
def turn(
    folder: pathlib.Path, tell: Callable[[str], Any], heed: Callable[[], Any]
) -> Iterator[None]:
    """Holds a folder as soon as nobody else does.

    Args:
      folder: The folder; it is made where it is missing.
      tell: The function that is told whom this process waits for.
      heed: The function that is called each second; an error that it raises ends the
        waiting.

    Raises:
      UsageError: The file cannot be written.
    """
    folder = pathlib.Path(os.path.abspath(folder))
    told = False
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(_locked(folder))
                break
            except InUse as error:
                if not told:
                    tell(f"{error}; this one waits")
                told = True
                heed()
                time.sleep(1)
        yield


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Holds the file in a folder that stands for the folder."""
    path, since = folder / NAME, time.strftime("%Y-%m-%d %H:%M:%S %z")
    me = Owner(platform.node(), os.getpid(), since, secrets.token_hex(8))
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise OSError(f"{path} is no file")
            # (Whoever may write to the folder may take the lock of a dead one.)
            mode = folder.stat().st_mode & 0o666 | 0o600
            lock = filelock.FileLock(
                path, mode=mode, blocking=False, fallback_to_soft=False
            )
            held.callback(lock.release)
            locked = _acquire(lock)
            _check_free(path, folder, locked)
            held.callback(_leave, path, me)
            path.write_text(json.dumps(me._asdict()))
            if not locked:
                time.sleep(SETTLED)
                if (owner := _read(path)) != me:
                    raise _in_use(folder, owner)
        except filelock.Timeout:
            raise _in_use(folder, _read(path)) from None
        except OSError as error:
            raise command.UsageError(f"cannot write to {folder}: {error}") from error
        stop = threading.Event()
        beating = threading.Thread(target=_beat, args=(path, me, stop), daemon=True)
        beating.start()
        held.callback(beating.join)
        held.callback(stop.set)
        yield


def _leave(path: pathlib.Path, me: Owner) -> None:
    """Removes the file, unless it is another's by now (where one slept, say)."""
    if _read(path) == me:
        with contextlib.suppress(OSError):
            path.unlink()


def _acquire(lock: filelock.BaseFileLock) -> bool:
    """Takes the kernel's lock; returns False where the file system has none."""
    try:
        lock.acquire()
    except filelock.Timeout:
        raise
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return False
    return True


def _check_free(path: pathlib.Path, folder: pathlib.Path, locked: bool) -> None:
    """Raises `InUse` where a living process holds a folder that the kernel has free."""
    owner = _read(path)
    if owner is None:
        return
    here = owner.host == platform.node()
    if here and (locked or owner.pid == os.getpid() or not _runs(owner.pid)):
        return
    # (By the clock of the file system: those of hosts may differ.)
    with tempfile.TemporaryFile(dir=path.parent) as file:
        now = os.fstat(file.fileno()).st_mtime
    if abs(now - path.stat().st_mtime) < DEAD_AFTER:
        hint = f" (if that was killed, it is free within {DEAD_AFTER:.0f} seconds)"
        raise _in_use(folder, owner, hint)


def _runs(pid: int) -> bool:
    """Returns whether this host has such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # Another user's.
        pass
    return True


def _read(path: pathlib.Path) -> Owner | None:
    """Returns the owner that a file names; None without a file or an owner in it."""
    try:
        owner = Owner(**files.words(path))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    if type(owner.pid) is not int or not 0 < owner.pid < 2**31:
        return None
    return owner if isinstance(owner.host, str) else None


def _beat(path: pathlib.Path, me: Owner, stop: threading.Event) -> None:
    """Touches the file, as long as it is this owner's, until it is told to stop."""
    while not stop.wait(BEAT):
        if _read(path) == me:
            with contextlib.suppress(OSError):
                os.utime(path)


def _in_use(folder: pathlib.Path, owner: Owner | None, hint: str = "") -> InUse:
    who = "another process"
    if owner is not None:
        who = f"process {owner.pid} on {owner.host} since {owner.since}"
    return InUse(f"{folder} is in use by {who}{hint}")
