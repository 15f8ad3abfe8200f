"""Linear classifiers on the frozen features of a run's nets."""

import dataclasses
import pathlib
import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tqdm
import tyro
from scipy import special

from experiments import command, data, locks, weights
from experiments.results import aggregate, markdown
from experiments.results import folder as results_folder
from experiments.training import recording
from rdljax import errors, files, nets

# What must be known of a run.
SETTINGS = {
    *("data", "data_dir", "train_per_class", "resize"),
    *("teacher", "teacher_from", "student", "methods", "seeds"),
}
# The L2 weights that are tried.
L2 = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
# The largest entry of the gradient at a solution. (At 1e-6 some predictions of weakly
# regularised classifiers still change, at 1e-7 none was seen to.)
TOLERANCE = 1e-8
# Red, green and blue in luminance (Rec. 601).
LUMINANCE = (0.299, 0.587, 0.114)


# Test accuracy in percent, table 4 of the paper: students WRN-16-2, teacher WRN-40-2.
PUBLISHED = {
    "stl10": {
        "teacher": 68.6,
        "student": 69.7,
        "KD": 70.9,
        "AT": 70.7,
        "FitNet": 70.3,
        "CRD": 71.6,
        "CRD+KD": 72.2,
    },
    "tinyimagenet": {
        "teacher": 31.5,
        "student": 33.7,
        "KD": 33.9,
        "AT": 34.2,
        "FitNet": 33.5,
        "CRD": 35.6,
        "CRD+KD": 35.5,
    },
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Which nets are probed, and on what."""

    results: tyro.conf.Positional[str]
    """The folder of a finished run."""
    data: str = "digits"
    """The other images: `digits`, or the name of a TFDS image set."""
    data_dir: str | None = None
    """The folder that holds the TFDS sets."""
    train_per_class: int | None = None
    """The number of training images of each class that are kept; None keeps all."""
    layer: str = "pooled"
    """The layer whose activations are read, maps flattened."""
    out: str | None = None
    """The folder to write; None for RESULTS/probe-DATA."""
    overwrite: bool = False
    """Replace a probe."""


def run(options: Options) -> None:
    """Probes every net of a run; writes `probe.json` and `probe.md`.

    Args:
      options: What is probed.

    Raises:
      UsageError: The run, the data, or the folder to write to cannot be used.
      UnknownName: There is no such layer.
    """
    folder, summary = read_run(options.results)
    name = options.data.replace("/", "-")
    default = str(folder / f"probe-{name}")
    out = command.path("out", default if options.out is None else options.out)
    _check_free(out, options.overwrite)
    try:
        dataset = data.load(
            options.data, options.data_dir, train_per_class=options.train_per_class
        )
    except ValueError as error:
        raise command.UsageError(str(error)) from error
    if not len(dataset.validation.label):
        raise command.UsageError(f"{dataset.name} has too few images for validation")
    every = trained_nets(folder, summary)
    for net in every:
        known = nets.build(net.trained.name, net.trained.classes).layers
        errors.check_name(f"layer of {net.trained.name}", options.layer, known)
        resize_to_net(dataset, net.trained, few=1)
    with locks.hold(out):
        _check_free(out, options.overwrite)
        found = [
            {"method": net.method, "seed": net.seed}
            | probe(net.trained, dataset, options.layer)
            for net in tqdm.tqdm(every, unit="net")
        ]
        try:
            text = write(out, summary, dataset, options.layer, found)
        except OSError as error:
            raise command.UsageError(f"cannot write to {out}: {error}") from error
    print(f"{text}\n{out}: probe.json, probe.md")


def _check_free(out: pathlib.Path, overwrite: bool) -> None:
    """Raises `UsageError` where something would be replaced that is to be kept.

    (`probe.json` is written first, so that none but a probe's `probe.md` is replaced.)
    """
    record = out / "probe.json"
    if not record.exists():
        if (out / "probe.md").exists():
            raise command.UsageError(
                f"{out} holds a probe.md that no probe has written; --out=FOLDER "
                "leaves it alone"
            )
        return
    if not overwrite:
        raise command.UsageError(
            f"{out} holds a probe; --overwrite replaces it, --out=FOLDER leaves it "
            "alone"
        )
    try:
        if not {"run", "layer", "nets"} <= files.words(record).keys():
            raise ValueError("it has no run, layer and nets")
    except Exception as error:  # What is no probe fails in many ways.
        raise command.UsageError(
            f"{record} is not a probe ({error}); --out=FOLDER leaves it alone"
        ) from error


def read_run(results: str) -> tuple[pathlib.Path, dict]:
    """Returns the folder of a finished run, and what its `result.json` holds.

    Raises:
      UsageError: It is not a run's folder, or the run is not finished.
    """
    folder = command.path("RESULTS", results)
    try:
        settings = files.words(folder / "config.json")
        if not results_folder.is_run(settings):
            raise ValueError("its config.json is not one of experiments.run")
    except Exception as error:  # What is damaged fails in many ways.
        raise command.UsageError(f"{folder} is not a run's folder ({error})") from error
    record = folder / "result.json"
    if not record.exists():
        raise command.UsageError(
            f"the run of {folder} is not finished; experiments.run with its settings "
            "and --resume goes on with it"
        )
    try:
        summary = files.words(record)
        if missing := SETTINGS - summary["config"].keys():
            raise ValueError(f"it has no setting {', '.join(sorted(missing))}")
    except Exception as error:
        raise command.UsageError(
            f"{record} is damaged, or of another version ({error!r})"
        ) from error
    return folder, summary


class Net(NamedTuple):
    """A net of a run: `method` is "teacher" for the teacher."""

    method: str
    seed: int
    trained: weights.Trained


def trained_nets(folder: pathlib.Path, summary: dict) -> list[Net]:
    """Returns the nets of a finished run: the teacher, if any, and all students.

    Args:
      folder: Of the run.
      summary: What its `result.json` holds.

    Raises:
      UsageError: A net is not there, or the teacher is not the one that taught.
    """
    config = summary["config"]
    found = []
    if config["teacher_from"] is not None:
        trained = weights.load(config["teacher_from"])
        if trained.fingerprint != summary["teacher_source"]["fingerprint"]:
            raise command.UsageError(
                f"{config['teacher_from']} holds other weights than those that taught "
                f"the run of {folder}"
            )
        found = [Net("teacher", 0, trained)]
    elif config["teacher"] is not None:
        count = config["ensemble"]
        names = [recording.folder("teacher", seed, count) for seed in range(count)]
        found = [
            Net("teacher", seed, weights.load(folder / name / "weights"))
            for seed, name in enumerate(names)
        ]
    return found + [
        Net(
            method,
            seed,
            weights.load(folder / recording.folder(method, seed) / "weights"),
        )
        for method in config["methods"]
        for seed in range(config["seeds"])
    ]


def resize_to_net(
    dataset: data.Dataset, trained: weights.Trained, few: int | None = None
) -> data.Dataset:
    """Returns images in the size and number of channels that a net was made for.

    One channel becomes several by repetition, three become one by luminance (Rec. 601,
    rounded); so do mean and deviation, which count for a net without a normalisation of
    its own. The size changes where `data.normalise` is applied: bilinearly.

    Args:
      dataset: The images.
      trained: The net.
      few: Keep so many images of each split; None keeps all.

    Raises:
      UsageError: There is no such way between their numbers of channels.
    """
    height, width, channels = trained.shape
    own = dataset.shape[-1]
    if own not in (1, channels) and (own, channels) != (3, 1):
        raise command.UsageError(
            f"{trained.name} sees images of {channels} channels, {dataset.name} has "
            f"{own}"
        )

    def convert(values):
        if own == 1:
            return np.repeat(values, channels, axis=-1)
        if own == channels:
            return values
        weights = np.array(LUMINANCE, np.float32)
        return np.einsum("...c,c->...", values, weights)[..., None]

    def split(part):
        images = np.round(convert(part.image[:few]))
        return data.Split(images.astype(np.uint8, copy=False), part.label[:few])

    return dataclasses.replace(
        dataset,
        train=split(dataset.train),
        validation=split(dataset.validation),
        test=split(dataset.test),
        mean=tuple(convert(np.array(dataset.mean)).tolist()),
        std=tuple(convert(np.array(dataset.std)).tolist()),
        size=(height, width),
    )


def features(
    net: nets.NetLike,
    variables: dict,
    dataset: data.Dataset,
    images: np.ndarray,
    layer: str,
    chunk: int = 500,
) -> np.ndarray:
    """Returns the activations of a layer in evaluation mode, float64 `[N, units]`.

    Args:
      net: The net.
      variables: Its variables.
      dataset: Whose normalisation is applied.
      images: uint8 `[N, H, W, C]`.
      layer: By name; maps are flattened.
      chunk: Images at a time.

    Raises:
      UsageError: They are not finite.
    """
    every = []
    for start in range(0, len(images), chunk):
        seen = data.normalise(dataset, images[start : start + chunk])
        every.append(weights.activations(net, variables, seen, (layer,))[layer])
    found = np.concatenate(every).astype(np.float64).reshape(len(images), -1)
    if not np.isfinite(found).all():
        raise command.UsageError(f"the activations of {layer} are not finite")
    return found


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and deviation of each column of `[N, units]`.

    Of what is constant, up to the rounding of float32, the deviation is infinite: what
    is divided by it is 0.
    """
    deviation = values.std(axis=0)
    varies = deviation > 1e-6 * np.abs(values).max(axis=0)
    return values.mean(axis=0), np.where(varies, deviation, np.inf)


def probe(trained: weights.Trained, dataset: data.Dataset, layer: str) -> dict:
    """Returns the errors of a linear classifier on the features of a frozen net.

    Args:
      trained: The net.
      dataset: The images, as they are; the test images are read once, at the end.
      layer: Whose activations are the features.

    Returns:
      `l2`, the weight chosen; `validation_loss` (nats), `validation_error` and
      `test_error` in percent; `predicted` classes, a list over the test images.
    """
    dataset = resize_to_net(dataset, trained)
    net = trained.seeing(dataset, nets.build(trained.name, trained.classes))

    def of(split):
        return features(net, trained.variables, dataset, split.image, layer)

    train, held_out, test = dataset.train, dataset.validation, dataset.test
    seen = of(train)
    mean, deviation = moments(seen)
    held_out_seen = (of(held_out) - mean) / deviation
    l2, loss, parameters = choose(
        (seen - mean) / deviation,
        train.label,
        held_out_seen,
        held_out.label,
        dataset.classes,
    )

    def error(features, label):
        predicted = predict(parameters, features)
        return predicted, float(100 * np.mean(predicted != label))

    _, validation_error = error(held_out_seen, held_out.label)
    predicted, test_error = error((of(test) - mean) / deviation, test.label)
    return {
        "l2": l2,
        "validation_loss": loss,
        "validation_error": validation_error,
        "test_error": test_error,
        "predicted": predicted.tolist(),
    }


def choose(
    features: np.ndarray,
    label: np.ndarray,
    held_out: np.ndarray,
    held_out_label: np.ndarray,
    classes: int,
) -> tuple[float, float, np.ndarray]:
    """Returns the classifier with the smallest loss on held-out images.

    Args:
      features: Standardised, `[N, units]`.
      label: Their classes, `[N]`.
      held_out: As `features`, `[M, units]`, of which nothing is learnt but the weight.
      held_out_label: `[M]`.
      classes: The number of classes.

    Returns:
      The L2 weight, the mean cross-entropy on `held_out` (nats) and the parameters.
    """
    tried = []
    for l2 in L2:
        parameters = fit(features, label, classes, l2)
        logits = held_out @ parameters[:-1] + parameters[-1]
        right = logits[np.arange(len(logits)), held_out_label]
        loss = float(np.mean(special.logsumexp(logits, axis=1) - right))
        tried.append((l2, loss, parameters))
    return min(tried, key=lambda one: one[1])


def fit(features: np.ndarray, label: np.ndarray, classes: int, l2: float) -> np.ndarray:
    """Returns the parameters of a multinomial logistic regression.

    They minimise the mean cross-entropy plus `l2 / 2` times the sum of the squared
    weights, without the biases (`sklearn.linear_model.LogisticRegression`), until no
    entry of the gradient exceeds `TOLERANCE`.

    Args:
      features: Standardised, `[N, units]`.
      label: Classes, `[N]`.
      classes: Their number.
      l2: Above 0.

    Returns:
      The weights and in the last row the biases, float64 `[units + 1, classes]`.

    Raises:
      UsageError: No minimum is found, or a class has no image.
    """
    from sklearn import exceptions, linear_model

    if absent := sorted({*range(classes)} - {*np.unique(label).tolist()}):
        raise command.UsageError(f"class {absent[0]} has no image to learn from")
    # (Of two classes it has the difference of their weights, whose square is twice the
    # sum of their squares.)
    penalty = l2 / 2 if classes == 2 else l2
    model = linear_model.LogisticRegression(
        C=1 / (penalty * len(label)),
        tol=TOLERANCE,
        solver="newton-cg",
        max_iter=10_000,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", exceptions.ConvergenceWarning)
            model.fit(np.asarray(features, np.float64), label)
    except (ValueError, exceptions.ConvergenceWarning) as error:
        raise command.UsageError(
            f"the classifier of {features.shape[1]} features with L2 weight {l2:g} did "
            f"not converge: {error}"
        ) from error
    found = np.column_stack([model.coef_, model.intercept_]).T
    return np.concatenate([-found, found], axis=1) / 2 if classes == 2 else found


def predict(parameters: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Returns the most probable classes `[N]` of features `[N, units]`."""
    return np.argmax(features @ parameters[:-1] + parameters[-1], axis=1)


def write(
    out: pathlib.Path,
    summary: dict,
    dataset: data.Dataset,
    layer: str,
    found: Sequence[dict],
) -> str:
    """Writes `probe.json` and `probe.md`, and returns the text of the latter.

    Args:
      out: The folder.
      summary: What the run's `result.json` holds.
      dataset: The images.
      layer: Whose activations were read.
      found: Of each net, the teacher's first, `method`, `seed` and what `probe` found.
    """
    # (A probe has one epoch, and its seconds are no result.)
    results = [{**one, "history": [one], "seconds": 0.0} for one in found]
    probed = aggregate.summarise(results, dataset.test.label)
    for of in probed["methods"].values():
        del of["best_validation_error"], of["seconds"]
    probed |= {
        "run": summary["config"],
        "run_data": summary["data"],
        "data_name": dataset.name,
        "data": dataset.note,
        "layer": layer,
        "l2_tried": L2,
        "versions": recording.versions(),
        "nets": list(found),
    }
    text = table(probed)
    files.write_json(out / "probe.json", probed)
    files.write(out / "probe.md", text)
    return text


def table(probed: dict) -> str:
    """Returns what `probe.json` holds, as Markdown."""
    baseline, config = probed["baseline"], probed["run"]
    head = (
        f"Data: {probed['data_name']}: {probed['data']}\n"
        f"Linear probes of {probed['layer']} of frozen nets, trained on "
        f"{config['data']}: {probed['run_data']}\n"
        "Logistic regression on standardised features; its L2 weight, of "
        f"{', '.join(f'{x:g}' for x in probed['l2_tried'])}, has the smallest "
        "cross-entropy on the validation images. Difference: test error minus that of "
        f"{baseline}, paired over seeds, with its 95 % t interval. McNemar: seeds with "
        "p < 0.05 after Holm's correction over all tests."
    )
    columns = ["method", "test error, %", "difference", "McNemar"]
    columns += ["validation error, %", "L2 weight"]
    rows = [
        ["teacher", f"{one['test_error']:.2f}", "–", "–"]
        + [f"{one['validation_error']:.2f}", f"{one['l2']:g}"]
        for one in probed["nets"]
        if one["method"] == "teacher"
    ]
    for name, of in probed["methods"].items():
        chosen = {one["l2"] for one in probed["nets"] if one["method"] == name}
        rows.append(
            [
                name,
                markdown.plus_minus(of["test_error"], 2),
                markdown.interval(of.get("difference")),
                markdown.significant(name, probed["mcnemar"]),
                markdown.plus_minus(of["validation_error"], 2),
                ", ".join(f"{l2:g}" for l2 in sorted(chosen)),
            ]
        )
    parts = [head, markdown.grid(columns, rows)]
    parts += markdown.mcnemar(probed["mcnemar"], baseline)
    return "\n\n".join([*parts, *_published(probed["data_name"])]) + "\n"


def _published(name: str) -> list[str]:
    """Returns the paper's numbers for a data set that it has, as Markdown."""
    letters = re.sub("[^a-z0-9]", "", name.lower())
    for known, numbers in PUBLISHED.items():
        if letters.startswith(known):
            rows = [[k, f"{x:.1f}", f"{100 - x:.1f}"] for k, x in numbers.items()]
            return [
                "Published (Tian et al. 2020, table 4; WRN-16-2 of CIFAR-100, taught "
                "by WRN-40-2; the recipe is not known):",
                markdown.grid(["method", "accuracy, %", "error, %"], rows),
            ]
    return []
