"""Locks folders, so that one process at a time writes to a folder.

`hold` is for a folder of results: any other process is refused. `hold_when_free` is for
files that one process writes for all: other processes wait.
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
# Seconds between two updates of the lock's file by its owner, and seconds without an
# update after which the owner counts as dead where there are no locks of the kernel.
BEAT, DEAD_AFTER = 15.0, 120.0
# Seconds until one of two processes that began together sees that the other has the
# lock.
SETTLED = 1.0
# Error numbers of file systems without locks.
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class InUse(command.UsageError):
    """An error for a folder that another process holds."""


class Owner(NamedTuple):
    """The process that holds a folder.

    Attributes:
      host: The name of the process's host.
      pid: The number of the process on that host.
      since: The date and time when it took the folder, as text.
      token: A random text, which differs between processes with the same number.
    """

    host: str
    pid: int
    since: str
    token: str = ""


@contextlib.contextmanager
def hold(folder: pathlib.Path) -> Iterator[None]:
    """Locks a folder in a `with` block; an error names another process that has it.

    The lock is the kernel's (`flock`), which the operating system releases when the
    process ends, even if it was killed. Some network file systems have no locks, or do
    not share them with other hosts. Therefore the lock's file also names its owner,
    which updates the file's time regularly: on another host, and where there are no
    locks of the kernel, an owner without an update for `DEAD_AFTER` seconds counts as
    dead. (The process number alone does not show this, since another process may have
    it now.)

    Args:
      folder: The folder; it is created if it is missing.

    Raises:
      InUse: If another process holds the folder.
      UsageError: If the folder cannot be written to.
    """
    with _locked(folder):
        yield


@contextlib.contextmanager
def hold_when_free(
    folder: pathlib.Path, tell: Callable[[str], Any], handle_wait: Callable[[], Any]
) -> Iterator[None]:
    """Locks a folder in a `with` block, as soon as no other process holds it.

    Args:
      folder: The folder; it is created if it is missing.
      tell: The function that is called with a message if this process has to wait.
      handle_wait: The function that is called each second of waiting; an error that it
        raises ends the waiting.

    Raises:
      UsageError: If the lock's file cannot be written.
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
                    tell(f"{error}; waiting for it")
                told = True
                handle_wait()
                time.sleep(1)
        yield


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Locks a folder by its file `NAME`."""
    path, since = folder / NAME, time.strftime("%Y-%m-%d %H:%M:%S %z")
    me = Owner(platform.node(), os.getpid(), since, secrets.token_hex(8))
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise OSError(f"{path} is not a file")
            # (Any user who may write to the folder may take over a dead owner's lock.)
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
    """Removes the lock's file, unless another process has taken it over.

    (Which happens if this process was suspended for a long time, for example.)
    """
    if _read(path) == me:
        with contextlib.suppress(OSError):
            path.unlink()


def _acquire(lock: filelock.BaseFileLock) -> bool:
    """Takes the kernel's lock; returns False if the file system has no locks."""
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
    """Raises `InUse` if a living process holds a folder without a kernel's lock."""
    owner = _read(path)
    if owner is None:
        return
    here = owner.host == platform.node()
    if here and (locked or owner.pid == os.getpid() or not _runs(owner.pid)):
        return
    # (By the clock of the file system, since the clocks of hosts may differ.)
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
    """Returns the owner named in a lock's file; None if there is none."""
    try:
        owner = Owner(**files.read_json(path))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    if type(owner.pid) is not int or not 0 < owner.pid < 2**31:
        return None
    return owner if isinstance(owner.host, str) else None


def _beat(path: pathlib.Path, me: Owner, stop: threading.Event) -> None:
    """Updates the time of the lock's file regularly, until `stop`.

    It does nothing while another owner has the file.
    """
    while not stop.wait(BEAT):
        if _read(path) == me:
            with contextlib.suppress(OSError):
                os.utime(path)


def _in_use(folder: pathlib.Path, owner: Owner | None, hint: str = "") -> InUse:
    who = "another process"
    if owner is not None:
        who = f"process {owner.pid} on {owner.host} since {owner.since}"
    return InUse(f"{folder} is in use by {who}{hint}")
