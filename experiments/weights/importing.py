"""Converts other programs' weights to a folder that runs can use."""

from experiments import command, data, display
from experiments import options as command_options
from experiments.weights import predictions, store
from rdljax import errors


def run(options: command_options.ImportTorch) -> None:
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
    program = command.as_called("python -m experiments.run")
    print(f"written to {out}: {program} ... --teacher_from={out}")
