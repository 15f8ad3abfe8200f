"""VID, RDL and others from one task to another: CIFAR-100 to few images of CIFAR-10.

Paper: Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR
2019, section 4.2, from ImageNet to MIT-67 and CUB-200 (numbers were not available).

Command: python -m experiments.table vid_transfer --data_dir=DIR
"""

from experiments import config as configs
from experiments import tables

METHODS = ("plain", "hint", "at", "vid", "rdl", "crd")


def get_table() -> tables.Table:
    """Returns a column for CIFAR-100 and one for each number of CIFAR-10's images."""
    source = tables.repdistiller(
        data="cifar100",
        teacher="resnet56",
        student="resnet20",
        methods=("plain",),
        layers=("stage1", "stage2", "stage3", "pooled"),
    )
    columns = {"cifar100": tables.Column(source)}
    for count in (25, 50, 100):
        few = configs.change(
            source, data="cifar10", train_per_class=count, methods=METHODS
        )
        columns[f"{count} a class"] = tables.Column(few, {}, "cifar100")
    return tables.Table(
        columns,
        (
            "CIFAR-100 to CIFAR-10, where the paper has ImageNet to MIT-67 and CUB-200",
            "the teacher is not trained on the students' task",
        ),
    )
