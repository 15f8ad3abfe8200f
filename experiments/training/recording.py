"""Records a trained net: its results on the test images, and its weights."""

import importlib.metadata
import pathlib
import platform
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

import rdljax
from experiments import brain, command, data, methods, weights
from experiments import config as configs
from experiments.config import functions
from experiments.results import folder as results_folder
from experiments.training import context as contexts
from experiments.training import loop
from rdljax import checkpoints, files, nets, rdm, statistics

# The name of students before their training.
BEFORE = "before"


class Outcome(NamedTuple):
    """A net at the end of its training.

    Attributes:
      variables: The parameters and statistics of the net.
      history: The metrics of each epoch; empty for a net that was trained elsewhere.
      start_up: The metrics of each epoch of the phases before the one with the task.
      seconds: The training time, in seconds.
    """

    variables: dict
    history: Sequence[loop.Metrics] = ()
    start_up: Sequence[loop.Metrics] = ()
    seconds: float = 0.0


def without_weights(folder: pathlib.Path, config: configs.Config) -> list[str]:
    """Returns the names of a finished run's nets whose weights are missing."""
    seeds = range(config.training.seeds)
    trained = [(method, i) for method in config.method.names for i in seeds]
    if config.nets.teacher is not None and config.nets.teacher_from is None:
        trained += [("teacher", seed) for seed in range(config.nets.ensemble)]
    names = [
        results_folder.net_folder(name, seed, config.nets.ensemble)
        for name, seed in trained
    ]
    return [name for name in names if not _has_weights(folder / name)]


def _has_weights(net: pathlib.Path) -> bool:
    return checkpoints.latest(net / results_folder.WEIGHTS_FOLDER) is not None


def record_net(
    context: contexts.Context,
    name: str,
    seed: int,
    net: nets.NetLike,
    outcome: Outcome,
) -> dict:
    """Returns the result of a trained net; measures and writes it if it is missing.

    If the net was trained here and its weights are missing, they and the result are
    written again.

    Raises:
      UsageError: If the result or the RDMs are damaged, or of another run.
    """
    own = outcome.variables
    ensemble = context.config.nets.ensemble
    place = context.folder / results_folder.net_folder(name, seed, ensemble)
    record = place / results_folder.NetFile.RESULT
    rdms_file = place / results_folder.NetFile.RDMS
    if outcome.history and record.exists() and not _has_weights(place):
        context.print_message(
            f"{place} has a result but no weights: both are written again"
        )
        record.unlink()
    if not record.exists():
        if outcome.history:
            save_weights(context, name, own, place / results_folder.WEIGHTS_FOLDER)
        measured = measure(context, net, own)
        save_arrays(rdms_file, measured.pop("rdms"))
        if context.inputs.measured is not None and name != "teacher":
            brain_rdms = brain.rdms(
                context.config, context.inputs.measured, context.dataset, net, own
            )
            save_arrays(place / results_folder.NetFile.BRAIN_RDMS, brain_rdms())
        about = {"method": name, "seed": seed, "seconds": outcome.seconds}
        about |= {
            "versions": versions(),
            "compared": compared_layers(context.config, name),
        }
        about |= {"config": configs.flat(context.config)}
        about |= {"history": outcome.history, "start_up": outcome.start_up}
        files.write_json(record, about | measured)
    try:
        result = files.read_json(record)
        results_folder.check_net(result, name, seed, context.config)
        result["rdms"] = files.npz(rdms_file, lambda _: net.layers)
    except Exception as error:  # (A damaged file raises many kinds of errors.)
        raise command.UsageError(
            f"{record} or {rdms_file.name} next to it is damaged ({error!r}); if the "
            "first is deleted, --resume measures the net again"
        ) from error
    return result


def save_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an .npz file, completely or not at all."""
    with files.draft(path) as file:
        # (By NumPy's type stub, any of the arrays might be `allow_pickle`.)
        np.savez(file, **arrays)  # type: ignore[arg-type]


def save_weights(
    context: contexts.Context, name: str, trained: dict, place: pathlib.Path
) -> None:
    """Writes a trained net to a folder for `--teacher_from`."""
    config, dataset = context.config, context.dataset
    normalisation = _shares(dataset.mean), _shares(dataset.std)
    own = config.nets
    modality: str = own.teacher_modality if name == "teacher" else own.modality
    if name != "teacher" and context.inputs.student is not None:
        normalisation = context.inputs.student.normalisation or normalisation
        modality = context.inputs.student.modality
    net = weights.TrainedNet(
        contexts.not_none(own.teacher) if name == "teacher" else own.student,
        dataset.classes,
        dataset.shape,
        trained,
        normalisation,
        {"run": str(place.parent), "data": dataset.note},
        modality,
    )
    weights.save(net, place)


def _shares(of: tuple[float, ...]) -> tuple[float, ...]:
    """Scales numbers from 0..255 to 0..1."""
    return tuple(x / 255 for x in of)


def compared_layers(config: configs.Config, name: str) -> list[str]:
    """Returns the layers of a net whose RDMs are compared."""
    pairs = map(methods.pair, config.rdl.layers)
    return [other if name == "teacher" else own for own, other in pairs]


def measure(context: contexts.Context, net: nets.NetLike, trained: dict) -> dict:
    """Returns the measurements of a trained net on the test images.

    The test images are read only once.

    Returns:
      `test_error` in percent; `predicted` classes and `correct` (0 or 1), lists over
      the test images; all of these None for a net of another task; `rdms`, the
      condensed RDM of the stimuli by layer.
    """
    test, under_way = context.dataset.test, rdms_of(context, net, trained)
    found = weights.logits(net, trained, context.dataset, test)
    rdms = {layer: np.asarray(x) for layer, x in under_way.items()}
    if found.shape[1] != context.dataset.classes:
        nothing = dict.fromkeys(("test_error", "predicted", "correct"))
        return nothing | {"rdms": rdms}
    predicted = found.argmax(axis=1)
    correct = predicted == test.label
    return {
        "test_error": float(100 * np.mean(~correct)),
        "predicted": predicted.tolist(),
        "correct": correct.astype(int).tolist(),
        "rdms": rdms,
    }


def rdms_of(
    context: contexts.Context, net: nets.NetLike, trained: dict
) -> dict[str, jax.Array]:
    """Starts the computation of the RDMs of the stimuli; returns them by layer."""
    images = data.normalise(
        context.dataset, context.dataset.test.image[context.stimuli]
    )
    seen = weights.activations(net, trained, images, net.layers)
    distance = functions.DISTANCES[context.config.rdl.distance]
    return {name: _rdm(x, distance=distance) for name, x in seen.items()}


# (In jit, where activations that are the same for all images have an RDM of zeros.)
_rdm = jax.jit(rdm.compute)


def is_rdm_epoch(epoch: int, epochs: int) -> bool:
    """Returns whether the RDMs at the end of an epoch are saved.

    They are saved for the first, second, fourth, ... and the last epoch.
    """
    return epoch & (epoch - 1) == 0 or epoch == epochs


def save_epoch_rdms(
    place: pathlib.Path,
    epoch: int,
    context: contexts.Context,
    rdms: dict[str, jax.Array],
) -> None:
    """Writes the RDMs of half of the stimuli of each class at an epoch's end."""
    label = context.dataset.test.label[context.stimuli]
    half = np.concatenate(
        [
            np.flatnonzero(label == one)[: max(1, np.sum(label == one) // 2)]
            for one in np.unique(label)
        ]
    )
    rows, columns = (half[i] for i in np.triu_indices(len(half), 1))
    n = len(label)
    at = rows * n - rows * (rows + 1) // 2 + columns - rows - 1
    place.mkdir(exist_ok=True)
    kept = {name: np.asarray(x)[at] for name, x in rdms.items()}
    save_arrays(place / results_folder.EPOCH_RDMS_FILE.format(epoch=epoch), kept)


def agreement(config: configs.Config, student: dict, teacher: dict) -> dict:
    """Returns the correlations of a student's RDMs with the teacher's.

    Args:
      config: The settings, for the pairs of layers.
      student: The student's condensed RDMs `[pairs]`, by layer.
      teacher: The teacher's condensed RDMs `[pairs]` of the same stimuli, by layer.

    Returns:
      For each entry of `config.rdl.layers`, `pearson` and `spearman`.
    """
    found = {}
    for layer in config.rdl.layers:
        own, other = methods.pair(layer)
        pearson, spearman = statistics.rdm_agreement(student[own], teacher[other])
        found[layer] = {"pearson": pearson, "spearman": spearman}
    return found


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "rdljax": rdljax.__version__, **found}


def read_brain_rdms(context: contexts.Context, results: list[dict]) -> list[dict]:
    """Reads each student's RDMs of the stimuli, before and after its training.

    Raises:
      UsageError: If a file of RDMs is damaged.
    """
    found, layers = [], brain.layers(context.config)
    places = {
        (BEFORE, seed): context.folder / results_folder.BEFORE_FILE.format(seed=seed)
        for seed in range(context.config.training.seeds)
    }
    histories = {}
    for result in results:
        if result["method"] != "teacher":
            key = result["method"], result["seed"]
            place = context.folder / results_folder.net_folder(*key)
            places[key] = place / results_folder.NetFile.BRAIN_RDMS
            histories[key] = result["history"]
    for (method, seed), file in places.items():
        try:
            own = files.npz(file, lambda _: layers)
        except Exception as error:  # (A damaged file raises many kinds of errors.)
            raise command.UsageError(
                f"{file} is damaged ({error!r}); if it is deleted, and result.json "
                "next to it, --resume measures the net again"
            ) from error
        history = histories.get((method, seed), [])
        found.append({"method": method, "seed": seed, "brain": own, "history": history})
    return found
