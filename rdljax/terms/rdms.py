"""Makes terms of representational distance learning: with teachers or measured RDMs."""

import functools

import jax
import jax.numpy as jnp
import numpy.typing as npt
from jax import lax

from rdljax import _checks, _geometry, _indices, objectives, rdm
from rdljax.terms.base import State, Term


def rdl(
    *,
    pairs: int | None = None,
    distance: rdm.distances.Distance = rdm.distances.Cosine(),
    comparison: rdm.comparisons.Comparison = rdm.comparisons.Pearson(),
    form: rdm.forms.Form | None = None,
) -> Term:
    """Makes the term of `objectives.rdl` over all pairs of the batch or random pairs.

    Wrapped in `over_global_batch`, the pairs are drawn from the global batch, the same
    on all devices, and the devices exchange as little as possible (`rdm.discrepancy`).

    Args:
      pairs: Number of random pairs that each step draws. None: all pairs.
      distance: Distance between the activations of two examples, one of
        `rdm.distances`.
      comparison: Comparison of two RDMs, one of `rdm.comparisons`.
      form: How the RDMs are held in memory, one of `rdm.forms`. None: the fastest.

    References:
      McClure & Kriegeskorte, `Representational Distance Learning for Deep Neural
      Networks <https://doi.org/10.3389/fncom.2016.00131>`_, 2016; the first author's
      prototype draws 50 pairs per step.
    """
    if pairs is not None:
        pairs = _checks.as_count("number of pairs", pairs)
    chosen = {"distance": distance, "comparison": comparison}

    def init(key, student, teacher):
        return {}, State(replicated=() if pairs is None else key)

    def compare(student, teacher, drawn, axis_name):
        if form is None and axis_name is None:
            return objectives.rdl(student, teacher, drawn, **chosen)

        def one(s, t):
            dtype = _geometry.compute_dtype(s)
            s, t = s.astype(dtype), lax.stop_gradient(t.astype(dtype))
            given = s, t, drawn, None, distance, comparison
            return rdm.forms.discrepancy(*given, form=form, axis_name=axis_name)

        values = jax.tree.map(one, student, teacher)
        return functools.reduce(jnp.add, jax.tree.leaves(values))

    def loss_of(state, student, teacher, axis_name):
        devices = 1 if axis_name is None else lax.axis_size(axis_name)
        size = jax.tree.leaves(student)[0].shape[0] * devices
        if size < 2:
            raise ValueError("rdl: expected a batch of two or more")
        if pairs is None:
            return compare(student, teacher, None, axis_name), state
        key, draw = jax.random.split(state.replicated)
        drawn = rdm.sample_pairs(draw, size, pairs)
        return compare(student, teacher, drawn, axis_name), State(replicated=key)

    def apply(params, state, student, teacher, batch, axis_name=None):
        return loss_of(state, student, teacher, None)

    def apply_globally(params, state, student, teacher, batch, axis_name=None):
        return loss_of(state, student, teacher, axis_name)

    return Term(init, apply, apply_globally=apply_globally)


def rdl_target(
    *,
    missing: bool = False,
    stimulus: str = "stimulus",
    distance: rdm.distances.Distance = rdm.distances.Cosine(),
    comparison: rdm.comparisons.Comparison = rdm.comparisons.Pearson(),
    subject_weights: npt.ArrayLike | None = None,
    ceiling: npt.ArrayLike | None = None,
) -> Term:
    """Makes the term of `objectives.rdl_target`, for a batch with measured RDMs.

    With RDMs of several subjects it is the term of `objectives.rdl_subjects`.

        term = terms.on_layers(("stimuli/pooled", "human_it"), terms.rdl_target())
        terms.over_global_batch(term)

    Args:
      missing: Whether the RDMs have pairs that were not measured (NaN), which are then
        left out.
      stimulus: Entry of the batch with the indices of its stimuli, `[stimuli]`. An
        index out of range makes the loss NaN.
      distance: Distance between the activations of two stimuli, one of `rdm.distances`.
      comparison: Comparison of two RDMs, one of `rdm.comparisons`.
      subject_weights: Weights of the subjects, `[subjects]`. None: uniform weights.
      ceiling: Noise ceiling, the similarity of a perfect student, for all subjects or
        for each, `[subjects]`. None: no ceiling.

    The teacher's layer holds rows of the RDMs: see `teachers.rdms`.
    """
    compared_by = {"distance": distance, "comparison": comparison}

    def one(student, rows, chosen):
        if rows.ndim not in (2, 3) or rows.shape[0] != chosen.shape[0]:
            raise ValueError(
                f"rdl_target takes rows of RDMs [stimuli, n] or [stimuli, subjects, n] "
                f"of {chosen.shape[0]} stimuli, as teachers.rdms returns them, got "
                f"{rows.shape}"
            )
        stimuli = rows.shape[-1]
        _checks.check_integers(stimulus, chosen)
        chosen = _indices.places(chosen, stimuli)
        square = jnp.take(rows, chosen, axis=-1)
        if square.ndim == 2:
            target = rdm.condense(square)
        else:
            target = jax.vmap(rdm.condense, in_axes=1)(square)
        weights = None
        if missing:
            measured = ~jnp.isnan(target)
            weights = measured.astype(target.dtype)
            target = jnp.where(measured, target, 0)
        if target.ndim == 1 and subject_weights is None and ceiling is None:
            loss = objectives.rdl_target(student, target, weights, **compared_by)
        else:
            numbers = {"subject_weights": subject_weights, "ceiling": ceiling}
            targets = jnp.atleast_2d(target)
            loss = objectives.rdl_subjects(
                student, targets, weights, **compared_by, **numbers
            )
        return _checks.nan_unless(jnp.all(chosen < stimuli), loss)

    def init(key, student, teacher):
        return {}, State()

    def apply(params, state, student, teacher, batch, axis_name=None):
        losses = jax.tree.map(lambda s, t: one(s, t, batch[stimulus]), student, teacher)
        return functools.reduce(jnp.add, jax.tree.leaves(losses)), state

    return Term(init, apply)
