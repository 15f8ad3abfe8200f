"""Compares models with the measured RDMs of several subjects: RSA's inference.

    models = {"pixels": pixels, "net": inference.Weighted(layers)}  # RDMs
    result = inference.compare_models(models, rdms)  # [subjects, pairs]
    print(result)
    plots.draw_comparison(result)

=================== ====================================================================
name                contents
=================== ====================================================================
`compare_models`    values of models, with a bootstrap over subjects, stimuli or both
`ModelComparison`   its result: intervals, noise ceiling, tests, a table, JSON
`Fixed`             a model with one RDM; an array counts as one, too
`Selection`         a model that is one of several RDMs
`Weighted`          a model that is a weighted sum of RDMs
`Interpolation`     a model that is a mixture of two neighbours among RDMs
`Model`, `Folds`    the interface of a model; numbers of folds of a crossvalidation
=================== ====================================================================

All of it is computed on the host in double precision, by NumPy: a draw is a few sums
over the pairs of stimuli, and all draws are one matrix product.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rdljax import _checks, _geometry, _resampling, rdm, statistics, validate
from rdljax.inference._evaluate import Folds, Problem, evaluate, fit, similarities
from rdljax.inference._models import Fixed, Interpolation, Model, Selection, Weighted
from rdljax.inference._result import ModelComparison

__all__ = [
    "Fixed",
    "Folds",
    "Interpolation",
    "Model",
    "ModelComparison",
    "Selection",
    "Weighted",
    "compare_models",
]

_COMPARISONS = (
    rdm.comparisons.Cosine,
    rdm.comparisons.Pearson,
    rdm.comparisons.WhitenedCosine,
    rdm.comparisons.WhitenedPearson,
)
_NO_CEILING = statistics.Ceiling(np.nan, np.nan)
# The number of random divisions into folds for the values themselves.
_DIVISIONS = 20
# The fewest stimuli of a fold.
_FEWEST = 3


def compare_models(
    models: Mapping[str, npt.ArrayLike | Model],
    data: npt.ArrayLike | rdm.io.Rdms,
    *,
    comparison: Any = rdm.comparisons.Pearson(),
    over: Sequence[str] = ("subjects", "stimuli"),
    draws: int = 1000,
    folds: Folds | None = None,
    divisions: int = 2,
    seed: int = 0,
) -> ModelComparison:
    """Compares models with measured RDMs, and tells how far the result generalises.

    The value of a model is its mean similarity with the subjects' RDMs. Its variance is
    estimated by a bootstrap. What is drawn decides to what the result generalises:
    `over=("subjects",)` to other subjects who see the same stimuli, `("stimuli",)` to
    other stimuli for the same subjects, both to both. Pairs of a stimulus with its own
    copy are left out.

    Fitted models are crossvalidated, within each draw too: they are fitted to
    some stimuli and some subjects and predict others. How a draw is divided into folds
    is random; the variance that this adds is estimated from several divisions and
    subtracted (Schütt et al. 2023). With a fitted model among them, fixed models are
    evaluated on the same folds.

    The bootstrap over stimuli is conservative: distances that share a stimulus make its
    variance too large, so that tests find a difference less often than they might.

    Args:
      models: By name, an RDM `[pairs]`, or one of `Fixed`, `Selection`, `Weighted`,
        `Interpolation`.
      data: Measured RDMs, `[subjects, pairs]` or `Rdms`, whose sessions are averaged.
        NaN: pairs that were not measured, the same in all subjects.
      comparison: One of `rdm.comparisons`: `Pearson`, `Cosine`, or `WhitenedPearson` or
        `WhitenedCosine` without a covariance. (For Spearman's correlation over
        subjects alone, give `Pearson` the ranks of all distances.)
      over: What is drawn: "subjects", "stimuli" or both.
      draws: Number of bootstrap draws.
      folds: Numbers of folds of the crossvalidation, over stimuli and over subjects; 1:
        none. None: `Folds(1, 1)` if all models are fixed; otherwise up to 5 for each,
        as in rsatoolbox, and 1 where there are too few.
      divisions: Number of divisions into folds for each draw, 2 or more.
      seed: Seed of the draws and the divisions.

    Returns:
      Values, intervals, the noise ceiling and tests.

    Raises:
      ValueError: A model, the data or the comparison has another form; there are too
        few subjects or stimuli for what is drawn and for the folds (a draw has 3
        different stimuli for each fold, and a subject, on average: at least 5 stimuli).

    References:
      Nili, Wingfield, Walther, Su, Marslen-Wilson & Kriegeskorte, A toolbox for
      representational similarity analysis, PLoS Computational Biology 10, 2014.
      Schütt, Kipnis, Diedrichsen & Kriegeskorte, Statistical inference on
      representational geometries, eLife 12, 2023.

    Where this differs from rsatoolbox 0.3.2:
      1. Values are those on the data, not means over the draws.
      2. Draws with too few different stimuli or subjects are drawn again, not dropped.
      3. Folds of stimuli alone have a lower bound of the noise ceiling without the
         subject itself; the mean RDM of the upper bound is normalised on the fold.
      4. `Weighted` and its like have the highest mean similarity, also if whitened: the
         mean RDM that they are fitted to is normalised by the whitened length.
      5. A constant RDM has the similarity 0, not NaN.
    """
    problem = _make_problem(models, data, comparison)
    measured = problem.rdms[problem.subjects]
    sizes = {"subjects": len(measured), "stimuli": rdm.stimuli(measured.shape[1])}
    drawn = _check_over(over, sizes)
    most = _different_in_draws(sizes, drawn)
    if folds is None:
        flexible = any(model.flexible for model in problem.models)
        folds = _default_folds(sizes, most) if flexible else Folds(1, 1)
    folds = _check_folds(folds, sizes, most)
    divisions = _checks.as_count("number of divisions", divisions, at_least=2)
    draws = _checks.as_count("number of draws", draws, at_least=2)
    random = np.random.default_rng(seed)

    found = _draw_values(problem, drawn, sizes, draws, folds, divisions, random)
    every = {name: np.ones((1, size)) for name, size in sizes.items()}
    given = problem, every["stimuli"], every["subjects"][None]
    value = evaluate(*given, folds=folds, repeats=_DIVISIONS, random=random)
    *values, lower, upper = value.mean(axis=(0, 1, 2)).tolist()
    each, weights = _fit_all(*given)
    return ModelComparison(
        values=dict(zip(models, values, strict=True)),
        similarities=dict(zip(models, each, strict=True)),
        ceiling=statistics.Ceiling(lower, upper) if len(measured) > 1 else _NO_CEILING,
        weights={k: w for k, w in zip(models, weights, strict=True) if w is not None},
        comparison=type(comparison).__name__,
        sizes={name: sizes[name] for name in drawn},
        draws=found.get("both", next(iter(found.values()))).mean(axis=1),
        covariances={name: _covariance(x) for name, x in found.items()},
        uncorrected={
            name: np.cov(x.mean(axis=1), rowvar=False) for name, x in found.items()
        },
    )


def _draw_values(
    problem: Problem,
    drawn: Sequence[str],
    sizes: Mapping[str, int],
    draws: int,
    folds: Folds,
    divisions: int,
    random: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Computes values and bounds in draws, `[draws, divisions, models + 2]`, by factor.

    With two factors the bootstraps over one of them have the draws of that over both.
    """
    fewest = {"subjects": folds.subjects, "stimuli": _FEWEST * folds.stimuli}
    counts = {
        name: _resampling.draw_counts(random, sizes[name], draws, fewest=fewest[name])
        for name in drawn
    }
    every = {name: np.ones((1, size)) for name, size in sizes.items()}
    found = {}
    if "subjects" in drawn:
        if folds.stimuli > 1:  # Each draw has divisions of its own.
            stimuli, ways = np.ones((draws, sizes["stimuli"])), counts["subjects"][None]
        else:
            stimuli, ways = every["stimuli"], counts["subjects"][:, None]
        own = evaluate(problem, stimuli, ways, folds, divisions, random)
        found["subjects"] = own[0] if folds.stimuli > 1 else own[:, 0]
    if "stimuli" in drawn:
        shape = draws, sizes["subjects"]
        ways = np.broadcast_to(every["subjects"], shape)[None]
        if len(drawn) == 2:
            ways = np.stack([ways[0], counts["subjects"]])
        own = evaluate(problem, counts["stimuli"], ways, folds, divisions, random)
        found |= dict(zip(("stimuli", "both"), own, strict=False))
    return found


def _make_problem(
    models: Mapping[str, npt.ArrayLike | Model],
    data: npt.ArrayLike | rdm.io.Rdms,
    comparison: Any,
) -> Problem:
    """Checks and collects models and data; RDMs are brought to about unit size."""
    covariance = getattr(comparison, "covariance", None)
    if type(comparison) not in _COMPARISONS or covariance is not None:
        names = ", ".join(kind.__name__ for kind in _COMPARISONS)
        raise ValueError(
            f"compare_models takes one of {names}, without a covariance: got "
            f"{comparison!r}"
        )
    subjects = _as_subjects(data)
    known = np.isfinite(subjects).all(axis=0)
    if (np.isfinite(subjects).any(axis=0) != known).any():
        raise ValueError(
            "compare_models takes RDMs of the same pairs in all subjects: some pairs "
            "are NaN in some subjects only. Set them to NaN in all, or leave out the "
            "stimuli or the subjects concerned (rdm.subjects.select)"
        )
    if not isinstance(models, Mapping) or not models:
        raise ValueError(f"compare_models takes a dict of models, got a {type(models)}")
    # A stimulus without any known pair is no stimulus.
    pairs = np.triu_indices(rdm.stimuli(known.size), 1)
    measured = np.unique(np.concatenate([first[known] for first in pairs]))
    kept = np.isin(pairs[0], measured) & np.isin(pairs[1], measured)
    known = known[kept]

    every: list[Model] = []
    parts: list[slice] = []
    stacks: list[np.ndarray] = []
    begin = 0
    for name, given in models.items():
        model: Model = given if hasattr(given, "fit") else Fixed(given)  # type: ignore
        try:
            rdms = model.rdms
        except ValueError as error:
            raise ValueError(f"the model {name!r}: {error}") from error
        if rdms.shape[1] != kept.size:
            raise ValueError(
                f"compare_models takes models of the measured pairs [{kept.size}]: got "
                f"{rdms.shape[1:]} for {name!r}"
            )
        rdms = np.where(known, rdms[:, kept], 0)
        if not np.isfinite(rdms).all():
            raise ValueError(f"the model {name!r} is not finite for a measured pair")
        every.append(model)
        parts.append(slice(begin, begin := begin + len(rdms)))
        stacks.append(_geometry.of_unit_size(rdms))
    subjects = np.where(known, subjects[:, kept], 0)
    stacks += [_geometry.of_unit_size(x)[None] for x in subjects]
    return Problem(every, parts, np.concatenate(stacks), known, comparison)


def _as_subjects(data: npt.ArrayLike | rdm.io.Rdms) -> np.ndarray:
    if isinstance(data, rdm.io.Rdms):
        data = rdm.subjects.mean_over_sessions(data)
    subjects = np.asarray(data)
    _checks.check_real("distances", subjects.dtype)
    if subjects.ndim != 2:
        raise ValueError(
            f"compare_models takes RDMs [subjects, pairs]: got {subjects.shape}"
        )
    subjects = subjects.astype(np.float64)
    rdm.stimuli(subjects.shape[1])
    known = ~np.isnan(subjects)
    if not known.any(axis=1).all():
        raise ValueError("compare_models takes RDMs with a known pair: got none")
    validate.distances(subjects[known], name="measured RDMs")
    return subjects


def _check_over(over: Sequence[str], sizes: Mapping[str, int]) -> list[str]:
    drawn = [over] if isinstance(over, str) else list(over)
    if not drawn or set(drawn) - set(sizes) or len(set(drawn)) < len(drawn):
        raise ValueError(
            f"compare_models draws over 'subjects', 'stimuli' or both: got {over!r}"
        )
    for name in drawn:
        if sizes[name] < 2:
            raise ValueError(f"a bootstrap over {name} takes two or more: got one")
    return [name for name in sizes if name in drawn]


def _different_in_draws(
    sizes: Mapping[str, int], drawn: Sequence[str]
) -> dict[str, float]:
    """Returns how many different things there are, on average, in a draw."""
    return {
        name: n * (1 - (1 - 1 / n) ** n) if name in drawn else n
        for name, n in sizes.items()
    }


def _default_folds(sizes: Mapping[str, int], most: Mapping[str, float]) -> Folds:
    """Returns up to 5 folds for what a draw has on average, as in rsatoolbox."""
    subjects, stimuli = ((1 - np.exp(-1)) * sizes[k] for k in ("subjects", "stimuli"))
    of_stimuli = 2 + sum(int(stimuli >= n) for n in (12, 24, 40))
    of_subjects = 2 + sum(int(subjects >= n) for n in (6, 12, 20))
    return Folds(
        max(1, min(of_stimuli, int(most["stimuli"] / _FEWEST))),
        max(1, min(of_subjects, int(most["subjects"]))),
    )


def _check_folds(
    folds: Folds, sizes: Mapping[str, int], most: Mapping[str, float]
) -> Folds:
    """Checks that draws have enough different things for the folds, on average."""
    try:
        folds = Folds(*folds)
    except TypeError as error:
        raise ValueError(f"expected Folds(stimuli, subjects), got {folds!r}") from error
    folds = Folds(*(_checks.as_count("number of folds", n) for n in folds))
    needed = {"stimuli": _FEWEST * folds.stimuli, "subjects": folds.subjects}
    for name, fewest in needed.items():
        if most[name] < fewest:
            raise ValueError(
                f"compare_models takes {fewest} different {name} in a draw or more "
                f"({folds}): of {sizes[name]} a draw has {most[name]:.1f} on average"
            )
    return folds


def _fit_all(
    problem: Problem, stimuli: np.ndarray, subjects: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Fits models to all data: similarities `[models, subjects]`, and weights.

    Weights have unit length, since similarities do not depend on it.
    """
    products = problem.products(stimuli)
    fits = [x[0, 0] for x in fit(problem, products, subjects)]
    each = similarities(problem, products, [x[None, None] for x in fits])
    return each[0, 0], [
        x / (np.linalg.norm(x) or 1) if model.flexible else None
        for model, x in zip(problem.models, fits, strict=True)
    ]


def _covariance(values: np.ndarray) -> np.ndarray:
    """Estimates the covariance of values over draws, without that of divisions.

    With one division it is that of the values. With several, `[draws, divisions,
    values]`, it is extrapolated from the covariance of the values of one, and that of
    their mean, to infinitely many (and need not be positive).
    """
    divisions = values.shape[1]
    of_mean = np.cov(values.mean(axis=1), rowvar=False)
    if divisions == 1:
        return of_mean
    of_one = np.mean([np.cov(x, rowvar=False) for x in values.swapaxes(0, 1)], axis=0)
    return (divisions * of_mean - of_one) / (divisions - 1)
