"""Makes the terms and the targets of a student that a brain teaches."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optax

from experiments import command, data, methods
from experiments import config as configs
from experiments.brain import source
from experiments.config import functions
from rdljax import rdm, statistics, teachers, terms


def teacher(
    config: configs.Config, brain: source.Brain, method: str
) -> teachers.Teacher:
    """Returns a teacher whose targets are a method's RDMs of the training stimuli."""
    read = {part.partition("@")[0] for part in source.parts(method)}
    measured: dict[str, Any] = {
        name: _target(config, brain, name)[0] for name in sorted(read)
    }
    return teachers.rdms(measured)


def weighted_terms(
    config: configs.Config, brain: source.Brain, steps: int, part: str
) -> dict[str, methods.Weighted]:
    """Returns the terms of a part of a method, with their weights.

    Args:
      config: The settings.
      brain: The stimuli and RDMs.
      steps: The number of training steps, for schedules.
      part: The part, such as `human_it` or `human_it@stage1`.
    """
    name, _, layer = part.partition("@")
    target, numbers = _target(config, brain, name)
    weight = config.brain.weight
    if config.brain.decay:
        weight = optax.linear_schedule(weight, 0.0, steps)
    make = terms.rdl_target if target.ndim == 1 else terms.rdl_subjects
    term = make(
        missing=bool(np.isnan(target).any()),
        distance=functions.DISTANCES[config.brain.distance],
        comparison=functions.BRAIN_COMPARISONS[config.brain.comparison],
        **numbers,
    )
    return {
        f"{name}/{own}": (
            weight,
            terms.over_global_batch(terms.on_layers((f"stimuli/{own}", name), term)),
        )
        for own in ([layer] if layer else config.brain.layers)
    }


def _target(
    config: configs.Config, brain: source.Brain, name: str
) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns the target, one RDM or one per subject, and keywords of its term."""
    rdms = rdm.subjects.select(brain.rdms[name], brain.shown)
    weights = None
    if config.brain.reliability and len(rdms.distances) > 1:
        weights = np.maximum(rdm.subjects.reliability(rdms), 0)
        if not np.nansum(weights) > 0:
            raise command.UsageError(
                f"brain_reliability: {name} has no subject whose sessions agree"
            )
        # (The reliability of one session is unknown: it gets the mean of the others.)
        weights = np.where(np.isnan(weights), np.nanmean(weights), weights)
    if config.brain.subjects == "mean" or len(rdms.distances) == 1:
        return rdm.subjects.mean_over_subjects(rdms, weights).astype(np.float32), {}
    numbers = {} if weights is None else {"subject_weights": weights}
    each = rdm.subjects.mean_over_sessions(rdms)
    if config.brain.ceiling:
        # (It has a similarity: the config checks that.)
        comparison: Any = functions.BRAIN_COMPARISONS[config.brain.comparison]
        ceiling = statistics.noise_ceiling(each, comparison=comparison)
        numbers["ceiling"] = ceiling.upper
    return each.astype(np.float32), numbers


def with_stimuli(view: Callable, dataset: data.Dataset) -> Callable:
    """Returns a view of the images of a batch and of its stimuli.

    Args:
      view: The view of the images.
      dataset: The data set with the normalisation to apply.

    Returns:
      A view that takes `arrays` with an entry `stimuli`, uint8 `[n, H, W, C]`, and a
      batch with an entry `stimulus`, the indices of stimuli, int32.
    """

    def apply(arrays, batch, key):
        chosen = batch["stimulus"]
        images = data.normalise(dataset, arrays["stimuli"][chosen])
        seen = view(arrays, batch, key)
        return {**seen, "extra_images": {"stimuli": images}, "stimulus": chosen}

    return apply
