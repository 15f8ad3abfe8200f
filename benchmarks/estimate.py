"""What a step takes on 8 to 4,096 accelerators, on paper.

`python -m benchmarks.estimate` prints the table of `docs/scaling.md`: of a ResNet-8x4
with 64 images an accelerator, the bytes that each accelerator receives, the
multiplications and additions that it does, and what that takes at the rates below.
Nothing here is measured on such a machine.
"""

import sys
from typing import NamedTuple

from rdljax.rdm import forms

# Images an accelerator, and resnet8x4's parameters.
IMAGES, PARAMETERS = 64, 1_233_540
# Of one image forward through resnet8x4 and through resnet32x4, in FLOPs: what XLA says
# of the program, `jax.jit(...).lower(...).cost_analysis()`.
FORWARD, TEACHER = 328_067_936, 1_973_939_072
# Units of `pooled`, of `stage3` and of CRD's embeddings; rows of a bank (ImageNet's).
POOLED, STAGE, EMBEDDING, BANK = 256, 8 * 8 * 256, 128, 1_281_167
# What is reached of a matrix unit in single precision or better, and of a link.
FLOPS_A_SECOND, BYTES_A_SECOND = 100e12, 50e9


class Cost(NamedTuple):
    """Of a step, for each accelerator.

    Attributes:
      received: Bytes that arrive.
      flops: Multiplications and additions.
      kept: Bytes of memory that it keeps from step to step.
    """

    received: float
    flops: float
    kept: float = 0.0

    @property
    def milliseconds(self) -> float:
        """Returns the time if nothing is computed while data move."""
        return 1e3 * (self.received / BYTES_A_SECOND + self.flops / FLOPS_A_SECOND)


def summed(count: float, devices: int) -> float:
    """Bytes that arrive where float32 numbers are summed over devices, in a ring."""
    return 2 * (devices - 1) / devices * 4 * count


def gathered(count: float, devices: int) -> float:
    """Bytes that arrive where each device's float32 numbers go to all, and back.

    (The gradient comes back as a sum of which each device gets its part.)
    """
    return 2 * (devices - 1) * 4 * count


def bare(devices: int) -> Cost:
    """The step with the task and KD: forward, twice that backward, and the teacher."""
    flops = IMAGES * (3 * FORWARD + TEACHER)
    return Cost(summed(PARAMETERS, devices), flops, 3 * 4 * PARAMETERS)


def rdl_gathered(units: int, devices: int) -> Cost:
    """Returns RDL on all activations, whose products every device computes.

    Two Grams of the whole batch, and two products of that size for the gradient. Only
    the student's activations have a gradient that goes back.
    """
    examples = IMAGES * devices
    received = gathered(IMAGES * units, devices) * 3 / 2
    return Cost(received, 8 * examples**2 * units)


def rdl_products(units: int, devices: int) -> Cost:
    """RDL on activations of which every device takes some units, products summed.

    Student and teacher go to other devices once, the student's gradient comes back; two
    matrices are summed, and one for the gradient.
    """
    examples = IMAGES * devices
    moved = (devices - 1) / devices * 4 * 3 * IMAGES * units
    received = moved + 3 * summed(examples**2, devices)
    return Cost(received, 8 * examples**2 * units / devices)


def rdl_moments(units: int, devices: int) -> Cost:
    """RDL by sums over stimuli: three products of units by units, and two back."""
    numbers = forms.size_of_moments(units, units)
    return Cost(2 * summed(numbers, devices), 10 * IMAGES * units**2)


def crd(devices: int) -> Cost:
    """Returns CRD with all rows as negatives, both banks on every device."""
    flops = 8 * IMAGES * BANK * EMBEDDING
    received = (devices - 1) * 4 * 2 * IMAGES * EMBEDDING
    return Cost(received, flops, 2 * 4 * BANK * EMBEDDING)


def crd_sharded(devices: int) -> Cost:
    """Returns CRD with all rows as negatives, the banks divided by rows."""
    rows = BANK / devices
    flops = 8 * IMAGES * devices * rows * EMBEDDING
    received = gathered(2 * IMAGES * EMBEDDING, devices)
    return Cost(received, flops, 2 * 4 * rows * EMBEDDING)


COSTS = {
    "bare step": bare,
    "RDL, pooled, gathered": lambda devices: rdl_gathered(POOLED, devices),
    "RDL, pooled, products": lambda devices: rdl_products(POOLED, devices),
    "RDL, pooled, moments": lambda devices: rdl_moments(POOLED, devices),
    "RDL, stage3, gathered": lambda devices: rdl_gathered(STAGE, devices),
    "RDL, stage3, products": lambda devices: rdl_products(STAGE, devices),
    "RDL, stage3, moments": lambda devices: rdl_moments(STAGE, devices),
    "CRD, banks everywhere": crd,
    "CRD, banks divided": crd_sharded,
}
DEVICES = (8, 64, 512, 4096)


def table() -> str:
    """Returns the table, in Markdown."""
    lines = [
        "| accelerators | part | received, MB | GFLOP | kept, MB | ms |",
        "| -----------: | ---- | -----------: | ----: | -------: | -: |",
    ]
    for devices in DEVICES:
        for name, cost in COSTS.items():
            of = cost(devices)
            numbers = (of.received / 1e6, of.flops / 1e9, of.kept / 1e6)
            shown = " | ".join(f"{x:,.4g}" for x in (*numbers, of.milliseconds))
            lines.append(f"| {devices:,} | {name} | {shown} |")
    return "\n".join(lines)


def main() -> int:
    """Prints the table."""
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
