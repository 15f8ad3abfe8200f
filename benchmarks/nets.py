"""Measures every net of `rdljax.nets`: training step, forward pass and compilation.

The case with the name of a net is a training step of `rdljax.training` with only the
task, SGD with momentum, on one batch; `NET-forward` is the net in evaluation mode.
`ours` is float32, `bf16` the same net in bfloat16 (on an accelerator), and
`repdistiller` the released net in PyTorch with the same weights, if a checkout is
given. A batch is 64 images of 32 x 32, or 8 of 224 x 224 for the nets for ImageNet. A
second table has images per second, parameters, and the time until the first step can
run.
"""

import dataclasses
import functools
import importlib
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measure, objectives, repdistiller, report, runner
from rdljax import nets, teachers, terms, training
from rdljax.nets import from_torch

RATE, MOMENTUM = 0.01, 0.9


@dataclasses.dataclass(frozen=True)
class Options(objectives.Options):
    """The settings of this benchmark."""

    memory: bool = False
    """Measure peak memory, too; each contender is then compiled twice."""


class Size(NamedTuple):
    """The size of the data on which a net is measured.

    Attributes:
      batch: The number of images in a step.
      image: The height, width and channels of an image.
      classes: The number of logits.
    """

    batch: int = 64
    image: tuple[int, int, int] = (32, 32, 3)
    classes: int = 100


_IMAGENET = Size(8, (224, 224, 3), 1000)
_DIGITS = Size(64, (32, 32, 1), 10)
SIZES: Mapping[str, Size] = {
    **dict.fromkeys(nets.NETS, Size()),
    **dict.fromkeys((n for n in nets.NETS if n.endswith("_imagenet")), _IMAGENET),
    **dict.fromkeys(("efficientnet_lite0",), _IMAGENET),
    **dict.fromkeys(("mlp", "mnist_cnn", "mnist_cnn_small"), _DIGITS),
}
# RepDistiller's names of its nets, where they differ from ours.
_RENAMED = {
    "resnet50": "ResNet50",
    "mobilenet_v2": "MobileNetV2",
    "shufflenet_v1": "ShuffleV1",
    "shufflenet_v2": "ShuffleV2",
}
RELEASED: Mapping[str, str] = {
    name: _RENAMED.get(name, name)
    for name in from_torch.NAMINGS
    if SIZES[name] != _IMAGENET
}

CASES = tuple(case for name in nets.NETS for case in (name, f"{name}-forward"))
# The goal for the seconds until the first step can run; smaller is better.
GOAL = measure.Goal("compiling", "ours", 60, 30, "ready_s")
# The value is the loss, or the logits; the array is the last layer's gradient, which
# has the rounding errors of all batch normalisations.
EXACT = measure.Tolerance(1e-3, 1e-2)
IN_BF16 = measure.Tolerance(0.05, 0.5)


def build(case: str, options: Options) -> measure.Case:
    """Returns the case for a net's step or forward pass, with available contenders."""
    name, _, forward = case.partition("-")
    make, released = (
        (jax_forward, pytorch_forward) if forward else (jax_step, pytorch_step)
    )
    size = SIZES[name]
    if options.batch is not None:
        size = size._replace(batch=options.batch)
    contenders = {"ours": functools.partial(make, name, size)}
    on_cpu = jax.default_backend() == "cpu"
    if not on_cpu:
        contenders["bf16"] = functools.partial(make, name, size, jnp.bfloat16)
    elif options.repdistiller and name in RELEASED:
        contenders["repdistiller"] = functools.partial(
            released, name, size, options.repdistiller
        )
    return measure.Case(
        contenders,
        goals=(GOAL,) if options.batch is None and not forward else (),
        tolerance=EXACT if on_cpu else IN_BF16,
        memory=options.memory,
    )


# ---- ours


def jax_step(name: str, size: Size, dtype: Any = jnp.float32) -> measure.Contender:
    """Returns a training step with cross-entropy and SGD with momentum, as a contender.

    Args:
      name: The name of the net.
      size: The size of the data.
      dtype: The dtype of the net's activations.
    """
    net, optimizer = nets.build(name, size.classes, dtype=dtype), _optimizer()
    phase = training.Phase({"task": (1.0, terms.cross_entropy())}, epochs=1)

    def view(data, batch, key):
        return data

    step = training.make_step(net, teachers.none(), phase, optimizer, view)
    arrays = jax.tree.map(jnp.asarray, training.Arrays((), data(size)))
    state = training.begin_phase(_state(variables(name, size)), phase, optimizer)
    run, facts = compiled(functools.partial(step, batch={}), state, arrays)

    def call():
        nonlocal state
        state, metrics = jax.block_until_ready(run(state, arrays))
        return metrics["loss"], state.replicated.opt_state

    def read(outcome):
        loss, opt_state = outcome
        # After the first step, the momentum is the gradient.
        momentum = optax.tree.get(opt_state, "trace")["student"]["classifier"]
        return [np.asarray(loss), np.asarray(momentum["kernel"])]

    return measure.Contender(call, read, facts=_counts(name, size) | facts)


def jax_forward(name: str, size: Size, dtype: Any = jnp.float32) -> measure.Contender:
    """Returns a forward pass in evaluation mode, with the arguments of `jax_step`."""
    net = nets.build(name, size.classes, dtype=dtype)

    def logits(variables, images):
        seen: Any = net.apply(variables, images)
        return seen["logits"]

    arguments = variables(name, size), data(size)["image"]
    arguments = jax.tree.map(jnp.asarray, arguments)
    run, facts = compiled(logits, *arguments, donated=())
    return measure.Contender(
        lambda: jax.block_until_ready(run(*arguments)),
        facts=_counts(name, size) | facts,
    )


def compiled(
    function: Callable[..., Any], *arguments: Any, donated: tuple[int, ...] = (0,)
) -> tuple[Callable[..., Any], dict[str, float]]:
    """Compiles a function; returns it, and the seconds of each part of compilation.

    Args:
      function: The function to compile.
      *arguments: The arguments with which it will be called.
      donated: The numbers of the arguments that it may overwrite.
    """
    times = [time.perf_counter()]
    made: Any = jax.jit(function, donate_argnums=donated).trace(*arguments)
    times.append(time.perf_counter())
    made = made.lower()
    times.append(time.perf_counter())
    made = made.compile()
    times.append(time.perf_counter())
    parts = dict(zip(("trace_s", "lower_s", "compile_s"), np.diff(times), strict=True))
    facts = {part: float(seconds) for part, seconds in parts.items()}
    return made, {**facts, "ready_s": sum(facts.values())}


def data(size: Size) -> dict[str, np.ndarray]:
    """Returns a batch of random images and labels."""
    random = np.random.default_rng(0)
    return {
        "image": random.standard_normal((size.batch, *size.image), np.float32),
        "label": random.integers(size.classes, size=size.batch, dtype=np.int32),
    }


def variables(name: str, size: Size) -> dict[str, Any]:
    """Returns random variables of a net, with He's variance for the kernels (fan-in).

    They are drawn with NumPy, since compiling a net's initializers takes as long as
    compiling its step.
    """
    random = np.random.default_rng(1)

    def drawn(path, leaf):
        if path[-1].key != "kernel":
            return np.full(leaf.shape, path[-1].key in ("scale", "var"), leaf.dtype)
        deviation = (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return deviation * random.standard_normal(leaf.shape, np.float32)

    shapes = _shapes(name, size)
    return jax.tree_util.tree_map_with_path(drawn, dict(shapes))


def _shapes(name: str, size: Size) -> dict[str, Any]:
    net = nets.build(name, size.classes)
    images = jax.ShapeDtypeStruct((1, *size.image), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), images)


def _counts(name: str, size: Size) -> dict[str, float]:
    leaves = jax.tree.leaves(_shapes(name, size)["params"])
    return {"images": size.batch, "parameters": sum(leaf.size for leaf in leaves)}


def _optimizer() -> optax.GradientTransformation:
    return optax.sgd(RATE, momentum=MOMENTUM)


def _state(variables: dict[str, Any]) -> training.TrainState:
    params, nothing = variables.pop("params"), terms.State()
    replicated = training.Replicated(
        step=jnp.asarray(0),
        params={"student": params, "task": {}},
        model_state=variables,
        opt_state=(),
        terms={"task": nothing.replicated},
        key=jax.random.key(0),
        view_key=jax.random.key(0),
    )
    state = training.TrainState(replicated, {"task": nothing.per_device})
    return jax.tree.map(jnp.asarray, state)


# ---- the released nets


def pytorch_step(name: str, size: Size, folder: pathlib.Path) -> measure.Contender:
    """Returns the same step in PyTorch.

    Args:
      name: The name of the net in `rdljax.nets`.
      size: The size of the data.
      folder: The checkout of RepDistiller.
    """
    import torch

    net, images, labels = _released(name, size, folder)
    parameters = list(net.parameters())
    optimizer = torch.optim.SGD(parameters, RATE, momentum=MOMENTUM)
    classifier = [m for m in net.modules() if isinstance(m, torch.nn.Linear)][-1]
    found = repdistiller.differentiated(
        lambda: torch.nn.functional.cross_entropy(net(images), labels), parameters
    )

    def call():
        loss, gradients = found.call()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        return loss

    def read(loss):
        return [loss.numpy(), classifier.weight.grad.numpy().T]

    net.train()
    return measure.Contender(call, read, found.tune, {"images": size.batch})


def pytorch_forward(name: str, size: Size, folder: pathlib.Path) -> measure.Contender:
    """Returns a forward pass in PyTorch, with the arguments of `pytorch_step`."""
    import torch

    net, images, _ = _released(name, size, folder)
    net.eval()

    def call():
        with torch.inference_mode():
            return net(images)

    # With the number of threads that is fastest with the gradient.
    found = repdistiller.differentiated(lambda: net(images), list(net.parameters()))
    return measure.Contender(
        call, lambda logits: [logits.numpy()], found.tune, {"images": size.batch}
    )


def _released(name: str, size: Size, folder: pathlib.Path) -> tuple[Any, Any, Any]:
    """Returns the released net with our weights, images and labels."""
    import torch

    repdistiller.load(folder)
    models = importlib.import_module("models").model_dict
    net = models[RELEASED[name]](num_classes=size.classes)
    state = from_torch.to_torch(name, variables(name, size))
    net.load_state_dict({key: torch.from_numpy(x) for key, x in state.items()})
    batch = data(size)
    images = torch.from_numpy(batch["image"].transpose(0, 3, 1, 2).copy())
    return net, images, torch.from_numpy(batch["label"].astype(np.int64))


# ---- the report


def finish(results: dict, options: Options) -> None:
    """Prints the second table, and a note on contenders that were left out."""
    done = [case for case in results["cases"] if case["contenders"]]
    if done:
        print(f"\n{table(done)}")
    if any(case["device"].startswith("cpu") for case in done):
        print("\nbf16 is left out on a CPU, which has no arithmetic in bfloat16.")


def table(cases: list[dict]) -> str:
    """Returns a Markdown table with a row for each net.

    Its columns are images per second, parameters, and seconds until the first step.

    Args:
      cases: The cases of `runner.run` that have contenders.
    """
    rows: dict[str, dict[str, str]] = {}
    for case in cases:
        name, _, forward = case["case"].partition("-")
        row, what = rows.setdefault(name, {}), "forward" if forward else "step"
        for contender, entry in case["contenders"].items():
            speed = 1e3 * entry["images"] / entry["median_ms"]
            row[f"{what}, {contender}"] = f"{speed:,.0f}"
        ours = case["contenders"]["ours"]
        row["parameters"] = f"{ours['parameters']:,}"
        if not forward:
            parts = ("trace", "lower", "compile", "ready")
            row |= {f"{part}, s": f"{ours[f'{part}_s']:.1f}" for part in parts}
        for goal in case["goals"]:
            bounds = f"{goal['floor']} s, {goal['target']} s"
            row[goal["name"]] = f"{goal['verdict']} ({bounds})"
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [[name, *(row.get(c, "") for c in columns)] for name, row in rows.items()]
    return report.aligned([["images a second", *columns], *lines])


main = functools.partial(
    runner.main, "benchmarks.nets", build, CASES, Options, finish=finish
)

if __name__ == "__main__":
    # (Cached programs would count as compiled in no time.)
    jax.config.update("jax_enable_compilation_cache", False)
    sys.exit(main())
