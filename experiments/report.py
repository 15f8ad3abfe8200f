"""Writes the page of a run, or of a table of runs, as one HTML file.

    python -m experiments.report results/mnist_rdl-digits [--out=FILE]

The page is one HTML file that needs no other file and no network. It has tables,
learning curves, the RDMs of every layer over training, the similarity of the student's
and the teacher's layers, and confusion matrices.
"""

import sys

from experiments import command, options


def main(arguments: list[str] | None = None) -> int:
    """Writes a page; returns the exit status."""

    def run(line):
        settings = command.parse(
            options.Report, line, program="experiments.report", about=__doc__
        )
        with command.importing():
            from experiments.analyses.report import numbers
        numbers.run(settings)

    return command.call(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
