"""Makes terms with several teachers."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rdljax import _checks, _geometry, errors, objectives, rdm
from rdljax.terms import base
from rdljax.terms.base import State, Term, from_objective

Array = jax.Array


def per_teacher(
    names: Sequence[str], term: Term, weights: Sequence[float] | None = None
) -> Term:
    """Applies a term to each of several teachers and sums the weighted losses.

    The term has its own parameters and state for each teacher.

    Args:
      names: Names of the teachers, as in `teachers.ensemble`.
      term: A term that receives the student's layers and those of one teacher, without
        the teacher's name as a prefix.
      weights: Weights of the teachers. None: 1 for each.

    Raises:
      ValueError: Not one weight for each teacher, or the same teacher twice.
    """
    weights = (1.0,) * len(names) if weights is None else tuple(weights)
    if len(weights) != len(names) or not names or len(set(names)) != len(names):
        raise ValueError(f"expected a weight for each of {names}, got {weights}")
    for name, weight in zip(names, weights, strict=True):
        _checks.check_number(f"weight of {name}", weight)

    def of(teacher, name):
        start = f"{name}/"
        found = {
            layer.removeprefix(start): activations
            for layer, activations in teacher.items()
            if layer.startswith(start)
        }
        if not found:
            known = sorted({k.rpartition("/")[0] for k in teacher})
            errors.check_name("teacher", name, known)
        return found

    def init(key, student, teacher):
        keys = jax.random.split(key, len(names))
        made = {
            name: term.init(k, student, of(teacher, name))
            for k, name in zip(keys, names, strict=True)
        }
        state = State(*({n: s[i] for n, (_, s) in made.items()} for i in range(2)))
        return {name: params for name, (params, _) in made.items()}, state

    def summing(apply):
        def summed(params, state, student, teacher, batch, axis_name=None):
            total, replicated, per_device = 0.0, {}, {}
            for name, weight in zip(names, weights, strict=True):
                memory = State(state.replicated[name], state.per_device[name])
                loss, memory = apply(
                    params[name], memory, student, of(teacher, name), batch, axis_name
                )
                replicated[name], per_device[name] = memory
                total += jnp.asarray(weight, loss.dtype) * loss
            return total, State(replicated, per_device)

        return summed

    return base.wrap_applies(init, term, summing)


def kd_mean(
    *, temperature: float = 4.0, weights: Sequence[float] | None = None
) -> Term:
    """Makes the term of `objectives.kd` with several teachers' mean probabilities.

        terms.on_layers(("logits", ["a/logits", "b/logits"]), terms.kd_mean())

    Args:
      temperature: Temperature of `objectives.kd`, at which the probabilities are
        averaged.
      weights: Weights of the teachers. None: uniform weights.

    References:
      Hinton, Vinyals & Dean, `Distilling the Knowledge in a Neural Network
      <https://arxiv.org/abs/1503.02531>`_, 2015, section 1: ensembles.
    """
    _checks.check_number("temperature", temperature, above=0)

    def objective(student, teachers):
        dtype = _geometry.compute_dtype(student)
        softness = jnp.asarray(temperature, dtype)
        probabilities = [jax.nn.softmax(t.astype(dtype) / softness) for t in teachers]
        mean = _weighted_mean(probabilities, weights)
        logits = softness * jnp.log(mean)
        return objectives.kd(student, logits, temperature=temperature)

    return from_objective(objective)


def rdl_mean(
    *,
    distance: rdm.distances.Distance = rdm.distances.Cosine(),
    comparison: rdm.comparisons.Comparison = rdm.comparisons.Pearson(),
    weights: Sequence[float] | None = None,
) -> Term:
    """Makes the term of `objectives.rdl_target` with the mean RDM of several teachers.

        terms.on_layers(("stage1", ["a/stage1", "b/stage1"]), terms.rdl_mean())

    Args:
      distance: Distance, as for `objectives.rdl`.
      comparison: Comparison of RDMs, as for `objectives.rdl`.
      weights: Weights of the teachers. None: uniform weights.

    References:
      McClure & Kriegeskorte, `Representational Distance Learning for Deep Neural
      Networks <https://doi.org/10.3389/fncom.2016.00131>`_, 2016; the first author's
      prototype uses the mean RDM of three nets.
    """

    def objective(student, teachers):
        rdms = [rdm.compute(t, distance=distance) for t in teachers]
        target = _weighted_mean(rdms, weights)
        return objectives.rdl_target(
            student, target, distance=distance, comparison=comparison
        )

    return from_objective(objective)


def _weighted_mean(arrays: Sequence[Array], weights: Sequence[float] | None) -> Array:
    weights = [1.0] * len(arrays) if weights is None else weights
    for weight in weights:
        _checks.check_number("weight of a target", weight, at_least=0)
    shapes = [a.shape for a in arrays]
    if len(weights) != len(arrays) or len(set(shapes)) > 1:
        raise ValueError(
            f"expected a weight for each of several targets of one shape, got weights "
            f"{weights} and {shapes}"
        )
    factors = [jnp.asarray(w, a.dtype) for w, a in zip(weights, arrays, strict=True)]
    products = [w * a for w, a in zip(factors, arrays, strict=True)]
    return functools.reduce(jnp.add, products) / functools.reduce(jnp.add, factors)
