"""Packages that a plain installation leaves out, told with the extra that has them."""

import contextlib
from collections.abc import Iterator

from rdljax import errors

# By the name that pip knows: the extra of `pyproject.toml` that brings each.
EXTRAS = {
    "flax": "training",
    "orbax-checkpoint": "training",
    "tqdm": "training",
    "h5py": "weights",
    "safetensors": "weights",
}


def missing(package: str, what: str) -> str:
    """Returns what to say where a package is absent.

    Args:
      package: One of `EXTRAS`.
      what: What takes it, such as "progress=True".
    """
    return (
        f"{what} takes the package {package}: pip install {package}, or "
        f'pip install "rdljax[{EXTRAS[package]}]"'
    )


@contextlib.contextmanager
def needed(package: str, what: str) -> Iterator[None]:
    """Tells how to install the package that the imports inside are of.

    Args:
      package: One of `EXTRAS`.
      what: What takes it, such as "progress=True".

    Raises:
      MissingPackage: An import failed; its cause is the error before.
    """
    try:
        yield
    except ImportError as error:
        raise errors.MissingPackage(missing(package, what), name=package) from error
