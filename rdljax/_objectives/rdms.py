"""Defines objectives of representational distance matrices: RDL and its relatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rdljax import _checks, _geometry, _layerwise, rdm

Array = jax.Array


@_layerwise.layerwise(_layerwise.same_batch)
def rdl(
    student: Array,
    teacher: Array,
    pairs: Array | None = None,
    *,
    distance: rdm.distances.Distance = rdm.distances.Cosine(),
    comparison: rdm.comparisons.Comparison = rdm.comparisons.Pearson(),
) -> Array:
    """Computes the representational distance learning loss (RDL).

    Compares representational distance matrices (RDMs): the distances between every two
    examples of the batch in the student and in the teacher. The widths of the two
    layers may differ; no regressor is needed.

    The RDMs are held in memory in the fastest form for the batch. To choose the form,
    and for batches divided over devices, use `rdm.discrepancy`. (Above 2,048 examples
    there is no forward-mode derivative.)

    A batch of two examples has only one distance, which comparisons invariant to shift,
    scale or order cannot use: the default, `Pearson`, is then 0 for any student, with
    gradient 0. Use `MSE`, which compares the distance itself, or three or more
    examples.

    Args:
      student: Activations `[batch, ...]`, flattened to units.
      teacher: Activations `[batch, ...]` of the same examples.
      pairs: Pairs of examples to compare, `[2, p]` integers (`rdm.sample_pairs` draws
        them), the same in every layer; None: all pairs of the batch.
      distance: Distance between the activations of two examples, one of
        `rdm.distances`.
      comparison: Comparison of two RDMs, one of `rdm.comparisons`.

    Returns:
      A scalar, 0 for equal RDMs: in [0, 2] for `Pearson`, in squared units of the
      distance for `MSE`; summed over layers.

    Raises:
      ValueError: Different batch sizes, fewer than two examples, pairs that are not
        `[2, p]` integers.

    References:
      McClure & Kriegeskorte, `Representational Distance Learning for Deep Neural
      Networks <https://doi.org/10.3389/fncom.2016.00131>`_, Front. Comput. Neurosci.
      10:131, 2016.

    Departures: (1) all pairs of the batch by default; the first author's prototype
    draws 50; (2) the cosine distance by default, which was the best on validation
    images (`docs/results/defaults.md`); the prototype has the squared Euclidean
    distance; (3) the default comparison is invariant to the scale of the two RDMs; the
    prototype rescales the teacher's: `comparisons.MSE(scale=...)` has its three
    scalings; (4) the gradient is that of the value; the prototype injects a different
    error signal.
    """
    if len(student) < 2:
        raise ValueError("expected a batch of two or more")
    return rdm.forms.discrepancy(student, teacher, pairs, None, distance, comparison)


def _condensed_of_batch(student: tuple, target: tuple) -> str | None:
    expected = student[0] * (student[0] - 1) // 2 if len(student) > 1 else 0
    if expected < 1 or target != (expected,):
        return f"expected [batch, ...] and its condensed RDM ({expected},)"
    return None


@_layerwise.layerwise(_condensed_of_batch)
def rdl_target(
    student: Array,
    target: Array,
    weights: Array | None = None,
    *,
    distance: rdm.distances.Distance = rdm.distances.Cosine(),
    comparison: rdm.comparisons.Comparison = rdm.comparisons.Pearson(),
) -> Array:
    """Computes the RDL loss against a measured RDM (for example, of a brain).

    As `rdl`, with an RDM in place of the teacher's activations. `rdl_subjects` takes
    the RDMs of several subjects.

    Args:
      student: Activations `[n, ...]` of the n stimuli of the RDM, in the same order.
      target: Condensed RDM `[n (n - 1) / 2]`: the upper triangle row by row. Pairs with
        weight 0 may be NaN.
      weights: Weights of the pairs, in the shape of the target, not negative, the same
        in every layer; 0 masks a pair. None: uniform weights.
      distance: Distance between the student's activations for two stimuli, one of
        `rdm.distances`.
      comparison: Comparison of two RDMs, one of `rdm.comparisons`.

    Returns:
      A scalar, 0 for equal RDMs; summed over layers.

    Raises:
      ValueError: The length of the target or of the weights is not that of the
        student's RDM.

    References:
      McClure & Kriegeskorte, `Representational Distance Learning for Deep Neural
      Networks <https://doi.org/10.3389/fncom.2016.00131>`_, Front. Comput. Neurosci.
      10:131, 2016.
    """
    own = _rdm_of(student, distance, comparison)
    return rdm.compare(own, target, weights, comparison=comparison)


def _rdm_of(student: Array, distance, comparison) -> Array:
    """Returns the student's condensed RDM, rescaled if the loss ignores its scale."""
    if rdm.forms.blind_to_scale(distance, comparison):
        student = _geometry.in_own_unit(student)
    return rdm.forms.distances_of(student, None, distance)


def _condensed_of_subjects(student: tuple, targets: tuple) -> str | None:
    expected = student[0] * (student[0] - 1) // 2 if len(student) > 1 else 0
    if expected < 1 or len(targets) != 2 or targets[1] != expected or not targets[0]:
        return (
            f"expected [batch, ...] and the condensed RDM of each subject (subjects, "
            f"{expected})"
        )
    return None


@_layerwise.layerwise(_condensed_of_subjects)
def rdl_subjects(
    student: Array,
    targets: Array,
    weights: Array | None = None,
    *,
    distance: rdm.distances.Distance = rdm.distances.Cosine(),
    comparison: rdm.comparisons.Comparison = rdm.comparisons.Pearson(),
    subject_weights: Array | None = None,
    ceiling: Array | float | None = None,
) -> Array:
    """Computes the mean RDL loss against the measured RDMs of several subjects.

    The student is compared with each subject's RDM as in `rdl_target`.

    Args:
      student: Activations `[n, ...]` of the n stimuli of the RDMs, in the same order.
      targets: Condensed RDMs of the subjects, `[subjects, n (n - 1) / 2]`. Pairs with
        weight 0 may be NaN.
      weights: Weights of the pairs, in the shape of the targets or of one subject's
        RDM, not negative, the same in every layer; 0 masks a pair. A subject is left
        out if all its pairs have weight 0. None: uniform weights.
      distance: Distance between the student's activations for two stimuli, one of
        `rdm.distances`.
      comparison: Comparison of two RDMs, one of `rdm.comparisons`.
      subject_weights: Weights of the subjects, `[subjects]`, not negative, such as
        their reliability. None: uniform weights.
      ceiling: Noise ceiling, the similarity of a perfect student (`noise_ceiling` of
        `rdljax.statistics`), above 0, for all subjects or for each, `[subjects]`. For a
        comparison that is one minus a similarity s, the value is then
        `1 - s / ceiling`: 0 at the ceiling and negative above it. None: no ceiling.

    Returns:
      A scalar, 0 for equal RDMs; summed over layers.

    Raises:
      ValueError: The length of the targets or of the weights is not that of the
        student's RDM; weights or ceilings for another number of subjects; a ceiling of
        0 or less, or a ceiling with `MSE`, which has no similarity.

    References:
      McClure & Kriegeskorte, `Representational Distance Learning for Deep Neural
      Networks <https://doi.org/10.3389/fncom.2016.00131>`_, Front. Comput. Neurosci.
      10:131, 2016; the ceiling is that of Nili et al., A toolbox for representational
      similarity analysis, PLoS Computational Biology 10, 2014.
    """
    own = _rdm_of(student, distance, comparison)
    measured = None
    if weights is not None and np.ndim(weights) > 1:
        weights = jnp.asarray(weights)
        _check_shape("row of weights", weights.shape[:1], {targets.shape[:1]})
        # Not weights > 0, so that NaN counts as measured and the loss is NaN.
        measured = (~(weights <= 0)).any(axis=1)
    compare = functools.partial(rdm.compare, own, comparison=comparison)
    by_subject = (0, None if measured is None else 0)
    values = jax.vmap(compare, in_axes=by_subject)(targets, weights)
    return _over_subjects(values, subject_weights, ceiling, comparison, measured)


def _over_subjects(values: Array, subjects, ceiling, comparison, measured) -> Array:
    """Returns the weighted mean over subjects, each relative to its noise ceiling.

    Subjects without any measured pair are left out.
    """
    if ceiling is not None:
        if isinstance(comparison, rdm.comparisons.MSE):
            raise ValueError("MSE has no similarity and so takes no ceiling")
        _check_shape("ceiling", np.shape(ceiling), {(), values.shape})
        ceiling = jnp.asarray(
            _number_of_each("ceiling", ceiling, above=0), values.dtype
        )
        ceiling = _checks.nan_unless(ceiling > 0, ceiling)
        values = 1 - (1 - values) / ceiling
    if subjects is None and measured is None:
        return jnp.mean(values)
    if subjects is None:
        subjects = jnp.ones_like(values)
    else:
        _check_shape("weight", np.shape(subjects), {values.shape})
        subjects = _number_of_each("weight of a subject", subjects, at_least=0)
        if not isinstance(subjects, Array) and not np.any(subjects):
            raise ValueError(
                f"the weights of subjects must not all be 0, got {subjects}"
            )
        subjects = jnp.asarray(subjects, values.dtype)
        valid = (subjects >= 0) & jnp.any(subjects > 0)
        subjects = _checks.nan_unless(valid, subjects)
    if measured is not None:
        subjects = jnp.where(measured, subjects, 0)
    total = jnp.sum(subjects)
    return jnp.sum(subjects * values) / jnp.where(total > 0, total, 1)


def _check_shape(name: str, given: tuple, shapes: set[tuple]) -> None:
    if given not in shapes:
        raise ValueError(
            f"expected a {name} for each of {max(shapes)[0]} subjects, got {given}"
        )


def _number_of_each(name: str, given, **limits):
    """Checks and returns a number, or one number for each subject."""
    _checks.check_number(name, given, several=True, **limits)
    return given
