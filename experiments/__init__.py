"""Experiments: `python -m experiments.run NAME`."""

import sys

if sys.argv[:1] == ["-m"]:  # A module is yet to be found, named before its arguments.
    called = "".join(sys.orig_argv[-len(sys.argv) :][:1]).partition(".")[0]
    if called == "experiments" or called.endswith("mexperiments"):  # (`-mMODULE`.)
        from experiments import command

        command.heed_from_the_start()
