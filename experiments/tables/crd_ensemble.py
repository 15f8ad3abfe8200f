"""CRD from an ensemble of teachers.

Paper: Tian, Krishnan & Isola, Contrastive Representation Distillation, ICLR 2020,
section 4.3: the sum of the losses with each teacher. Its numbers were not available,
and the code was not released (RepDistiller, issues 17 and 54).

Command: python -m experiments.table crd_ensemble --data_dir=DIR
"""

from experiments import display, tables


def get_table() -> tables.Table:
    """Returns a column for one, two and four teachers."""
    return tables.Table(
        {
            display.count_of(count, "teacher"): tables.Column(
                tables.repdistiller(
                    teacher="wrn_40_2",
                    student="wrn_16_2",
                    ensemble=count,
                    methods=("plain", "kd", "crd", "crd+kd"),
                )
            )
            for count in (1, 2, 4)
        },
        (
            "KD learns from the mean of the teachers' class probabilities",
            *tables.NOT_REPDISTILLERS,
        ),
    )
