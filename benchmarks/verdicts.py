"""Computes the result of a case: stable ratios, memory, and verdicts on goals."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import measure

# The smallest memory of a reference, in MiB, for a ratio: less depends on the
# allocator.
LEAST_MEMORY = 1.0
# The measured entries of every contender; all other entries are facts about it.
MEASURED = (
    *("median_ms", "best_ms", "samples_ms", "repeats", "memory_mib"),
    *("ratio", "memory_ratio", "difference"),
)


def case_result(ask: Callable[[str], dict]) -> dict:
    """Returns the result of a case.

    Args:
      ask: The function from "times" or "memory:CONTENDER" to the result of that part,
        from a new process.

    Returns:
      `contenders`: by name `median_ms`, `best_ms`, `samples_ms`, `repeats`,
      `memory_mib` and facts; for all except the first also `ratio` (see
      `measure.ratio`), `memory_ratio` and `difference` (see `measure.compare`).
      `goals`, each with the `measured` number and the `verdict`. `device`, `others`
      (see `measure.times`), and `error` (or None). `refused`: the samples of the other
      attempt, if a ratio was unstable and the case was measured twice.
    """
    attempts: list[dict[str, Any]] = []
    while len(attempts) < 2:
        found = ask("times")
        if found.get("error"):
            return {"contenders": {}, "goals": [], **found}
        attempts.append(found | {"ratios": _ratios(found["samples_ms"])})
        if not _unstable(attempts[-1]):
            break
    # The last attempt, unless the first had fewer unstable ratios.
    shown = min(reversed(attempts), key=_unstable)
    refused = [a["samples_ms"] for a in attempts if a is not shown]
    samples, repeats = shown["samples_ms"], shown["repeats"]
    contenders = {
        name: {
            "median_ms": statistics.median(times),
            "best_ms": min(times),
            "samples_ms": times,
            "repeats": repeats[name],
            "memory_mib": None,
            **shown.get("facts", {}).get(name, {}),
        }
        for name, times in samples.items()
    }
    for name, found in shown["ratios"].items():
        contenders[name] |= {"ratio": found, "memory_ratio": None}
        contenders[name]["difference"] = shown["differences"].get(name)
    error = _add_memory(contenders, ask) if shown["memory"] else None
    return {
        "contenders": contenders,
        "goals": [_judged(measure.Goal(**goal), contenders) for goal in shown["goals"]],
        "device": shown["device"],
        "others": shown["others"],
        "refused": refused,
        "error": error,
    }


def _ratios(samples: Mapping[str, list[float]]) -> dict[str, dict]:
    (_, reference), *others = samples.items()
    return {name: measure.ratio(reference, other) for name, other in others}


def _unstable(attempt: dict) -> int:
    return sum(not found["stable"] for found in attempt["ratios"].values())


def _add_memory(contenders: dict[str, dict], ask: Callable[[str], dict]) -> str | None:
    """Adds memory and its ratios to contenders; returns the error, or None."""
    reference, *others = contenders.values()
    for name, entry in contenders.items():
        answer = ask(f"memory:{name}")
        if answer.get("error"):
            return answer["error"]
        entry["memory_mib"] = answer["memory_mib"]
    for entry in others:
        entry["memory_ratio"] = _memory_ratio(reference, entry)
    return None


def _memory_ratio(reference: dict, other: dict) -> float | None:
    own, theirs = reference["memory_mib"], other["memory_mib"]
    if own is None or theirs is None or own < LEAST_MEMORY:
        return None
    return theirs / own


def _judged(goal: measure.Goal, contenders: Mapping[str, dict]) -> dict:
    entry = contenders.get(goal.contender)
    if entry is None:
        found, verdict = None, f"no {goal.contender}"
    elif goal.quantity == "MiB":
        found = entry["memory_mib"]
        verdict = judge(goal, found)
    elif goal.quantity == "memory":
        found = entry["memory_ratio"]
        verdict = judge(goal, found)
    elif goal.quantity in entry:
        found = entry[goal.quantity]
        verdict = judge(goal, found)
    else:
        found = entry["ratio"]["medians"] if entry["ratio"]["stable"] else None
        verdict = judge(goal, found) if found is not None else "unstable"
    return {**goal._asdict(), "measured": found, "verdict": verdict}


def judge(goal: measure.Goal, found: float | None) -> str:
    """Returns the verdict on a goal: "target met", "floor met" or "missed".

    It is "not measured" if there is no number.
    """
    if found is None:
        return "not measured"
    sign = 1 if goal.target >= goal.floor else -1
    if sign * found >= sign * goal.target:
        return "target met"
    return "floor met" if sign * found >= sign * goal.floor else "missed"
