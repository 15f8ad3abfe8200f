"""Computes the numbers of a page about the agreement of nets with measured RDMs."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import brain, command
from experiments.analyses.report import encoding, page
from experiments.results.folder import BEFORE_FILE, NetFile, RunFile, net_folder
from rdljax import files, plots, rdm

BEFORE = "before"


def curves(runs: dict[str, list[dict]], summary: dict) -> list[dict]:
    """Returns the curves of held-out agreement over training, and over layers.

    Args:
      runs: The results, from `numbers.results`.
      summary: The content of `result.json`.

    Returns:
      Panels as those of `numbers.curves`, with the noise `ceiling` ([] if there is
      none); [] without measured RDMs.
    """
    found = summary.get("brain", {"rdms": {}})["rdms"]
    students = {name: of for name, of in runs.items() if name != "teacher"}
    over_training, over_layers = [], []
    for name, of in found.items():
        about = {"linear": True, "ceiling": of["ceilings"].get("pearson", [])}
        layers = _layers({name: of})
        for layer in layers:
            label = f"{name}, {layer}: Pearson’s correlation, held-out stimuli"
            own = _over_training(students, of["agreement"], name, layer)
            own |= {"section": "agreement", "axis": "epoch", "label": label}
            over_training.append(about | own)
        if len(layers) > 1:
            series = [
                {"name": method, **_over_layers(own)}
                for method, own in of["agreement"].items()
            ]
            label = f"{name}: Pearson’s correlation, held-out stimuli"
            about |= {"section": "layers", "axis": "layer", "label": label}
            over_layers.append({**about, "names": layers, "series": series})
    return [*over_training, *over_layers]


def _over_training(
    students: dict[str, list[dict]], agreement: dict, name: str, layer: str
) -> dict[str, Any]:
    """Returns the `first` epoch, and the `series` of a panel."""
    before = agreement.get(BEFORE, {}).get(layer, {}).get("pearson", {}).get("values")
    key, series = f"held out: {name}/{layer}", []
    for method, own in students.items():
        values = [[epoch[key] for epoch in net["history"]] for net in own]
        if before is not None:
            # (Students of the same seed begin with the same weights.)
            starts = zip(before, values, strict=True)
            values = [[start, *others] for start, others in starts]
        series.append({"name": method, **encoding.over_seeds(values)})
    return {"first": int(before is None), "series": series}


def _over_layers(layers: dict[str, dict]) -> dict[str, list]:
    found = [of["pearson"] for of in layers.values()]
    each = [of.get("values", [of["mean"]]) for of in found]
    return encoding.over_seeds([*zip(*each, strict=True)])


def numbers(
    folder: pathlib.Path, summary: dict, file: str | None = None
) -> dict[str, Any] | None:
    """Returns RDMs and places of the stimuli, and maps of nets and brains.

    Args:
      folder: The results folder of a finished run.
      summary: The content of `result.json`.
      file: The file of stimuli and their measured RDMs; None for the run's.

    Returns:
      None without measured RDMs; else `layers`; `measured`, the names of measured RDMs;
      `rdms` (percentiles) and `planes` (places `[n, 2]`) by layer and name;
      `agreement`, the correlation of each net with each measured RDM; the `stimuli`
      (their numbers) and which are `held_out`; their thumbnails `sprite`, in tiles of
      `tile` pixels; `maps`, the places of nets and brains by layer; and `unknown`, the
      reason why measured RDMs are left out, or "".

    Raises:
      UsageError: If a file of a net is damaged.
    """
    if "brain" not in summary:
        return None
    config, found = summary["config"], summary["brain"]["rdms"]
    nets, layers = _nets(folder, summary), _layers(found)
    if not nets:
        unknown = "the nets have no RDMs of the stimuli"
        nothing: dict[str, Any] = {
            "layers": [],
            "measured": [],
            "agreement": {},
            "maps": {},
        }
        return nothing | {"unknown": unknown}
    images, brains, unknown = _measured(folder, config, [*found], file)
    first, *_ = nets.values()
    stimuli = rdm.stimuli(len(first[0][layers[0]]))
    some = np.arange(stimuli)[:: -(-stimuli // encoding.MOST)]
    _, held_out = brain.divide(stimuli, config["held_out"])
    rdms, planes, maps = {}, {}, {}
    for layer in layers:
        shown = brains | {name: of[0][layer] for name, of in nets.items()}
        chosen = {name: brain.select(x, some) for name, x in shown.items()}
        rdms[layer] = {name: encoding.percentiles(x) for name, x in chosen.items()}
        planes[layer] = _planes(chosen)
        if sum(map(len, nets.values())) + len(brains) > 2:
            maps[layer] = _map(layer, nets, brains, held_out)
    sprite = None
    if images is not None:
        sprite = encoding.sprite([plots.cut_out(images[i]) for i in some])
    return {
        **{"layers": layers, "measured": [*brains], "unknown": unknown},
        **{"rdms": rdms, "planes": planes, "maps": maps},
        **{"stimuli": some.tolist(), "held_out": np.isin(some, held_out).tolist()},
        **{"sprite": sprite, "tile": encoding.TILE},
        "agreement": {
            name: {
                method: {layer: own[layer]["pearson"]["mean"] for layer in own}
                for method, own in of["agreement"].items()
            }
            for name, of in found.items()
        },
    }


def _layers(found: dict[str, dict]) -> list[str]:
    """Returns the compared layers, from the results by measured RDM."""
    every = [own for of in found.values() for own in of["agreement"].values()]
    return list(dict.fromkeys(layer for own in every for layer in own))


def _nets(folder: pathlib.Path, summary: dict) -> dict[str, list[dict]]:
    """Returns RDMs of all stimuli by layer, of each method's nets that have any."""
    found = {}
    for method, of in {BEFORE: None, **summary["methods"]}.items():
        seeds = range(summary["config"]["seeds"])
        paths = [
            folder / BEFORE_FILE.format(seed=seed)
            if of is None
            else folder / net_folder(method, seed) / NetFile.BRAIN_RDMS
            for seed in seeds
        ]
        nets = [_arrays(path) for path in paths if path.exists()]
        if nets:
            found[method] = nets
    return found


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return {layer: x.astype(np.float64) for layer, x in files.npz(path).items()}
    except Exception as error:  # (A damaged file raises many kinds of errors.)
        raise command.UsageError(f"{path} is damaged ({error!r})") from error


def _measured(
    folder: pathlib.Path, config: dict, names: Sequence[str], file: str | None
) -> tuple[np.ndarray | None, dict[str, np.ndarray], str]:
    """Returns images, mean RDMs over subjects, and why there are none ("" if some)."""
    path = file or config["brain"]
    try:
        images, rdms = brain.read(
            path, names, config["held_out"], signed=config["brain_signed"]
        )
        record = files.read_json(folder / RunFile.CONFIG)
        used = record.get("brain_file")
        if used != hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest():
            raise ValueError("it is not the file of this run")
    except (OSError, ValueError, KeyError, command.UsageError) as error:
        return None, {}, f"the measured RDMs in {path} ({error}); --brain=FILE names it"
    # (A method has the name of the RDM that teaches it.)
    means = {
        f"{name}{page.MEASURED}": rdm.subjects.mean_over_subjects(x)
        for name, x in rdms.items()
    }
    return images, means, ""


def _planes(rdms: dict[str, np.ndarray]) -> dict[str, list]:
    """Returns the places of stimuli, rotated to match the first RDM's."""
    first, *_ = rdms.values()
    reference = plots.classical_mds(first)
    reference /= np.abs(reference).max() or 1
    places = {
        k: plots.align(plots.classical_mds(x), reference) for k, x in rdms.items()
    }
    return {k: np.round(x, 4).tolist() for k, x in places.items()}


def _map(
    layer: str,
    nets: dict[str, list[dict]],
    brains: dict[str, np.ndarray],
    held_out: np.ndarray,
) -> dict[str, list]:
    """Returns places of nets and brains in a plane, by 1 - Pearson's r of their RDMs.

    RDMs are those of the stimuli that were held out. 1 - r is proportional to the
    squared Euclidean distance of standardised RDMs.
    """
    every = {name: [x] for name, x in brains.items()}
    every |= {name: [of[layer] for of in own] for name, own in nets.items()}
    rdms = np.array([brain.select(x, held_out) for own in every.values() for x in own])
    shared = rdms[:, np.isfinite(rdms).all(axis=0)]
    # (A constant RDM correlates with none.)
    apart = np.nan_to_num(1 - plots.correlate_rdms(shared, shared), nan=1.0)
    places = iter(plots.classical_mds(apart[np.triu_indices(len(apart), 1)]))
    return {k: [next(places).tolist() for _ in own] for k, own in every.items()}
