"""Writes the weights of a trained net for a PyTorch program.

    python -m experiments.export_torch results/NAME/rdl-seed0/weights rdl.pth

The program reads them with `model.load_state_dict(torch.load("rdl.pth"))`; a file
`.safetensors` or `.npz` is written without PyTorch.
"""

import dataclasses
import sys

import tyro

from experiments import command, display
from rdljax import errors


@dataclasses.dataclass(frozen=True)
class Options:
    """The net, and the file to write."""

    folder: tyro.conf.Positional[str]
    """The folder with the weights of a run's net: .../weights."""
    file: tyro.conf.Positional[str]
    """The file to write: .pth, .safetensors or .npz."""
    overwrite: bool = False
    """Replace the file if it exists."""


def run(options: Options) -> None:
    """Reads a folder of weights and writes a file.

    Args:
      options: The settings.

    Raises:
      UsageError: If the folder holds no weights, or the file cannot be written.
      UnknownName: If the net has no counterpart in PyTorch.
    """
    with command.importing():
        from experiments import weights
        from rdljax.nets import from_torch
    file = command.path("file", options.file)
    if file.exists() and not options.overwrite:
        raise command.UsageError(f"{options.file} exists; --overwrite replaces it")
    trained = weights.load(options.folder)
    try:
        state = from_torch.to_torch(trained.name, trained.variables)
        from_torch.write(file, state)
    except (OSError, errors.CannotRead, errors.WeightsMismatch) as error:
        raise command.UsageError(str(error)) from error
    normalised = weights.describe_normalisation(trained.normalisation)
    print(
        f"wrote {trained.name}, "
        f"{display.count_of(trained.classes, 'class', 'classes')}, to {options.file}; "
        f"images are normalised by {normalised}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Writes a net; returns the exit status."""
    program = "experiments.export_torch"
    return command.call(
        lambda line: run(command.parse(Options, line, program=program, about=__doc__)),
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
