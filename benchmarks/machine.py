"""Describes the machine that benchmarks run on, and the versions of the packages."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
from typing import Any

import rdljax

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch")


def hardware() -> dict[str, Any]:
    """Describes the machine: `cpu`, the number of `cores`, and `memory_gib`."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Not Linux.
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        names = [x.split(":", 1)[1] for x in lines if x.startswith("model name")]
        model = names[0].strip() if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": model, "cores": cores(), "memory_gib": round(memory / 2**30, 1)}


def cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str | None]:
    """Returns the versions of the packages that matter; None if not installed."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "rdljax": rdljax.__version__,
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
