"""Seven objectives on all of Fashion-MNIST.

Papers: RDL (McClure & Kriegeskorte 2016), KD (Hinton et al. 2015), AT (Zagoruyko &
Komodakis 2017), SP (Tung & Mori 2019), VID (Ahn et al. 2019), CRD (Tian et al. 2020),
NST (Huang & Wang 2017). Weights are RepDistiller's, except that KD and the task both
have weight 1. The teacher is the net of the prototype of RDL's first author, the
student a smaller net of the same architecture.

Command: python -m experiments.table fashion_mnist --data_dir=DIR
"""

from experiments import config as configs
from experiments import tables


def get_table() -> tables.Table:
    """Returns one column: all of Fashion-MNIST."""
    return tables.Table(
        {
            "fashion_mnist": tables.Column(
                configs.make(
                    data="fashion_mnist",
                    methods=("plain", "rdl", "kd", "at", "sp", "vid", "crd", "nst"),
                    epochs=5,
                    teacher_epochs=5,
                )
            )
        },
        tables.SMALL,
    )
