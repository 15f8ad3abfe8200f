"""Writes the page of a run, or of a table of runs, as one HTML file.

    python -m experiments.report results/mnist_rdl-digits [--out=FILE]

The page is one HTML file that needs no other file and no network. It has tables,
learning curves, the RDMs of every layer over training, the similarity of the student's
and the teacher's layers, and confusion matrices.
"""

import sys

from experiments import command
from experiments.analyses.report import numbers


def main(arguments: list[str] | None = None) -> int:
    """Writes a page; returns the exit status."""

    def run(line):
        options = command.parse(
            numbers.Options, line, program="experiments.report", about=__doc__
        )
        numbers.run(options)

    return command.call(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
