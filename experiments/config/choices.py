"""Lists the names of the functions that a setting chooses.

The types of these settings are `Literal`s, from which the command line and its `--help`
follow. The functions are in the tables of `functions`, which imports jax: a help text
does without.
"""

from typing import Literal, TypeAlias

Distance: TypeAlias = Literal[
    "Correlation",
    "Cosine",
    "Euclidean",
    "MeanSquared",
    "PoissonKL",
    "SquaredEuclidean",
]
Comparison: TypeAlias = Literal[
    "Cosine",
    "MSE",
    "MSE_least_squares",
    "MSE_maximum",
    "MSE_norm",
    "Pearson",
]
BrainComparison: TypeAlias = Literal[
    Comparison,
    "SoftKendall",
    "SoftSpearman",
    "WhitenedCosine",
    "WhitenedPearson",
]
Sampling: TypeAlias = Literal["per_example", "expectation", "bernoulli", "per_batch"]
OptimizerName: TypeAlias = Literal["sgd", "adamw"]
Schedule: TypeAlias = Literal[
    "cosine",
    "steps",
    "constant",
    "linear",
    "exponential",
    "cosine_onecycle",
    "linear_onecycle",
    "polynomial",
    "warmup_exponential",
]
