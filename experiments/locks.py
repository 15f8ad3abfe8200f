"""A folder is written by one process at a time.

`held` is for a folder of results: another process is refused. `turn` is for what one
process writes for all: another waits.
"""

import contextlib
import errno
import json
import os
import pathlib
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import filelock

from experiments import command

NAME = ".rdljax.lock"
# Seconds between two signs of life of who holds a folder, and without one until it
# counts as dead where no kernel says so.
BEAT, DEAD_AFTER = 15.0, 120.0
# What file systems without locks answer.
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class InUse(command.UsageError):
    """Another process holds a folder."""


class Owner(NamedTuple):
    """Who holds a folder.

    Attributes:
      host: Its name.
      pid: The process's number there.
      since: When it began, in words.
    """

    host: str
    pid: int
    since: str


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
    """Holds a folder: whoever asks for it meanwhile is told who has it, since when.

    The lock is the kernel's (`flock`), which ends with its process, however that ends.
    Some network file systems have none, or keep it from other hosts. So the file also
    says who holds it, and as long as that lives it is touched: of another host, whose
    numbers of processes mean nothing here, no sign of life for `DEAD_AFTER` seconds
    says that it is dead.

    Args:
      folder: The folder; it is made where it is missing.

    Raises:
      InUse: Another holds it.
      UsageError: It cannot be written to.
    """
    with _locked(folder / NAME, folder):
        yield


@contextlib.contextmanager
def turn(
    folder: pathlib.Path, tell: Callable[[str], Any], heed: Callable[[], Any]
) -> Iterator[None]:
    """Holds a folder once nobody else does, by a file beside it.

    Args:
      folder: The folder, which need not be there.
      tell: Told whom it waits for.
      heed: Called each second; what it raises ends the waiting.

    Raises:
      UsageError: The file cannot be written.
    """
    folder = pathlib.Path(os.path.abspath(folder))
    path, told = folder.parent / f".{folder.name}{NAME}", False
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(_locked(path, folder))
                break
            except InUse as error:
                if not told:
                    tell(f"{error}; this one waits")
                told = True
                heed()
                time.sleep(1)
        yield


@contextlib.contextmanager
def _locked(path: pathlib.Path, folder: pathlib.Path) -> Iterator[None]:
    """Holds the file that stands for a folder."""
    lock = filelock.FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        locked = _acquire(lock)
        _check_free(path, folder, locked)
        _write(path)
    except filelock.Timeout:
        raise _in_use(folder, _read(path)) from None
    except OSError as error:
        lock.release()
        raise command.UsageError(f"cannot write to {folder}: {error}") from error
    except InUse:
        lock.release()
        raise
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, stop), daemon=True)
    beating.start()
    try:
        yield
    finally:
        stop.set()
        beating.join()
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def _acquire(lock: filelock.BaseFileLock) -> bool:
    """Takes the kernel's lock; False where the file system has none."""
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
    """Raises `InUse` where a living process holds what the kernel has free."""
    owner = _read(path)
    if owner is None:
        return
    if owner.host == platform.node():
        lives = not locked and _runs(owner.pid)
    else:
        # (By the clock of the file system: those of hosts may differ.)
        with tempfile.TemporaryFile(dir=path.parent) as file:
            now = os.fstat(file.fileno()).st_mtime
        lives = now - path.stat().st_mtime < DEAD_AFTER
    if lives:
        raise _in_use(folder, owner)


def _runs(pid: int) -> bool:
    """Whether this host has such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # Another user's.
        pass
    return True


def _read(path: pathlib.Path) -> Owner | None:
    """Who wrote that it holds a folder; None if nobody did, or what is no owner."""
    try:
        owner = Owner(**json.loads(path.read_text()))
        return owner if owner.pid > 0 and isinstance(owner.host, str) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _write(path: pathlib.Path) -> None:
    owner = Owner(platform.node(), os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S %z"))
    path.write_text(json.dumps(owner._asdict()))


def _beat(path: pathlib.Path, stop: threading.Event) -> None:
    """Touches the file until it is told to stop."""
    while not stop.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)


def _in_use(folder: pathlib.Path, owner: Owner | None) -> InUse:
    who = "another process"
    if owner is not None:
        who = f"process {owner.pid} on {owner.host} since {owner.since}"
    words = f"{folder} is in use by {who}"
    if owner is not None and owner.host != platform.node():
        words += f" (if that was killed, it is free within {DEAD_AFTER:.0f} seconds)"
    return InUse(words)
