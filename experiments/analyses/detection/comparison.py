"""Trains and measures a detector on every backbone."""

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from experiments import command, data, display, locks, weights
from experiments.analyses.detection import backbones, canvas, centernet
from experiments.analyses.detection import folder as folders
from experiments.analyses.detection import options as detection_options
from experiments.analyses.detection import summary as detection_summary
from experiments.training import context as contexts
from experiments.training import interrupts, loop, recording
from rdljax import files

# Seeds of the canvases, the same for all seeds of the training.
PARTS = {"train": 0, "test": 1}


def compare(
    options: detection_options.Options, interrupt: interrupts.Interrupt
) -> dict:
    """Trains and measures a detector for each backbone and seed; writes the results.

    Args:
      options: The settings.
      interrupt: The request to stop.

    Returns:
      The content of `result.json`.

    Raises:
      UsageError: If a setting is not allowed, data or weights are missing, or the
        folder is not free.
      UnknownName: If there is no such net, layer or data set.
      Interrupted: If the comparison is stopped; the folder can be resumed.
      Diverged: If a loss is not finite.
    """
    sources = backbones.parse_backbones(options.backbones)
    try:
        dataset = data.load(options.data, options.data_dir)
    except ValueError as error:
        raise command.UsageError(str(error)) from error
    normalise = functools.partial(data.normalise, dataset)
    every = [
        backbones.load_backbone(name, source, seed, dataset, normalise, options)
        for name, source in sources.items()
        for seed in range(options.seeds)
    ]
    size = {"size": options.size, "objects": options.objects}
    counts = {"train": options.canvases, "test": options.test_canvases}
    canvases = {
        part: canvas.compose(dataset, part, count, seed=PARTS[part], **size)
        for part, count in counts.items()
    }
    every_setting = dataclasses.asdict(options).items()
    settings = {k: v for k, v in every_setting if k not in folders.RUNTIME_FLAGS}
    with locks.hold(folders.find_path(options)):
        folders.claim(options, settings | contexts.fingerprint(dataset))
        return _compare(options, settings, dataset, canvases, every, interrupt)


def _compare(
    options: detection_options.Options,
    settings: dict[str, Any],
    dataset: data.Dataset,
    canvases: dict[str, canvas.Canvases],
    every: list[backbones.Backbone],
    interrupt: interrupts.Interrupt,
) -> dict:
    """Runs `compare` in a claimed folder; returns the content of `result.json`."""
    folder = folders.find_path(options)
    sources = backbones.parse_backbones(options.backbones)
    note = describe(dataset, canvases)
    print(f"{note}\nResults: {folder}.")
    results = _results(options, settings, canvases, every, interrupt)
    summary = {
        "note": note,
        "settings": {"seeds": options.seeds, **settings},
        "versions": recording.versions(),
        "device": jax.devices()[0].device_kind,
        "backbones": detection_summary.summarise(results, sources),
    }
    detection_summary.picture(folder / "detections.png", results, canvases["test"])
    text = detection_summary.table(summary)
    files.write(folder / "table.md", text)
    files.write_json(folder / "result.json", summary)
    print(f"\n{text}\n{folder}: result.json, table.md, detections.png")
    return summary


def _results(
    options: detection_options.Options,
    settings: dict[str, Any],
    canvases: dict[str, canvas.Canvases],
    every: list[backbones.Backbone],
    interrupt: interrupts.Interrupt,
) -> list[dict]:
    """Returns the results of all backbones and seeds; trains and records new ones."""
    folder, steps = folders.find_path(options), _steps(options)
    optimizer = _optimizer(options)
    on_device = jax.tree.map(jnp.asarray, canvases["train"])
    results: list[dict] = []
    total = len(every) * steps
    with display.progress_bar(total=total, unit="step", smoothing=0.05) as bar:
        for backbone in every:
            found = record_backbone(folder, backbone, settings)
            if found is not None:
                results.append(found)
                bar.update(steps)
                continue
            bar.set_description(backbone.run)
            advance = functools.partial(_advance, backbone.run, bar, interrupt)
            found = _result(
                backbone, optimizer, on_device, canvases["test"], options, advance
            )
            results.append(found)
            record = found | {"settings": settings}
            files.write_json(folder / f"{backbone.run}.json", record)
    return results


def _steps(options: detection_options.Options) -> int:
    """Returns the number of steps of a training."""
    return options.epochs * (options.canvases // options.batch)


def _optimizer(options: detection_options.Options) -> optax.GradientTransformation:
    """Returns the optimizer: Adam with clipping and a warm-up of one epoch."""
    epoch = options.canvases // options.batch
    rate = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, epoch, _steps(options) + 1
    )
    return optax.chain(optax.clip_by_global_norm(centernet.CLIP), optax.adam(rate))


def _advance(name: str, bar: tqdm.tqdm, interrupt: interrupts.Interrupt) -> None:
    """Advances the progress bar by a step.

    Raises:
      Interrupted: If a stop was requested.
    """
    if interrupt.requested:
        raise interrupts.Interrupted(name)
    bar.update()


def record_backbone(
    folder: pathlib.Path, backbone: backbones.Backbone, settings: dict[str, Any]
) -> dict | None:
    """Returns the recorded result of a backbone and a seed; None if there is none.

    Args:
      folder: The folder for results.
      backbone: The backbone, with its seed.
      settings: The settings of the comparison. (Records of the first versions have
        none.)

    Raises:
      UsageError: If the record cannot be read, or is of another backbone, seed or
        comparison.
    """
    record = folder / f"{backbone.run}.json"
    if not record.exists():
        return None
    found = folders.read(record, "if it is deleted, --resume writes it again")
    if found.get("weights") != weights.fingerprint(backbone.variables):
        raise command.UsageError(
            f"{record} is of other weights; use another folder (--out=FOLDER) or "
            "another NAME"
        )
    mine = {"backbone": backbone.name, "seed": backbone.seed, "settings": settings}
    theirs = {"settings": settings} | found
    if changed := [k for k, value in mine.items() if theirs.get(k) != value]:
        raise command.UsageError(
            f"{record} is of another run: it differs in {', '.join(changed)}; if it is "
            "deleted, --resume writes it again"
        )
    return found


def _result(
    backbone: backbones.Backbone,
    optimizer: optax.GradientTransformation,
    canvases: canvas.Canvases,
    test: canvas.Canvases,
    options: detection_options.Options,
    advance: Callable[[], None],
) -> dict:
    """Trains and measures the detector of a backbone and a seed; returns the result."""
    start, detector = time.monotonic(), backbone.detector
    state = centernet.begin(
        detector, backbone.variables, optimizer, test.image, backbone.seed
    )
    state, history = centernet.train(
        detector,
        state,
        optimizer,
        canvases,
        epochs=options.epochs,
        batch=options.batch,
        seed=backbone.seed,
        advance=advance,
    )
    if not all(math.isfinite(epoch["loss"]) for epoch in history):
        raise loop.Diverged(
            f"{backbone.run}: the loss is not finite; see --learning_rate"
        )
    found = centernet.detect(detector, state, test.image)
    return {
        "backbone": backbone.name,
        "seed": backbone.seed,
        "net": backbone.net,
        "weights": weights.fingerprint(backbone.variables),
        "layer": detector.layer,
        "grid": detector.grid,
        **centernet.measure(found, test, detector.classes),
        "history": history,
        "seconds": time.monotonic() - start,
        "shown": [x[: detection_summary.SHOWN].tolist() for x in found],
    }


def describe(dataset: data.Dataset, canvases: dict[str, canvas.Canvases]) -> str:
    """Returns a description of the data."""
    size = canvases["train"].image.shape[1]
    objects = {part: np.sum(x.label != canvas.ABSENT) for part, x in canvases.items()}
    how = "black, their boxes around the ink"
    if dataset.train.image.shape[-1] > 1:
        how = "noise, their boxes around the whole image"
    return (
        f"Data: not photographs of scenes, as in PASCAL VOC, but canvases of {size} x "
        f"{size} pixels composed of real images of {dataset.name} on {how}: "
        f"{len(canvases['train'].label):,} canvases with {objects['train']:,} objects "
        f"of its training images to train on, {len(canvases['test'].label):,} with "
        f"{objects['test']:,} of its test images to test on.\n{dataset.name}: "
        f"{dataset.note}"
    )
