"""RDL on CIFAR: compression, and transfer between tasks.

Paper: McClure & Kriegeskorte, Representational Distance Learning for Deep Neural
Networks, arXiv 1511.03979, 2015 (CIFAR-10; CIFAR-10 to CIFAR-100) and Front. Comput.
Neurosci. 10:131, 2016 (CIFAR-100), with FitNet, AT and KD for comparison.

Command: python -m experiments.table rdl_cifar --data_dir=DIR

Column `transfer` teaches a student of CIFAR-100 with the teacher of CIFAR-10, so that
KD is impossible. Published numbers were not available.
"""

from experiments import tables

LAYERS = ("stage1", "stage2", "stage3", "pooled")
METHODS = ("plain", "rdl", "hint", "at", "kd", "kd+rdl")


def get_table() -> tables.Table:
    """Returns columns for CIFAR-10, CIFAR-100, and the transfer between them."""
    shared = {"teacher": "resnet56", "student": "resnet20", "layers": LAYERS}
    transfer = tuple(m for m in METHODS if "kd" not in m)
    return tables.Table(
        {
            "cifar10": tables.Column(
                tables.repdistiller(data="cifar10", methods=METHODS, **shared)
            ),
            "transfer": tables.Column(
                tables.repdistiller(data="cifar100", methods=transfer, **shared),
                teacher_of="cifar10",
            ),
            "cifar100": tables.Column(
                tables.repdistiller(data="cifar100", methods=METHODS, **shared)
            ),
        },
        (
            "nets and recipe are RepDistiller's: the paper's were not available",
            *tables.NOT_REPDISTILLERS[:1],
        ),
    )
