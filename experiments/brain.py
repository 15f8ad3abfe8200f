"""A brain as the teacher: stimuli, their measured RDMs, and what a net makes of them.

The stimuli of a file are divided once, by chance: on some of them students are trained,
on the others their agreement with the brain is measured.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import command, data, methods, weights
from experiments import config as configs
from rdljax import errors, files, rdm, statistics, teachers, terms

# An array NAME_subject_session has RDM NAME of each subject and session.
EACH = "_subject_session"
# What is added to the name of an RDM for a control with its stimuli in random order.
SHUFFLED = "_shuffled"
# What an RDM may not be called, beside the parts of methods: methods are called after
# RDMs, and these are what runs call others.
TAKEN = ("plain", "teacher", "before")
# Of the division of the stimuli, and of their random order.
SEED, SEED_SHUFFLED = 0, 1

# What agreement is measured by.
SIMILARITIES = {
    "pearson": rdm.comparisons.Pearson(),
    "spearman": rdm.comparisons.Spearman(),
    "whitened": rdm.comparisons.WhitenedPearson(),
}


class Brain(NamedTuple):
    """Stimuli and what was measured of them.

    Attributes:
      images: Of the stimuli, uint8 `[n, H, W, C]`, of the task's channels.
      thumbnails: As the file has them.
      rdms: By name.
      shown: The places of the stimuli that students are trained with.
      held_out: The places of the others.
      fingerprint: SHA-256 of the file.
    """

    images: np.ndarray
    thumbnails: np.ndarray
    rdms: dict[str, rdm.io.Rdms]
    shown: np.ndarray
    held_out: np.ndarray
    fingerprint: str = ""


def names(config: configs.Config) -> list[str]:
    """The names of the RDMs in the config's file, and of their shuffled controls.

    Raises:
      UsageError: There is no such file, or it has no images or no RDM.
    """
    found = [] if config.brain is None else list(_arrays(config.brain)[1])
    return [*found, *(f"{name}{SHUFFLED}" for name in found)]


def load(config: configs.Config, dataset: data.Dataset) -> Brain:
    """The stimuli as the task's nets see images, and the RDMs that the config names.

    Raises:
      UsageError: The file cannot be read, or an RDM in it is none, or too few stimuli
        are left on either side.
    """
    images, keys = _arrays(config.brain)
    path, n = command.path("brain", config.brain), len(images)
    order = np.random.default_rng(SEED).permutation(n)
    held_out = round(config.held_out * n)
    shown = n - held_out
    step, devices = _size(config, shown), jax.device_count()
    if min(held_out, shown, step) < 3 or step > shown:
        raise command.UsageError(
            f"of {n} stimuli {held_out} are held out and {shown} are for training, "
            f"{step} in a step: an RDM needs 3 on either side"
        )
    if step % devices:
        raise command.UsageError(
            f"{step} stimuli in a step do not divide by {devices} devices; --stimuli "
            "names another number"
        )
    parted = np.sort(order[held_out:]), np.sort(order[:held_out])
    wanted = {part.partition("@")[0] for m in config.methods for part in parts(m)}
    rdms = {}
    for name in sorted(wanted | {*config.brain_rdms}):
        own = name.removesuffix(SHUFFLED) if name not in keys else name
        try:
            found = rdm.io.read(
                path, keys[own], stimuli=n, missing=True, signed=config.brain_signed
            )
        except errors.CannotRead as error:
            hint = str(error).replace("signed=True", "--brain_signed")
            raise command.UsageError(hint) from error
        rdms[name] = found if name in keys else _shuffled(found, parted)
        for part in parted:
            _check_measured(name, rdm.subjects.select(rdms[name], part))
    *size, channels = dataset.shape
    return Brain(
        _of_size(images, size, channels),
        images,
        rdms,
        *parted,
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _shuffled(rdms: rdm.io.Rdms, parted: Sequence[np.ndarray]) -> rdm.io.Rdms:
    """Returns a control: the stimuli of each part in random order among themselves.

    So a student is taught the same distances, of other stimuli.
    """
    rng = np.random.default_rng(SEED_SHUFFLED)
    order = np.empty(sum(map(len, parted)), np.int64)
    for part in parted:
        order[part] = rng.permutation(part)
    return rdm.subjects.select(rdms, order)._replace(stimuli=rdms.stimuli)


def _check_measured(name: str, rdms: rdm.io.Rdms) -> None:
    """Raises `UsageError` where a subject has fewer than three pairs of a part."""
    known = np.isfinite(rdm.subjects.mean_over_sessions(rdms)).sum(axis=1)
    if known.min() < 3:
        raise command.UsageError(
            f"{name}: subject {known.argmin()} has {known.min()} measured pairs of the "
            f"{rdm.stimuli(rdms.distances.shape[-1])} stimuli for training, or of "
            "those held out"
        )


def _arrays(file: str) -> tuple[np.ndarray, dict[str, str]]:
    """Returns the images in a file, and by name of each RDM the array that has it."""
    path, shapes = command.path("brain", file), {}

    def choose(found):
        shapes.update(found)
        return [name for name in found if name == "images"]

    try:
        images = files.npz(path, choose).get("images")
    except Exception as error:  # What is damaged fails in many ways.
        raise command.UsageError(
            f"brain cannot be read from {path}: {error}"
        ) from error
    if images is None or images.ndim != 4 or images.dtype != np.uint8:
        raise command.UsageError(
            f"{path} needs stimuli, an array `images` uint8 [n, height, width, "
            "channels]"
        )
    n = len(images)
    ends = (n * (n - 1) // 2,), (n, n)
    keys = [k for k, s in shapes.items() if s[-1:] == ends[0] or s[-2:] == ends[1]]
    # (Where a name has both, that of each subject counts.)
    found: dict[str, str] = {}
    for key in sorted(keys, key=lambda key: key.endswith(EACH)):
        name = key.removesuffix(EACH)
        if not name or name in (*TAKEN, *methods.PARTS) or {*"+@/"} & {*name}:
            raise command.UsageError(
                f"an RDM of {path} may not be called {key}: it may have any name but "
                f"{', '.join((*TAKEN, *methods.PARTS))}, and none with +, @ or /"
            )
        found[name] = key
    if both := [name for name in found if f"{name}{SHUFFLED}" in found]:
        raise command.UsageError(
            f"an RDM of {path} may not be called {both[0]}{SHUFFLED}, as the control "
            f"of its {both[0]} is"
        )
    if not keys:
        raise command.UsageError(
            f"{path} has no RDM of its {n} stimuli: none of {', '.join(shapes)} ends "
            f"in {ends[0][0]} pairs"
        )
    return images, found


def _of_size(images: np.ndarray, size: Sequence[int], channels: int) -> np.ndarray:
    """Returns images in another size and number of channels."""
    seen = images.astype(np.float32)
    if channels == 1 and seen.shape[-1] == 3:
        # (Rec. 601 luma, what Pillow's "L" is.)
        seen = seen @ np.array([[0.299], [0.587], [0.114]], np.float32)
    elif seen.shape[-1] == 1:
        seen = np.repeat(seen, channels, axis=-1)
    if seen.shape[-1] != channels:
        raise command.UsageError(
            f"the stimuli have {images.shape[-1]} channels and the images {channels}"
        )
    if seen.shape[1:3] != tuple(size):
        shape = (len(seen), *size, channels)
        seen = np.asarray(jax.image.resize(seen, shape, "linear", antialias=True))
    return np.clip(np.round(seen), 0, 255).astype(np.uint8)


def parts(method: str) -> list[str]:
    """Of a method, what is no name of a term: RDMs with their layers."""
    known = {"plain", *methods.PARTS}
    return [name for name in method.split("+") if name not in known]


def layers(config: configs.Config) -> list[str]:
    """The student's layers that a method compares with a brain, or that are shown."""
    named = [part.partition("@")[2] for m in config.methods for part in parts(m)]
    return list(dict.fromkeys([*config.brain_layers, *filter(None, named)]))


def size(config: configs.Config, brain: Brain) -> int:
    """Returns how many stimuli a step takes."""
    return _size(config, len(brain.shown))


def _size(config: configs.Config, shown: int) -> int:
    return config.stimuli or shown - shown % 8 or shown


def teacher(config: configs.Config, brain: Brain, method: str) -> teachers.Teacher:
    """Returns the RDMs of the stimuli for training that a method reads."""
    read = {part.partition("@")[0] for part in parts(method)}
    return teachers.rdms(
        {name: _target(config, brain, name)[0] for name in sorted(read)}
    )


def weighted_terms(
    config: configs.Config, brain: Brain, steps: int, part: str
) -> dict[str, methods.Weighted]:
    """The terms of a part of a method, such as `human_it` or `human_it@stage1`."""
    name, _, layer = part.partition("@")
    target, numbers = _target(config, brain, name)
    weight = config.brain_weight
    if config.brain_decay:
        weight = optax.linear_schedule(weight, 0.0, steps)
    term = terms.rdl_target(
        missing=bool(np.isnan(target).any()),
        distance=configs.DISTANCES[config.brain_distance],
        comparison=configs.BRAIN_COMPARISONS[config.brain_comparison],
        **numbers,
    )
    return {
        f"{name}/{own}": (
            weight,
            terms.over_global_batch(terms.on_layers((f"stimuli/{own}", name), term)),
        )
        for own in ([layer] if layer else config.brain_layers)
    }


def _target(
    config: configs.Config, brain: Brain, name: str
) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns what is taught of an RDM, and the numbers of its objective."""
    rdms = rdm.subjects.select(brain.rdms[name], brain.shown)
    weights = None
    if config.brain_reliability and len(rdms.distances) > 1:
        weights = np.maximum(rdm.subjects.reliability(rdms), 0)
        if not np.nansum(weights) > 0:
            raise command.UsageError(
                f"brain_reliability: of {name} no subject has two sessions that agree"
            )
        # (Of a subject of one session nothing is known: it counts as the others do.)
        weights = np.where(np.isnan(weights), np.nanmean(weights), weights)
    if config.brain_subjects == "mean" or len(rdms.distances) == 1:
        return rdm.subjects.mean_over_subjects(rdms, weights).astype(np.float32), {}
    numbers = {} if weights is None else {"subject_weights": weights}
    each = rdm.subjects.mean_over_sessions(rdms)
    if config.brain_ceiling:
        comparison = configs.BRAIN_COMPARISONS[config.brain_comparison]
        ceiling = statistics.noise_ceiling(each, comparison=comparison)
        numbers["ceiling"] = ceiling.upper
    return each.astype(np.float32), numbers


def showing(view: Callable, dataset: data.Dataset) -> Callable:
    """Returns a view that has the batch's stimuli beside its images.

    Args:
      view: Of the images.
      dataset: Whose normalisation is applied.

    Returns:
      A view of `arrays` with `stimuli`, uint8 `[n, H, W, C]`, and of a batch with
      `stimulus`, int32: which of them.
    """

    def apply(arrays, batch, key):
        chosen = batch["stimulus"]
        images = data.normalise(dataset, arrays["stimuli"][chosen])
        seen = view(arrays, batch, key)
        return {**seen, "extra_images": {"stimuli": images}, "stimulus": chosen}

    return apply


def rdms(
    config: configs.Config,
    brain: Brain,
    dataset: data.Dataset,
    net: Any,
    variables: Any,
) -> Callable[[], dict[str, np.ndarray]]:
    """A net's RDM of all stimuli, by layer, under way: with what waits for it."""
    images = data.normalise(dataset, brain.images)
    seen = weights.activations(net, variables, images, tuple(layers(config)))
    distance = configs.DISTANCES[config.brain_distance]
    found = {name: _rdm(x, distance=distance) for name, x in seen.items()}
    return lambda: {name: np.asarray(x) for name, x in found.items()}


_rdm = jax.jit(rdm.compute)


def selected(distances: np.ndarray, stimuli: np.ndarray) -> np.ndarray:
    """Returns a condensed RDM `[..., pairs]` of some of its stimuli."""
    found = rdm.subjects.select(rdm.io.Rdms(distances), stimuli)
    return found.distances


def each(brain: Brain, name: str, stimuli: np.ndarray) -> np.ndarray:
    """Returns the RDM of each subject `[subjects, pairs]`, of some stimuli."""
    return rdm.subjects.mean_over_sessions(
        rdm.subjects.select(brain.rdms[name], stimuli)
    )


def progress(
    config: configs.Config, brain: Brain, found: dict[str, np.ndarray]
) -> dict[str, float]:
    """Pearson's correlation of a net's RDMs with the brain's, for learning curves."""
    answered = {}
    for part, stimuli in (("held out", brain.held_out), ("shown", brain.shown)):
        for name in config.brain_rdms:
            subjects = each(brain, name, stimuli)
            for layer, own in found.items():
                r = similarity(selected(own, stimuli), subjects, "pearson")
                answered[f"{part}: {name}/{layer}"] = r
    return answered


def similarity(own: np.ndarray, subjects: np.ndarray, kind: str) -> float:
    """How similar an RDM is to that of each subject, the mean, by `SIMILARITIES`.

    (To the mean RDM of the subjects it is more similar than to any, so that it could
    not be held against a noise ceiling.) Without pairs that are missing; NaN where the
    whitened one would have to do without.
    """
    found = []
    for one in subjects:
        known = ~np.isnan(one)
        if kind == "whitened" and not known.all():
            return float("nan")
        pair = (jnp.asarray(x[known], jnp.float32) for x in (own, one))
        found.append(1 - float(rdm.compare(*pair, comparison=SIMILARITIES[kind])))
    return float(np.mean(found))


def summarise(
    config: configs.Config, brain: Brain, results: Sequence[dict], baseline: str
) -> dict[str, Any]:
    """Returns how students agree with brains on the stimuli that were held out.

    Args:
      config: The settings.
      brain: The stimuli.
      results: Of each student, with `brain`: by layer its RDM of all stimuli.
      baseline: The method that others are compared with.

    Returns:
      By RDM `ceilings` (by similarity, the lower and the upper) and `agreement`: by
      method and layer, the mean and spread over seeds of each similarity (to each
      subject, the mean); the 95 % interval of Pearson's correlation, its mean over
      seeds, were other stimuli drawn; the same of the difference from the baseline;
      and Pearson's correlation on the stimuli that were shown.
    """
    by_method: dict[str, list[dict]] = {}
    for result in results:
        by_method.setdefault(result["method"], []).append(result)
    found = {}
    for name in config.brain_rdms:
        held_out, shown = (
            each(brain, name, part) for part in (brain.held_out, brain.shown)
        )
        agreement: dict[str, dict] = {}
        for layer in layers(config):
            draws = {}
            for method, runs in by_method.items():
                own = [selected(run["brain"][layer], brain.held_out) for run in runs]
                seen = [selected(run["brain"][layer], brain.shown) for run in runs]
                there = {
                    kind: [similarity(x, held_out, kind) for x in own]
                    for kind in SIMILARITIES
                }
                there["shown"] = [similarity(x, shown, "pearson") for x in seen]
                agreement.setdefault(method, {})[layer] = {
                    k: _spread(values) for k, values in there.items()
                }
                if np.isfinite(held_out).all():
                    draws[method] = _drawn(own, held_out)
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
    """By similarity the lower and the upper bound of the noise ceiling.

    Empty where there is but one subject, or pairs are missing.
    """
    if len(each) < 2 or not np.isfinite(each).all():
        return {}
    return {
        kind: list(statistics.noise_ceiling(each, comparison=comparison))
        for kind, comparison in SIMILARITIES.items()
    }


def _drawn(own: Sequence[np.ndarray], subjects: np.ndarray) -> np.ndarray:
    """The mean similarity of RDMs and subjects, were other stimuli drawn: `[draws]`."""
    return np.mean(
        [1 - statistics.bootstrap(x, one).draws for x in own for one in subjects],
        axis=0,
    )


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    mean, std, _ = statistics.spread(values)
    return {k: None if np.isnan(x) else x for k, x in (("mean", mean), ("std", std))}
