"""VID with fewer and fewer training images of CIFAR-10.

Paper: Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR
2019, table 1; the numbers are quoted from a replication (github.com/sseung0703/
Variational_Information_Distillation), which finds the published baselines low.

Command: python -m experiments.table vid_cifar10 --seeds=3 --data_dir=DIR

The teacher is trained once, on all images.
"""

from experiments import config as configs
from experiments import tables

METHODS = ("plain", "kd", "hint", "at", "vid", "rdl")
PUBLISHED = {
    "5000": (90.72, 91.27, 90.64, 91.60, 91.85),
    "1000": (84.67, 86.11, 84.78, 87.26, 89.73),
    "500": (79.63, 82.23, 80.73, 84.94, 88.09),
    "100": (58.84, 64.24, 68.90, 73.40, 81.59),
}


def get_table() -> tables.Table:
    """Returns a column for each number of images per class, with published numbers."""
    columns = {}
    for name, numbers in PUBLISHED.items():
        whole = name == "5000"
        settings = configs.make(
            train_per_class=None if whole else int(name),
            student="wrn_16_1",
            methods=METHODS,
            **tables.VID_CIFAR10,
        )
        published = dict(zip(METHODS, numbers, strict=False))
        if whole:
            published["teacher"] = 94.26
        of = None if whole else "5000"
        columns[name] = tables.Column(settings, published, of)
    return tables.Table(
        columns,
        (
            "`5000` is 4,500 images per class: a tenth is held out for validation",
            "the same number of epochs with fewer images, and a cosine schedule, where "
            "the replication has a fifth of the rate after 30, 60 and 80 % of the "
            "epochs",
            "three pairs of layers, where the paper has four; for KD without other "
            "terms the task's loss has weight 0.1, as in RepDistiller",
            "VID's regressor and initial variance are RepDistiller's",
        ),
    )
