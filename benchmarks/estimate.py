"""Estimates the cost of a step on 8 to 4,096 accelerators by calculation.

`python -m benchmarks.estimate` prints the table of `docs/scaling.md`: for a ResNet-8x4
with 64 images per accelerator, the bytes that each accelerator receives, its number of
multiplications and additions, and the time for both at the rates below. Nothing here is
measured on such a machine.
"""

import dataclasses
import sys

from rdljax.rdm import forms

# The number of images per accelerator, and of resnet8x4's parameters.
IMAGES, PARAMETERS = 64, 1_233_540
# The FLOPs of a forward pass of one image through resnet8x4 and through resnet32x4, as
# given by XLA: `jax.jit(...).lower(...).cost_analysis()`.
FORWARD, TEACHER = 328_067_936, 1_973_939_072
# Units of `pooled`, of `stage3` and of CRD's embeddings; rows of a bank (ImageNet's).
POOLED, STAGE, EMBEDDING, BANK = 256, 8 * 8 * 256, 128, 1_281_167
# The assumed rates of a matrix unit in single precision or better, and of a link.
FLOPS_A_SECOND, BYTES_A_SECOND = 100e12, 50e9


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a step for each accelerator.

    Attributes:
      received: The number of bytes received from other accelerators.
      flops: The number of multiplications and additions.
      kept: The number of bytes of memory kept from step to step.
    """

    received: float
    flops: float
    kept: float = 0.0

    @property
    def milliseconds(self) -> float:
        """Returns the time of a step without overlap of computation and transfer."""
        return 1e3 * (self.received / BYTES_A_SECOND + self.flops / FLOPS_A_SECOND)


def summed(count: float, devices: int) -> float:
    """Returns the bytes that a device receives in a sum of float32 over a ring.

    Args:
      count: The number of float32 numbers.
      devices: The number of devices.
    """
    return 2 * (devices - 1) / devices * 4 * count


def gathered(count: float, devices: int) -> float:
    """Returns the bytes that a device receives in an all-gather of float32.

    The gradient is included: each device receives its part of the sum.

    Args:
      count: The number of float32 numbers of each device.
      devices: The number of devices.
    """
    return 2 * (devices - 1) * 4 * count


def base_step_cost(devices: int) -> Cost:
    """Returns the cost of a step with the task and KD.

    It is the student's forward pass, twice that for the backward pass, and the
    teacher's forward pass.
    """
    flops = IMAGES * (3 * FORWARD + TEACHER)
    return Cost(summed(PARAMETERS, devices), flops, 3 * 4 * PARAMETERS)


def rdl_gathered(units: int, devices: int) -> Cost:
    """Returns the cost of RDL if every device computes all products of activations.

    These are two Gram matrices of the whole batch, and two products of that size for
    the gradient. Only the student's activations have a gradient, which is sent back.
    """
    examples = IMAGES * devices
    received = gathered(IMAGES * units, devices) * 3 / 2
    return Cost(received, 8 * examples**2 * units)


def rdl_products(units: int, devices: int) -> Cost:
    """Returns the cost of RDL if every device computes products over some units.

    The products are summed over the devices. The activations of student and teacher are
    sent to other devices once, and the student's gradient is sent back; two matrices
    are summed, and one for the gradient.
    """
    examples = IMAGES * devices
    moved = (devices - 1) / devices * 4 * 3 * IMAGES * units
    received = moved + 3 * summed(examples**2, devices)
    return Cost(received, 8 * examples**2 * units / devices)


def rdl_moments(units: int, devices: int) -> Cost:
    """Returns the cost of RDL by sums over stimuli.

    These are three products of units by units, and two for the gradient.
    """
    numbers = forms.size_of_moments(units, units)
    return Cost(2 * summed(numbers, devices), 10 * IMAGES * units**2)


def crd(devices: int) -> Cost:
    """Returns the cost of CRD with all rows as negatives and full banks everywhere."""
    flops = 8 * IMAGES * BANK * EMBEDDING
    received = (devices - 1) * 4 * 2 * IMAGES * EMBEDDING
    return Cost(received, flops, 2 * 4 * BANK * EMBEDDING)


def crd_sharded(devices: int) -> Cost:
    """Returns the cost of CRD with all rows as negatives and banks divided by rows."""
    rows = BANK / devices
    flops = 8 * IMAGES * devices * rows * EMBEDDING
    received = gathered(2 * IMAGES * EMBEDDING, devices)
    return Cost(received, flops, 2 * 4 * rows * EMBEDDING)


COSTS = {
    "base step": base_step_cost,
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
    """Prints the table; returns the exit status, 0."""
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
