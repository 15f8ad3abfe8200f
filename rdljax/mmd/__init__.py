"""Estimates the maximum mean discrepancy (MMD) of two samples, and defines kernels.

The MMD is the distance between the means of two samples in the feature space of a
kernel (Gretton et al., `A Kernel Two-Sample Test
<https://jmlr.org/papers/v13/gretton12a.html>`_, JMLR 2012). `biased` and `unbiased`
estimate its square.

A kernel is a frozen dataclass registered as a pytree. Called with rows `[n, units]` it
returns their kernel matrix `[n, n]`. Both samples are passed to it together, so that a
width that is computed from the data is the same for all pairs. The methods `cross` and
`rows` return the kernel of two samples, if the width is fixed.

=========== ============================================================================
module      contents
=========== ============================================================================
`estimates` `biased`, `unbiased`, `linear_time`; `permutation_test`, which returns a
            `PermutationTest`
`kernels`   `Linear`, `Polynomial`, `Gaussian`, `Laplace`, `InverseMultiquadric`; the
            lengths `by_median` and `by_mean`; the base class `Radial` of kernels
            with a width; the protocols `Kernel` and `RowKernel`
=========== ============================================================================

All names are available as `mmd.NAME`.
"""

from rdljax.mmd.estimates import (
    PermutationTest,
    biased,
    linear_time,
    permutation_test,
    unbiased,
)
from rdljax.mmd.kernels import (
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Laplace,
    Linear,
    Polynomial,
    Radial,
    RowKernel,
    by_mean,
    by_median,
)

__all__ = [
    "Gaussian",
    "InverseMultiquadric",
    "Kernel",
    "Laplace",
    "Linear",
    "PermutationTest",
    "Polynomial",
    "Radial",
    "RowKernel",
    "biased",
    "by_mean",
    "by_median",
    "linear_time",
    "permutation_test",
    "unbiased",
]
