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
# Random divisions into folds for the value itself, and for the fewest stimuli in one.
_DIVISIONS, _FEWEST = 20, 3


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

    Models with weights are crossvalidated, within each draw too: they are fitted to
    some stimuli and some subjects and predict others. How a draw is divided into folds
    is random; the variance that this adds is estimated from several divisions and
    subtracted (Schütt et al. 2023).

    Args:
      models: By name, an RDM `[pairs]`, or one of `Fixed`, `Selection`, `Weighted`,
        `Interpolation`.
      data: Measured RDMs, `[subjects, pairs]` or `Rdms`, whose sessions are averaged.
        NaN: pairs that were not measured, the same in all subjects.
      comparison: One of `rdm.comparisons`: `Pearson`, `Cosine`, or `WhitenedPearson` or
        `WhitenedCosine` without a covariance. (For Spearman's correlation give ranks:
        with `Pearson` they are the same, but not in draws of stimuli.)
      over: What is drawn: "subjects", "stimuli" or both.
      draws: Number of bootstrap draws.
      folds: Numbers of folds of the crossvalidation, over stimuli and over subjects; 1:
        none. None: `Folds(1, 1)` if all models are fixed; otherwise 2 to 5 for each,
        as in rsatoolbox (1 for a single subject).
      divisions: Number of divisions into folds for each draw, 2 or more.
      seed: Seed of the draws and the divisions.

    Returns:
      Values, intervals, the noise ceiling and tests.

    Raises:
      ValueError: A model, the data or the comparison has another form; there are too
        few subjects or stimuli for what is drawn and for the folds.

    References:
      Nili, Wingfield, Walther, Su, Marslen-Wilson & Kriegeskorte, A toolbox for
      representational similarity analysis, PLoS Computational Biology 10, 2014.
      Schütt, Kipnis, Diedrichsen & Kriegeskorte, Statistical inference on
      representational geometries, eLife 12, 2023. Where rsatoolbox 0.3.2 differs: it
      reports means over the draws as values; it normalises the mean RDM of a
      crossvalidated noise ceiling over all stimuli; with folds of stimuli alone its
      lower bound contains the subject itself; it fits models to the mean of RDMs that
      are not whitened.
    """
    problem = _problem(models, data, comparison)
    measured = problem.rdms[problem.subjects]
    sizes = {"subjects": len(measured), "stimuli": rdm.stimuli(measured.shape[1])}
    drawn = _drawn(over, sizes)
    if folds is None:
        flexible = any(model.flexible for model in problem.models)
        folds = _default_folds(sizes) if flexible else Folds(1, 1)
    _check_folds(folds, sizes)
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
        ceiling=statistics.Ceiling(lower, upper),
        weights={k: w for k, w in zip(models, weights, strict=True) if w is not None},
        comparison=type(comparison).__name__,
        sizes={name: sizes[name] for name in drawn},
        draws=found.get("both", next(iter(found.values()))).mean(axis=1),
        covariances={name: _covariance(x) for name, x in found.items()},
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
        ways = counts["subjects"][:, None]
        own = evaluate(problem, every["stimuli"], ways, folds, divisions, random)
        found["subjects"] = own[:, 0]
    if "stimuli" in drawn:
        shape = draws, sizes["subjects"]
        ways = np.broadcast_to(every["subjects"], shape)[None]
        if len(drawn) == 2:
            ways = np.stack([ways[0], counts["subjects"]])
        own = evaluate(problem, counts["stimuli"], ways, folds, divisions, random)
        found |= dict(zip(("stimuli", "both"), own, strict=False))
    return found


def _problem(models, data, comparison) -> Problem:
    """Checks and collects models and data; RDMs are brought to about unit size."""
    covariance = getattr(comparison, "covariance", None)
    if type(comparison) not in _COMPARISONS or covariance is not None:
        names = ", ".join(kind.__name__ for kind in _COMPARISONS)
        raise ValueError(
            f"compare_models takes one of {names}, without a covariance: got "
            f"{comparison!r}"
        )
    subjects = _subjects(data)
    known = np.isfinite(subjects).all(axis=0)
    if (np.isfinite(subjects).any(axis=0) != known).any():
        raise ValueError(
            "compare_models takes RDMs of the same pairs in all subjects: some pairs "
            "are NaN in some subjects only. Set them to NaN in all, or leave out the "
            "stimuli or the subjects concerned (rdm.subjects.select)"
        )
    if not isinstance(models, Mapping) or not models:
        raise ValueError(f"compare_models takes a dict of models: got {models!r}")
    parts: list[slice] = []
    stacks: list[np.ndarray] = []
    begin = 0
    every: list[Model] = [
        x if hasattr(x, "fit") else Fixed(x)  # type: ignore[misc]
        for x in models.values()
    ]
    for name, model in zip(models, every, strict=True):
        rdms = model.rdms
        if rdms.shape[1] != subjects.shape[1]:
            raise ValueError(
                f"compare_models takes models of the measured pairs "
                f"[{subjects.shape[1]}]: got {rdms.shape[1:]} for {name!r}"
            )
        if not np.isfinite(rdms[:, known]).all():
            raise ValueError(f"the model {name!r} is not finite for a measured pair")
        parts.append(slice(begin, begin := begin + len(rdms)))
        stacks.append(_geometry.of_unit_size(np.where(known, rdms, 0)))
    stacks += [_geometry.of_unit_size(np.where(known, x, 0))[None] for x in subjects]
    rdms = np.concatenate(stacks)
    return Problem(every, parts, rdms, known, comparison)


def _subjects(data) -> np.ndarray:
    if isinstance(data, rdm.io.Rdms):
        data = rdm.subjects.mean_over_sessions(data)
    subjects = np.asarray(data)
    _checks.check_real("distances", subjects.dtype)
    if subjects.ndim != 2:
        raise ValueError(
            f"compare_models takes RDMs [subjects, pairs]: got {subjects.shape}"
        )
    subjects = subjects.astype(np.float64)
    stimuli = rdm.stimuli(subjects.shape[1])
    if stimuli < _FEWEST:
        raise ValueError(f"compare_models takes three stimuli or more: got {stimuli}")
    known = ~np.isnan(subjects)
    if not known.any(axis=1).all():
        raise ValueError("compare_models takes RDMs with a known pair: got none")
    validate.distances(subjects[known], name="measured RDMs")
    return subjects


def _drawn(over: Sequence[str], sizes: Mapping[str, int]) -> list[str]:
    drawn = [over] if isinstance(over, str) else list(over)
    if not drawn or set(drawn) - set(sizes) or len(set(drawn)) < len(drawn):
        raise ValueError(
            f"compare_models draws over 'subjects', 'stimuli' or both: got {over!r}"
        )
    for name in drawn:
        if sizes[name] < 2:
            raise ValueError(f"a bootstrap over {name} takes two or more: got one")
    return [name for name in sizes if name in drawn]


def _default_folds(sizes: Mapping[str, int]) -> Folds:
    """Returns 2 to 5 folds for what a draw has on average, as in rsatoolbox."""
    subjects, stimuli = ((1 - np.exp(-1)) * sizes[k] for k in ("subjects", "stimuli"))
    return Folds(
        2 + sum(stimuli >= n for n in (12, 24, 40)),
        1 if sizes["subjects"] < 2 else 2 + sum(subjects >= n for n in (6, 12, 20)),
    )


def _check_folds(folds: Folds, sizes: Mapping[str, int]) -> None:
    for number in folds:
        _checks.as_count("number of folds", number)
    if _FEWEST * folds.stimuli > sizes["stimuli"] or folds.subjects > sizes["subjects"]:
        raise ValueError(
            f"{folds} take {_FEWEST * folds.stimuli} stimuli and {folds.subjects} "
            f"subjects or more: got {sizes['stimuli']} and {sizes['subjects']}"
        )


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
    their mean, to infinitely many.
    """
    divisions = values.shape[1]
    of_mean = np.cov(values.mean(axis=1), rowvar=False)
    if divisions == 1:
        return of_mean
    of_one = np.mean([np.cov(x, rowvar=False) for x in values.swapaxes(0, 1)], axis=0)
    return (divisions * of_mean - of_one) / (divisions - 1)
