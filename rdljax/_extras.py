"""Reports packages that a plain installation lacks, with the extra that has them."""

import contextlib
from collections.abc import Iterator

from rdljax import errors

# The extra of `pyproject.toml` that has each package, by its name for pip.
EXTRAS = {
    "flax": "training",
    "optax": "training",
    "orbax-checkpoint": "training",
    "tqdm": "training",
    "matplotlib": "plots",
    "h5py": "weights",
    "safetensors": "weights",
}


def missing(package: str, what: str) -> str:
    """Returns the message about a missing package.

    Args:
      package: One of `EXTRAS`.
      what: Name of the feature that needs it, such as "progress=True".
    """
    return (
        f"{what} needs the package {package}: pip install {package}, or "
        f'pip install "rdljax[{EXTRAS[package]}]"'
    )


@contextlib.contextmanager
def needed(package: str, what: str) -> Iterator[None]:
    """Raises `MissingPackage`, with the install command, if the block's import fails.

    Args:
      package: One of `EXTRAS`.
      what: Name of the feature that needs it, such as "progress=True".

    Raises:
      MissingPackage: An import failed; its cause is the original error.
    """
    try:
        yield
    except ImportError as error:
        raise errors.MissingPackage(missing(package, what), name=package) from error
