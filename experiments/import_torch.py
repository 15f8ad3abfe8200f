"""Reads a teacher that was trained in PyTorch.

    python -m experiments.import_torch resnet32x4 ckpt_epoch_240.pth --check=cifar100 \
        --data_dir=DIR
    python -m experiments.run mnist_rdl --teacher_from=weights/resnet32x4 ...

The file is RepDistiller's (`.pth`, with PyTorch installed), or the same arrays as
`.safetensors` or `.npz`; for `cifar_cnn`, Keras' `.h5`. No code in it is run.
"""

import argparse
import functools
import sys
from collections.abc import Sequence

from experiments import command, data, weights
from rdljax import errors

KEYS = ("out", "check", "data_dir", "mean", "std", "overwrite")


def run(arguments: Sequence[str]) -> None:
    """Reads a file, checks it, and writes a folder.

    Args:
      arguments: Of the command line.

    Raises:
      UsageError: The file, the folder, or the data cannot be used.
      UnknownName: There is no such net, or no such setting.
    """
    options = parse(arguments)
    out = command.path("out", options.out or f"weights/{options.name}")
    file = command.path("file", options.file)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        weights.load(out)  # Nothing else is overwritten.
        if not options.overwrite:
            raise command.UsageError(f"{out} exists; --overwrite replaces it")
    if (options.mean is None) != (options.std is None):
        raise command.UsageError("mean and std go together")
    normalisation = options.mean and (tuple(options.mean), tuple(options.std))
    try:
        trained = weights.read(options.name, file, normalisation)
    except (OSError, errors.CannotRead, errors.WeightsMismatch) as error:
        raise command.UsageError(str(error)) from error
    print(
        f"{options.file} has the weights of {trained.name}, {trained.classes} classes; "
        f"images are normalised by {described(trained.normalisation)}"
    )
    if options.check:
        try:
            dataset = data.load(options.check, options.data_dir, size=trained.shape[0])
        except ValueError as error:
            raise command.UsageError(str(error)) from error
        share = weights.accuracy(trained, dataset)
        count = len(dataset.test.label)
        print(f"accuracy {100 * share:.2f} % on {count} test images of {dataset.name}")
    try:
        weights.save(trained, out)
    except OSError as error:
        raise command.UsageError(f"cannot write {out}: {error}") from error
    print(f"written to {out}: python -m experiments.run ... --teacher_from={out}")


def described(normalisation: weights.Normalisation | None) -> str:
    """Returns a normalisation in words."""
    if normalisation is None:
        return "the mean and deviation of the data's training images"
    mean, std = (", ".join(f"{x:.4g}" for x in numbers) for numbers in normalisation)
    return f"mean ({mean}) and std ({std}) of pixels from 0 to 1"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the settings of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.import_torch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="the net, such as resnet32x4 or wrn_40_2")
    parser.add_argument("file", help="the weights: .pth, .safetensors, .npz, .h5")
    parser.add_argument("--out", help="the folder to write; weights/NAME by default")
    parser.add_argument(
        "--check", metavar="DATA", help="print accuracy on its test set"
    )
    parser.add_argument("--data_dir", help="the folder that holds the TFDS sets")
    channels = {"nargs": "+", "type": float, "metavar": "X"}
    parser.add_argument(
        "--mean",
        **channels,
        help="what was subtracted from pixels between 0 and 1, as in torchvision's "
        "Normalize; by default what is known of the net, or else the mean of the "
        "data's own training images",
    )
    parser.add_argument("--std", **channels, help="what they were then divided by")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder")
    command.check_keys(arguments, KEYS)
    return parser.parse_args(arguments)


main = functools.partial(command.call, run)

if __name__ == "__main__":
    sys.exit(main())
