"""Draws RDMs, maps of stimuli and of layers, and comparisons of models (matplotlib).

====================== =================================================================
name                   contents
====================== =================================================================
`draw_rdm`             one RDM, with its classes and a colour bar
`draw_rdms`            RDMs side by side on one scale, with their correlations
`draw_similarity`      a heat map, such as the similarity of all layers of two nets
`draw_mds`             the stimuli of an RDM in a plane: coloured points, or thumbnails
`draw_points`          the same for places that are known
`draw_rdm_map`         several RDMs in a plane: a map of models and their layers
`draw_models`          models with intervals, noise ceiling and significance
`draw_comparison`      the same for a result of `inference.compare_models`
`draw_curves`          values over layers or epochs: mean and band over seeds
`percentiles`          an RDM's distances as percentiles
`classical_mds`        places in a plane for an RDM, by classical scaling
`align`                rotates places to match others
`correlate_rdms`       the correlation of each RDM of one list with each of another
`cut_out`              an image whose background is transparent
`full_range`, ...      `full_range` and `t_interval`: bands for `draw_curves`
`COLOURS`              seven colours that colour-blind readers can distinguish
====================== =================================================================

A function that draws one panel takes matplotlib's `Axes`, or makes a figure with one,
and returns the `Axes`; `draw_rdms` returns a figure. None of them shows a figure or
writes a file: ``axes.figure.savefig("rdm.png", dpi=150)``. Text has 8 points or more.

An RDM is condensed, `[pairs]`, or square, `[n, n]`, symmetric, whose diagonal is not
used. NaN stands for a pair that was not measured.
"""

from rdljax.plots._matrices import (
    correlate_rdms,
    draw_rdm,
    draw_rdms,
    draw_similarity,
    percentiles,
)
from rdljax.plots._models import (
    draw_comparison,
    draw_curves,
    draw_models,
    full_range,
    t_interval,
)
from rdljax.plots._planes import (
    align,
    classical_mds,
    cut_out,
    draw_mds,
    draw_points,
    draw_rdm_map,
)
from rdljax.plots._style import COLOURS

__all__ = [
    "COLOURS",
    "align",
    "classical_mds",
    "correlate_rdms",
    "cut_out",
    "draw_comparison",
    "draw_curves",
    "draw_mds",
    "draw_models",
    "draw_points",
    "draw_rdm",
    "draw_rdm_map",
    "draw_rdms",
    "draw_similarity",
    "full_range",
    "percentiles",
    "t_interval",
]
