"""Computes the agreement of nets with a brain on its stimuli."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as configs
from experiments import data, weights
from experiments.brain import source
from experiments.config import functions
from experiments.results import aggregate
from rdljax import nets, rdm, statistics

# The measures of agreement.
SIMILARITIES: dict[str, rdm.comparisons.Similarity] = {
    "pearson": rdm.comparisons.Pearson(),
    "spearman": rdm.comparisons.Spearman(),
    "whitened": rdm.comparisons.WhitenedPearson(),
}


def rdms(
    config: configs.Config,
    brain: source.Brain,
    dataset: data.Dataset,
    net: nets.NetLike,
    variables: Any,
) -> Callable[[], dict[str, np.ndarray]]:
    """Starts the computation of a net's RDMs of all stimuli, one for each layer.

    Returns:
      A function that waits for the RDMs `[pairs]` and returns them by layer.
    """
    images = data.normalise(dataset, jnp.asarray(brain.images))
    seen = weights.activations(net, variables, images, tuple(source.layers(config)))
    distance = functions.DISTANCES[config.brain.distance]
    found = {name: _rdm(x, distance=distance) for name, x in seen.items()}
    return lambda: {name: np.asarray(x) for name, x in found.items()}


_rdm = jax.jit(rdm.compute)


def select(distances: np.ndarray, stimuli: np.ndarray) -> np.ndarray:
    """Returns condensed RDMs `[..., pairs]` of some of their stimuli."""
    found = rdm.subjects.select(rdm.io.Rdms(distances), stimuli)
    return found.distances


def subject_rdms(brain: source.Brain, name: str, stimuli: np.ndarray) -> np.ndarray:
    """Returns the RDM of each subject `[subjects, pairs]` for some stimuli."""
    return rdm.subjects.mean_over_sessions(
        rdm.subjects.select(brain.rdms[name], stimuli)
    )


def progress(
    config: configs.Config, brain: source.Brain, found: dict[str, np.ndarray]
) -> dict[str, float]:
    """Returns Pearson's correlations of a net's RDMs with the brain's, by name."""
    found_by_name = {}
    for part, stimuli in (("held out", brain.held_out), ("shown", brain.shown)):
        for name in config.brain.rdms:
            subjects = subject_rdms(brain, name, stimuli)
            for layer, own in found.items():
                r = similarity(select(own, stimuli), subjects, "pearson")
                found_by_name[f"{part}: {name}/{layer}"] = r
    return found_by_name


def similarity(own: np.ndarray, subjects: np.ndarray, kind: str) -> float:
    """Returns the mean similarity of an RDM with the RDM of each subject.

    Missing pairs are left out; the whitened similarity is then NaN. (The similarity
    with the subjects' mean RDM would be larger than that with single subjects, so that
    it could not be compared with a noise ceiling.)

    Args:
      own: The RDM, `[pairs]`.
      subjects: The RDM of each subject, `[subjects, pairs]`.
      kind: The similarity, one of `SIMILARITIES`.
    """
    comparison = SIMILARITIES[kind]
    found = []
    for one in subjects:
        known = ~np.isnan(one)
        if kind == "whitened" and not known.all():
            return float("nan")
        pair = [x[known].astype(np.float32) for x in (own, one)]
        if isinstance(comparison, rdm.comparisons.OfRanks):
            # (On the host: subjects differ in their number of pairs, and JAX would
            # compile a program for each.)
            found.append(1 - comparison.on_host(*pair))
        else:
            found.append(1 - float(rdm.compare(*pair, comparison=comparison)))
    return float(np.mean(found))


def summarise(
    config: configs.Config, brain: source.Brain, results: Sequence[dict], baseline: str
) -> dict[str, Any]:
    """Returns the agreement of students with brains on the held-out stimuli.

    Args:
      config: The settings.
      brain: The stimuli.
      results: The result of each student, with `brain`: its RDMs of all stimuli, by
        layer.
      baseline: The method with which the others are compared.

    Returns:
      For each RDM `ceilings` (the lower and the upper bound, by similarity) and
      `agreement`, by method and layer: the mean and standard deviation over seeds of
      each similarity (the mean over subjects), and its values by seed; the 95 %
      bootstrap interval over stimuli of Pearson's correlation, averaged over seeds; the
      difference from the baseline, with such an interval; and Pearson's correlation on
      the stimuli that were shown.
    """
    by_method: dict[str, list[dict]] = {}
    for result in results:
        by_method.setdefault(result["method"], []).append(result)
    found = {}
    for name in config.brain.rdms:
        held_out, shown = (
            subject_rdms(brain, name, part) for part in (brain.held_out, brain.shown)
        )
        agreement: dict[str, dict] = {}
        for layer in source.layers(config):
            draws = {}
            for method, runs in by_method.items():
                own = [select(run["brain"][layer], brain.held_out) for run in runs]
                seen = [select(run["brain"][layer], brain.shown) for run in runs]
                there = {
                    kind: [similarity(x, held_out, kind) for x in own]
                    for kind in SIMILARITIES
                }
                there["shown"] = [similarity(x, shown, "pearson") for x in seen]
                agreement.setdefault(method, {})[layer] = {
                    k: aggregate.spread_and_values(values)
                    for k, values in there.items()
                }
                if np.isfinite(held_out).all():
                    draws[method] = _bootstrap(own, held_out)
            for method, drawn in draws.items():
                of = agreement[method][layer]
                of["interval"] = np.percentile(drawn, [2.5, 97.5]).tolist()
                if method != baseline:
                    gap = of["pearson"]["mean"]
                    gap -= agreement[baseline][layer]["pearson"]["mean"]
                    ends = np.percentile(drawn - draws[baseline], [2.5, 97.5])
                    of["difference"] = [gap, *ends.tolist()]
        found[name] = {"ceilings": ceilings(held_out), "agreement": agreement}
    return {
        "held_out": len(brain.held_out),
        "shown": len(brain.shown),
        "rdms": found,
    }


def ceilings(each: np.ndarray) -> dict[str, list[float]]:
    """Returns the lower and the upper bound of the noise ceiling, by similarity.

    The result is empty if there is only one subject, or if pairs are missing.
    """
    if len(each) < 2 or not np.isfinite(each).all():
        return {}
    return {
        kind: list(statistics.noise_ceiling(each, comparison=comparison))
        for kind, comparison in SIMILARITIES.items()
    }


def _bootstrap(own: Sequence[np.ndarray], subjects: np.ndarray) -> np.ndarray:
    """Returns the mean similarity with subjects for bootstrapped stimuli, `[draws]`."""
    return np.mean(
        [1 - statistics.bootstrap(x, one).draws for x in own for one in subjects],
        axis=0,
    )
