"""Fits logistic regressions; chooses the L2 weight on held-out images."""

import warnings

import numpy as np
from scipy import special

from experiments import command

L2 = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
# The largest entry of the gradient at a solution. (At 1e-6 some predictions of weakly
# regularised classifiers still change, at 1e-7 no change was observed.)
TOLERANCE = 1e-8


def choose(
    features: np.ndarray,
    label: np.ndarray,
    held_out: np.ndarray,
    held_out_label: np.ndarray,
    classes: int,
) -> tuple[float, float, np.ndarray]:
    """Returns the classifier with the smallest loss on held-out images.

    Args:
      features: The standardised features, `[N, units]`.
      label: The classes, `[N]`.
      held_out: The features of held-out images, `[M, units]`, used only to choose the
        L2 weight.
      held_out_label: The classes of held-out images, `[M]`.
      classes: The number of classes.

    Returns:
      The L2 weight, the mean cross-entropy on `held_out` (nats) and the parameters.
    """
    tried = []
    for l2 in L2:
        parameters = fit(features, label, classes, l2)
        logits = held_out @ parameters[:-1] + parameters[-1]
        right = logits[np.arange(len(logits)), held_out_label]
        loss = float(np.mean(special.logsumexp(logits, axis=1) - right))
        tried.append((l2, loss, parameters))
    return min(tried, key=lambda one: one[1])


def fit(features: np.ndarray, label: np.ndarray, classes: int, l2: float) -> np.ndarray:
    """Returns the parameters of a multinomial logistic regression.

    They minimise the mean cross-entropy plus `l2 / 2` times the sum of the squared
    weights, without the biases (`sklearn.linear_model.LogisticRegression`), until no
    entry of the gradient exceeds `TOLERANCE`.

    Args:
      features: The standardised features, `[N, units]`.
      label: The classes, `[N]`.
      classes: The number of classes.
      l2: The L2 weight, above 0.

    Returns:
      The weights, with the biases as the last row, float64 `[units + 1, classes]`.

    Raises:
      UsageError: If no minimum is found, or a class has no image.
    """
    from sklearn import exceptions, linear_model

    if absent := sorted({*range(classes)} - {*np.unique(label).tolist()}):
        raise command.UsageError(f"class {absent[0]} has no image to learn from")
    # (For two classes scikit-learn fits the difference of their weights, whose square
    # is twice the sum of their squares.)
    penalty = l2 / 2 if classes == 2 else l2
    model = linear_model.LogisticRegression(
        C=1 / (penalty * len(label)),
        tol=TOLERANCE,
        solver="newton-cg",
        max_iter=10_000,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", exceptions.ConvergenceWarning)
            model.fit(np.asarray(features, np.float64), label)
    except (ValueError, exceptions.ConvergenceWarning) as error:
        raise command.UsageError(
            f"the classifier of {features.shape[1]} features with L2 weight {l2:g} did "
            f"not converge: {error}"
        ) from error
    found = np.column_stack([model.coef_, model.intercept_]).T
    return np.concatenate([-found, found], axis=1) / 2 if classes == 2 else found


def predict(parameters: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Returns the most probable classes `[N]` of features `[N, units]`."""
    return np.argmax(features @ parameters[:-1] + parameters[-1], axis=1)
