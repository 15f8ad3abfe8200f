"""Transfer from convolutional nets to a small multilayer perceptron.

Paper: Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR
2019, section 4.3 (`vid_mlp`).

Command: python -m experiments.table mlp --data_dir=DIR

The student is an MLP of 256 and 64 hidden units. For the teacher of the column
`subset_cifar10` see the table of that name.
"""

from typing import Any

from experiments import config as configs
from experiments import tables


def get_table() -> tables.Table:
    """Returns a column for Fashion-MNIST and one for the subset of CIFAR-10."""
    shared: dict[str, Any] = {
        "student": "mlp",
        "methods": ("plain", "kd", "hint", "vid", "rdl"),
        "layers": ("stage1", "pooled"),
        "maps": ("stage1:stage2", "pooled"),
        "hint_layer": "pooled",
        "crop": 0,
        "flip": False,
        "weights": tables.KD_ALONE,
    }
    return tables.Table(
        {
            "fashion_mnist": tables.Column(
                configs.make(
                    data="fashion_mnist", epochs=10, teacher_epochs=5, **shared
                )
            ),
            "subset_cifar10": tables.Column(
                configs.make(
                    data="cifar10",
                    teacher_from="weights/cifar_cnn",
                    epochs=30,
                    **shared,
                )
            ),
        },
        (
            *tables.SMALL,
            "an MLP of 256 and 64 units, where the paper has 1,024 or more",
            "VID predicts the mean over positions of each of the teacher's channels",
        ),
    )
