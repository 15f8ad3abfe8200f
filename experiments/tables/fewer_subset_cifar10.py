"""VID's comparison with fewer and fewer training images, on a subset of CIFAR-10.

Paper: Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR
2019, table 1, which has the whole set (`vid_cifar10`).

Command: python -m experiments.table fewer_subset_cifar10 --data_dir=DIR

The teacher is that of column `pretrained` of `subset_cifar10`. The docstring of that
table describes how to make weights/cifar_cnn; its rows are the results with all images,
at least 391 per class. The teacher was trained on 40,000 images, so that its targets
contain more information than the few images themselves.
"""

from experiments import config as configs
from experiments import tables

# Numbers of epochs, by the number of training images per class.
EPOCHS = {200: 40, 100: 60, 50: 80}


def get_table() -> tables.Table:
    """Returns a column for each number of training images per class."""
    return tables.Table(
        {
            str(count): tables.Column(
                configs.make(
                    data="cifar10",
                    train_per_class=count,
                    teacher_from="weights/cifar_cnn",
                    methods=("plain", "kd", "hint", "at", "vid", "rdl"),
                    layers=("stage1", "stage2", "pooled"),
                    maps=("stage1", "stage2"),
                    weights=tables.KD_ALONE,
                    crop=0,
                    flip=False,
                    epochs=epochs,
                )
            )
            for count, epochs in EPOCHS.items()
        },
        (
            *tables.SMALL,
            "images are neither cropped nor mirrored; all of them, in 20 epochs, are "
            "in `subset_cifar10`",
        ),
    )
