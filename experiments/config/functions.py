"""Lists the functions that a setting chooses by name, in one table for each setting.

The names are those of `choices`, which a command line needs without these functions. To
add a choice, add its name there and its function here.
"""

from collections.abc import Callable
from typing import TypeAlias

import optax

from rdljax import rdm
from rdljax.terms import negatives

# A rate, or a function from the step to the rate.
Rate: TypeAlias = float | optax.Schedule

DISTANCES: dict[str, rdm.distances.Distance] = {
    "Correlation": rdm.distances.Correlation(),
    "Cosine": rdm.distances.Cosine(),
    "Euclidean": rdm.distances.Euclidean(),
    "MeanSquared": rdm.distances.MeanSquared(),
    "PoissonKL": rdm.distances.PoissonKL(),
    "SquaredEuclidean": rdm.distances.SquaredEuclidean(),
}

COMPARISONS: dict[str, rdm.comparisons.Comparison] = {
    "Cosine": rdm.comparisons.Cosine(),
    "MSE": rdm.comparisons.MSE(),
    "MSE_least_squares": rdm.comparisons.MSE(rdm.comparisons.by_least_squares),
    "MSE_maximum": rdm.comparisons.MSE(rdm.comparisons.by_maximum),
    "MSE_norm": rdm.comparisons.MSE(rdm.comparisons.by_norm),
    "Pearson": rdm.comparisons.Pearson(),
}

BRAIN_COMPARISONS: dict[str, rdm.comparisons.Comparison] = {
    **COMPARISONS,
    "SoftKendall": rdm.comparisons.SoftKendall(),
    "SoftSpearman": rdm.comparisons.SoftSpearman(),
    "WhitenedCosine": rdm.comparisons.WhitenedCosine(),
    "WhitenedPearson": rdm.comparisons.WhitenedPearson(),
}

# Functions of the number of negatives and the labels, with `relax`.
SAMPLINGS: dict[str, Callable[..., negatives.Negatives]] = {
    "per_example": negatives.per_example,
    "expectation": negatives.expectation,
    "bernoulli": negatives.bernoulli,
    "per_batch": negatives.per_batch,
}

# Functions of the rate, the momentum, `nesterov` and the weight decay.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": lambda rate, momentum, nesterov, decay: optax.chain(
        *([optax.add_decayed_weights(decay)] if decay else []),
        optax.sgd(rate, momentum, nesterov=nesterov),
    ),
    "adamw": lambda rate, momentum, nesterov, decay: optax.adamw(
        rate, b1=momentum, weight_decay=decay
    ),
}

# Functions of the largest rate, the number of steps of a training and the number of
# steps of an epoch.
SCHEDULES: dict[str, Callable[[float, int, int], Rate]] = {
    "cosine": lambda peak, steps, epoch: optax.warmup_cosine_decay_schedule(
        0.0, peak, warmup_steps=epoch, decay_steps=steps + 1
    ),
    "steps": lambda peak, steps, epoch: optax.piecewise_constant_schedule(
        peak, {steps * eighths // 8: 0.1 for eighths in (5, 6, 7)}
    ),
    "constant": lambda peak, steps, epoch: peak,
    "linear": lambda peak, steps, epoch: optax.linear_schedule(peak, 0.0, steps),
    "exponential": lambda peak, steps, epoch: optax.exponential_decay(
        peak, steps, 0.01
    ),
    "cosine_onecycle": lambda peak, steps, epoch: optax.cosine_onecycle_schedule(
        steps, peak
    ),
    "linear_onecycle": lambda peak, steps, epoch: optax.linear_onecycle_schedule(
        steps, peak
    ),
    "polynomial": lambda peak, steps, epoch: optax.polynomial_schedule(
        peak, 0.0, 2, steps
    ),
    "warmup_exponential": lambda peak, steps, epoch: (
        optax.warmup_exponential_decay_schedule(
            0.0, peak, warmup_steps=epoch, transition_steps=steps, decay_rate=0.01
        )
    ),
}
