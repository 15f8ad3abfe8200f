"""Converts other programs' weights to a folder that runs can use."""

import dataclasses

import tyro

from experiments import command, data, display
from experiments.weights import predictions, store
from rdljax import errors


@dataclasses.dataclass(frozen=True)
class Options:
    """The net, the file, and how to check the weights."""

    name: tyro.conf.Positional[str]
    """The net, such as resnet32x4 or wrn_40_2."""
    file: tyro.conf.Positional[str]
    """The file of the weights: .pth, .safetensors, .npz or .h5."""
    out: str | None = None
    """The folder to write; None for weights/NAME."""
    check: str | None = None
    """The data set on whose test images the accuracy is printed."""
    data_dir: str | None = None
    """The folder that holds the TFDS sets."""
    mean: tuple[float, ...] | None = None
    """The mean of each channel, of pixels between 0 and 1, that was subtracted, as in
    torchvision's Normalize; None for the known mean of the net, or else the mean of the
    training images."""
    std: tuple[float, ...] | None = None
    """The standard deviation of each channel by which pixels were then divided."""
    overwrite: bool = False
    """Replace the folder if it exists."""


def run(options: Options) -> None:
    """Reads a file, checks it, and writes a folder.

    Args:
      options: The settings.

    Raises:
      UsageError: If the file, the folder, or the data cannot be used.
      UnknownName: If there is no such net.
    """
    out = command.path("out", options.out or f"weights/{options.name}")
    file = command.path("file", options.file)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        store.load(out)  # (Only folders of weights are overwritten.)
        if not options.overwrite:
            raise command.UsageError(f"{out} exists; --overwrite replaces it")
    if (options.mean is None) != (options.std is None):
        raise command.UsageError("mean and std must be given together")
    normalisation = None
    if options.mean is not None and options.std is not None:
        normalisation = options.mean, options.std
    try:
        trained = store.read(options.name, file, normalisation)
    except (OSError, errors.CannotRead, errors.WeightsMismatch) as error:
        raise command.UsageError(str(error)) from error
    normalised = store.describe_normalisation(trained.normalisation)
    print(
        f"{options.file} has the weights of {trained.name}, "
        f"{display.count_of(trained.classes, 'class', 'classes')}; "
        f"images are normalised by {normalised}"
    )
    if options.check:
        try:
            dataset = data.load(options.check, options.data_dir, size=trained.shape[0])
        except ValueError as error:
            raise command.UsageError(str(error)) from error
        share = predictions.accuracy(trained, dataset)
        count = len(dataset.test.label)
        print(f"accuracy {100 * share:.2f} % on {count} test images of {dataset.name}")
    try:
        store.save(trained, out)
    except OSError as error:
        raise command.UsageError(f"cannot write {out}: {error}") from error
    print(f"written to {out}: python -m experiments.run ... --teacher_from={out}")
