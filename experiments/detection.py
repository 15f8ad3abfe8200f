"""What the features of a trained net are worth to a detector.

    python -m experiments.run mnist_rdl --student=resnet8 --methods plain nst \
        --out=results/students
    python -m experiments.detection drawn=drawn:resnet8 \
        plain=results/students/plain-seed{seed}/weights \
        nst=results/students/nst-seed{seed}/weights

Paper: Huang & Wang, Like What You Like: Knowledge Distill via Neuron Selectivity
Transfer, arXiv 1707.01219, 2017. A student that has learned from a teacher becomes the
backbone of a detector, and so do others; the better features make the better detector.

NAME=FOLDER is a net that a run left or `experiments.import_torch` wrote, and what it is
called; `{seed}` in FOLDER becomes 0, 1, ... NAME=drawn:NET is a net with weights drawn
by chance, the baseline if it comes first. All get the same head and the same canvases;
seeds differ in the head, the order of the canvases, drawn weights, and what `{seed}`
names.

Other than in the paper:
1. The data. The paper detects the objects of photographs, PASCAL VOC 2007. Here real
   images of a classification set lie on canvases that are composed: digits and other
   images of one channel by the maximum over black, with boxes around their ink; colour
   images as rectangles over noise of the data's mean and deviation. That is easier:
   there is no clutter, no perspective, and hardly any occlusion. What is found here
   says nothing of how nets would rank on photographs.
2. The detector. Not Faster R-CNN but one head without anchors: a heatmap of centres for
   each class, and size and offset of the box (Zhou, Wang & Krähenbühl, Objects as
   Points, arXiv 1904.07850, 2019).
3. The backbone. Not Inception-BN of ImageNet but the nets of `rdljax.nets`, trained on
   images of one object. The images of test canvases are test images of the data: nets
   of `experiments.run` with the same data have seen none of them.

The metric is the mean over classes of average precision at an IoU of 0.5, as of VOC
2010 (all points), and beside it the mean over IoUs of 0.5, 0.55, ..., 0.95.

Cost: with `--epochs=4 --canvases=1000`, two backbones and three seeds, five minutes on
two busy CPU cores; two and a half with `--frozen`.

Obtained with these settings, resnet8 and students of five epochs (4.1 % test error),
mean and standard deviation over seeds: mAP 78.6 ± 1.9 % from drawn weights and 86.2 ±
0.7 % from plain students, paired difference 7.6 [1.1, 14.2]; with `--frozen` 37.1 ± 2.3
and 78.3 ± 0.8 %, difference 41.2 [33.8, 48.7]. The learning rate, its warm-up and the
clipping were chosen on canvases of validation images.
"""

import argparse
import functools
import math
import pathlib
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from experiments import (
    canvas,
    centernet,
    command,
    data,
    findings,
    locks,
    loop,
    run,
    trainings,
    weights,
)
from experiments import context as contexts
from experiments.command import UsageError
from rdljax import errors, files, nets, statistics

Array = jax.Array

# The least height and width of the map that the head reads, if none is named.
LEAST_GRID = 8
# Detections that are shown, and in how many canvases.
SHOWN_SCORE, SHOWN = 0.3, 5
# Seeds of the canvases, the same for all seeds of the training.
PARTS = {"train": 0, "test": 1}

COUNTS = ("seeds", "epochs", "batch", "canvases", "test_canvases", "objects", "size")
KEYS = (*COUNTS, "data", "data_dir", "learning_rate", "layer", "frozen", "out")
# What leaves the run of a backbone and a seed as it is.
OF_THE_CALL = ("backbones", "seeds", "data_dir", "out", "resume")


class Backbone(NamedTuple):
    """A net that a detector begins with.

    Attributes:
      name: In the table.
      seed: Of the training.
      net: Its name.
      detector: With it.
      variables: Its variables.
    """

    name: str
    seed: int
    net: str
    detector: centernet.Detector
    variables: Any

    @property
    def run(self) -> str:
        """Returns the name of its training."""
        return f"{self.name}-seed{self.seed}"


def parse_backbones(given: Sequence[str]) -> dict[str, str]:
    """From `NAME=FOLDER` or `NAME=drawn:NET` to folders or nets, by name.

    Raises:
      UsageError: One is neither, or two have one name.
    """
    found = {}
    for one in given:
        name, _, source = one.partition("=")
        if not (source and re.fullmatch(r"[\w.+-]+", name)):
            raise UsageError(f"expected NAME=FOLDER or NAME=drawn:NET, got {one!r}")
        if name in found:
            raise UsageError(f"two backbones are called {name}")
        found[name] = source
    return found


def load_backbone(
    name: str,
    source: str,
    seed: int,
    dataset: data.Dataset,
    normalise: Callable[[Array], Array],
    options: argparse.Namespace,
) -> Backbone:
    """Returns a backbone and the detector around it.

    Args:
      name: In the table.
      source: A folder of weights, or `drawn:NET`.
      seed: Of the training.
      dataset: The data.
      normalise: What nets see of its images.
      options: `size`, `layer` and `frozen`.

    Raises:
      UsageError: There is no such folder, or the net cannot see the canvases, or has no
        map for the head.
      UnknownName: There is no such net, or layer.
    """
    drawn = source.removeprefix("drawn:")
    if drawn != source:
        net_name, net = drawn, nets.build(drawn, dataset.classes)
        blank = jnp.zeros((1, *dataset.shape))
        draw = functools.partial(net.init, jax.random.key(seed), blank)
    else:
        trained = weights.load(source.replace("{seed}", str(seed)))
        own, channels = trained.shape[-1], dataset.shape[-1]
        if own != channels:
            raise UsageError(
                f"{name} sees images of {own} channels, {dataset.name} has {channels}"
            )
        net_name = trained.name
        net = trained.seeing(dataset, nets.build(net_name, trained.classes))

        def draw():
            return trained.variables

    canvas = jnp.zeros((1, options.size, options.size, dataset.shape[-1]))
    try:
        seen = jax.eval_shape(lambda: net.apply(draw(), canvas))
    except flax.errors.FlaxError as error:
        raise UsageError(
            f"{name}: {net_name} cannot see canvases of {options.size} x "
            f"{options.size} pixels, since it flattens its maps and so takes images of "
            "one size alone; nets that take the mean over positions can, such as "
            "resnet8, wrn_16_1 and vgg8"
        ) from error
    layer = options.layer
    if layer is None:
        layer = last_stage(name, net, seen, options.size)
    errors.check_name(
        f"map of {name}", layer, [k for k, x in seen.items() if x.ndim == 4]
    )
    grid = seen[layer].shape[1]
    if options.size % grid:
        raise UsageError(
            f"size: {layer} of {name} has {grid} x {grid} cells, which do not divide "
            f"{options.size} pixels"
        )
    detector = centernet.Detector(
        net,
        normalise,
        layer,
        grid,
        options.size // grid,
        dataset.classes,
        options.frozen,
    )
    return Backbone(name, seed, net_name, detector, draw())


def last_stage(name: str, net: Any, seen: dict[str, Array], size: int) -> str:
    """Returns the deepest stage that is fine enough for a head.

    Args:
      name: Of the backbone.
      net: The backbone.
      seen: What it answers, or the form of that.
      size: Of the canvases.

    Raises:
      UsageError: None is.
    """
    stages = [layer for layer in net.layers if layer.startswith("stage")]
    fine = [layer for layer in stages if seen[layer].shape[1] >= LEAST_GRID]
    if not fine:
        raise UsageError(
            f"{name} has no stage of {LEAST_GRID} x {LEAST_GRID} cells or more for "
            f"canvases of {size} pixels; --size takes larger ones, --layer names a map"
        )
    return fine[-1]


def compare(options: argparse.Namespace, interrupt: loop.Interrupt) -> dict:
    """Trains and measures a detector for each backbone and seed; writes the results.

    Args:
      options: From `parse`.
      interrupt: Whether to stop.

    Returns:
      What `result.json` holds.

    Raises:
      UsageError: A setting is impossible, data or weights are missing, or the folder
        is taken.
      UnknownName: Of a net, a layer or a data set.
      Interrupted: Stopped; the folder can be resumed.
      Diverged: A loss is not finite.
    """
    sources = parse_backbones(options.backbones)
    _check(options)
    try:
        dataset = data.load(options.data, options.data_dir)
    except ValueError as error:
        raise UsageError(str(error)) from error
    normalise = functools.partial(data.normalise, dataset)
    backbones = [
        load_backbone(name, source, seed, dataset, normalise, options)
        for name, source in sources.items()
        for seed in range(options.seeds)
    ]
    size = {"size": options.size, "objects": options.objects}
    counts = {"train": options.canvases, "test": options.test_canvases}
    canvases = {
        part: canvas.compose(dataset, part, count, seed=PARTS[part], **size)
        for part, count in counts.items()
    }
    settings = {k: v for k, v in vars(options).items() if k not in OF_THE_CALL}
    with locks.held(place(options)):
        claim(options, settings | contexts.fingerprint(dataset))
        return _compare(options, settings, dataset, canvases, backbones, interrupt)


def _compare(
    options: argparse.Namespace,
    settings: dict[str, Any],
    dataset: data.Dataset,
    canvases: dict[str, canvas.Canvases],
    backbones: list[Backbone],
    interrupt: loop.Interrupt,
) -> dict:
    """`compare`, in a folder that is claimed."""
    folder, sources = place(options), parse_backbones(options.backbones)
    note = described(dataset, canvases)
    print(f"{note}\nResults: {folder}.")

    epoch = options.canvases // options.batch
    rate = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, epoch, options.epochs * epoch + 1
    )
    optimizer = optax.chain(optax.clip_by_global_norm(centernet.CLIP), optax.adam(rate))
    on_device = canvas.Canvases(*map(jnp.asarray, canvases["train"]))
    results = []
    total = len(backbones) * options.epochs * epoch
    with tqdm.tqdm(total=total, unit="step", smoothing=0.05) as bar:
        for backbone in backbones:
            results.append(recorded(folder, backbone, settings))
            if results[-1] is not None:
                bar.update(options.epochs * epoch)
                continue
            bar.set_description(backbone.run)

            def advance(name=backbone.run):
                if interrupt.requested:
                    raise loop.Interrupted(name)
                bar.update()

            results[-1] = _result(
                backbone, optimizer, on_device, canvases["test"], options, advance
            )
            record = results[-1] | {"settings": settings}
            loop.write_json(folder / f"{backbone.run}.json", record)
    summary = {
        "note": note,
        "settings": {"seeds": options.seeds, **settings},
        "versions": trainings.versions(),
        "device": jax.devices()[0].device_kind,
        "backbones": summarise(results, sources),
    }
    picture(folder / "detections.png", results, canvases["test"])
    text = table(summary)
    files.write(folder / "table.md", text)
    loop.write_json(folder / "result.json", summary)
    print(f"\n{text}\n{folder}: result.json, table.md, detections.png")
    return summary


def _check(options: argparse.Namespace) -> None:
    """Raises `UsageError` for numbers that are impossible."""
    for name in COUNTS:
        if getattr(options, name) < 1:
            raise UsageError(f"{name} must be 1 or more, got {getattr(options, name)}")
    if options.batch > options.canvases:
        raise UsageError(
            f"batch must be at most {options.canvases}, the canvases, got "
            f"{options.batch}"
        )
    if not 0 < options.learning_rate < math.inf:
        raise UsageError(
            f"learning_rate must be above 0 and finite, got {options.learning_rate}"
        )


def place(options: argparse.Namespace) -> pathlib.Path:
    """Returns the folder for results, of which nothing is known yet."""
    return command.path("out", options.out)


def claim(options: argparse.Namespace, settings: dict[str, Any]) -> pathlib.Path:
    """Returns the folder for results, if it is free or holds such a run to be resumed.

    Args:
      options: From `parse`.
      settings: What makes a comparison another one, its images included.

    Raises:
      UsageError: It holds something else, or `resume` is missing.
    """
    folder = place(options)
    record = folder / "detection.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # (A run that is killed while it claims its folder leaves a draft alone.)
        nothing = ("detection.partial", locks.NAME)
        there = [path for path in folder.iterdir() if not files.is_draft(path)]
        if {path.name for path in there}.difference(nothing):
            _check_taken(folder, record, settings, options.resume)
        loop.write_json(record, settings)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error}") from error
    return folder


def _check_taken(
    folder: pathlib.Path, record: pathlib.Path, settings: dict[str, Any], resume: bool
) -> None:
    """Raises `UsageError` unless a folder in use may be resumed."""
    if not record.exists():
        raise UsageError(f"{folder} holds something that is no such run; see --out")
    theirs = _read(record, "--out=FOLDER leaves it alone")
    unknown = "images" not in theirs  # Of an earlier version.
    theirs = {"images": settings.get("images"), **theirs}
    changed = [
        f"{k} {theirs.get(k)!r} there and {settings.get(k)!r} here"
        for k in settings | theirs
        if theirs.get(k) != settings.get(k)
    ]
    if changed:
        raise UsageError(
            f"{folder} holds a run with other settings ({', '.join(changed)}); "
            "--out=FOLDER leaves it alone"
        )
    if not resume:
        raise UsageError(
            f"{folder} holds a run with these settings; --resume continues it, or adds "
            "backbones and seeds"
        )
    if unknown:
        print(
            f"{folder} does not say which images it began with (an earlier version): "
            "that they are those of now is not checked",
            file=sys.stderr,
        )


def _read(record: pathlib.Path, hint: str) -> dict:
    """Returns a file of JSON, or `UsageError` with a hint."""
    try:
        found = files.words(record)
        if not isinstance(found, dict):
            raise ValueError("it is no dictionary")
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{record} is damaged ({error}); {hint}") from error
    return found


def recorded(
    folder: pathlib.Path, backbone: Backbone, settings: dict[str, Any]
) -> dict | None:
    """What a backbone and a seed have left in the folder, if they were finished.

    Args:
      folder: For results.
      backbone: The backbone.
      settings: Of the comparison. (The first versions' records say nothing of theirs.)

    Raises:
      UsageError: It cannot be read, or is of another backbone, seed or comparison.
    """
    record = folder / f"{backbone.run}.json"
    if not record.exists():
        return None
    found = _read(record, "where it is deleted, --resume writes it anew")
    if found.get("weights") != weights.fingerprint(backbone.variables):
        raise UsageError(
            f"{record} is of other weights; --out=FOLDER leaves it alone, another NAME "
            "goes beside it"
        )
    mine = {"backbone": backbone.name, "seed": backbone.seed, "settings": settings}
    theirs = {"settings": settings} | found
    if changed := [k for k, value in mine.items() if theirs.get(k) != value]:
        raise UsageError(
            f"{record} is of another run, by its {', '.join(changed)}; where it is "
            "deleted, --resume writes it anew"
        )
    return found


def _result(
    backbone: Backbone,
    optimizer: optax.GradientTransformation,
    canvases: canvas.Canvases,
    test: canvas.Canvases,
    options: argparse.Namespace,
    advance: Callable[[], None],
) -> dict:
    """Returns the result of a backbone and a seed."""
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
        "shown": [x[:SHOWN].tolist() for x in found],
    }


def described(dataset: data.Dataset, canvases: dict[str, canvas.Canvases]) -> str:
    """Returns the data in words."""
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


def summarise(results: list[dict], sources: dict[str, str]) -> dict[str, dict]:
    """By backbone, mean and spread over seeds, and every run.

    Args:
      results: Of each backbone and seed.
      sources: Of each backbone, by name, the first one the baseline.

    Returns:
      With `difference`, of `map` from the baseline's, paired over seeds.
    """
    runs = {name: [r for r in results if r["backbone"] == name] for name in sources}
    first = next(iter(runs))
    found = {}
    for name, own in runs.items():
        found[name] = {
            "source": sources[name],
            **{key: own[0][key] for key in ("net", "layer", "grid")},
            **{
                key: _spread([r[key] for r in own])
                for key in ("map", "map_strict", "seconds")
            },
            "ap": [
                None if None in of_class else _spread(of_class)
                for of_class in zip(*(_numbers(r["ap"]) for r in own), strict=True)
            ],
            "runs": [
                {k: v for k, v in r.items() if k not in ("shown", "settings")}
                for r in own
            ],
        }
        if name != first:
            pair = ([r["map"] for r in of] for of in (own, runs[first]))
            difference = statistics.paired_difference(*pair)._asdict()
            found[name]["difference"] = dict(
                zip(difference, _numbers(difference.values()), strict=True)
            )
    return found


def _numbers(values: Sequence[float | None]) -> list[float | None]:
    """None in the place of NaN: what was read from JSON, and what was not, alike."""
    return [None if v is None or math.isnan(v) else float(v) for v in values]


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    mean, std, _ = statistics.spread(values)
    return dict(zip(("mean", "std"), _numbers([mean, std]), strict=True))


def table(summary: dict) -> str:
    """Returns the summary as Markdown."""
    backbones, settings = summary["backbones"], summary["settings"]
    first = next(iter(backbones))
    kept = "kept as it is" if settings["frozen"] else "trained with the head"
    rows = [
        [
            name,
            f"{of['net']}, {of['layer']}, {of['grid']} x {of['grid']}",
            findings.plus_minus(of["map"], 1),
            findings.interval(of.get("difference"), 1),
            findings.plus_minus(of["map_strict"], 1),
            findings.plus_minus(of["seconds"], 0),
        ]
        for name, of in backbones.items()
    ]
    columns = ["backbone", "net, map and cells", "mAP at 0.5, %", "difference"]
    columns += ["mAP 0.5 to 0.95, %", "seconds a run"]
    classes = range(len(backbones[first]["ap"]))
    by_class = [
        [one]
        + [
            "–" if of["ap"][one] is None else findings.plus_minus(of["ap"][one], 1)
            for of in backbones.values()
        ]
        for one in classes
    ]
    parts = [
        summary["note"],
        f"The backbone is {kept}: {settings['epochs']} epochs, {settings['seeds']} "
        "seeds. mAP: average precision on test canvases, its mean over classes, with "
        f"mean and deviation over seeds. Difference: mAP at 0.5 minus that of {first}, "
        "paired over seeds, with its 95 % t interval.",
        findings.grid(columns, rows),
        "Average precision at an IoU of 0.5 by class, %:",
        findings.grid(["class", *backbones], by_class),
    ]
    return "\n\n".join(parts) + "\n"


def picture(path: pathlib.Path, results: list[dict], canvases: canvas.Canvases) -> None:
    """The first test canvases with true boxes and those of each backbone's seed 0.

    Args:
      path: Of the PNG.
      results: Of each run.
      canvases: For testing.
    """
    from matplotlib import patches
    from matplotlib import pyplot as plt

    results = [r for r in results if r["seed"] == 0]
    count, size = min(SHOWN, len(canvases.label)), canvases.image.shape[1]
    figure, axes = plt.subplots(
        len(results),
        count,
        figsize=(2.4 * count + 0.3, 2.4 * len(results) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    styles = {
        "true": {"edgecolor": "#56B4E9", "linewidth": 1.6},
        "detected": {"edgecolor": "#E69F00", "linewidth": 1.2, "linestyle": "--"},
    }
    written = {"color": "#E69F00", "fontsize": 7, "clip_on": True}
    written["bbox"] = {"color": "black", "alpha": 0.5, "pad": 0.3}

    def mark(axis, box, kind):
        corner, end = np.split(np.asarray(box), 2)
        patch = patches.Rectangle(corner, *(end - corner), fill=False, **styles[kind])
        axis.add_patch(patch)

    for row, result in zip(axes, results, strict=True):
        found = centernet.Detections(*map(np.asarray, result["shown"]))
        for i, axis in enumerate(row):
            image = canvases.image[i]
            image = image[..., 0] if image.shape[-1] == 1 else image
            axis.imshow(image, "gray", vmin=0, vmax=255, extent=(0, size, size, 0))
            for box, label in zip(canvases.boxes[i], canvases.label[i], strict=True):
                if label != canvas.ABSENT:
                    mark(axis, box, "true")
            for box, label, score in zip(*(x[i] for x in found), strict=True):
                if score >= SHOWN_SCORE and label != canvas.ABSENT:
                    mark(axis, box, "detected")
                    text, top = f"{label} ({100 * score:.0f} %)", max(box[1], 0)
                    place = {"va": "bottom" if top > size / 12 else "top"}
                    axis.text(max(box[0], 0), top, text, **place, **written)
            axis.set(xticks=[], yticks=[], xlim=(0, size), ylim=(size, 0))
        row[0].set_ylabel(result["backbone"], fontsize=9)
    shown = [patches.Patch(fill=False, label=k, **style) for k, style in styles.items()]
    figure.legend(handles=shown, loc="outside lower center", ncols=2, frameon=False)
    findings.save(figure, path)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the settings of a command line.

    Raises:
      UnknownName: Of a setting.
      SystemExit: A value of the wrong type (2), or `--help` (0).
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments.detection",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("backbones", nargs="+", metavar="NAME=FOLDER", help="or NAME=drawn:NET")
    add("--data", default="digits", help="digits, or the name of a TFDS image set")
    add("--data_dir", help="the folder that holds the TFDS sets")
    add("--seeds", type=int, default=3, help="trainings of each backbone")
    add("--epochs", type=int, default=10, help="how often each canvas is seen")
    add("--batch", type=int, default=16, help="canvases in a step")
    add("--learning_rate", type=float, default=3e-3, help="after the first epoch")
    add("--canvases", type=int, default=2000, help="to train on")
    add("--test_canvases", type=int, default=500, help="to test on")
    add("--size", type=int, default=64, help="pixels of a canvas on each side")
    add("--objects", type=int, default=3, help="the most objects in a canvas")
    add("--layer", help="the map for the head; the last stage of 8 x 8 cells or more")
    add("--frozen", action="store_true", help="train the head alone")
    add("--out", default="results/detection", help="the folder for results")
    add("--resume", action="store_true", help="continue what the folder holds")
    command.check_keys(arguments, (*KEYS, "resume"))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; its exit status is that of `experiments.run`."""
    arguments = command.line(arguments)

    def detection():
        options = parse(arguments)
        with loop.Interrupt() as interrupt:
            compare(options, interrupt)

    try:
        return run.answer(detection)
    except loop.Interrupted as stopped:
        again = [a for a in arguments if a != "--resume"]
        again = [sys.executable, "-m", "experiments.detection", *again, "--resume"]
        print(f"\nstopped in {stopped}; to continue:", file=sys.stderr)
        print(shlex.join(again), file=sys.stderr)
        return stopped.status


if __name__ == "__main__":
    sys.exit(main())
