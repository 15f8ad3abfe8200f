"""A brain as the teacher: a classifier with the geometry of human IT.

Paper: McClure & Kriegeskorte, Representational Distance Learning for Deep Neural
Networks, Front. Comput. Neurosci. 10:131, 2016, whose outlook is to combine a task with
constraints from brain measurements. Stimuli and RDMs: Kriegeskorte et al., Matching
categorical object representations in inferior temporal cortex of man and monkey, Neuron
60, 2008: 92 images. The documentation ("A brain as the teacher") describes how to get
them, and the format of files of your own.

Command: python -m experiments.run brain_rdl --data_dir=DIR --brain=kriegeskorte92.npz

Cost: 16 minutes on two CPU cores with 4,194 training images.

Expected: no number is published; the paper names the combination as its next step.
Results, with three seeds: Pearson's correlation with human IT on 46 held-out stimuli
0.24 (taught by human IT), 0.17 (plain) and 0.20 (taught by monkey IT), noise ceiling
0.40 to 0.68; test error 39.6 % (taught by human IT) and 38.9 % (plain). More is in the
documentation: "A brain as the teacher: results".
"""

from experiments import config as configs


def get_config() -> configs.Config:
    """Returns the settings."""
    return configs.make(
        data="cifar10",
        teacher=None,
        student="mnist_cnn",
        methods=("plain", "human_it", "monkey_it", "human_it_shuffled"),
        layers=("pooled",),
        brain_rdms=("human_it", "monkey_it"),
        brain_layers=("stage2", "pooled"),
        epochs=20,
    )
