"""Compares two RDMs: discrepancies that are 0 for equal RDMs.

A comparison is a frozen dataclass registered as a pytree. It is called with the
condensed RDMs `[pairs]` of student and teacher, and optionally weights `[pairs]` (0
masks a pair, whose distances may then be NaN), and returns a scalar.

The comparisons subtract before they square (one minus a cosine is half the squared
distance of two unit vectors), so that they stay accurate when student and teacher are
close, and are exactly 0 when they are equal. For two nets with equal activations a
discrepancy is 0 up to rounding, about 1e-14: the compiler need not compute both RDMs by
the same instructions.

A comparison that does not need the RDMs in memory (`rdm.forms`) has three more methods:
`from_products` computes its value from `Products`, six means and products; `terms`
returns the terms that are averaged over pairs, relative to approximate means of the two
RDMs; `from_means` computes its value from the means of these terms. The attribute
`own_scales` says whether a comparison is invariant to the scale of each RDM.

=========== ============================================================================
module      contents
=========== ============================================================================
`products`  `MSE` (its scales `by_maximum`, `by_norm`, `by_least_squares`), `Cosine`,
            `Pearson`; the protocols `Comparison`, `Similarity`, `OfProducts`
`ranks`     `Spearman`, `RhoA`, `KendallTauA`; with a gradient: `SoftSpearman` and
            `SoftKendall`; the base class `OfRanks`
`whitened`  `WhitenedCosine`, `WhitenedPearson`
=========== ============================================================================

All names are available as `comparisons.NAME`.
"""

from rdljax.rdm.comparisons.products import (
    MSE,
    Comparison,
    Cosine,
    OfProducts,
    Pearson,
    Products,
    Similarity,
    by_least_squares,
    by_maximum,
    by_norm,
)
from rdljax.rdm.comparisons.ranks import (
    KendallTauA,
    OfRanks,
    RhoA,
    SoftKendall,
    SoftSpearman,
    Spearman,
)
from rdljax.rdm.comparisons.whitened import WhitenedCosine, WhitenedPearson

__all__ = [
    "Comparison",
    "Cosine",
    "KendallTauA",
    "MSE",
    "OfProducts",
    "OfRanks",
    "Pearson",
    "Products",
    "RhoA",
    "Similarity",
    "SoftKendall",
    "SoftSpearman",
    "Spearman",
    "WhitenedCosine",
    "WhitenedPearson",
    "by_least_squares",
    "by_maximum",
    "by_norm",
]
