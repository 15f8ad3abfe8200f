"""Writes the images of a run, in their order, for another program.

    python -m experiments.export_images images.npz --data=cifar100 --data_dir=DIR

A teacher of any program sees them and stores its activations, a row for each image, in
this order or with `index` (`rdljax.activations`). Students learn from them with
`python -m experiments.run ... --teacher=None --activations=FILE --layers stage1:conv1`.
"""

import dataclasses
import sys

import tyro

from experiments import command


@dataclasses.dataclass(frozen=True)
class Options:
    """The images, with the flags of `experiments.run`, and the file to write."""

    file: tyro.conf.Positional[str]
    """The file to write: .npz, with `image`, uint8 [images, height, width, channels];
    `label`; `index`, the number of each image; `mean` and `std` of the channels."""
    data: str = "digits"
    """`digits`, or the name of a TFDS image set."""
    data_dir: str | None = None
    """The folder that holds the TFDS sets."""
    train_per_class: int | None = None
    """The number of training images of each class that are kept; None keeps all."""
    student_per_class: int | None = None
    """The number of training images of each class on which students are trained."""
    resize: int | None = None
    """The height and width of images that vary in size; others keep their size."""
    overwrite: bool = False
    """Replace the file if it exists."""


def run(options: Options) -> None:
    """Reads the images and writes the file.

    Raises:
      UsageError: If the images are missing, or the file cannot be written.
    """
    with command.importing():
        import numpy as np

        from experiments import data
        from rdljax import files
    file = command.path("file", options.file)
    if files.suffix(file) != ".npz":
        raise command.UsageError(f"the file must end with .npz, got {options.file}")
    if file.exists() and not options.overwrite:
        raise command.UsageError(f"{options.file} exists; --overwrite replaces it")
    try:
        kept, size = options.train_per_class, options.resize
        place = options.data, options.data_dir
        dataset = data.load(*place, train_per_class=kept, size=size)
        train = data.for_students(dataset, options.student_per_class).train
        label, index = train.label, np.arange(len(train.label))
        image = np.asarray(train.image[index])
        mean, std = dataset.mean, dataset.std
        with files.draft(file) as draft:
            np.savez(draft, image=image, label=label, index=index, mean=mean, std=std)
    except (OSError, ValueError) as error:
        raise command.UsageError(str(error)) from error
    print(f"wrote {len(index):,} images {image.shape[1:]} to {options.file}")


def main(arguments: list[str] | None = None) -> int:
    """Writes the images; returns the exit status."""
    program = "experiments.export_images"
    return command.call(
        lambda line: run(command.parse(Options, line, program=program, about=__doc__)),
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
