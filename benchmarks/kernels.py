"""Compares RDM and MMD kernels with matrix products, plain forms and rsatoolbox.

`loss-*`, `tiles-*` and `memory-*` are the value and the gradient of a discrepancy of
two RDMs, directly from features `[n, units]` (in the names): `ours` is the form that
`rdm.discrepancy` chooses, `grams` the two Gram matrices that full RDMs would need,
`copy` reading a matrix and writing two once, `dense` the form with both matrices,
`condensed` with the vectors of their upper triangles. Their numbers are compared with
float64. `scaling-*` are the same for the figure, `blocks-*` the value from files that
are read once. The others are single kernels, with `rsatoolbox` if it is installed.
"""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import spatial

from benchmarks import discrepancies, limits, measure, runner
from benchmarks.objectives import draw
from experiments import command as commands
from experiments.results import plots
from rdljax import inference, mmd, rdm, statistics
from rdljax.rdm import comparisons, distances, forms

Array = jax.Array
SCALING = (1000, 3000, 10_000, 30_000, 100_000)


@dataclasses.dataclass(frozen=True)
class Options(runner.DeviceOptions):
    """The settings of this benchmark."""

    picture: pathlib.Path | None = None
    """The PNG file of a plot of time and memory over the number of stimuli
    (`scaling-*`)."""

    def check(self) -> None:
        """Raises `UsageError` for settings that are not allowed."""
        super().check()
        if self.picture is not None and not self.picture.parent.is_dir():
            raise commands.UsageError(f"there is no folder {self.picture.parent}")


def build(name: str, options: Options) -> measure.Case:
    """Returns the case with this name, with the contenders that are available."""
    options.take_device()
    case = CASES[name]()
    contenders = dict(case.contenders)
    if importlib.util.find_spec("rsatoolbox") is None:
        for other in [name for name in contenders if name.startswith("rsatoolbox")]:
            del contenders[other]
    goals = GOALS.get(name, ())
    return dataclasses.replace(case, contenders=contenders, goals=goals)


def matrix(n: int, units: int, distance, plain) -> measure.Case:
    """Returns the case for a distance matrix, with one Gram matrix as the reference.

    It shows whether the CPU's compiler computes anything twice.
    """
    x = draw(0, n, units)
    return measure.Case(
        {
            "gram": lambda: dataclasses.replace(
                measure.jitted(lambda x: limits.inner(x, x), x),
                facts={"flop": discrepancies.products(n, units)},
            ),
            "ours": lambda: measure.jitted(distance, x),
            "port": lambda: measure.jitted(plain, x),
        },
        tolerance=None,
        memory=False,
    )


def plain_correlation(x: Array) -> Array:
    """Returns correlation distances: one minus products of standardised rows."""
    x = x - jnp.mean(x, axis=1, keepdims=True)
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    return 1 - limits.inner(x, x)


def plain_euclidean(x: Array) -> Array:
    """Returns squared distances, from the norms and products of rows."""
    norms = jnp.sum(x * x, axis=1)
    return norms[:, None] + norms[None, :] - 2 * limits.inner(x, x)


def condensing(n: int) -> measure.Case:
    """Returns the case for `rdm.condense`, and a gather with an index for each pair."""
    x = draw(0, n, n)

    def gather(x):
        return x[jnp.triu_indices(x.shape[0], 1)]

    return measure.Case(
        {
            "ours": lambda: measure.jitted(rdm.condense, x),
            "port": lambda: measure.jitted(gather, x),
        }
    )


def rsatoolbox_rdm(method: str, x: np.ndarray, **options):
    """Returns rsatoolbox's condensed RDM of activations."""
    import rsatoolbox

    data = rsatoolbox.data.Dataset(x)
    # (The result is a list only for a list of data sets.)
    found: Any = rsatoolbox.rdm.calc_rdm(data, method=method, **options)
    return found.dissimilarities[0]


def whole_rdm(method: str, distance, n: int, units: int) -> measure.Case:
    """Returns the case for a condensed RDM, with rsatoolbox in float32 and float64."""
    x = draw(0, n, units)
    form = jax.jit(functools.partial(rdm.compute, distance=distance))
    return measure.Case(
        {
            "ours": lambda: measure.eager(form, jnp.asarray(x)),
            "rsatoolbox": lambda: measure.eager(
                functools.partial(rsatoolbox_rdm, method), x
            ),
            "rsatoolbox64": lambda: measure.eager(
                functools.partial(rsatoolbox_rdm, method), x.astype(np.float64)
            ),
        }
    )


def crossnobis(folds: int, n: int, units: int) -> measure.Case:
    """Returns the case for the crossnobis distance, with folds and a precision."""
    x = draw(0, n, units) + draw(1, folds, n, units)
    root = draw(2, units, 2 * units)
    precision = root @ root.T / (2 * units) + np.eye(units, dtype=np.float32)

    def released():
        import rsatoolbox

        data = rsatoolbox.data.Dataset(
            x.reshape(-1, units),
            obs_descriptors={
                "stimulus": np.tile(np.arange(n), folds),
                "fold": np.repeat(np.arange(folds), n),
            },
        )
        options: dict[str, Any] = {"descriptor": "stimulus", "cv_descriptor": "fold"}

        def call():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found: Any = rsatoolbox.rdm.calc_rdm(
                    data, method="crossnobis", noise=precision, **options
                )
            return units * found.dissimilarities[0]

        return measure.eager(call)

    form = jax.jit(rdm.crossnobis)
    arrays = jnp.asarray(x), jnp.asarray(precision)
    return measure.Case(
        {"ours": lambda: measure.eager(form, *arrays), "rsatoolbox": released}
    )


def pair_of_rdms(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns two correlated condensed RDMs."""
    student, teacher = (
        np.asarray(rdm.compute(jnp.asarray(x), distance=discrepancies.SQUARED))
        for x in discrepancies.features(n, 64)
    )
    return student, teacher


def bootstrap(n: int) -> measure.Case:
    """Returns the case for a bootstrap with 1,000 draws of n stimuli.

    The draws of the contenders differ, so that their standard deviations are compared.
    """
    x, y = pair_of_rdms(n)

    def released():
        from rsatoolbox import inference
        from rsatoolbox import rdm as rsa

        both = rsa.RDMs(np.stack([x, y]))

        def call():
            values = []
            for _ in range(1000):
                sample, _ = inference.bootstrap_sample_pattern(both)
                vectors = sample.dissimilarities
                kept = ~np.isnan(vectors).any(axis=0)
                first, second = (rsa.RDMs(v[None, kept]) for v in vectors)
                values.append(1 - rsa.compare(first, second, method="corr")[0, 0])
            return np.asarray(values)

        return measure.eager(call, read=lambda values: [np.std(values)])

    return measure.Case(
        {
            "ours": lambda: measure.eager(
                lambda: statistics.bootstrap(x, y).draws,
                read=lambda values: [np.std(values)],
            ),
            "rsatoolbox": released,
        },
        tolerance=measure.Tolerance(0.2, 0.2),
        memory=False,
    )


def model_comparison(n: int, subjects: int, draws: int) -> measure.Case:
    """Returns the case for three models and a bootstrap over subjects and stimuli.

    By Pearson's correlation. The draws of the contenders differ, so that the mean
    values of the models over all draws are compared.
    """
    random = np.random.default_rng(0)
    x = random.normal(size=(n, 64))
    features = [x, x + random.normal(size=x.shape), random.normal(size=x.shape)]
    noisy = [x + 2 * random.normal(size=x.shape) for _ in range(subjects)]
    models, data = (
        np.array([spatial.distance.pdist(y, "sqeuclidean") for y in given])
        for given in (features, noisy)
    )

    def ours():
        named = dict(zip("abc", models, strict=True))

        def call():
            return inference.compare_models(named, data, draws=draws).draws[:, :3]

        return measure.eager(call, read=lambda values: [values.mean(axis=0)])

    def released():
        from rsatoolbox import inference as others
        from rsatoolbox import model
        from rsatoolbox import rdm as rsa

        named = [model.ModelFixed(*one) for one in zip("abc", models, strict=True)]

        def call():
            found = others.eval_dual_bootstrap(
                named, rsa.RDMs(data), method="corr", N=draws
            )
            return found.evaluations[:, :, 0, 0, 0]

        return measure.eager(call, read=lambda values: [np.nanmean(values, axis=0)])

    return measure.Case(
        {"ours": ours, "rsatoolbox": released},
        tolerance=measure.Tolerance(0.05, 0.05),
        memory=False,
    )


def compared(method: str, comparison, n: int) -> measure.Case:
    """Returns the case for a comparison of two condensed RDMs.

    Ranks are compared by NumPy and SciPy (`on_host`), and by the jitted comparison.
    """
    x, y = pair_of_rdms(n)

    def released():
        from rsatoolbox import rdm as rsa

        first, second = (rsa.RDMs(v[None]) for v in (x, y))
        return measure.eager(
            lambda: 1 - rsa.compare(first, second, method=method)[0, 0],
        )

    def ours():
        compare = functools.partial(rdm.compare, comparison=comparison)
        return measure.jitted(compare, x, y)

    if not isinstance(comparison, comparisons.OfRanks):
        return measure.Case({"ours": ours, "rsatoolbox": released})

    def on_host():
        return measure.eager(comparison.on_host, x, y)

    return measure.Case({"ours": on_host, "rsatoolbox": released, "jitted": ours})


def gaussian_mmd(n: int, units: int) -> measure.Case:
    """Returns the case for the biased estimate of MMD and its gradient.

    The kernel is computed tile by tile, and as a whole matrix.
    """
    x, y = draw(0, n, units), 1.1 * draw(1, n, units)
    kernel = mmd.Gaussian(units**0.5)

    def plain(x, y):
        def mean(x, y):
            squared = jnp.sum(x * x, 1)[:, None] + jnp.sum(y * y, 1)[None, :]
            squared = squared - 2 * limits.inner(x, y)
            return jnp.mean(jnp.exp(-squared / (2 * units)))

        return mean(x, x) + mean(y, y) - 2 * mean(x, y)

    tiled = functools.partial(mmd.biased, kernel=kernel, block=512)
    whole = functools.partial(mmd.biased, kernel=kernel)
    return measure.Case(
        {
            "ours": lambda: measure.gradient(tiled, x, y),
            "dense": lambda: measure.gradient(whole, x, y),
            "port": lambda: measure.gradient(plain, x, y),
        },
        tolerance=measure.Tolerance(1e-3, 1e-3),
    )


CASES: dict[str, Callable[[], measure.Case]] = {
    "loss-1024-512": lambda: discrepancies.loss(1024, 512, discrepancies.PEARSON),
    "loss-4096-512": lambda: discrepancies.loss(4096, 512, discrepancies.PEARSON),
    "loss-4096-2048": lambda: discrepancies.loss(
        4096, 2048, discrepancies.PEARSON, plain=False
    ),
    "tiles-mse-4096-2048": lambda: discrepancies.loss(
        4096, 2048, discrepancies.MSE, forms.Tiles(), plain=False
    ),
    "tiles-pearson-4096-2048": lambda: discrepancies.loss(
        4096, 2048, discrepancies.PEARSON, forms.Tiles(), plain=False
    ),
    "memory-tiles-50000-256": lambda: discrepancies.large(
        50_000, 256, forms.Tiles(), forms.Moments()
    ),
    "memory-100000-512": lambda: discrepancies.large(100_000, 512, None),
    "blocks-1000000-64": lambda: discrepancies.larger(1_000_000, 64),
    "correlation-1000-512": lambda: matrix(
        1000, 512, distances.Correlation(), plain_correlation
    ),
    "correlation-5000-2048": lambda: matrix(
        5000, 2048, distances.Correlation(), plain_correlation
    ),
    "euclidean-matrix-5000-2048": lambda: matrix(
        5000, 2048, discrepancies.SQUARED, plain_euclidean
    ),
    "condense-5000": lambda: condensing(5000),
    "euclidean-5000-2048": lambda: whole_rdm(
        "euclidean", distances.MeanSquared(), 5000, 2048
    ),
    "correlation-rdm-1000-512": lambda: whole_rdm(
        "correlation", distances.Correlation(), 1000, 512
    ),
    "crossnobis-500": lambda: crossnobis(5, 500, 1000),
    "bootstrap-92": lambda: bootstrap(92),
    "models-100-20": lambda: model_comparison(100, 20, draws=100),
    "spearman-1000": lambda: compared("spearman", comparisons.Spearman(), 1000),
    "spearman-3000": lambda: compared("spearman", comparisons.Spearman(), 3000),
    "tau-a-1000": lambda: compared("tau-a", comparisons.KendallTauA(), 1000),
    "whitened-1000": lambda: compared("cosine_cov", comparisons.WhitenedCosine(), 1000),
    "mmd-gaussian-4000-128": lambda: gaussian_mmd(4000, 128),
    **{f"scaling-{n}": functools.partial(discrepancies.scaling, n) for n in SCALING},
}

# The goals of cases. For P6 to P8 and P10, smaller is better.
GOALS = {
    "loss-4096-512": (measure.Goal("P6", "ours", 0.8, 0.5),),
    "loss-4096-2048": (measure.Goal("P6", "ours", 2.0, 1.5),),
    "tiles-mse-4096-2048": (measure.Goal("P7", "ours", 1.7, 1.3),),
    "tiles-pearson-4096-2048": (measure.Goal("P7b", "ours", 2.5, 1.8),),
    "memory-tiles-50000-256": (measure.Goal("P8", "ours", 512, 320, "MiB"),),
    "memory-100000-512": (measure.Goal("P8", "ours", 768, 512, "MiB"),),
    "condense-5000": (measure.Goal("trap", "port", 1, 1.5),),
    "euclidean-matrix-5000-2048": (measure.Goal("trap", "ours", 1.5, 1.15),),
    "correlation-1000-512": (measure.Goal("P10", "ours", 1.5, 1.15),),
    "correlation-5000-2048": (measure.Goal("P10", "ours", 1.5, 1.15),),
    "euclidean-5000-2048": (
        measure.Goal("P11", "rsatoolbox", 0.8, 1.1),
        measure.Goal("P11", "rsatoolbox64", 1.3, 1.8),
    ),
    "crossnobis-500": (measure.Goal("P12", "rsatoolbox", 3, 4),),
    "bootstrap-92": (measure.Goal("P12", "rsatoolbox", 50, 200),),
    "models-100-20": (measure.Goal("models", "rsatoolbox", 100, 1000),),
    "spearman-1000": (measure.Goal("P13", "rsatoolbox", 0.9, 2),),
    "spearman-3000": (measure.Goal("P13", "rsatoolbox", 0.9, 2),),
    "tau-a-1000": (measure.Goal("P13", "rsatoolbox", 0.9, 2),),
}


# ---- the figure


def picture(results: dict, path: pathlib.Path) -> None:
    """Draws time and memory against the number of stimuli, on logarithmic axes.

    Args:
      results: The results of `runner.run`, with `scaling-*` cases.
      path: The path of the PNG file.
    """
    import matplotlib.pyplot as plt

    lines: dict[str, list[tuple[int, float, float | None]]] = {}
    for case in results["cases"]:
        kind, _, size = case["case"].partition("-")
        if kind == "scaling" and not case["error"]:
            for name, entry in case["contenders"].items():
                point = int(size), entry["median_ms"] / 1e3, entry["memory_mib"]
                lines.setdefault(name, []).append(point)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for (name, points), marker in zip(sorted(lines.items()), "osD^", strict=False):
        sizes, seconds, memory = zip(*points, strict=True)
        for axis, values in zip(axes, (seconds, memory), strict=True):
            axis.loglog(sizes, values, marker=marker, label=name)
    for axis, label in zip(axes, ("seconds", "memory, MiB"), strict=True):
        axis.set(xlabel="stimuli", ylabel=label)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.suptitle("1 - Pearson of two RDMs and its gradient, 512 units", fontsize=11)
    plots.save(figure, path)


def finish(results: dict, options: Options) -> None:
    """Draws the figure if the options name a file."""
    if options.picture is not None:
        picture(json.loads(json.dumps(results)), options.picture)


main = functools.partial(
    runner.main, "benchmarks.kernels", build, CASES, Options, finish=finish
)

if __name__ == "__main__":
    sys.exit(main())
