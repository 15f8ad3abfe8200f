"""Runs the student, in training or evaluation mode, also in micro-batches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rdljax import _checks
from rdljax.training import _params, _rows
from rdljax.training.state import Phase, Replicated

Array = jax.Array
PyTree = Any


def of_phase(phase: Phase, micro_batches: int) -> Callable:
    """Returns the function that runs the student on a batch in a phase."""
    micro_batches = _checks.as_count("number of micro-batches", micro_batches)
    run = in_training if _params.trains_student(phase) else in_evaluation
    return with_extra_images(
        run if micro_batches == 1 else in_micro_batches(run, micro_batches)
    )


def in_training(
    student: Any, variables: dict[str, PyTree], images: Array, dropout: Array
) -> tuple[dict[str, Array], dict[str, PyTree]]:
    """Returns activations in training mode, and the updated other variables."""
    return student.apply(
        variables,
        images,
        train=True,
        mutable=[name for name in variables if name != "params"],
        rngs={"dropout": dropout},
    )


def in_evaluation(
    student: Any, variables: dict[str, PyTree], images: Array, dropout: Array
) -> tuple[dict[str, Array], dict[str, PyTree]]:
    """Returns activations in evaluation mode, and the other variables unchanged."""
    state = {name: x for name, x in variables.items() if name != "params"}
    return student.apply(variables, images), state


def with_extra_images(run: Callable) -> Callable:
    """Wraps `run` to take a batch: its images followed by its `extra_images`."""

    def look(student, variables, batch, dropout):
        images, extra = batch["image"], batch.get("extra_images", {})
        for name, others in extra.items():
            if others.shape[1:] != images.shape[1:]:
                raise ValueError(
                    f"expected images of one size, got {name} {others.shape} and "
                    f"the batch's {images.shape}"
                )
        if not extra:
            return run(student, variables, images, dropout)
        everything = jnp.concatenate([images, *extra.values()])
        seen, state = run(student, variables, everything, dropout)
        at = len(images)
        found = {layer: x[:at] for layer, x in seen.items()}
        for name, others in extra.items():
            rows = slice(at, at + len(others))
            found |= {f"{name}/{layer}": x[rows] for layer, x in seen.items()}
            at = rows.stop
        return found, state

    return look


def in_micro_batches(run: Callable, micro_batches: int) -> Callable:
    """Wraps `run` to run on one micro-batch after the other.

    Only the returned activations of each are kept (`jax.checkpoint`), so that the
    gradient of a loss of all micro-batches takes the memory of one.
    """

    def accumulated(student, variables, images, dropout):
        variables = dict(variables)
        params = variables.pop("params")

        @jax.checkpoint
        def one(state, micro_batch):
            images, key = micro_batch
            seen, state = run(student, {"params": params, **state}, images, key)
            return state, seen

        state, seen = lax.scan(
            one,
            variables,
            (
                _rows.split(images, micro_batches, "micro-batches"),
                jax.random.split(dropout, micro_batches),
            ),
        )
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), seen), state

    return accumulated


def dropout_key(now: Replicated, axis_name: str | None) -> Array:
    """Returns the dropout key of a step, which differs from device to device."""
    # No step has this number, so that the keys differ from those of the view.
    key = jax.random.fold_in(now.key, np.uint32(2**32 - 1))
    key = jax.random.fold_in(key, now.step)
    if axis_name is None:
        return key
    return jax.random.fold_in(key, lax.axis_index(axis_name))
