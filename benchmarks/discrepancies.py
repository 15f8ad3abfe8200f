"""Makes the cases of discrepancies of two RDMs from features, for `kernels`.

Their value and gradient with every form of `rdljax.rdm.forms` are compared with the
matrix products that are needed in any case, and with the plainest forms.
"""

import atexit
import functools
import pathlib
import tempfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import limits, measure
from benchmarks.objectives import draw
from rdljax import rdm
from rdljax.rdm import comparisons, distances, forms

Array = jax.Array
SQUARED = distances.SquaredEuclidean()
PEARSON, MSE = comparisons.Pearson(), comparisons.MSE()
# The largest difference between float32 and float64: goal P15.
EXACT = measure.Tolerance(5e-5, 5e-5)


def features(n: int, units: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns features `[n, units]` of student and teacher with related RDMs."""
    x = draw(0, n, units)
    return x, x + 2 * draw(1, n, units)


def discrepancy(comparison, form=None) -> Callable[[Array, Array], Array]:
    """Returns the discrepancy of RDMs as a function of student and teacher features.

    The teacher has no gradient.
    """

    def function(student, teacher):
        teacher = jax.lax.stop_gradient(teacher)
        chosen = {"distance": SQUARED, "comparison": comparison, "form": form}
        return rdm.discrepancy(student, teacher, **chosen)

    return function


def condensed(comparison) -> Callable[[Array, Array], Array]:
    """Returns the plainest form of `discrepancy`, which compares upper triangles."""

    def function(student, teacher):
        rows = jnp.triu_indices(student.shape[0], 1)
        d, e = (SQUARED(x)[rows] for x in (student, jax.lax.stop_gradient(teacher)))
        return comparison(d, e)

    return function


def grams(student: np.ndarray, teacher: np.ndarray, expected) -> measure.Contender:
    """Returns two Gram matrices, of student and of teacher, as a contender.

    Args:
      student: The features of the student, `[n, units]`.
      teacher: The features of the teacher, `[n, units]`.
      expected: The function that returns the numbers of this contender, with which
        those of the others are compared.
    """
    x, y = jnp.asarray(student), jnp.asarray(teacher)
    form = jax.jit(lambda x, y: (limits.inner(x, x), limits.inner(y, y)))
    return measure.Contender(
        lambda: jax.block_until_ready(form(x, y)),
        lambda _: expected(),
        facts={"flop": 2 * products(*x.shape)},
    )


def products(n: int, units: int) -> int:
    """Returns the number of floating-point operations of a Gram matrix."""
    return 2 * n * n * units


def copies(n: int, expected) -> measure.Contender:
    """Returns a contender that reads one matrix and writes two.

    Each pass over the distances of both RDMs does the same.

    Args:
      n: The number of rows and of columns.
      expected: The function that returns the numbers of this contender.
    """
    matrix = jnp.zeros((n, n))
    form = jax.jit(lambda matrix: (matrix + 1, matrix + 2))
    return measure.Contender(
        lambda: jax.block_until_ready(form(matrix)), lambda _: expected()
    )


def in_float64(function, *arrays: np.ndarray) -> Callable[[], list[np.ndarray]]:
    """Returns a function that computes value and gradient in float64."""

    def numbers():
        with jax.enable_x64(True):
            wide = [jnp.asarray(x.astype(np.float64)) for x in arrays]
            value, gradient = jax.jit(jax.value_and_grad(function))(*wide)
            return [np.asarray(value), np.asarray(gradient)]

    return numbers


def loss(n: int, units: int, comparison, form=None, plain: bool = True) -> measure.Case:
    """Returns the case for a discrepancy, with two Gram matrices as the reference."""
    x, y = features(n, units)
    ours = discrepancy(comparison, form)
    exact = in_float64(discrepancy(comparison, forms.Dense()), x, y)
    contenders = {
        "grams": lambda: grams(x, y, exact),
        "ours": lambda: measure.gradient(ours, x, y),
    }
    if plain:
        dense = discrepancy(comparison, forms.Dense())
        contenders |= {
            "copy": lambda: copies(n, exact),
            "dense": lambda: measure.gradient(dense, x, y),
            "condensed": lambda: measure.gradient(condensed(comparison), x, y),
        }
    return measure.Case(contenders, tolerance=EXACT)


def large(n: int, units: int, form, other=None) -> measure.Case:
    """Returns the case for a discrepancy whose matrices would not fit into memory."""
    x, y = features(n, units)
    contenders = {
        name: functools.partial(
            measure.gradient, discrepancy(comparisons.Pearson(), f), x, y
        )
        for name, f in {"ours": form, "moments": other}.items()
        if name == "ours" or f is not None
    }
    return measure.Case(contenders, tolerance=measure.Tolerance(5e-5, 5e-5))


def larger(n: int, units: int) -> measure.Case:
    """Returns the case for features in memory-mapped files, and in memory.

    The files are read once; only the value is computed.
    """
    x, y = features(n, units)

    def mapped():
        folder = tempfile.TemporaryDirectory()
        atexit.register(folder.cleanup)
        files = []
        for name, array in (("student", x), ("teacher", y)):
            file = pathlib.Path(folder.name) / f"{name}.npy"
            np.save(file, array)
            files.append(np.load(file, mmap_mode="r"))

        def call():
            blocks = rdm.blocks_of(*files)
            return rdm.discrepancy_of_blocks(blocks, distance=SQUARED)

        return measure.eager(call)

    return measure.Case(
        {
            "ours": mapped,
            "moments": lambda: measure.jitted(
                discrepancy(PEARSON, forms.Moments()), x, y
            ),
        }
    )


def scaling(n: int) -> measure.Case:
    """Returns the case for all forms possible with n stimuli, and two Gram matrices."""
    x, y = features(n, 512)
    chosen: dict[str, forms.Form] = {"moments": forms.Moments()}
    if n <= 30_000:
        chosen["tiles"] = forms.Tiles()
    if n <= 10_000:
        chosen["dense"] = forms.Dense()
    pearson = comparisons.Pearson()
    contenders: dict[str, Callable[[], measure.Contender]] = {
        name: functools.partial(measure.gradient, discrepancy(pearson, form), x, y)
        for name, form in chosen.items()
    }
    if n <= 10_000:
        contenders["two Grams"] = lambda: grams(x, y, lambda: [])
        # The Grams have no numbers to compare; loss-* compares the forms.
        return measure.Case(contenders, tolerance=None)
    return measure.Case(contenders, tolerance=EXACT)
