"""What the frozen features of a run's nets are worth on other images: linear probes.

    python -m experiments.probe results/mnist_rdl-cifar100 --data=stl10 --data_dir=DIR

Paper: Tian, Krishnan & Isola, Contrastive Representation Distillation, ICLR 2020
(arXiv 1910.10699), table 4: a linear classifier on the frozen features of CIFAR-100
students, for STL-10 and TinyImageNet. How it was trained was never published (issue 44
of RepDistiller asks), so ours is one without a recipe: multinomial logistic regression
on standardised features, solved to convergence, its L2 weight chosen on the validation
images. The paper's numbers are printed beside ours where the data are the paper's.

Cost: for a net of 64 features, 9,000 images and 10 classes about 10 s on two CPU cores,
for one of 500 features a minute; the classifiers take nearly all of it.

Obtained, with nets of 5,000 images of Fashion-MNIST (5 epochs, 3 seeds) on MNIST: error
5.0 % (teacher), 18.0 % (plain), 15.8 % (rdl), 15.2 % (kd), 19.1 % (crd); rdl and kd
better than plain in all seeds (McNemar).
"""

import argparse
import functools
import pathlib
import sys
from collections.abc import Sequence

import tqdm

from experiments import command, data
from experiments.analyses import linear_probe
from experiments.results import locks
from rdljax import errors, files, nets

KEYS = ("data", "data_dir", "train_per_class", "layer", "out", "overwrite")


def run(arguments: Sequence[str]) -> None:
    """Probes every net of a run; writes `probe.json` and `probe.md`.

    Args:
      arguments: Of the command line.

    Raises:
      UsageError: The run, the data, or the folder to write to cannot be used.
      UnknownName: There is no such layer, or no such setting.
    """
    options = parse(arguments)
    folder, summary = linear_probe.finished(options.results)
    name = options.data.replace("/", "-")
    default = str(folder / f"probe-{name}")
    out = command.path("out", default if options.out is None else options.out)
    _check_free(out, options.overwrite)
    try:
        dataset = data.load(
            options.data, options.data_dir, train_per_class=options.train_per_class
        )
    except ValueError as error:
        raise command.UsageError(str(error)) from error
    if not len(dataset.validation.label):
        raise command.UsageError(f"{dataset.name} has too few images for validation")
    every = linear_probe.trained_nets(folder, summary)
    for net in every:
        known = nets.build(net.trained.name, net.trained.classes).layers
        errors.check_name(f"layer of {net.trained.name}", options.layer, known)
        linear_probe.resize_to_net(dataset, net.trained, few=1)
    with locks.held(out):
        _check_free(out, options.overwrite)
        found = [
            {"method": net.method, "seed": net.seed}
            | linear_probe.probe(net.trained, dataset, options.layer)
            for net in tqdm.tqdm(every, unit="net")
        ]
        try:
            text = linear_probe.write(out, summary, dataset, options.layer, found)
        except OSError as error:
            raise command.UsageError(f"cannot write to {out}: {error}") from error
    print(f"{text}\n{out}: probe.json, probe.md")


def _check_free(out: pathlib.Path, overwrite: bool) -> None:
    """Raises `UsageError` where something would be replaced that is to be kept.

    (`probe.json` is written first, so that none but a probe's `probe.md` is replaced.)
    """
    record = out / "probe.json"
    if not record.exists():
        if (out / "probe.md").exists():
            raise command.UsageError(
                f"{out} holds a probe.md that no probe has written; --out=FOLDER "
                "leaves it alone"
            )
        return
    if not overwrite:
        raise command.UsageError(
            f"{out} holds a probe; --overwrite replaces it, --out=FOLDER leaves it "
            "alone"
        )
    try:
        if not {"run", "layer", "nets"} <= files.words(record).keys():
            raise ValueError("it has no run, layer and nets")
    except Exception as error:  # What is no probe fails in many ways.
        raise command.UsageError(
            f"{record} is not a probe ({error}); --out=FOLDER leaves it alone"
        ) from error


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the settings of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.probe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", help="the folder of a finished run")
    parser.add_argument(
        "--data", default="digits", help="the other images, as in experiments.run"
    )
    parser.add_argument("--data_dir", help="the folder that holds the TFDS sets")
    parser.add_argument(
        "--train_per_class", type=int, help="keep so many training images of each class"
    )
    parser.add_argument(
        "--layer", default="pooled", help="whose activations are read, maps flattened"
    )
    parser.add_argument(
        "--out", help="the folder to write; RESULTS/probe-DATA by default"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a probe")
    command.check_keys(arguments, KEYS)
    return parser.parse_args(arguments)


main = functools.partial(command.call, run)


if __name__ == "__main__":
    sys.exit(main())
