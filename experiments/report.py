"""A page about a run, or about a table of runs.

    python -m experiments.report results/mnist_rdl-digits [--out=FILE]

The page is one HTML file that needs no other and no network: tables, learning curves,
the RDMs of every layer over training, the similarity of student's and teacher's layers,
and confusion matrices.
"""

import argparse
import functools
import sys
from collections.abc import Sequence

from experiments import command
from experiments.analyses.report import numbers
from rdljax import files

KEYS = ("out", "data_dir")


def run(arguments: Sequence[str]) -> None:
    """Reads a folder and writes a page.

    Args:
      arguments: Of the command line.

    Raises:
      UsageError: The folder holds neither a run nor a table, or what it holds is
        damaged, or the page cannot be written.
      UnknownName: There is no such setting.
    """
    options = parse(arguments)
    folder = command.path("folder", options.folder)
    out = folder / "report.html"
    if options.out is not None:
        out = command.path("out", options.out)
    try:
        if (folder / "table.json").exists():
            text = numbers.of_table(folder, out)
        elif (folder / "result.json").exists():
            text = numbers.of_run(folder, options.data_dir)
        else:
            raise command.UsageError(
                f"{folder} holds no table (table.json) and no finished run "
                "(result.json): python -m experiments.run NAME --resume finishes one"
            )
    except command.UsageError:
        raise
    except Exception as error:  # What is not a result fails in many ways.
        raise command.UsageError(
            f"{folder} is damaged, or of another version ({error!r})"
        ) from error
    try:
        files.write(out, text.encode(errors="replace"))
    except OSError as error:
        raise command.UsageError(f"cannot write {out}: {error}") from error
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the settings of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="of a run, or of a table of runs")
    parser.add_argument("--out", help="the file; FOLDER/report.html by default")
    parser.add_argument(
        "--data_dir", help="the folder that holds the TFDS sets, if not the run's"
    )
    command.check_keys(arguments, KEYS)
    return parser.parse_args(arguments)


main = functools.partial(command.call, run)


if __name__ == "__main__":
    sys.exit(main())
