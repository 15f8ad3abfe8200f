"""NST on CIFAR-10 and CIFAR-100: three kernels, alone and with KD, FitNet and AT.

Paper: Huang & Wang, Like What You Like: Knowledge Distill via Neuron Selectivity
Transfer, arXiv 1707.01219, 2017, section 5.1.

Command: python -m experiments.table nst_cifar --data_dir=DIR

The paper's numbers were not available. It reports that the polynomial kernel is the
best of the three; that on CIFAR-10 NST is better than each other single method; and
that on CIFAR-100 KD is the best single method and KD with NST the best of all.
"""

from experiments import tables

METHODS = (
    *("plain", "nst_linear", "nst", "nst_gaussian", "kd", "hint", "at"),
    *("kd+nst", "hint+nst", "at+nst", "kd+hint", "at+kd"),
)


def get_table() -> tables.Table:
    """Returns a column for CIFAR-10 and one for CIFAR-100."""

    def column(data):
        return tables.Column(
            tables.repdistiller(
                data=data,
                teacher="resnet110",
                student="resnet20",
                methods=METHODS,
            )
        )

    return tables.Table(
        {data: column(data) for data in ("cifar10", "cifar100")},
        (
            "NST compares the last maps of each stage, as in RepDistiller, where the "
            "authors' code compares only the last maps of the net",
            "ResNet-110 teaches ResNet-20, where the paper's nets are ResNet-1001 and "
            "Inception-BN",
            "the recipe is RepDistiller's; the Gaussian's width is the mean distance, "
            "since the paper's rule was not available",
            *tables.NOT_REPDISTILLERS[:1],
        ),
    )
