"""CRD between modalities: a teacher that sees luminance, a student chrominance.

Paper: Tian, Krishnan & Isola, Contrastive Representation Distillation, ICLR 2020,
section 4.2: from luminance in TinyImageNet to chrominance in STL-10. Its numbers were
not available, and the code was not released (RepDistiller, issue 39).

Command: python -m experiments.table crd_cross_modal --data_dir=DIR
"""

from experiments import tables


def get_table() -> tables.Table:
    """Returns one column: luminance teaches chrominance, on CIFAR-100."""
    config = tables.repdistiller(
        teacher="resnet56",
        student="resnet20",
        teacher_modality="luminance",
        modality="chrominance",
        methods=("plain", "kd", "hint", "at", "sp", "rdl", "crd"),
        layers=("stage2", "stage3", "pooled"),
    )
    return tables.Table(
        {"cifar100": tables.Column(config)},
        (
            "both nets see CIFAR-100, the teacher L and the student a and b of CIE "
            "L*a*b*, where the paper uses pairs without labels, followed by a probe on "
            "STL-10",
            *tables.NOT_REPDISTILLERS,
        ),
    )
