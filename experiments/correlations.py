"""How far the correlations between a student's logits are from its teacher's.

    python -m experiments.correlations results/mnist_rdl-cifar100

Paper: Tian, Krishnan & Isola, Contrastive Representation Distillation, ICLR 2020
(arXiv 1910.10699), which shows the differences between the correlation matrices of
teacher's and students' logits (figure 3 of its first version). How they were made was
never said (issue 21 of RepDistiller asks). Here: Pearson's correlation of the logits of
two classes over the test images, without softmax, and the absolute difference.
"""

import argparse
import functools
import sys
from collections.abc import Sequence

import numpy as np

from experiments import command
from experiments.analyses import linear_probe, logit_correlations
from experiments.training import recording
from rdljax import files

KEYS = ("seed", "data_dir", "out", "overwrite")


def run(arguments: Sequence[str]) -> None:
    """Compares all students of a run with its teacher; writes a picture and numbers.

    Args:
      arguments: Of the command line.

    Raises:
      UsageError: The run, its data, or the file to write cannot be used.
      UnknownName: There is no such setting.
    """
    options = parse(arguments)
    folder, summary = linear_probe.finished(options.results)
    config = summary["config"]
    if config["teacher"] is None:
        raise command.UsageError(f"no net taught the run of {folder}")
    if not 0 <= options.seed < config["seeds"]:
        raise command.UsageError(
            f"seed must be from 0 to {config['seeds'] - 1}, got {options.seed}"
        )
    default = str(folder / "correlations.png")
    out = command.path("out", default if options.out is None else options.out)
    if out.suffix.lower() != ".png":
        raise command.UsageError(f"out must be a file .png, got {out}")
    written = [out, out.with_suffix(".json"), out.with_suffix(".md")]
    for file in written:
        if file.exists() and not options.overwrite:
            raise command.UsageError(f"{file} exists; --overwrite replaces it")
    dataset = logit_correlations.load(config, options.data_dir)
    every = linear_probe.trained_nets(folder, summary)
    teacher, *others = (net for net in every if net.method == "teacher")
    students = [net for net in every if net.method != "teacher"]
    if others or teacher.trained.classes != dataset.classes:
        raise command.UsageError(
            f"the run of {folder} has no single teacher of the students' task"
        )

    def of(net):
        variables, images = net.trained.variables, dataset.test.image
        own = net.trained.net(dataset)
        logits = linear_probe.features(own, variables, dataset, images, "logits")
        return logit_correlations.correlations(logits)

    taught = of(teacher)
    found: dict[str, list[np.ndarray]] = {}
    for student in students:
        found.setdefault(student.method, []).append(np.abs(taught - of(student)))
    compared = {
        "run": config,
        "data": dataset.note,
        "test_images": len(dataset.test.label),
        "versions": recording.versions(),
        "methods": {
            name: logit_correlations.spread(each) for name, each in found.items()
        },
    }
    text = logit_correlations.table(compared)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shown = {name: each[options.seed] for name, each in found.items()}
        logit_correlations.picture(out, shown, f"{config['data']}, seed {options.seed}")
        files.write_json(written[1], compared)
        files.write(written[2], text)
    except OSError as error:
        raise command.UsageError(f"cannot write {out}: {error}") from error
    print(f"{text}\n{', '.join(map(str, written))}")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the settings of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.correlations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", help="the folder of a finished run")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the students in the picture"
    )
    parser.add_argument(
        "--data_dir", help="the folder that holds the TFDS sets; the run's by default"
    )
    parser.add_argument(
        "--out",
        metavar="FILE.png",
        help="the picture; RESULTS/correlations.png by default. The numbers stand "
        "beside it in FILE.json and FILE.md",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the files")
    command.check_keys(arguments, KEYS)
    return parser.parse_args(arguments)


main = functools.partial(command.call, run)


if __name__ == "__main__":
    sys.exit(main())
