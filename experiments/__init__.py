"""Trains and compares nets, with one command for each kind of experiment.

A command is called as `python -m experiments.COMMAND`, or `rdljax COMMAND` where the
package is installed (`__main__`).

================ ============================================================
command          task
================ ============================================================
`run`            trains a teacher, and students by several methods and seeds
`table`          runs the experiments of a table
`trials`         runs the trials by which the defaults of RDL were chosen
`report`         writes the page of a run, or of a table of runs
`probe`          trains linear classifiers on the features of a run's nets
`correlations`   compares the logits of students with those of their teacher
`detection`      compares nets as backbones of an object detector
`prepare`        prepares image sets as TFDS folders, without TensorFlow
`import_torch`   imports weights that were trained by another program
`export_torch`   writes weights for a PyTorch program
`export_images`  writes the images of a run, whose teacher is another program
================ ============================================================

The modules and packages of the commands; each imports only those above it.

================ ============================================================
module           contents
================ ============================================================
`display`        progress bars, and numbers with their nouns
`command`        command lines, signals and exit statuses
`options`        the settings of commands whose work is done by a package
`locks`          locks of folders
`config`         the settings of an experiment
`methods`        the parts of a student's loss
`data`           image sets, their batches and the input of nets
`weights`        trained nets: saving, loading and predictions
`presets`        the configs of `experiments.run`
`tables`         the tables of `experiments.table`
`results`        the results folder, and summaries of its content
`brain`          a brain as the teacher
`training`       the training of nets, from settings to results
`analyses`       analyses of finished runs, and detectors
================ ============================================================
"""

import os
import pathlib
import sys

# Emulated CPU devices wait forever for each other when XLA has too few threads (before
# jax 0.12); must be set before jax is imported.
os.environ.setdefault("PJRT_NPROC", "32")


def _is_command() -> bool:
    """Returns whether this process is a command, not a program that imports this."""
    if sys.argv[:1] != ["-m"]:
        return pathlib.PurePath("".join(sys.argv[:1])).stem == "rdljax"
    # Python has not found the module yet; its name precedes argv.
    called = "".join(sys.orig_argv[-len(sys.argv) :][:1]).partition(".")[0]
    # (The second: `-mMODULE`.)
    return called == "experiments" or called.endswith("mexperiments")


if _is_command():
    from experiments import command

    command.handle_signals_from_start()
