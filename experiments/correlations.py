"""Compares correlations of students' logits with those of their teacher.

    python -m experiments.correlations results/mnist_rdl-cifar100

Paper: Tian, Krishnan & Isola, Contrastive Representation Distillation, ICLR 2020
(arXiv 1910.10699), which shows the differences between the correlation matrices of
teacher's and students' logits (figure 3 of its first version). How they were computed
was not published (issue 21 of RepDistiller asks). Here: Pearson's correlation of the
logits of two classes over the test images, without softmax, and the absolute
difference.
"""

import sys

from experiments import command, options


def main(arguments: list[str] | None = None) -> int:
    """Compares the logits of a run; returns the exit status."""

    def run(line):
        settings = command.parse(
            options.Correlations,
            line,
            program="experiments.correlations",
            about=__doc__,
        )
        with command.importing():
            from experiments.analyses import logit_correlations
        logit_correlations.run(settings)

    return command.call(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
