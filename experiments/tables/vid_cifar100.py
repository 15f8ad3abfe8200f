"""VID on CIFAR-100, with students of four sizes.

Paper: Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR
2019; the numbers are quoted from REFILLED (Ye, Lu & Zhan, CVPR 2020), which probably
quotes them from that paper.

Command: python -m experiments.table vid_cifar100 --data_dir=DIR
"""

from experiments import tables

METHODS = ("plain", "kd", "hint", "at", "nst", "vid", "kd+vid")
# By the students' nets; the first is the teacher's net.
PUBLISHED = {
    "wrn_40_2": (74.44, 75.47, 74.29, 74.76, 74.81, 75.25, 76.11),
    "wrn_16_2": (70.15, 71.87, 70.89, 71.06, 71.19, 73.31, 73.69),
    "wrn_40_1": (68.97, 70.46, 68.66, 69.85, 68.00, 71.51, 72.16),
    "wrn_16_1": (65.44, 66.54, 65.38, 65.31, 64.95, 66.32, 67.19),
}


def get_table() -> tables.Table:
    """Returns a column for each student's net, with the published numbers."""
    columns = {}
    for student, numbers in PUBLISHED.items():
        config = tables.repdistiller(
            teacher="wrn_40_2", student=student, methods=METHODS
        )
        published = {"teacher": 74.44, **dict(zip(METHODS, numbers, strict=True))}
        of = None if student == "wrn_40_2" else "wrn_40_2"
        columns[student] = tables.Column(config, published, of)
    return tables.Table(
        columns, ("the recipe is RepDistiller's", *tables.NOT_REPDISTILLERS[:1])
    )
