"""Reads estimated cycles and collectives from the text of a compiled program.

XLA writes its program as text (`compiled.as_text()`). For a TPU, instructions have an
estimate of their cycles; in a loop they are multiplied by its number of turns (by 1 if
the text does not give the number). The estimates exclude the time of collectives,
gathers, scatters and sorts. Collectives count once, in loops, too.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# The bytes of a number of each type.
SIZES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("s16", "u16", "bf16", "f16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64"), 8),
}
# The bytes that one of n devices receives, as a fraction of the result's bytes.
RECEIVED = {
    "all-gather": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "collective-permute": lambda n: 1,
}
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+)\s*\(.*->.*\{\s*$")
_LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_SHAPE = re.compile(r"\b(\w+)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BELOW = re.compile(r"%([\w.\-]+)\), direction=LT")


class Instruction(NamedTuple):
    """An instruction of a program.

    Attributes:
      name: The name of the instruction.
      shape: The shape of its result, as text.
      kind: The operation, such as "fusion" or "all-gather".
      rest: The rest of the line: operands and attributes.
    """

    name: str
    shape: str
    kind: str
    rest: str


class Cycles(NamedTuple):
    """An estimate of the cycles of a program.

    Attributes:
      total: The number of cycles.
      largest: The instructions with the most cycles: their cycles, operation and name
        in the traced program.
    """

    total: int
    largest: list[tuple[int, str, str]]


def bytes_of(shape: str) -> int:
    """Returns the number of bytes of the arrays in the text of a shape."""
    return sum(
        SIZES.get(kind, 0) * math.prod(int(n) for n in sides.split(",") if n)
        for kind, sides in _SHAPE.findall(shape)
    )


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns the instructions of each computation by name, and the entry's name."""
    found: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = found.setdefault(head.group(2), [])
            entry = head.group(2) if head.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (match := _LINE.match(line)):
            current.append(Instruction(*match.groups()))
    return found, entry


def cycles(text: str, count: int = 5) -> Cycles:
    """Returns the estimated cycles of a program for a TPU.

    Args:
      text: The program.
      count: The number of largest instructions to return.
    """
    every, entry = computations(text)
    found = sorted(_cycles(every, entry, 1), reverse=True)
    return Cycles(sum(own for own, *_ in found), found[:count])


def _cycles(
    every: dict[str, list[Instruction]], name: str, times: int
) -> Iterator[tuple[int, str, str]]:
    """Yields the cycles of a computation's instructions, for `times` executions."""
    for one in every.get(name, []):
        if one.kind == "while":
            body = _called("body", one.rest)
            yield from _cycles(every, body, times * _trips(every, one))
        elif one.kind == "conditional":
            branches = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", one.rest)
            listed = re.search(r"branch_computations=\{([^}]*)\}", one.rest)
            branches += re.findall(r"%?([\w.\-]+)", listed[1]) if listed else []
            each = [list(_cycles(every, branch, times)) for branch in branches]
            yield from max(each, key=lambda own: sum(c for c, *_ in own), default=[])
        elif own := _CYCLES.search(one.rest):
            label = re.search(r'op_name="([^"]*)"', one.rest)
            yield times * int(own[1]), one.kind, label[1] if label else one.name
        elif one.kind == "call":
            yield from _cycles(every, _called("to_apply", one.rest), times)


def _trips(every: dict[str, list[Instruction]], loop: Instruction) -> int:
    """Returns the number of turns of a loop, from its attribute or its counter's limit.

    It is 1 for a loop that has neither.
    """
    if known := _TRIPS.search(loop.rest):
        return int(known[1])
    condition = every.get(_called("condition", loop.rest), [])
    numbers = {one.name: one.rest for one in condition if one.kind == "constant"}
    for one in condition:
        limit = _BELOW.search(one.rest) if one.kind == "compare" else None
        if limit and (number := re.match(r"\d+", numbers.get(limit[1], ""))):
            return int(number[0])
    return 1


def _called(attribute: str, rest: str) -> str:
    match = re.search(rf"{attribute}=%?([\w.\-]+)", rest)
    return match[1] if match else ""


def collectives(text: str, devices: int) -> dict[str, tuple[int, float]]:
    """Returns the number of collectives by kind, and the bytes that a device receives.

    An asynchronous collective that is split over several instructions counts once.

    Args:
      text: The program of a device.
      devices: The number of devices.
    """
    found: dict[str, tuple[int, float]] = {}
    seen = set()
    every, _ = computations(text)
    for one in (x for instructions in every.values() for x in instructions):
        kind = one.kind.removesuffix("-start")
        if kind not in RECEIVED:
            continue
        chain = re.search(r'chain_id"?[=:]"?(\d+)', one.rest)
        key = chain[1] if chain else one.name
        if key in seen:
            continue
        seen.add(key)
        size = bytes_of(one.shape)
        if one.kind == "all-gather-start":  # (Operand and result.)
            size = max(
                map(bytes_of, re.findall(r"\w+\[[\d,]*\]", one.shape)), default=0
            )
        count, received = found.get(kind, (0, 0.0))
        found[kind] = count + 1, received + RECEIVED[kind](devices) * size
    return found


def constants(text: str) -> int:
    """Returns the number of bytes of the largest constant in a program."""
    every, _ = computations(text)
    sizes = (
        bytes_of(one.shape)
        for instructions in every.values()
        for one in instructions
        if one.kind == "constant"
    )
    return max(sizes, default=0)
