"""Compares objectives with their plain ports and with RepDistiller's released code.

Each case is the value and the gradient of one objective: `ours` is `rdljax.objectives`,
`port` a direct translation of the formula to JAX, `gram` (for NST) a form with matrix
products of channels by channels, and `repdistiller` the released PyTorch code, if a
checkout is given. Sizes are in the names: channels by height by width, or units; `b256`
has a batch of 256, all others of 64.
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure, ports, repdistiller, runner
from experiments import command as commands
from rdljax import mmd, objectives

Pair = tuple  # Student and teacher: arrays, or lists of arrays.


@dataclasses.dataclass(frozen=True)
class Options(runner.Options):
    """The settings of this benchmark."""

    repdistiller: pathlib.Path | None = None
    """The folder of a checkout of RepDistiller, which is then measured, too."""

    def check(self) -> None:
        """Raises `UsageError` for settings that are not allowed."""
        super().check()
        if self.repdistiller is not None:
            reason = repdistiller.reason_to_do_without(self.repdistiller)
            if reason is not None:
                raise commands.UsageError(reason)


def build(name: str, options: Options) -> measure.Case:
    """Returns the case with this name, with the contenders that are available."""
    case = CASES[name](64 if options.batch is None else options.batch)
    contenders = {name: _precise(make) for name, make in case.contenders.items()}
    contenders.pop("repdistiller", None)
    released, folder = case.contenders.get("repdistiller"), options.repdistiller
    if released and folder and jax.default_backend() == "cpu":
        contenders["repdistiller"] = lambda: released(repdistiller.load(folder))
    # (Goals are for the default size only.)
    goals = GOALS.get(name, ()) if options.batch is None else ()
    return dataclasses.replace(case, contenders=contenders, goals=goals)


def _precise(make: Callable[[], measure.Contender]) -> Callable[[], measure.Contender]:
    """Returns a function that makes the same contender at full precision.

    By default a GPU rounds the inputs of a product to 10 bits; `rdljax.objectives` asks
    for full precision.
    """

    def precise():
        with jax.default_matmul_precision("highest"):
            return make()

    return precise


# ---- data


def draw(seed: int, *shape: int) -> np.ndarray:
    """Returns standard normal numbers in float32."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def rows(units: int) -> Callable[[int], Pair]:
    """Returns a function from the batch size to two arrays `[batch, units]`."""
    return lambda batch: (draw(0, batch, units), draw(1, batch, units))


def maps(channels: int, side: int) -> Callable[[int], Pair]:
    """Returns a function from the batch size to maps without negative numbers."""
    shape = (side, side, channels)
    return lambda batch: tuple(np.maximum(draw(i, batch, *shape), 0) for i in (0, 1))


def layers(*sizes: tuple[int, int], lowest: float = -np.inf) -> Callable[[int], Pair]:
    """Returns a function from the batch size to maps of several layers.

    Args:
      *sizes: The channels and the side of each layer.
      lowest: The smallest number in a map; smaller numbers are clipped.
    """

    def side(seed, batch):
        shapes = [(batch, side, side, channels) for channels, side in sizes]
        return [
            np.maximum(draw(2 * i + seed, *shape), lowest)
            for i, shape in enumerate(shapes)
        ]

    return lambda batch: (side(0, batch), side(1, batch))


def unit(x: np.ndarray) -> np.ndarray:
    """Scales rows to unit length."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# ---- cases, made for a batch size


def differentiated(
    covers: Iterable[str],
    arguments: tuple,
    ours: Callable[..., jax.Array],
    port: Callable[..., jax.Array],
    *,
    trained: tuple[int, ...] = (0,),
    released: Callable[[repdistiller.Released], Callable] | None = None,
    **others: Callable[..., jax.Array],
) -> measure.Case:
    """Returns the case for value and gradient of functions of the same arguments.

    Args:
      covers: The names of the measured functions of `rdljax.objectives`.
      arguments: The arguments of all contenders, in NumPy.
      ours: The reference.
      port: The plain form of the reference.
      trained: The numbers of the arguments of the gradient.
      released: The function from the modules of the released code to its loss.
      **others: Further contenders in JAX.
    """
    contenders: dict[str, Callable[..., measure.Contender]] = {
        name: functools.partial(measure.gradient, function, *arguments, trained=trained)
        for name, function in {"ours": ours, "port": port, **others}.items()
    }
    if released is not None:
        contenders["repdistiller"] = lambda modules: repdistiller.contender(
            released(modules), arguments, trained
        )
    return measure.Case(contenders, covers=tuple(covers))


def plain(
    name: str,
    data: Callable[[int], Pair],
    released: Callable[[repdistiller.Released], Callable] | None = None,
    **options,
) -> Callable[[int], measure.Case]:
    """Returns a function from the batch size to the case for an objective and its port.

    Args:
      name: The name of the objective.
      data: The function from the batch size to student and teacher.
      released: The function from the modules of the released code to its loss.
      **options: Further arguments of `differentiated`.
    """

    def make(batch):
        forms = getattr(objectives, name), getattr(ports, name)
        return differentiated(
            (name,), data(batch), *forms, released=released, **options
        )

    return make


def by_layers(name: str, *settings) -> Callable[[repdistiller.Released], Callable]:
    """Wraps a released loss of lists of layers as a loss of one layer.

    Args:
      name: The name of the loss's class.
      *settings: The arguments of the class.
    """

    def released(modules):
        loss = getattr(modules.losses, name)(*settings)
        return lambda student, teacher: loss([student], [teacher])

    return released


def nst(channels: int, side: int) -> Callable[[int], measure.Case]:
    """Returns the case for NST with the kernel of the released code."""
    return plain(
        "nst", maps(channels, side), by_layers("NSTLoss"), gram=ports.nst_by_grams
    )


def nst_with(kernel, port: Callable[..., jax.Array]) -> Callable[[int], measure.Case]:
    """Returns the case for NST with a kernel that the released code does not have."""

    def make(batch):
        ours = functools.partial(objectives.nst, kernel=kernel)
        return differentiated(("nst",), maps(256, 8)(batch), ours, port)

    return make


def dkd(batch: int) -> measure.Case:
    """Returns the case for DKD, which needs labels."""
    arguments = (*rows(100)(batch), np.arange(batch, dtype=np.int32) % 100)
    return differentiated(("dkd",), arguments, objectives.dkd, ports.dkd)


def vid(batch: int) -> measure.Case:
    """Returns the case for VID with its regressor, a part of the released loss."""
    inputs, channels = 64, 256
    student, teacher = draw(0, batch, 8, 8, inputs), draw(1, batch, 8, 8, channels)
    widths = (inputs, channels, channels, channels)
    weights = [
        draw(2 + i, *shape) / np.sqrt(np.float32(shape[0]))
        for i, shape in enumerate(zip(widths[:-1], widths[1:], strict=True))
    ]
    log_scale = 5 + draw(5, channels)

    def ours(student, teacher, log_scale, *weights):
        x = student.reshape(-1, inputs)
        for weight in weights[:-1]:
            x = jax.nn.relu(x @ weight)
        mean = (x @ weights[-1]).reshape(teacher.shape)
        return objectives.vid(mean, teacher, log_scale)

    arguments = (student, teacher, log_scale, *weights)
    trained = (0, 2, 3, 4, 5)
    case = differentiated(("vid",), arguments, ours, ports.vid, trained=trained)
    released = functools.partial(repdistiller.vid, arguments=arguments)
    return dataclasses.replace(
        case, contenders={**case.contenders, "repdistiller": released}
    )


def fsp(lower: int, upper: int) -> Callable[[int], measure.Case]:
    """Returns the case for FSP between two layers."""
    sizes = ((lower, 8), (upper, 8))
    shapes = [(None, *size) for size in sizes]
    return plain(
        "fsp", layers(*sizes), lambda modules: modules.losses.FSP(shapes, shapes)
    )


def rkd(units: int) -> Callable[[int], measure.Case]:
    """Returns the case for RKD with the weights of the released code."""

    def ours(student, teacher):
        by_distance = objectives.rkd_distance(student, teacher)
        return 25 * by_distance + 50 * objectives.rkd_angle(student, teacher)

    return lambda batch: differentiated(
        ("rkd_distance", "rkd_angle"),
        rows(units)(batch),
        ours,
        ports.rkd,
        released=lambda modules: modules.losses.RKDLoss(25, 50),
    )


# ---- CRD, in which a step changes the banks

EXAMPLES, NEGATIVES, EMBEDDED = 50_000, 16_384, 128
# In float32 the released form of the value has a relative error of 1e-4: it sums a
# million logarithms of ratios near 1.
CRD_TOLERANCE = measure.Tolerance(value=5e-4)


def contrast(
    ours: Callable[..., jax.Array],
    port: Callable[..., jax.Array],
    covers: tuple[str, ...],
    batch: int,
) -> tuple[measure.Case, tuple]:
    """Returns the case for a step of CRD: loss, both gradients, update of the banks.

    Args:
      ours: The reference, `ours(student, teacher, bank, indices) -> scalar`.
      port: The plain form of the reference.
      covers: The names of the measured functions of `rdljax.objectives`.
      batch: The number of anchors.

    Returns:
      The case, and a tuple of student, teacher, both banks and indices in NumPy.
    """
    random = np.random.default_rng(0)
    student, teacher = (unit(draw(i, batch, EMBEDDED)) for i in (0, 1))
    bank = [unit(draw(i, EXAMPLES, EMBEDDED)) for i in (2, 3)]
    indices = random.integers(EXAMPLES, size=(batch, NEGATIVES + 1), dtype=np.int32)
    indices[:, 0] = random.permutation(EXAMPLES)[:batch]

    def contender(form, module):
        arrays = jax.tree.map(jnp.array, (student, teacher, indices))
        index = arrays[2][:, 0]
        state = module.Bank(*map(jnp.array, bank), jnp.zeros(2))
        state = state._replace(
            normalizers=module.normalizers(*arrays[:2], state, arrays[2])
        )
        # In two calls: if one program reads and updates a bank, XLA copies the bank.
        both = jax.value_and_grad(form, (0, 1))
        loss = jax.jit(both).lower(*arrays[:2], state, arrays[2]).compile()
        update = (
            jax.jit(module.update_bank, donate_argnums=0)
            .lower(state, *arrays[:2], index)
            .compile()
        )
        rows = jax.jit(lambda bank: (bank.student[index], bank.teacher[index]))

        def call():
            nonlocal state
            found = loss(*arrays[:2], state, arrays[2])
            state = jax.block_until_ready(update(state, *arrays[:2], index))
            return jax.block_until_ready(found)

        def read(found):
            return [np.asarray(x) for x in jax.tree.leaves((found, rows(state)))]

        return measure.Contender(call, read)

    contenders = {
        "ours": functools.partial(contender, ours, objectives),
        "port": functools.partial(contender, port, ports),
    }
    case = measure.Case(contenders, tolerance=CRD_TOLERANCE, covers=covers)
    return case, (student, teacher, bank, indices)


def crd(batch: int) -> measure.Case:
    """Returns the case for CRD with K given negatives for each example."""
    covers = ("crd", "Bank", "update_bank", "normalizers")
    case, arguments = contrast(objectives.crd, ports.crd, covers, batch)

    def released(modules):
        return repdistiller.crd(modules, *arguments)

    return dataclasses.replace(
        case, contenders={**case.contenders, "repdistiller": released}
    )


def crd_expected(batch: int) -> measure.Case:
    """Returns the case for CRD with all rows as negatives, by their expected counts."""

    def ours(student, teacher, bank, indices):
        weights = jnp.full((len(indices), EXAMPLES), NEGATIVES / EXAMPLES)
        return objectives.crd_shared(
            student, teacher, bank, indices[:, 0], None, weights
        )

    def port(student, teacher, bank, indices):
        return ports.crd_expected(student, teacher, bank, indices[:, 0], NEGATIVES)

    return contrast(ours, port, ("crd_shared",), batch)[0]


def crd_shared(batch: int) -> measure.Case:
    """Returns the case for CRD with the same K negatives for all examples."""

    def ours(student, teacher, bank, indices):
        index, negatives = indices[:, 0], indices[0, 1:]
        return objectives.crd_shared(student, teacher, bank, index, negatives)

    def port(student, teacher, bank, indices):
        index, negatives = indices[:, 0], indices[0, 1:]
        return ports.crd_shared(student, teacher, bank, index, negatives)

    return contrast(ours, port, ("crd_shared",), batch)[0]


CASES: dict[str, Callable[[int], measure.Case]] = {
    "kd-100": plain("kd", rows(100), lambda modules: modules.losses.DistillKL(4)),
    "dkd": dkd,
    "dist": plain("dist", rows(100)),
    "hint-256x8x8": plain(
        "hint", maps(256, 8), lambda modules: modules.losses.HintLoss()
    ),
    "at-256x8x8": plain("at", maps(256, 8), by_layers("Attention")),
    "nst-64x8x8": nst(64, 8),
    "nst-128x8x8": nst(128, 8),
    "nst-256x8x8": nst(256, 8),
    "nst-32x32x32": nst(32, 32),
    "nst-linear": nst_with(mmd.Linear(), ports.nst_linear),
    "nst-gaussian": nst_with(mmd.Gaussian(), ports.nst_gaussian),
    "vid-64-256-8x8": vid,
    "ft": plain("ft", maps(128, 8)),
    "ft_repdistiller": plain(
        "ft_repdistiller", maps(128, 8), lambda modules: modules.losses.FactorTransfer()
    ),
    "ab": plain(
        "ab",
        layers((64, 32), (128, 16), (256, 8)),
        lambda modules: modules.losses.ABLoss(3),
    ),
    "fsp-64-64-8x8": fsp(64, 64),
    "fsp-128-256-8x8": fsp(128, 256),
    # After a ReLU, so that the entries of the first singular vector have the same sign,
    # and ours and LAPACK's agree on the sign for all layers.
    "kdsvd": plain("kdsvd", layers((64, 8), (64, 8), lowest=0), repdistiller.kdsvd),
    "rdl": plain("rdl", maps(256, 8)),
    "sp-256x8x8": plain("sp", maps(256, 8), by_layers("Similarity")),
    "pkt-256": plain("pkt", rows(256), lambda modules: modules.losses.PKT()),
    "rkd-64": rkd(64),
    "rkd-256": rkd(256),
    "rkd-2048": rkd(2048),
    "rkd-b256-256": lambda batch: rkd(256)(4 * batch),
    "cc": plain("cc", rows(128)),
    "cc_repdistiller": plain(
        "cc_repdistiller",
        rows(128),
        lambda modules: modules.losses.Correlation(),
        trained=(0, 1),
    ),
    "cka": plain("cka", maps(256, 8)),
    "crd": crd,
    "crd-expected": crd_expected,
    "crd-shared": crd_shared,
}

# The goals of cases.
_AT_LEAST_EQUAL = (measure.Goal("P5", "repdistiller", 1, 1.3),)
GOALS = {
    "nst-256x8x8": (
        measure.Goal("P1", "repdistiller", 100, 300),
        measure.Goal("P1b", "gram", 8, 25),
        measure.Goal("P9", "repdistiller", 20, 80, "memory"),
    ),
    "rkd-256": (measure.Goal("P2", "repdistiller", 10, 20),),
    "rkd-2048": (measure.Goal("P2", "repdistiller", 60, 150),),
    "rkd-b256-256": (measure.Goal("P9", "repdistiller", 8, 18, "memory"),),
    "crd": (
        measure.Goal("P3", "repdistiller", 6, 12),
        measure.Goal("P3", "port", 3, 6),
        measure.Goal("P9", "repdistiller", 8, 12, "memory"),
    ),
    "fsp-64-64-8x8": (measure.Goal("P4", "repdistiller", 25, 60),),
    "sp-256x8x8": _AT_LEAST_EQUAL,
    "pkt-256": _AT_LEAST_EQUAL,
    "at-256x8x8": _AT_LEAST_EQUAL,
    "kd-100": _AT_LEAST_EQUAL,
    "vid-64-256-8x8": _AT_LEAST_EQUAL,
}

main = functools.partial(runner.main, "benchmarks.objectives", build, CASES, Options)

if __name__ == "__main__":
    sys.exit(main())
