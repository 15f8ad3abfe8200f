"""Experiments: `python -m experiments.run NAME`."""

import sys

if sys.argv[:1] == ["-m"]:  # Of a command: its module is yet to be found.
    from experiments import command

    command.heed_from_the_start()
