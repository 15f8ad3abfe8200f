"""Models of measured RDMs: fixed, or with weights that are fitted to the measurements.

A model has one or several condensed RDMs, its `rdms`, and predicts their weighted sum.
`fit` chooses the weights. It sees no distances, only inner products of RDMs, so that it
costs the same for any number of stimuli; with which inner product depends on the
comparison (`compare_models`).

=============== ========================================================================
model           weights
=============== ========================================================================
`Fixed`         1: a model without parameters
`Selection`     1 for the RDM that is most similar to the measured ones, 0 for others
`Weighted`      those with the highest similarity; not negative, unless asked otherwise
`Interpolation` those with the highest similarity among mixtures of two neighbours
=============== ========================================================================
"""

import dataclasses
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rdljax import _checks

# Relative to the squared length of an RDM.
_UNIQUE = 1e-9


class Model(Protocol):
    """The interface of a model.

    Attributes:
      rdms: Condensed RDMs `[parts, pairs]` of the model's parts.
      flexible: Whether `fit` depends on the measured RDMs.
    """

    rdms: np.ndarray
    flexible: bool

    def fit(self, products: np.ndarray, target: np.ndarray, /) -> np.ndarray:
        """Returns weights `[parts]` of the model's RDMs.

        Args:
          products: Inner products of the model's RDMs, `[parts, parts]`.
          target: Inner products of the model's RDMs and the mean of the measured RDMs,
            each of unit length, `[parts]`.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Fixed:
    """A model that predicts one RDM, `[pairs]`."""

    rdm: npt.ArrayLike
    flexible = False

    @property
    def rdms(self) -> np.ndarray:
        """Returns the RDM as `[1, pairs]`."""
        return _rdms("Fixed", np.asarray(self.rdm)[None], fewest=1)

    def fit(self, products: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Returns the weight 1."""
        return np.ones(1)


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """A model that predicts one of several RDMs, such as the best layer of a net.

    Attributes:
      parts: The RDMs `[parts, pairs]`.
    """

    parts: npt.ArrayLike
    flexible = True

    @property
    def rdms(self) -> np.ndarray:
        """Returns the RDMs `[parts, pairs]`."""
        return _rdms("Selection", self.parts)

    def fit(self, products: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Returns 1 for the RDM of the highest mean similarity, 0 for others."""
        return np.eye(len(target))[np.argmax(_similarities(products, target))]


@dataclasses.dataclass(frozen=True, eq=False)
class Weighted:
    """A model that predicts a weighted sum of RDMs, such as those of a net's layers.

    The weights have the highest mean similarity with the measured RDMs: the solution of
    a least-squares problem, since the similarities are cosines.

    Attributes:
      parts: The RDMs `[parts, pairs]`.
      nonnegative: Whether weights may not be negative. Sums of squared distances are
        squared distances of features side by side, only with such weights.
      ridge: Penalty on the sum of squared weights, relative to the mean squared length
        of the RDMs; 0: none.
    """

    parts: npt.ArrayLike
    nonnegative: bool = True
    ridge: float = 0.0
    flexible = True

    def __post_init__(self):
        _checks.check_number("ridge", self.ridge, at_least=0)

    @property
    def rdms(self) -> np.ndarray:
        """Returns the RDMs `[parts, pairs]`."""
        return _rdms("Weighted", self.parts)

    def fit(self, products: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Returns the weights that fit the mean of the measured RDMs."""
        penalty = self.ridge * np.trace(products) / len(products)
        return _least_squares(products, target, penalty, self.nonnegative)


@dataclasses.dataclass(frozen=True, eq=False)
class Interpolation:
    """A model that predicts a mixture of two neighbours among RDMs in an order.

    Such as RDMs for several values of one parameter, or of a net's layers by depth.

    Attributes:
      parts: The RDMs `[parts, pairs]`, in their order.
    """

    parts: npt.ArrayLike
    flexible = True

    @property
    def rdms(self) -> np.ndarray:
        """Returns the RDMs `[parts, pairs]`."""
        return _rdms("Interpolation", self.parts)

    def fit(self, products: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Returns weights of two neighbours, not negative, whose sum is 1."""
        found, best = np.zeros(len(target)), -np.inf
        for first in range(len(target) - 1):
            two = np.s_[first : first + 2]
            own = _least_squares(products[two, two], target[two], 0.0, True)
            # (Both are 0 where neither resembles the measured RDMs.)
            mixtures = [own / own.sum()] if own.any() else [(1, 0), (0, 1)]
            for mixture in mixtures:
                weights = np.zeros(len(target))
                weights[two] = mixture
                length = np.sqrt(max(weights @ products @ weights, 0))
                similarity = weights @ target / length if length else 0
                if similarity > best:
                    found, best = weights, similarity
        return found


def _rdms(name: str, rdms: npt.ArrayLike, fewest: int = 2) -> np.ndarray:
    x = np.asarray(rdms)
    _checks.check_real("distances", x.dtype)
    if x.ndim != 2 or len(x) < fewest:
        shape = "[pairs]" if fewest == 1 else "[parts, pairs] of two parts or more"
        raise ValueError(
            f"{name} takes RDMs {shape}, got {x.shape[2 - fewest :]} (rdm.condense "
            "takes a square one)"
        )
    return x.astype(np.float64)


def _similarities(products: np.ndarray, target: np.ndarray) -> np.ndarray:
    lengths = np.sqrt(np.diagonal(products))
    return np.divide(target, lengths, out=np.zeros_like(target), where=lengths > 0)


def _least_squares(products, target, penalty, nonnegative) -> np.ndarray:
    """Minimises `w' A w / 2 - w' b` for inner products A and b; w may be bounded by 0.

    In units of each RDM's own length, and with a penalty that makes the weights unique
    where RDMs depend on each other, as all do that have fewer pairs than parts.
    """
    from scipy import optimize

    lengths = np.sqrt(np.diagonal(products) + penalty)
    unit = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    own = unit[:, None] * (products + penalty * np.eye(len(target))) * unit
    values, vectors = np.linalg.eigh(own)
    values = np.maximum(values, 0) + _UNIQUE
    root = np.sqrt(values)[:, None] * vectors.T
    side = vectors.T @ (unit * target) / np.sqrt(values)
    if nonnegative:
        return unit * optimize.nnls(root, side)[0]
    return unit * (vectors @ (side / np.sqrt(values)))
