"""Formats the results of benchmarks as text and tables, for a terminal and README."""


def markdown(results: dict) -> str:
    """Returns the results in the form of README.md: command, machine and tables.

    Args:
      results: The results of `runner.run`.
    """
    return "\n\n".join([f"    {results['command']}", about(results), tables(results)])


def about(results: dict) -> str:
    """Returns a sentence with the date, the machine, the versions and the rounds."""
    devices = {case["device"] for case in results["cases"] if case["contenders"]}
    about, found = results["machine"], results["versions"]
    packages = ", ".join(f"{k} {v}" for k, v in found.items() if v is not None)
    return (
        f"{results['date'][:10]}, {about['cpu']}, {about['cores']} cores, "
        f"{about['memory_gib']} GiB, device {', '.join(sorted(devices))}; {packages}; "
        f"rounds: {results['rounds']}.{_disturbed(results['cases'])}"
    )


def _disturbed(cases: list[dict]) -> str:
    shares = [case["others"] for case in cases if case.get("others") is not None]
    if not shares:
        return ""
    low, high = (f"{100 * share:.0f}" for share in (min(shares), max(shares)))
    return f" Other processes took {low} to {high} % of the cores' time."


def tables(results: dict) -> str:
    """Returns the tables of times and of memory, in Markdown with aligned columns."""
    return "\n\n".join(aligned(rows) for rows in tabulated(results["cases"]))


def tabulated(cases: list[dict]) -> list[list[list[str]]]:
    """Returns the rows of the table of times and, if measured, of memory."""
    cases = [case for case in cases if case["contenders"]]
    entries = [entry for case in cases for entry in case["contenders"].values()]
    parts = [_rows(cases, "time")]
    if any(entry["memory_mib"] is not None for entry in entries):
        parts.append(_rows(cases, "memory"))
    return parts


def _rows(cases: list[dict], quantity: str) -> list[list[str]]:
    """Returns rows of cases, with a column for each contender.

    A cell has the time or memory of the contender, and its ratio in brackets.
    """
    names = list(dict.fromkeys(name for case in cases for name in case["contenders"]))
    unit = {"time": "ms", "memory": "MiB"}[quantity]
    rows = [[f"{quantity}, {unit}", *names, "goals"]]
    for case in cases:
        cells = [_cell(case["contenders"].get(name), quantity) for name in names]
        shown = (quantity, "MiB") if quantity == "memory" else (quantity,)
        goals = [_goal(goal) for goal in case["goals"] if goal["quantity"] in shown]
        rows.append([case["case"], *cells, "; ".join(goals)])
    return rows


def aligned(rows: list[list[str]]) -> str:
    """Returns a Markdown table with aligned columns; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *body = rows
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in (head, ["-" * width for width in widths], *body)
    )


def _cell(entry: dict | None, quantity: str) -> str:
    if entry is None:
        return ""
    if quantity == "memory":
        amount, found = entry["memory_mib"], entry.get("memory_ratio")
        amount = "–" if amount is None else f"{amount:.1f}"
        return amount if found is None else f"{amount} ({_fold(found)})"
    amount = f"{entry['median_ms']:.3g}"
    if "ratio" not in entry:
        return amount
    stable, found = entry["ratio"]["stable"], entry["ratio"]["medians"]
    return f"{amount} ({_fold(found) if stable else 'unstable'})"


def _goal(goal: dict) -> str:
    bounds = f"{_fold(goal['floor'])}, {_fold(goal['target'])}"
    if goal["quantity"] == "MiB":
        bounds = f"{goal['floor']} MiB, {goal['target']} MiB"
    return f"{goal['name']} {goal['contender']} {goal['verdict']} ({bounds})"


def _fold(found: float) -> str:
    return f"{found:.0f}x" if found >= 100 else f"{found:.3g}x"
