"""Compiles our programs for accelerators, without an accelerator.

    python -m benchmarks.compiled [CASE ...] [--topology=v5e:2x2] [--effort=-1]

The real programs are compiled for a TPU slice that is not present (`pip install
libtpu`), and the compiler's estimates for each are printed: memory of a chip, bytes of
its arguments, operations, cycles and the bytes that a chip receives from others.
Nothing is run: an estimate is not a measurement. The cycles exclude the time of
collectives, gathers, scatters and sorts, so that seconds are a lower bound.

Cases: `step`, the step of experiments with the task, and `step-METHOD` with a method's
terms (a ResNet-8x4 taught by a ResNet-32x4, 64 images of CIFAR-100 per chip); `view`
and `view-unflattened`, only the images of a step; `rdm-N`, an RDM of N rows of 512
units; `discrepancy-N`, the comparison of two RDMs with its gradient, in the form that
the library chooses. With `--effort=-1` a step compiles in 10 instead of 40 to 110 CPU
seconds; memory and collectives are right, but the cycles are several times too many.
"""

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.experimental import topologies

from benchmarks import hlo
from experiments import command, data, methods
from experiments import config as configs
from experiments.results import markdown
from experiments.training import context as contexts
from experiments.training import recipes
from rdljax import errors, files, rdm, teachers, training

# The clock rate of a v5e, in cycles per second.
CYCLES_A_SECOND = 1.5e9
IMAGES, CLASSES, SIZE = 50_000, 100, (32, 32, 3)
BATCH = 64  # Images per chip.
UNITS = 512


@dataclasses.dataclass(frozen=True)
class Options:
    """The programs, and the TPU that they are compiled for."""

    cases: tyro.conf.Positional[tuple[str, ...]] = ()
    """The cases; all by default."""
    topology: str = "v5e:2x2"
    """The TPU slice: v5e:2x2, v5e:16x16, v5p:2x2x1, v6e:2x2, ..."""
    effort: float | None = None
    """The compiler's effort, from -1 to 1; None for its default."""
    out: str | None = None
    """A JSON file for the results."""


class Result(NamedTuple):
    """The compiler's estimates for a program.

    Attributes:
      seconds: The time of the compilation.
      memory: The bytes of a call on a chip, including arguments.
      arguments: The bytes of the arguments, in their layout on a chip.
      temporary: The bytes of intermediate results.
      operations: The number of floating-point operations; the body of a loop counts
        once.
      cycles: The estimated number of cycles.
      received: The number of collectives, and the bytes that a chip receives from
        others, by kind of collective.
      largest: The instructions with the most cycles.
      constant: The bytes of the largest constant.
    """

    seconds: float
    memory: int
    arguments: int
    temporary: int
    operations: float | None
    cycles: int
    received: dict[str, tuple[int, float]]
    largest: list[tuple[int, str, str]]
    constant: int


def devices(topology: str) -> list[Any]:
    """Returns descriptions of the chips of a TPU slice, which need not be present.

    Raises:
      UsageError: If libtpu is not installed, or does not know the slice.
    """
    try:
        return list(topologies.get_topology_desc(topology, platform="tpu").devices)
    except Exception as error:  # (Many kinds: libtpu not installed, in use, ...)
        raise command.UsageError(
            f"cannot compile for {topology}: {error} (pip install libtpu)"
        ) from error


def of_function(
    function: Callable,
    shapes: Sequence[Any],
    chips: Sequence[Any],
    effort: float | None,
) -> Result:
    """Compiles a function for one chip.

    Args:
      function: The function, of arrays.
      shapes: The shapes of its arguments.
      chips: The chips, from `devices`.
      effort: The compiler's effort; None for its default.
    """
    mesh = jax.sharding.Mesh(np.array(chips[:1]), ("chip",))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def placed(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    traced = jax.jit(function).trace(*jax.tree.map(placed, tuple(shapes)))
    lowered = traced.lower(lowering_platforms=("tpu",))
    return describe(lowered.compile(_options(effort)), 1)


def of_step(method: str, chips: Sequence[Any], effort: float | None) -> Result:
    """Compiles the step of experiments with a method, for all chips.

    Args:
      method: The method of experiments: `plain`, or parts joined by `+`.
      chips: The chips, from `devices`.
      effort: The compiler's effort; None for its default.
    """
    count = len(chips)
    config = configs.make(
        data="cifar100",
        teacher="resnet32x4",
        student="resnet8x4",
        methods=(method,),
        layers=("stage1", "stage2", "pooled", "logits"),
        batch=BATCH * count,
    )
    dataset = images()
    student = contexts.student(config, dataset, contexts.Inputs(), training.AXIS)
    source = teachers.none()
    if methods.reads_teacher(method):
        net = contexts.teacher(config, dataset)
        seen = jnp.zeros((1, *SIZE))
        source = teachers.net(net, jax.eval_shape(net.init, jax.random.key(0), seen))
    batch: Any = {"index": np.zeros(BATCH * count, np.int32)}
    recipe = recipes.make_recipe(
        config,
        dataset,
        contexts.Inputs(),
        net=student,
        teacher=source,
        method=method,
        example=batch,
    )
    # (Parts that are used in a start-up phase only, such as fsp, need that phase.)
    alone = any(methods.PARTS[part].alone for part in methods.parts(method))
    number = 0 if alone else len(recipe.plan) - 1
    arrays = training.Arrays(source.arrays, shapes_of_images())

    def begin():
        return recipe.start_phase(number, recipe.initial_state(0, arrays, count))

    divided: Any = {"index": jax.ShapeDtypeStruct((count, BATCH), np.int32)}
    program = training.compile_step(
        *(recipe.step(number), jax.eval_shape(begin), arrays, divided, chips),
        _options(effort),
    )
    return describe(program.compiled, count)._replace(seconds=program.seconds)


def images() -> data.Dataset:
    """Returns a data set with the shapes of CIFAR-100, whose images take no memory."""
    pixels = np.broadcast_to(np.uint8(0), (IMAGES, *SIZE))
    split = data.Split(pixels, (np.arange(IMAGES) % CLASSES).astype(np.int32))
    moments = ((127.5,) * 3, (73.6,) * 3)
    return data.Dataset("cifar100", CLASSES, split, split, split, "", *moments)


def shapes_of_images(flat: bool = True) -> dict[str, Any]:
    """Returns the shapes of a data set's images and labels on a device."""
    size = (int(np.prod(SIZE)),) if flat else SIZE
    return {
        "image": jax.ShapeDtypeStruct((IMAGES, *size), np.uint8),
        "label": jax.ShapeDtypeStruct((IMAGES,), np.int32),
    }


def describe(compiled: Any, count: int) -> Result:
    """Returns the compiler's estimates for a compiled program.

    Args:
      compiled: The executable.
      count: The number of chips.
    """
    taken, text = compiled.memory_analysis(), compiled.as_text()
    costs = compiled.cost_analysis() or {}
    estimate = hlo.cycles(text)
    return Result(
        seconds=0.0,
        memory=(
            taken.argument_size_in_bytes
            + taken.output_size_in_bytes
            - taken.alias_size_in_bytes
            + taken.temp_size_in_bytes
            + taken.generated_code_size_in_bytes
        ),
        arguments=taken.argument_size_in_bytes,
        temporary=taken.temp_size_in_bytes,
        operations=costs.get("flops"),
        cycles=estimate.total,
        received=hlo.collectives(text, count),
        largest=estimate.largest,
        constant=hlo.constants(text),
    )


def _options(effort: float | None) -> dict[str, Any] | None:
    if effort is None:
        return None
    return {"exec_time_optimization_effort": effort}


def _view(flat: bool) -> Callable[..., Result]:
    def case(chips, effort):
        view = data.view(images(), crop=4, flip=True)
        key = jax.eval_shape(lambda: jax.random.key(0))
        batch = {"index": jax.ShapeDtypeStruct((BATCH,), np.int32)}
        return of_function(view, (shapes_of_images(flat), batch, key), chips, effort)

    return case


def _rdm(count: int) -> Callable[..., Result]:
    def case(chips, effort):
        rows = jax.ShapeDtypeStruct((count, UNITS), np.float32)
        return of_function(rdm.compute, (rows,), chips, effort)

    return case


def _discrepancy(count: int) -> Callable[..., Result]:
    def case(chips, effort):
        rows = jax.ShapeDtypeStruct((count, UNITS), np.float32)
        loss = jax.value_and_grad(rdm.discrepancy)
        return of_function(loss, (rows, rows), chips, effort)

    return case


def _step(method: str) -> Callable[..., Result]:
    return lambda chips, effort: of_step(method, chips, effort)


CASES: dict[str, Callable[..., Result]] = {
    "view": _view(flat=True),
    "view-unflattened": _view(flat=False),
    **{f"rdm-{n}": _rdm(n) for n in (512, 4096)},
    **{f"discrepancy-{n}": _discrepancy(n) for n in (512, 2048, 20_000)},
    "step": _step("plain"),
    **{f"step-{method}": _step(method) for method in methods.PARTS},
}


def text(found: dict[str, Result]) -> str:
    """Returns a Markdown table with a row for each case."""
    rows = [
        [
            name,
            f"{of.memory / 2**20:,.1f}",
            f"{of.temporary / 2**20:,.1f}",
            f"{of.arguments / 2**20:,.1f}",
            "–" if of.operations is None else f"{of.operations / 1e9:,.2f}",
            f"{of.cycles / 1e6:,.3f}",
            f"{1e3 * of.cycles / CYCLES_A_SECOND:,.3f}",
            f"{sum(size for _, size in of.received.values()) / 1e6:,.2f}",
        ]
        for name, of in found.items()
    ]
    head = ["case", "MiB a chip", "temporary", "arguments", "GFLOP"]
    return markdown.grid([*head, "million cycles", "ms at least", "MB received"], rows)


def main(arguments: list[str] | None = None) -> int:
    """Compiles cases and prints a table; returns the exit status."""

    def run(line):
        options = command.parse(
            Options, line, program="benchmarks.compiled", about=__doc__
        )
        for name in options.cases:
            errors.check_name("case", name, CASES)
        chips, found = devices(options.topology), {}
        for name in options.cases or CASES:
            found[name] = CASES[name](chips, options.effort)
            print(text({name: found[name]}).splitlines()[-1], flush=True)
            for own, kind, label in found[name].largest:
                print(f"    {own / 1e6:,.3f} {kind} {label[-90:]}", flush=True)
            if options.out is not None:
                record = {case: of._asdict() for case, of in found.items()}
                files.write_json(options.out, record)
        print(f"\nEstimated by the compiler for {options.topology}:\n\n{text(found)}")

    return command.call(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
