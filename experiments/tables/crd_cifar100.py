"""CRD's comparison on CIFAR-100: 13 pairs of nets, 15 ways to train a student.

Paper: Tian, Krishnan & Isola, Contrastive Representation Distillation, ICLR 2020,
tables 1 and 2; the published numbers are those of the authors' README (RepDistiller),
and for CRD with KD those of giakoumoglou/distillers; alldbi/SuperMix has the same for
the first seven pairs.

Command: python -m experiments.table crd_cifar100 --seeds=5 --data_dir=DIR

The paper's first seven pairs are means of five runs, the others of three. FSP compares
nets of equal width and has no number for the others.
"""

from experiments import tables

PAIRS = {
    "wrn40-2 to wrn16-2": ("wrn_40_2", "wrn_16_2"),
    "wrn40-2 to wrn40-1": ("wrn_40_2", "wrn_40_1"),
    "r56 to r20": ("resnet56", "resnet20"),
    "r110 to r20": ("resnet110", "resnet20"),
    "r110 to r32": ("resnet110", "resnet32"),
    "r32x4 to r8x4": ("resnet32x4", "resnet8x4"),
    "vgg13 to vgg8": ("vgg13", "vgg8"),
    "vgg13 to mobile": ("vgg13", "mobilenet_v2"),
    "r50 to mobile": ("resnet50", "mobilenet_v2"),
    "r50 to vgg8": ("resnet50", "vgg8"),
    "r32x4 to shuffle1": ("resnet32x4", "shufflenet_v1"),
    "r32x4 to shuffle2": ("resnet32x4", "shufflenet_v2"),
    "wrn40-2 to shuffle1": ("wrn_40_2", "shufflenet_v1"),
}
# In the order of the pairs.
PUBLISHED = {
    "teacher": (
        *(75.61, 75.61, 72.34, 74.31, 74.31, 79.42, 74.64),
        *(74.64, 79.34, 79.34, 79.42, 79.42, 75.61),
    ),
    "plain": (
        *(73.26, 71.98, 69.06, 69.06, 71.14, 72.50, 70.36),
        *(64.60, 64.60, 70.36, 70.50, 71.82, 70.50),
    ),
    "kd": (
        *(74.92, 73.54, 70.66, 70.67, 73.08, 73.33, 72.98),
        *(67.37, 67.35, 73.81, 74.07, 74.45, 74.83),
    ),
    "hint": (
        *(73.58, 72.24, 69.21, 68.99, 71.06, 73.50, 71.02),
        *(64.14, 63.16, 70.69, 73.59, 73.54, 73.73),
    ),
    "at": (
        *(74.08, 72.77, 70.55, 70.22, 72.31, 73.44, 71.43),
        *(59.40, 58.58, 71.84, 71.73, 72.73, 73.32),
    ),
    "sp": (
        *(73.83, 72.43, 69.67, 70.04, 72.69, 72.94, 72.68),
        *(66.30, 68.08, 73.34, 73.48, 74.56, 74.52),
    ),
    "cc": (
        *(73.56, 72.21, 69.63, 69.48, 71.48, 72.97, 70.71),
        *(64.86, 65.43, 70.25, 71.14, 71.29, 71.38),
    ),
    "vid": (
        *(74.11, 73.30, 70.38, 70.16, 72.61, 73.09, 71.23),
        *(65.56, 67.57, 70.30, 73.38, 73.40, 73.61),
    ),
    "rkd": (
        *(73.35, 72.22, 69.61, 69.25, 71.82, 71.90, 71.48),
        *(64.52, 64.43, 71.50, 72.28, 73.21, 72.21),
    ),
    "pkt": (
        *(74.54, 73.45, 70.34, 70.25, 72.61, 73.64, 72.88),
        *(67.13, 66.52, 73.01, 74.10, 74.69, 73.89),
    ),
    "ab": (
        *(72.50, 72.38, 69.47, 69.53, 70.98, 73.17, 70.94),
        *(66.06, 67.20, 70.65, 73.55, 74.31, 73.34),
    ),
    "ft": (
        *(73.25, 71.59, 69.84, 70.22, 72.37, 72.86, 70.58),
        *(61.78, 60.99, 70.29, 71.75, 72.50, 72.03),
    ),
    "fsp": (72.91, None, 69.95, 70.11, 71.89, 72.62, 70.23, *(None,) * 6),
    "nst": (
        *(73.68, 72.24, 69.60, 69.53, 71.96, 73.30, 71.53),
        *(58.16, 64.96, 71.28, 74.12, 74.68, 74.89),
    ),
    "crd": (
        *(75.48, 74.14, 71.16, 71.46, 73.48, 75.51, 73.94),
        *(69.73, 69.11, 74.30, 75.11, 75.65, 76.05),
    ),
    "crd+kd": (
        *(75.64, 74.38, 71.63, 71.56, 73.75, 75.46, 74.29),
        *(69.94, 69.54, 74.58, 75.12, 76.05, 76.27),
    ),
}
# Students that are trained with a smaller learning rate.
SMALL = ("mobilenet_v2", "shufflenet_v1", "shufflenet_v2")


def get_table() -> tables.Table:
    """Returns a column for each pair of nets, with the published numbers."""
    columns: dict[str, tables.Column] = {}
    of_teacher: dict[str, str] = {}
    for i, (name, (teacher, student)) in enumerate(PAIRS.items()):
        published = {
            method: number
            for method, numbers in PUBLISHED.items()
            if (number := numbers[i]) is not None
        }
        methods = tuple(m for m in published if m != "teacher")
        config = tables.repdistiller(
            teacher=teacher,
            student=student,
            methods=methods,
            learning_rate=0.01 if student in SMALL else 0.05,
        )
        columns[name] = tables.Column(config, published, of_teacher.get(teacher))
        of_teacher.setdefault(teacher, name)
    return tables.Table(
        columns,
        (
            *tables.NOT_REPDISTILLERS,
            "a plain student is trained for each pair, where the paper's pairs with "
            "the same student share it",
            "start-up phases (AB, FSP, FT) have no weight decay, where the released "
            "code has 5e-4",
            "FT's paraphraser is trained with the main learning rate, where the "
            "released code has 0.01 for residual nets",
        ),
    )
