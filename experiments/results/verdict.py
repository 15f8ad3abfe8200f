"""Says the result of a run in one sentence."""

from collections.abc import Sequence

from experiments import display


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
        f"over {display.count_of(seeds, 'seed')}."
    )


def sentence_of_table(columns: Sequence[dict]) -> str:
    """Returns in how many columns each method differs from the column's baseline.

    As in `sentence`, a method differs if its interval does not contain 0.

    Args:
      columns: The columns of a table, each with `methods` and `baseline`.

    Returns:
      The sentence of the only column, if there is one; "" if there is none.
    """
    if len(columns) < 2:
        return "".join(map(sentence, columns))
    lower: dict[str, list[bool]] = {}
    higher: dict[str, list[bool]] = {}
    for column in columns:
        for name, of in column["methods"].items():
            low, high = (of.get("difference", {}).get(k) for k in ("low", "high"))
            if low is not None and high is not None:
                lower.setdefault(name, []).append(high < 0)
                higher.setdefault(name, []).append(low > 0)
    if not lower:
        return "No method has an interval: that needs two seeds and a baseline."
    parts = [
        f"{kind} test error than the baseline: {words}"
        for kind, found in (("lower", lower), ("higher", higher))
        if (words := _counts(found))
    ] or ["no method has a lower or a higher test error than the baseline"]
    text = f"{'; '.join(parts)}; judged by the 95 % intervals of the paired differences"
    return f"{text[0].upper()}{text[1:]} over seeds."


def _counts(found: dict[str, list[bool]]) -> str:
    """Returns the number of columns of each method, such as "rdl in 2 of 3 columns"."""
    words = [
        f"{name} in {sum(of)} of {display.count_of(len(of), 'column')}"
        for name, of in found.items()
        if any(of)
    ]
    return _joined(words) if words else ""


def _percent(of: dict) -> str:
    return f"{of['test_error']['mean']:.2f} %"


def _listed(methods: dict[str, dict]) -> str:
    """Returns the names with their errors, such as "rdl (7.52 %) and kd (8.50 %)"."""
    return _joined([f"{name} ({_percent(of)})" for name, of in methods.items()])


def _joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _verb(methods: dict[str, dict]) -> str:
    return "has" if len(methods) == 1 else "have"
