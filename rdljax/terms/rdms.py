"""Makes terms of representational distance learning: with teachers or measured RDMs."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy.typing as npt
from jax import lax

from rdljax import _checks, _geometry, _indices, objectives, rdm
from rdljax.terms.base import State, Term

Array = jax.Array


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
) -> Term:
    """Makes the term of `objectives.rdl_target`, for a batch with a measured RDM.

        term = terms.on_layers(("stimuli/pooled", "human_it"), terms.rdl_target())
        terms.over_global_batch(term)

    Args:
      missing: Whether the RDM has pairs that were not measured (NaN), which are then
        left out.
      stimulus: Entry of the batch with the indices of its stimuli, `[stimuli]`. An
        index out of range makes the loss NaN.
      distance: Distance between the activations of two stimuli, one of `rdm.distances`.
      comparison: Comparison of two RDMs, one of `rdm.comparisons`.

    The teacher's layer holds rows of the RDM, `[stimuli, n]`: see `teachers.rdms`.
    """

    def compare(student, square):
        target = rdm.condense(square)
        target, weights = _split_missing(target) if missing else (target, None)
        return objectives.rdl_target(
            student, target, weights, distance=distance, comparison=comparison
        )

    return _with_stimuli("rdl_target", "[stimuli, n]", stimulus, compare)


def rdl_subjects(
    *,
    missing: bool = False,
    stimulus: str = "stimulus",
    distance: rdm.distances.Distance = rdm.distances.Cosine(),
    comparison: rdm.comparisons.Comparison = rdm.comparisons.Pearson(),
    subject_weights: npt.ArrayLike | None = None,
    ceiling: npt.ArrayLike | None = None,
) -> Term:
    """Makes the term of `objectives.rdl_subjects`, for a batch with subjects' RDMs.

    Args:
      missing: As for `rdl_target`.
      stimulus: As for `rdl_target`.
      distance: As for `rdl_target`.
      comparison: As for `rdl_target`.
      subject_weights: Weights of the subjects, `[subjects]`. None: uniform weights.
      ceiling: Noise ceiling, the similarity of a perfect student, for all subjects or
        for each, `[subjects]`. None: no ceiling.

    The teacher's layer holds rows of the RDMs, `[stimuli, subjects, n]`: see
    `teachers.rdms`.
    """

    def compare(student, square):
        targets = jax.vmap(rdm.condense, in_axes=1)(square)
        targets, weights = _split_missing(targets) if missing else (targets, None)
        return objectives.rdl_subjects(
            student,
            targets,
            weights,
            distance=distance,
            comparison=comparison,
            subject_weights=subject_weights,
            ceiling=ceiling,
        )

    form = "[stimuli, subjects, n]"
    return _with_stimuli("rdl_subjects", form, stimulus, compare)


def _with_stimuli(
    name: str, form: str, stimulus: str, compare: Callable[[Array, Array], Array]
) -> Term:
    """Makes a term that compares the student with rows of RDMs, layer by layer.

    Args:
      name: Name of the term, for messages.
      form: Shape of the rows, for messages.
      stimulus: Entry of the batch with the indices of its stimuli.
      compare: Function of the student's activations and of the rows of the batch's
        stimuli, with only the distances to each other.
    """

    def init(key, student, teacher):
        return {}, State()

    def one(student, rows, chosen):
        if rows.ndim != form.count(",") + 1 or rows.shape[0] != chosen.shape[0]:
            raise ValueError(
                f"{name} takes rows of RDMs {form} of {chosen.shape[0]} stimuli, as "
                f"teachers.rdms returns them, got {rows.shape}"
            )
        stimuli = rows.shape[-1]
        _checks.check_integers(stimulus, chosen)
        chosen = _indices.places(chosen, stimuli)
        loss = compare(student, jnp.take(rows, chosen, axis=-1))
        return _checks.nan_unless(jnp.all(chosen < stimuli), loss)

    def apply(params, state, student, teacher, batch, axis_name=None):
        losses = jax.tree.map(lambda s, t: one(s, t, batch[stimulus]), student, teacher)
        return functools.reduce(jnp.add, jax.tree.leaves(losses)), state

    return Term(init, apply)


def _split_missing(target: Array) -> tuple[Array, Array]:
    """Returns distances with 0 for pairs not measured (NaN), and 0 or 1 as weights."""
    measured = ~jnp.isnan(target)
    weights = measured.astype(target.dtype)
    return jnp.where(measured, target, 0), weights
