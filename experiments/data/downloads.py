"""Downloads the publishers' files of image sets and checks their SHA-256."""

import gzip
import hashlib
import http.client
import pathlib
import queue
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping
from typing import Any

from experiments import display
from rdljax import files

# The longest silence of a server, in seconds, and its smallest speed, in bytes/second.
PATIENCE = 10.0
SLOWEST = 10_000
# The largest number of bytes of a download, and of its unpacked content before its sum
# is known. (The largest original has 170 MB, and unpacks to 186 MB.)
LARGEST = 2**28


class CannotPrepare(ValueError):
    """An error for files that are missing, unreachable or not the original ones."""


def unpack(path: pathlib.Path, accepted: tuple[str, ...]) -> bytes:
    """Reads a gzip file; the SHA-256 of the file or of its content must be accepted.

    If the sum of the file is not accepted, at most `LARGEST` bytes are unpacked to
    compare the sum of the content.

    Args:
      path: The path of the file.
      accepted: The accepted SHA-256 sums in hexadecimal.

    Returns:
      The content.

    Raises:
      CannotPrepare: If it is another file.
    """
    with path.open("rb") as file:
        packed = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        with gzip.open(path) as file:
            content = file.read(-1 if packed in accepted else LARGEST)
    except (OSError, EOFError, zlib.error):
        content = b""
    if not {packed, hashlib.sha256(content).hexdigest()} & set(accepted):
        raise CannotPrepare(
            f"{path} is not the original file: its SHA-256 is {packed}, "
            f"published is {accepted[0]}"
        )
    return content


def fetch(
    url: str, published: Mapping[str, tuple[str, ...]], cache: pathlib.Path
) -> dict[str, pathlib.Path]:
    """Downloads the original files that a cache lacks; returns the paths by name.

    Args:
      url: The URL of the folder of the original files.
      published: The accepted SHA-256 sums, by the name of the file.
      cache: The folder that keeps the files.

    Raises:
      CannotPrepare: If a file cannot be downloaded, or is not the original one.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for file, accepted in published.items():
        if (cache / file).exists():
            continue
        try:
            _download(url + file, cache / file, accepted)
        except (OSError, http.client.HTTPException) as error:
            raise CannotPrepare(
                f"cannot download {url}{file} ({error}). Without a network, put "
                f"{', '.join(published)} into a folder and give it with --manual_dir"
            ) from error
    return {file: cache / file for file in published}


def _download(url: str, path: pathlib.Path, accepted: tuple[str, ...]) -> None:
    """Downloads a file, which appears at `path` when it is complete and checked."""
    with _open(url) as response, files.draft(path) as file:
        size = response.length
        if size is not None and size > LARGEST:
            raise OSError(_too_large(size))
        began = time.monotonic()
        shown: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
        with display.progress_bar(total=size, desc=path.name, **shown) as bar:
            while part := response.read1(2**20):
                bar.update(file.write(part))
                if file.tell() > LARGEST:
                    raise OSError(_too_large(file.tell()))
                seconds = time.monotonic() - began
                if file.tell() < SLOWEST * (seconds - PATIENCE):
                    raise TimeoutError(
                        f"{file.tell():,} bytes in {seconds:.0f} s are fewer than "
                        f"{SLOWEST:,} a second (downloads.SLOWEST)"
                    )
        file.flush()
        unpack(pathlib.Path(file.name), accepted)


def _too_large(size: int) -> str:
    return (
        f"it has {size:,} bytes or more, and no original has more than {LARGEST:,} "
        "(downloads.LARGEST)"
    )


def _open(url: str) -> http.client.HTTPResponse:
    """Opens a URL, or gives up after `PATIENCE` seconds.

    urllib's own timeout applies to each address of a server, but not to the look-up of
    its name; together they may take minutes on a machine without a network.
    """
    responses: queue.Queue[http.client.HTTPResponse | Exception] = queue.Queue()

    def ask():
        try:
            responses.put(urllib.request.urlopen(url, timeout=PATIENCE))
        except Exception as error:
            # (An HTTPError is also an open response.)
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            responses.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        response = responses.get(timeout=PATIENCE)
    except queue.Empty:
        raise TimeoutError(f"no response within {PATIENCE:g} s") from None
    if isinstance(response, Exception):
        raise response
    return response
