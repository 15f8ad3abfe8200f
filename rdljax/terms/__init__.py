"""Defines terms: objectives with their trained parameters and their state.

==================== ==================================================================
module               contents
==================== ==================================================================
`terms.base`         `Term`, `State`; from an objective: `from_objective`,
                     `with_labels`; from a term: `on_layers`, `over_global_batch`,
                     `pretraining`, `wrap_applies`; for the task: `cross_entropy`;
                     the type `Pair` of layers
`terms.rdms`         `rdl`; with measured RDMs `rdl_target`, `rdl_subjects`
`terms.contrast`     `crd`, `crd_sharded`, `crd_of_batch`
`terms.negatives`    negatives of examples: `per_example`, `expectation`, `bernoulli`,
                     `per_batch`, `from_batch`; for a function of your own: the type
                     `Negatives`, its result `Choice`, `of_same_class`, `is_other`
`terms.regressors`   `hint`, `vid`, `ab`, `ft`, `cc`
`terms.ensembles`    for several teachers: `per_teacher`, `kd_mean`, `rdl_mean`
==================== ==================================================================

All names except those of `negatives` are available as `terms.NAME`; so is `Batch`, the
type of a batch.

A term consists of pure functions of the dicts of all activations of student and
teacher. Terms compose: `on_layers(pairs, term)` selects layers, and
`over_global_batch(term)` first gathers the batch over the devices. A loss is a weighted
sum of terms.

    terms.on_layers("logits", terms.from_objective(objectives.kd, temperature=4.0))
    terms.over_global_batch(
        terms.on_layers({"stage1": "stage2"}, terms.rdl(pairs=50))
    )
    terms.on_layers("pooled", terms.crd(50_000, negatives.per_example(16384, labels)))
    pkt = terms.from_objective(objectives.pkt)
    terms.per_teacher(["a", "b"], terms.on_layers("pooled", pkt))
"""

from rdljax._types import Batch
from rdljax.terms.base import (
    Pair,
    State,
    Term,
    cross_entropy,
    from_objective,
    on_layers,
    over_global_batch,
    pretraining,
    with_labels,
    wrap_applies,
)
from rdljax.terms.contrast import crd, crd_of_batch, crd_sharded
from rdljax.terms.ensembles import kd_mean, per_teacher, rdl_mean
from rdljax.terms.rdms import rdl, rdl_subjects, rdl_target
from rdljax.terms.regressors import ab, cc, ft, hint, vid

__all__ = [
    "Batch",
    "Pair",
    "State",
    "Term",
    "ab",
    "cc",
    "crd",
    "crd_of_batch",
    "crd_sharded",
    "cross_entropy",
    "from_objective",
    "ft",
    "hint",
    "kd_mean",
    "on_layers",
    "over_global_batch",
    "per_teacher",
    "pretraining",
    "rdl",
    "rdl_mean",
    "rdl_subjects",
    "rdl_target",
    "vid",
    "with_labels",
    "wrap_applies",
]
