"""Computes safe roots, Gram matrices, distances and pooling for several objectives.

All functions are pure, take arrays and have a finite gradient everywhere, also for dead
channels, zero rows, duplicate rows and constant batches.
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

    float64 for float64, and float32 for all other dtypes: integers, float16, bfloat16.
    """
    return jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def flatten(x: Array) -> Array:
    """Flattens activations `[batch, ...]` to rows, in at least float32."""
    return x.reshape(x.shape[0], -1).astype(compute_dtype(x))


def power_of_two(
    x: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False
) -> Array:
    """Returns the power of two closest to the largest magnitude, without a gradient.

    Dividing `x` by it is exact and gives entries of about 1 or less, whose squares and
    products do not overflow. If all entries are 0, it is the smallest normal number.

    Args:
      x: Array; values that are not finite give NaN.
      axis: Axis or axes of the maximum, as in `jnp.max`.
      keepdims: Whether to keep these axes, with length 1.
    """
    return _power_of_two(_largest(x, axis, keepdims))


def in_own_unit(x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """Divides an array by its `power_of_two`, over all axes or some; 0 stays 0.

    (Zeros are not divided: XLA would rewrite the square of `x / u` with constant zeros
    to `x * x / u**2`, and `u**2` is 0 for the unit u of zeros. Other constants below
    about 1e-19, if a program has them, still give NaN for this reason.)
    """
    largest = _largest(x, axis, keepdims=True)
    return jnp.where(largest == 0, x, x / _power_of_two(largest))


def _largest(x: Array, axis: int | tuple[int, ...] | None, keepdims: bool) -> Array:
    """Returns the largest magnitude, without a gradient."""
    return jnp.max(jnp.abs(lax.stop_gradient(x)), axis=axis, keepdims=keepdims)


def _power_of_two(largest: Array) -> Array:
    """Returns the power of two closest to magnitudes of at least 0."""
    limits = jnp.finfo(largest.dtype)
    rounded = lax.reduce_precision(largest, limits.nexp, 0)
    # At most the largest whose inverse is a normal number: XLA may multiply by it.
    unit = jnp.clip(rounded, limits.tiny, 2.0 ** (limits.maxexp - 2))
    return unit + 0 * largest  # NaN if the largest is infinite.


def of_unit_size(x: np.ndarray) -> np.ndarray:
    """Divides a NumPy array by the power of two above its largest magnitude.

    Arrays that are not of floating point are returned unchanged.
    """
    if x.dtype.kind != "f":
        return x
    largest = np.abs(x).max(where=np.isfinite(x), initial=0)
    return np.ldexp(x, -np.frexp(largest)[1])


def safe_sqrt(x: Array) -> Array:
    """Computes the square root, with gradient 0 (not infinity) at 0. NaN stays NaN."""
    # x <= 0, not x > 0, here and below: NaN must not count as 0.
    zero = x <= 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def safe_rsqrt(x: Array) -> Array:
    """Computes `1 / sqrt(x)`, but 0 with gradient 0 where `x` is 0. NaN stays NaN."""
    zero = x <= 0
    return jnp.where(zero, 0, lax.rsqrt(jnp.where(zero, 1, x)))


def safe_inverse(x: Array) -> Array:
    """Computes `1 / x` for x of 0 or more, but 0 with gradient 0 where `x` is 0.

    NaN stays NaN.
    """
    zero = x <= 0
    return jnp.where(zero, 0, 1 / jnp.where(zero, 1, x))


def unit_rows(x: Array) -> Array:
    """Divides rows `[n, units]` by their Euclidean norm; a zero row stays zero.

    Rows with an entry that is not finite become NaN. For `[n, units, m]`, the vectors
    along the second axis are divided.
    """
    x, inverse = _with_inverse_norms(x)
    return x * inverse


def _with_inverse_norms(x: Array) -> tuple[Array, Array]:
    """Returns rows in their own units, and the inverse of their norms `[n, 1]`."""
    x = in_own_unit(x, axis=1)
    return x, safe_rsqrt(jnp.sum(x * x, axis=1, keepdims=True))


@jax.custom_jvp
def difference_of_unit_rows(x: Array, y: Array) -> Array:
    """Computes `unit_rows(x) - unit_rows(y)`, exactly 0 for equal rows."""
    x, inverse_x = _with_inverse_norms(x)
    y, inverse_y = _with_inverse_norms(y)
    # Not `x * inverse_x - y * inverse_y`: compilers round one of these products only (a
    # fused multiply-add), and those of equal rows would differ.
    return (x - y) * inverse_x + y * (inverse_x - inverse_y)


@difference_of_unit_rows.defjvp
def _difference_jvp(primals, tangents):
    # The derivative of the shorter formula: one sum for each side instead of two.
    _, tangent = jax.jvp(lambda x, y: unit_rows(x) - unit_rows(y), primals, tangents)
    return difference_of_unit_rows(*primals), tangent


def one_minus_cosines(x: Array, y: Array) -> Array:
    """Computes one minus the cosine of corresponding rows of `[n, units]`: `[n]`.

    The result is half the squared difference of unit rows, so that it is exactly 0,
    with gradient 0, for equal rows. It is 1 if one of the two rows is zero, and 0 if
    both are.
    """
    norms = sum(jnp.any(a != 0, axis=1).astype(a.dtype) for a in (x, y))
    squares = jnp.sum(difference_of_unit_rows(x, y) ** 2, axis=1)
    return squares / jnp.maximum(norms, 1)


def centre(x: Array, axis: int) -> Array:
    """Subtracts the mean along an axis; vectors constant up to rounding become zero.

    This is needed before division by the norm: the mean of equal numbers is not exactly
    that number, and the remaining rounding errors would be scaled up.
    """
    fixed = lax.stop_gradient(x)
    mean = jnp.mean(x, axis=axis, keepdims=True)
    largest, smallest = (f(fixed, axis=axis, keepdims=True) for f in (jnp.max, jnp.min))
    # < and not <=, so that infinity is not replaced by 0.
    constant = largest - smallest < 8 * jnp.finfo(x.dtype).eps * jnp.abs(mean)
    return jnp.where(constant, 0, x - mean)


def centre_rows(x: Array) -> Array:
    """Subtracts from each row its mean over units; a constant row becomes 0."""
    return centre(x, axis=1)


def inner(x: Array, y: Array, precision: lax.PrecisionLike = HIGHEST) -> Array:
    """Computes all inner products of rows `[n, units]` and `[m, units]`: `[n, m]`.

    The products have full float32 precision by default: otherwise GPUs and TPUs round
    the inputs of a matrix product to 10 or 7 bits, and differences of its entries would
    lose all digits.
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


def centre_for_distances(x: Array, axis_name: str | None = None) -> Array:
    """Moves the origin of rows `[n, units]` near their mean, for distances of the rows.

    Distances do not depend on the origin; one near the mean limits the cancellation in
    `|x|^2 + |y|^2 - 2 xy`. It is the mean of 8 to 15 of the rows, and a constant in the
    gradient, so that no pass over all rows is needed. Entries that are not finite count
    as 0 there, so that such a row only affects its own distances.

    Args:
      x: Rows `[n, units]`.
      axis_name: Name of the mapped axis of devices that hold n rows each, which have a
        common origin; None: one device.
    """
    few = lax.stop_gradient(x[:: max(1, len(x) // 8)])
    few = jnp.where(jnp.isfinite(few), few, 0)
    origin = jnp.mean(few, axis=0, keepdims=True)
    return x - (origin if axis_name is None else lax.pmean(origin, axis_name))


def squared_distances(x: Array, precision: lax.PrecisionLike = HIGHEST) -> Array:
    """Computes squared Euclidean distances of rows `[n, units]`: `[n, n]`.

    They follow from the Gram matrix of centred rows. Centring does not change the
    distances, and limits the cancellation in `|x|^2 + |y|^2 - 2 xy` for rows with a
    large mean.
    """
    return squared_distances_from(gram(centre_for_distances(x), precision))


def squared_distances_between(
    x: Array, y: Array, precision: lax.PrecisionLike = HIGHEST
) -> Array:
    """Computes squared Euclidean distances of two sets of rows: `[n, m]`.

    Both sets must be centred before by the same mean (see `squared_distances`).
    """
    own, other = (jnp.sum(a * a, axis=1) for a in (x, y))
    squared = own[:, None] + other[None, :] - 2 * inner(x, y, precision)
    return jnp.maximum(squared, 0)


def squared_distances_from(products: Array) -> Array:
    """Computes squared distances `[n, n]` from the Gram matrix of centred rows.

    Distances below their rounding error are 0, with gradient 0.
    """
    norms = jnp.diagonal(products)
    both = norms[:, None] + norms[None, :]
    squared = both - 2 * products
    rounding = 4 * jnp.finfo(products.dtype).eps * both
    # Not with NumPy, which would make it a constant of n x n in the program.
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
    """Pools maps `[batch, H, W, C]` to another size by adaptive averaging.

    Window i of n over a side of length s is from `floor(i s / n)` to
    `ceil((i + 1) s / n)`, as in PyTorch's `adaptive_avg_pool2d`, so that s need not be
    a multiple of n.
    """
    if x.shape[1:3] == (height, width):
        return x
    rows = _window_means(x.shape[1], height).astype(x.dtype)
    columns = _window_means(x.shape[2], width).astype(x.dtype)
    return jnp.einsum(
        "hH,bHWc,wW->bhwc", rows, x, columns, precision=lax.Precision.HIGHEST
    )


def pool_to_smaller(x: Array, y: Array) -> tuple[Array, Array]:
    """Pools two maps `[batch, H, W, C]` to the smaller height and the smaller width.

    Raises:
      ValueError: Pooling would change the aspect of a map by more than rounding to
        whole numbers does, for example if the channels come first.
    """
    height, width = (min(x.shape[axis], y.shape[axis]) for axis in (1, 2))
    for own_height, own_width in (x.shape[1:3], y.shape[1:3]):
        change = abs(height * own_width - width * own_height)
        if change >= max(own_height, own_width):
            raise ValueError(
                f"expected maps of the same aspect, [batch, height, width, channels] "
                f"(NHWC): pooling {own_height} x {own_width} to {height} x {width} "
                f"would change it. Move the channels of NCHW maps to the end by "
                f"x.transpose(0, 2, 3, 1), or resize other maps to the same size before"
            )
    return pool(x, height, width), pool(y, height, width)


def directions(x: Array, epsilon: Array | float) -> Array:
    """Returns activations as rows x / (|x| + epsilon).

    A zero row has cosine 0 with all rows, and gradient 0.
    """
    x = flatten(x)
    unit = power_of_two(x, axis=1, keepdims=True)
    x = in_own_unit(x, axis=1)
    inverse = safe_rsqrt(jnp.sum(x * x, axis=1, keepdims=True))
    return x * inverse / (1 + epsilon / unit * inverse)


def kernel_probabilities(cosines: Array) -> Array:
    """Returns the rows of a cosine kernel `[n, m]`, each divided by its sum."""
    # Rounding may take the cosine of opposite rows below -1.
    kernel = jnp.maximum(1 + cosines, 0) / 2
    return kernel / jnp.sum(kernel, axis=1, keepdims=True)


def huber(x: Array) -> Array:
    """Computes the Huber loss: half the square up to 1, linear above."""
    inside = jnp.minimum(jnp.abs(x), 1)
    return inside * (jnp.abs(x) - inside / 2)
