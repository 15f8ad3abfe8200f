"""Prepares MNIST, Fashion-MNIST and CIFAR as TFDS folders, without TensorFlow.

    python -m experiments.prepare cifar100 --data_dir data

The original files are downloaded, or taken from --manual_dir, and checked against
their published SHA-256. TFDS's own builder then writes the folder, from the same names
and in the same order as with TensorFlow, so that `experiments.data.load` and
`tfds.data_source(NAME, data_dir=..., download=False)` both read it.
"""

import argparse
import sys
from collections.abc import Sequence

from experiments import command
from experiments.data import preparing


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.prepare",
        description="Prepare a data set as a TFDS folder, without TensorFlow.",
    )
    parser.add_argument("name", help=" or ".join(preparing.SOURCES))
    parser.add_argument("--data_dir", required=True, help="where the folder goes")
    parser.add_argument(
        "--manual_dir", help="holds the original files; nothing is downloaded then"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a folder that exists"
    )
    arguments = command.line(arguments)
    name = "a data set"
    try:
        keys = ("data_dir", "manual_dir", "overwrite")
        command.check_keys(arguments, keys)
        options = vars(parser.parse_args(arguments))
        name, data_dir = options.pop("name"), options.pop("data_dir")
        print(preparing.prepare(name, data_dir, **options))
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"error: {error}: pip install -r requirements.txt", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot prepare {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        print("interrupted: nothing was prepared", file=sys.stderr)
        return getattr(stopped, "status", 130)
    return 0


if __name__ == "__main__":
    sys.exit(main())
