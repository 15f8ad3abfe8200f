"""Experiments: `python -m experiments.run NAME`."""

import os
import sys

# Emulated CPU devices wait forever for each other when XLA has too few threads (before
# jax 0.12); must be set before jax is imported.
os.environ.setdefault("PJRT_NPROC", "32")

if sys.argv[:1] == ["-m"]:  # Python has not found the module yet; it precedes argv.
    called = "".join(sys.orig_argv[-len(sys.argv) :][:1]).partition(".")[0]
    if called == "experiments" or called.endswith("mexperiments"):  # (`-mMODULE`.)
        from experiments import command

        command.handle_signals_from_start()
