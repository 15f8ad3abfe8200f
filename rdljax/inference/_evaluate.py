"""Evaluates models on bootstrap draws: mean similarities, and the noise ceiling."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rdljax.inference import _products
from rdljax.inference._models import Model
from rdljax.inference._products import divide, lengths_of


class Problem(NamedTuple):
    """Models and measured RDMs.

    Attributes:
      models: The models.
      parts: Which of the RDMs are each model's.
      rdms: RDMs of all models, and then of the subjects, `[rdms, pairs]`.
      known: Which pairs were measured, `[pairs]`.
      comparison: One of `rdm.comparisons`.
    """

    models: Sequence[Model]
    parts: Sequence[slice]
    rdms: np.ndarray
    known: np.ndarray
    comparison: object

    def products(self, counts: np.ndarray) -> _products.Products:
        """Computes the inner products of all RDMs for draws `[draws, stimuli]`."""
        return _products.inner_products(self.rdms, self.known, counts, self.comparison)

    @property
    def subjects(self) -> slice:
        """The place of the subjects' RDMs."""
        return slice(self.parts[-1].stop, len(self.rdms))


class Folds(NamedTuple):
    """Numbers of folds of a crossvalidation over stimuli and over subjects; 1: none."""

    stimuli: int = 1
    subjects: int = 1


def evaluate(
    problem: Problem,
    counts: np.ndarray,
    copies: np.ndarray,
    folds: Folds = Folds(),  # noqa: B008
    repeats: int = 1,
    random: np.random.Generator | None = None,
) -> np.ndarray:
    """Computes the values of all models and the two bounds of the noise ceiling.

    Args:
      problem: Models and measured RDMs.
      counts: Number of copies of each stimulus, `[draws, stimuli]`.
      copies: Number of copies of each subject, `[ways, draws, subjects]`: several ways
        to draw subjects for the same draw of stimuli.
      folds: Weights of models are fitted to other stimuli and subjects than those of
        the fold that is predicted.
      repeats: Number of random divisions into folds.
      random: Generator of the divisions.

    Returns:
      Values `[ways, draws, repeats, models + 2]`, mean over folds.
    """
    size = max(1, _products.BLOCK // (2 * len(problem.rdms) ** 2))
    blocks = [np.s_[i : i + size] for i in range(0, len(counts), size)]
    given = folds, repeats, random
    found = [_evaluate(problem, counts[x], copies[:, x], *given) for x in blocks]
    return np.concatenate(found, axis=1)


def _evaluate(problem, counts, copies, folds, repeats, random) -> np.ndarray:
    """Computes the values of `evaluate` in one block of draws."""
    flexible = any(model.flexible for model in problem.models)
    if folds == (1, 1):
        products = problem.products(counts)
        fits = fit(problem, products, copies)
        values = _values(problem, products, fits, copies)
        bounds = _bounds(products, problem.subjects, copies, copies, leave_out=True)
        return np.concatenate([values, bounds], axis=-1)[:, :, None]
    if random is None:
        raise ValueError("a crossvalidation takes a random generator")
    found = np.zeros((*copies.shape[:2], repeats, len(problem.models) + 2))
    for repeat in range(repeats):
        of_stimuli = _divide(random, counts, folds.stimuli)
        of_subjects = _divide(random, copies, folds.subjects)
        for stimuli in range(folds.stimuli):
            tested = of_stimuli == stimuli
            test = problem.products(counts * tested)
            train = test
            if folds.stimuli > 1 and flexible:
                train = problem.products(counts * ~tested)
            for subjects in range(folds.subjects):
                own = copies * (of_subjects == subjects)
                others = copies - own if folds.subjects > 1 else own
                fits = fit(problem, train, others)
                values = _values(problem, test, fits, own)
                bounds = _bounds(
                    test,
                    problem.subjects,
                    own,
                    others,
                    leave_out=folds.subjects == 1,
                )
                found[:, :, repeat] += np.concatenate([values, bounds], axis=-1)
    return found / (folds.stimuli * folds.subjects)


def _divide(random: np.random.Generator, counts: np.ndarray, folds: int) -> np.ndarray:
    """Divides what was drawn into folds of nearly equal size, at random.

    All copies are in one fold. Returns fold numbers of the shape of `counts`.
    """
    order = np.where(counts > 0, random.random(counts.shape), 2).argsort(axis=-1)
    places = np.empty_like(order)
    np.put_along_axis(
        places, order, np.broadcast_to(np.arange(counts.shape[-1]), counts.shape), -1
    )
    return places % folds


def fit(
    problem: Problem, products: _products.Products, copies: np.ndarray
) -> list[np.ndarray]:
    """Fits each model to subjects: its weights `[ways, draws, parts]`.

    Weights that depend on no data have axes of size 1.
    """
    inner, subjects = products.inner, problem.subjects
    lengths = lengths_of(inner[:, subjects, subjects])
    shares = copies / copies.sum(axis=-1, keepdims=True)
    found = []
    for model, part in zip(problem.models, problem.parts, strict=True):
        unit = divide(inner[:, part, subjects], lengths[:, None, :])
        target = np.einsum("dks,wds->wdk", unit, shares)
        if not model.flexible:
            target = target[:1, :1]
        weights = [
            [model.fit(x[part, part], y) for x, y in zip(inner, own, strict=False)]
            for own in target
        ]
        found.append(np.array(weights))
    return found


def _values(problem, products, fits, copies) -> np.ndarray:
    """Computes mean similarities with subjects, `[ways, draws, models]`."""
    each = similarities(problem, products, fits)
    total = copies.sum(axis=-1)[:, :, None]
    return np.einsum("wdms,wds->wdm", each, copies) / total


def similarities(problem, products, fits) -> np.ndarray:
    """Computes the similarity of each model with each subject.

    Args:
      problem: Models and measured RDMs.
      products: The inner products.
      fits: For each model its weights `[ways, draws, parts]`, or with axes of size 1.

    Returns:
      Similarities `[ways, draws, models, subjects]`.
    """
    inner, subjects = products.inner, problem.subjects
    lengths = lengths_of(inner[:, subjects, subjects])
    found = []
    for part, weights in zip(problem.parts, fits, strict=True):
        product = np.einsum("wdk,dks->wds", weights, inner[:, part, subjects])
        own = np.einsum("wdk,dkl,wdl->wd", weights, inner[:, part, part], weights)
        own = np.sqrt(np.maximum(own, 0))
        found.append(divide(product, own[:, :, None] * lengths))
    ways, draws = (max(x.shape[i] for x in found) for i in (0, 1))
    shape = (ways, draws, found[0].shape[2])
    return np.stack([np.broadcast_to(x, shape) for x in found], axis=2)


def _bounds(products, subjects, tested, pooled, *, leave_out: bool) -> np.ndarray:
    """Computes the two bounds of the noise ceiling, `[ways, draws, 2]`.

    The best RDM is the mean of subjects' standardised RDMs: for the upper bound of all
    that were drawn, for the lower bound without the subject itself (`leave_out`), or of
    the subjects of other folds. Each subject that was drawn counts once.
    """
    inner = products.inner[:, subjects, subjects]
    lengths = lengths_of(inner)
    unit = divide(np.ones_like(inner[:, 0]), products.lengths[:, subjects])
    everyone = tested if leave_out else tested + pooled

    def similarity(shares):
        """The similarity of each subject with a mean over others, by their shares."""
        product = np.einsum("wds,dst->wdt", shares, inner)
        square = np.einsum("wds,wds->wd", product, shares)
        return product, square

    shares = everyone * unit
    product, square = similarity(shares)
    upper = divide(product, np.sqrt(np.maximum(square, 0))[:, :, None] * lengths)
    if leave_out:
        own = np.einsum("dss->ds", inner)
        square = square[:, :, None] - 2 * shares * product + shares**2 * own
        product = product - shares * own
    else:
        product, square = similarity(pooled * unit)
        square = square[:, :, None]
    lower = divide(product, np.sqrt(np.maximum(square, 0)) * lengths)
    once = tested > 0
    if leave_out:  # Of one subject there are no others.
        lower = np.where(once.sum(axis=-1, keepdims=True) > 1, lower, upper)
    number = once.sum(axis=-1)
    return np.stack([(x * once).sum(axis=-1) / number for x in (lower, upper)], axis=-1)
