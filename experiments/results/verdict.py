"""Says the result of a run in one sentence."""

from collections.abc import Sequence


def sentence(summary: dict) -> str:
    """Returns which methods have a lower or a higher test error than the baseline.

    A method differs from the baseline if the 95 % t interval of the paired difference
    over seeds does not contain 0. Intervals are not corrected for their number.

    Args:
      summary: The dict from `aggregate.summarise`.
    """
    methods, baseline = summary["methods"], summary["baseline"]
    than = f"{baseline} ({_percent(methods[baseline])})"
    others = {name: of for name, of in methods.items() if name != baseline}
    if not others:
        return f"The test error of {than} is compared with that of no other method."
    if any(of["difference"]["low"] is None for of in others.values()):
        return (
            f"The test errors are those of one seed, without intervals: {than}, "
            f"{_listed(others)}."
        )
    found = {
        "a lower": {k: x for k, x in others.items() if x["difference"]["high"] < 0},
        "a higher": {k: x for k, x in others.items() if x["difference"]["low"] > 0},
    }
    parts = [
        f"{_listed(some)} {_verb(some)} {kind} test error than {than}"
        for kind, some in found.items()
        if some
    ]
    clear = {name for some in found.values() for name in some}
    rest = {name: of for name, of in others.items() if name not in clear}
    if rest and clear:
        parts.append(f"{_listed(rest)} cannot be distinguished from it")
    elif rest:
        parts.append(f"{_listed(rest)} cannot be distinguished from {than}")
    seeds = len(methods[baseline]["test_error"]["values"])
    return (
        f"{'; '.join(parts)}, judged by the 95 % intervals of the paired differences "
        f"over {seeds} seeds."
    )


def _percent(of: dict) -> str:
    return f"{of['test_error']['mean']:.2f} %"


def _listed(methods: dict[str, dict]) -> str:
    """Returns the names with their errors, such as "rdl (7.52 %) and kd (8.50 %)"."""
    return _joined([f"{name} ({_percent(of)})" for name, of in methods.items()])


def _joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _verb(methods: dict[str, dict]) -> str:
    return "has" if len(methods) == 1 else "have"
