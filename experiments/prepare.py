"""Prepares image sets as TFDS folders, without TensorFlow.

    python -m experiments.prepare cifar100 --data_dir data

The original files are downloaded, or taken from --manual_dir, and checked against
their published SHA-256. TFDS's own builder then writes the folder, with the same names
and in the same order as with TensorFlow, so that `experiments.data.load` and
`tfds.data_source(NAME, data_dir=..., download=False)` both read it.
"""

import dataclasses
import sys

import tyro

from experiments import command


@dataclasses.dataclass(frozen=True)
class Options:
    """The data set, its source and its destination."""

    name: tyro.conf.Positional[str]
    """The data set: mnist, fashion_mnist, cifar10 or cifar100."""
    data_dir: str
    """The folder in which the TFDS folder is made."""
    manual_dir: str | None = None
    """A folder with the original files; nothing is downloaded then."""
    overwrite: bool = False
    """Replace an existing folder."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = command.read_arguments(arguments)
    name = "a data set"
    try:
        options = command.parse(
            Options, arguments, program="experiments.prepare", about=__doc__
        )
        name = options.name
        with command.importing():
            from experiments.data import preparing
        print(preparing.prepare(**dataclasses.asdict(options)))
    except (ValueError, RuntimeError, command.UsageError) as error:
        print(command.as_called(f"error: {error}"), file=sys.stderr)
        return 2
    except ImportError as error:
        install = 'pip install "rdljax[experiments]"'
        print(f"error: {error}: {install}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot prepare {name}: {error}", file=sys.stderr)
        return 1
    except SystemExit as ended:  # (Raised by tyro.)
        return command.status_of(ended)
    except KeyboardInterrupt as stopped:
        print("interrupted: nothing was prepared", file=sys.stderr)
        return getattr(stopped, "status", 130)
    return 0


if __name__ == "__main__":
    sys.exit(main())
