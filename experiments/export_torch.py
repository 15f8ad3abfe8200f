"""Writes a trained net for a PyTorch program.

    python -m experiments.export_torch results/NAME/rdl-seed0/weights rdl.pth

The program reads it with `model.load_state_dict(torch.load("rdl.pth"))`; with the
ending `.safetensors` or `.npz` it is written without PyTorch.
"""

import argparse
import functools
import sys
from collections.abc import Sequence

from experiments import command, import_torch, weights
from rdljax import errors
from rdljax.nets import from_torch


def run(arguments: Sequence[str]) -> None:
    """Reads a folder of weights and writes a file.

    Args:
      arguments: Of the command line.

    Raises:
      UsageError: The folder holds no weights, or the file cannot be written.
      UnknownName: The net has no counterpart in PyTorch, or there is no such setting.
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments.export_torch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="of a run's net: .../weights")
    parser.add_argument("file", help="what to write: .pth, .safetensors or .npz")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    command.check_keys(arguments, ("overwrite",))
    options = parser.parse_args(arguments)
    file = command.path("file", options.file)
    if file.exists() and not options.overwrite:
        raise command.UsageError(f"{options.file} exists; --overwrite replaces it")
    trained = weights.load(options.folder)
    try:
        state = from_torch.to_torch(trained.name, trained.variables)
        from_torch.write(file, state)
    except (OSError, errors.CannotRead, errors.WeightsMismatch) as error:
        raise command.UsageError(str(error)) from error
    print(
        f"{options.file} has {trained.name}, {trained.classes} classes; images are "
        f"normalised by {import_torch.described(trained.normalisation)}"
    )


main = functools.partial(command.call, run)

if __name__ == "__main__":
    sys.exit(main())
