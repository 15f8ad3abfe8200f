"""Mathematics that several objectives share: safe roots, Grams, distances, pooling.

Everything here is pure, takes arrays and has a finite gradient everywhere: at dead
channels, zero rows, duplicate rows and constant batches too.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array
HIGHEST = lax.Precision.HIGHEST


def compute_dtype(x: Array) -> jnp.dtype:
    """Returns the dtype in which an objective of `x` is computed.

    float64 for float64, and float32 for all others: integers, float16, bfloat16.
    """
    return jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def flatten(x: Array) -> Array:
    """Flattens activations `[batch, ...]` to rows, in at least float32."""
    return x.reshape(x.shape[0], -1).astype(compute_dtype(x))


def power_of_two(
    x: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False
) -> Array:
    """Returns the power of two next to the largest magnitude, without a gradient.

    `x` divided by it keeps its digits and has entries of about 1 or less, whose squares
    and products do not overflow. Of zeros alone: the smallest normal number.

    Args:
      x: Numbers; one that is not finite gives NaN.
      axis: Over which to take the largest, as in `jnp.max`.
      keepdims: Whether to keep these axes, of length 1.
    """
    largest = jnp.max(jnp.abs(lax.stop_gradient(x)), axis=axis, keepdims=keepdims)
    limits = jnp.finfo(largest.dtype)
    rounded = lax.reduce_precision(largest, limits.nexp, 0)
    # (Up to the largest whose inverse is a normal number: XLA may multiply by that.)
    unit = jnp.clip(rounded, limits.tiny, 2.0 ** (limits.maxexp - 2))
    return unit + 0 * largest  # NaN where that is infinite.


def in_own_unit(x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """Divides numbers by their `power_of_two`, of all or along an axis; 0 stays 0.

    (A program's constant zeros are not divided: XLA would make `x * x / u**2` of the
    square of `x / u`, and `u**2` is 0 for the unit of zeros.)
    """
    nothing = jnp.all(x == 0, axis=axis, keepdims=True)
    return jnp.where(nothing, x, x / power_of_two(x, axis=axis, keepdims=True))


def of_unit_size(x: np.ndarray) -> np.ndarray:
    """Returns numbers of NumPy divided by the power of two next to the largest.

    Integers and booleans, and what is no number, stay as they are.
    """
    if x.dtype.kind != "f":
        return x
    largest = np.abs(x).max(where=np.isfinite(x), initial=0)
    return np.ldexp(x, -np.frexp(largest)[1])


def safe_sqrt(x: Array) -> Array:
    """Computes the square root, with gradient 0 (not infinity) at 0. NaN stays NaN."""
    # (x <= 0, not x > 0, in all that is safe at 0: NaN must not count as 0.)
    zero = x <= 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def safe_rsqrt(x: Array) -> Array:
    """Computes `1 / sqrt(x)`; 0 with gradient 0 where `x` is 0. NaN stays NaN."""
    zero = x <= 0
    return jnp.where(zero, 0, lax.rsqrt(jnp.where(zero, 1, x)))


def safe_inverse(x: Array) -> Array:
    """Computes `1 / x` of numbers of 0 or more, and 0 with gradient 0 where `x` is 0.

    NaN stays NaN.
    """
    zero = x <= 0
    return jnp.where(zero, 0, 1 / jnp.where(zero, 1, x))


def unit_rows(x: Array) -> Array:
    """Divides rows `[n, units]` by their Euclidean norm; a zero row stays zero.

    A row with an entry that is not finite is NaN. Of `[n, units, m]`, the vectors along
    the second axis.
    """
    x = in_own_unit(x, axis=1)
    return x * safe_rsqrt(jnp.sum(x * x, axis=1, keepdims=True))


def one_minus_cosines(x: Array, y: Array) -> Array:
    """Computes one minus the cosine of each row of `[n, units]` with another's: `[n]`.

    Half the squared difference of unit rows: exactly 0, with gradient 0, where they are
    equal. 1 where one of them is zero, and 0 where both are.
    """
    x, y = unit_rows(x), unit_rows(y)
    norms = sum(jnp.any(a != 0, axis=1).astype(a.dtype) for a in (x, y))
    return jnp.sum((x - y) ** 2, axis=1) / jnp.maximum(norms, 1)


def centre(x: Array, axis: int) -> Array:
    """Subtracts the mean along an axis; what is constant up to rounding becomes zero.

    For what is then divided by its norm: the mean of equal numbers is not exactly that
    number, and what rounding leaves of them would be scaled up to noise.
    """
    fixed = lax.stop_gradient(x)
    mean = jnp.mean(x, axis=axis, keepdims=True)
    largest, smallest = (f(fixed, axis=axis, keepdims=True) for f in (jnp.max, jnp.min))
    # (< and not <=, so that infinity stays what it is.)
    constant = largest - smallest < 8 * jnp.finfo(x.dtype).eps * jnp.abs(mean)
    return jnp.where(constant, 0, x - mean)


def centre_rows(x: Array) -> Array:
    """Subtracts from rows their mean over units; a constant row becomes 0."""
    return centre(x, axis=1)


def inner(x: Array, y: Array, precision: lax.PrecisionLike = HIGHEST) -> Array:
    """Computes all inner products of rows `[n, units]` and `[m, units]`: `[n, m]`.

    Asks for full float32 precision: by default GPUs and TPUs round the inputs of a
    matrix product to 10 or 7 bits, and differences of its entries keep nothing of that.
    """
    return jnp.einsum("nu,mu->nm", x, y, precision=precision)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def gram(x: Array, precision: lax.PrecisionLike = HIGHEST) -> Array:
    """Computes the Gram matrix `[n, n]` of rows `[n, units]`: `inner(x, x)`.

    Its gradient takes one matrix product instead of the two of `inner(x, x)`, since the
    matrix is symmetric.
    """
    return inner(x, x, precision)


@gram.defjvp
def _gram_jvp(precision, primals: tuple[Array], tangents: tuple[Array]):
    (x,), (dx,) = primals, tangents
    half = inner(dx, x, precision)
    return gram(x, precision), half + half.T


def centre_columns(x: Array) -> Array:
    """Subtracts from rows `[n, units]` the mean row."""
    return x - jnp.mean(x, axis=0, keepdims=True)


def squared_distances(x: Array, precision: lax.PrecisionLike = HIGHEST) -> Array:
    """Computes squared Euclidean distances of rows `[n, units]`: `[n, n]`.

    From the Gram matrix of centred rows. Centring changes no distance and keeps the
    cancellation in `|x|^2 + |y|^2 - 2 xy` harmless where the rows share a large mean.
    """
    return squared_distances_from(gram(centre_columns(x), precision))


def squared_distances_between(
    x: Array, y: Array, precision: lax.PrecisionLike = HIGHEST
) -> Array:
    """Computes squared Euclidean distances of two sets of rows: `[n, m]`.

    The rows are to be centred, both by the same mean (see `squared_distances`).
    """
    own, other = (jnp.sum(a * a, axis=1) for a in (x, y))
    squared = own[:, None] + other[None, :] - 2 * inner(x, y, precision)
    return jnp.maximum(squared, 0)


def squared_distances_from(products: Array) -> Array:
    """Computes squared distances `[n, n]` from the Gram matrix of centred rows.

    0, with gradient 0, where they are below their own rounding.
    """
    norms = jnp.diagonal(products)
    both = norms[:, None] + norms[None, :]
    squared = both - 2 * products
    rounding = 4 * jnp.finfo(products.dtype).eps * both
    # (Not of NumPy: that would be a constant of n x n in the program.)
    diagonal = jnp.eye(products.shape[0], dtype=bool)
    return jnp.where(diagonal | (squared < rounding), 0, squared)


def _window_means(size: int, target: int) -> np.ndarray:
    """Returns the matrix `[target, size]` of adaptive average pooling along an axis."""
    means = np.zeros((target, size))
    for row in range(target):
        start, stop = row * size // target, -(-(row + 1) * size // target)
        means[row, start:stop] = 1 / (stop - start)
    return means


def pool(x: Array, height: int, width: int) -> Array:
    """Pools maps `[batch, H, W, C]` adaptively to another height and width.

    Window i of n over a side of length s is `floor(i s / n)` to `ceil((i + 1) s / n)`,
    so sizes need not divide: the rule of PyTorch's `adaptive_avg_pool2d`.
    """
    if x.shape[1:3] == (height, width):
        return x
    rows = _window_means(x.shape[1], height).astype(x.dtype)
    columns = _window_means(x.shape[2], width).astype(x.dtype)
    return jnp.einsum(
        "hH,bHWc,wW->bhwc", rows, x, columns, precision=lax.Precision.HIGHEST
    )


def pool_to_smaller(x: Array, y: Array) -> tuple[Array, Array]:
    """Pools two maps `[batch, H, W, C]`, each side to the smaller of the two.

    Raises:
      ValueError: It would change the aspect of a map by more than sides that are whole
        numbers do, as it does where the channels come first.
    """
    height, width = (min(x.shape[axis], y.shape[axis]) for axis in (1, 2))
    for own_height, own_width in (x.shape[1:3], y.shape[1:3]):
        change = abs(height * own_width - width * own_height)
        if change >= max(own_height, own_width):
            raise ValueError(
                f"expected maps of one aspect, [batch, height, width, channels] "
                f"(NHWC): pooling {own_height} x {own_width} to {height} x {width} "
                f"would change it. Move the channels of NCHW maps to the end, as "
                f"x.transpose(0, 2, 3, 1), or bring other maps to one size before"
            )
    return pool(x, height, width), pool(y, height, width)
