"""The trials that RDL's defaults were chosen by: `python -m experiments.trials 1`.

Trains one teacher, then students by every setting of a part of the grid (1: distances,
comparisons and weights; 2: layers, schedule, pairs and KD around the default), and
prints their error on the validation images (mean and standard deviation over seeds,
last epoch). The test images are not looked at. The table of one run stands in
`experiments/README.md`.
"""

import argparse
import sys

from experiments import command as commands
from experiments import config as configs
from experiments.analyses import grid
from experiments.training import exits, interrupts


def main(arguments: list[str] | None = None) -> int:
    """Runs a part of the grid and prints a Markdown table as it grows."""
    arguments = commands.line(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m experiments.trials", description=__doc__
    )
    parser.add_argument("part", choices=grid.PARTS, help="of the grid")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data_dir")
    parser.add_argument("--train_per_class", type=int)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--teacher_epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)

    def command():
        known = [action.dest for action in parser._actions]
        commands.check_keys(arguments, known)
        options = vars(parser.parse_args(arguments))
        settings = grid.PARTS[options.pop("part")]()
        with interrupts.Interrupt() as interrupt:
            grid.try_all(configs.load("mnist_rdl", **options), settings, interrupt)

    try:
        return exits.answer(command)
    except interrupts.Interrupted as stopped:
        print("\nstopped", file=sys.stderr)
        return stopped.status


if __name__ == "__main__":
    sys.exit(main())
