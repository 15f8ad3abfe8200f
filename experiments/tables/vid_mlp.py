"""VID from a convolutional net to multilayer perceptrons, on CIFAR-10.

Paper: Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR
2019, section 4.3: an MLP taught by a convolutional net is better than all previous
MLPs. The numbers were not available.

Command: python -m experiments.table vid_mlp --data_dir=DIR
"""

from experiments import config as configs
from experiments import tables

METHODS = ("plain", "kd", "hint", "vid", "rdl")


def get_table() -> tables.Table:
    """Returns a column for each width of the multilayer perceptron."""
    columns = {}
    for width in (1024, 2048, 4096):
        settings = configs.make(
            student=f"mlp_{width}",
            methods=METHODS,
            # (A vector that is compared with maps counts as a map of one position.)
            maps=("stage1", "stage2", "stage3"),
            hint_layer="pooled",
            **tables.VID_CIFAR10,
        )
        of = None if width == 1024 else "mlp_1024"
        columns[f"mlp_{width}"] = tables.Column(settings, {}, of)
    return tables.Table(
        columns,
        (
            "the MLPs' four hidden layers with normalisation are chosen here",
            "VID predicts the mean over positions of each of the teacher's channels",
        ),
    )
