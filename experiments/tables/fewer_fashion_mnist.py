"""VID's comparison with fewer and fewer training images, on Fashion-MNIST.

Paper: Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR
2019, table 1, which is on CIFAR-10 (`vid_cifar10`).

Command: python -m experiments.table fewer_fashion_mnist --data_dir=DIR

The teacher is trained once, on all images. Fewer images have more epochs.
"""

from experiments import config as configs
from experiments import tables

EPOCHS = {"5400": 5, "1000": 12, "500": 20, "100": 50}


def get_table() -> tables.Table:
    """Returns a column for each number of training images per class."""
    columns = {}
    for name, epochs in EPOCHS.items():
        whole = name == "5400"
        settings = configs.make(
            data="fashion_mnist",
            train_per_class=None if whole else int(name),
            methods=("plain", "kd", "hint", "at", "vid", "rdl"),
            weights=tables.KD_ALONE,
            epochs=epochs,
            teacher_epochs=5,
        )
        columns[name] = tables.Column(settings, {}, None if whole else "5400")
    return tables.Table(columns, tables.SMALL)
