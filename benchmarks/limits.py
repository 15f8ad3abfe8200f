"""Measures the limits of the machine: products of matrices, and copies of memory.

`gemm` is the product of two square matrices (2,048 rows on a CPU, 8,192 on an
accelerator) in float32 at full precision, and on an accelerator in bfloat16. `copy`
reads and writes 256 MiB. The speeds of other benchmarks can be compared with these.
"""

import dataclasses
import functools
import sys
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from benchmarks import measure, runner

MEBIBYTES = 256
# The units of contenders' facts divided by the time, in 1e9 per second.
SPEEDS = {"flop": "GFLOP/s", "bytes": "GB/s"}


def build(name: str, options: runner.DeviceOptions) -> measure.Case:
    """Returns the case with this name, in the dtypes of the device's arithmetic."""
    options.take_device()
    on_cpu = jax.default_backend() == "cpu"
    rows = 2048 if on_cpu else 8192
    contenders = {"float32": copy}
    if name == "gemm":
        dtypes = ("float32",) if on_cpu else ("float32", "bfloat16")
        contenders = {dtype: functools.partial(gemm, rows, dtype) for dtype in dtypes}
    return measure.Case(contenders, tolerance=None, memory=False)


def inner(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns inner products `[n, m]` of the rows of `[n, units]` and `[m, units]`."""
    return jnp.einsum("nu,mu->nm", x, y, precision=jax.lax.Precision.HIGHEST)


def gemm(rows: int, dtype: str) -> measure.Contender:
    """Returns a contender that multiplies two square matrices."""

    def product(state, x, y):
        return state, inner(x, y)

    matrices = jax.random.normal(jax.random.key(0), (2, rows, rows), dtype)
    contender = measure.stepping(product, (), *matrices)
    return dataclasses.replace(contender, facts={"flop": 2 * rows**3})


def copy() -> measure.Contender:
    """Returns a contender that reads and overwrites each number of an array."""
    array = jnp.zeros(MEBIBYTES * 2**18)
    contender = measure.stepping(lambda x: (x + 1, ()), array)
    return dataclasses.replace(contender, facts={"bytes": 2 * array.nbytes})


def speeds(entry: Mapping[str, float], time: str = "median_ms") -> dict[str, float]:
    """Returns the speed of a contender by unit; empty if its work is not counted.

    Args:
      entry: The entry of the contender, from `verdicts.case_result`.
      time: The key of the time to use.
    """
    return {
        unit: entry[fact] / entry[time] / 1e6
        for fact, unit in SPEEDS.items()
        if fact in entry
    }


def best_speeds(results: dict) -> dict[str, float]:
    """Returns the speeds of the best samples.

    Args:
      results: The results of `runner.run`.

    Returns:
      The speeds by name and unit, such as "gemm-float32, GFLOP/s".
    """
    return {
        f"{case['case']}-{name}, {unit}": speed
        for case in results["cases"]
        for name, entry in case["contenders"].items()
        for unit, speed in speeds(entry, "best_ms").items()
    }


def finish(results: dict, options: runner.DeviceOptions) -> None:
    """Prints the speeds."""
    print()
    for name, speed in best_speeds(results).items():
        print(f"{name}: {speed:,.1f}")


CASES = ("gemm", "copy")
main = functools.partial(
    runner.main,
    "benchmarks.limits",
    build,
    CASES,
    runner.DeviceOptions,
    finish=finish,
)

if __name__ == "__main__":
    sys.exit(main())
