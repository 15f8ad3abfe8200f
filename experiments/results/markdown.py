"""Formats the result of a run as Markdown."""

from experiments.results import verdict


def table(summary: dict) -> str:
    """Returns the summary as Markdown, for the terminal and the results folder.

    Args:
      summary: The dict from `summarise`, with `config`, `data`, `device` and `seconds`.
    """
    methods, baseline = summary["methods"], summary["baseline"]
    parts = [_head(summary), _methods(summary)]
    if summary["teacher"] is not None:
        layers = summary["config"]["layers"]
        by_layer = [
            [name, *(plus_minus(of["agreement_by_layer"][k], 3) for k in layers)]
            for name, of in methods.items()
        ]
        parts += [
            "Agreement (Pearson) by layer:",
            grid(["method", *layers], by_layer),
        ]
    parts += mcnemar(summary["mcnemar"], baseline)
    parts.append(f"Training took {summary['seconds']:.0f} s on {summary['device']}.")
    parts.append(verdict.sentence(summary))
    return "\n\n".join(parts) + "\n"


def _head(summary: dict) -> str:
    config, source = summary["config"], summary.get("teacher_source")
    origin = f"after {config['teacher_epochs']} epochs"
    if source is not None:
        origin = f"(from {source.get('file') or source['run']}, not trained here)"
    teacher, agreement = "", ""
    if summary["teacher"] is not None:
        error = summary["teacher"]["test_error"]
        how_well = "of another task" if error is None else f"{error:.2f} % test error"
        who = f"Teacher {config['teacher']}"
        if members := summary["teacher"].get("members"):
            each = ", ".join(f"{error:.2f}" for error in members)
            who = f"{len(members)} teachers {config['teacher']} ({each} %), together"
        teacher = f"{who}: {how_well} {origin}. "
        agreement = (
            " Agreement: correlation of student's and teacher's RDMs of test images "
            f"({config['distance']}), mean over {', '.join(config['layers'])}."
        )
    return "\n".join(
        [
            f"Data: {summary['data']}",
            f"{teacher}Student "
            f"{config['student']}: {config['epochs']} epochs, {config['seeds']} seeds.",
            f"Difference: test error minus that of {summary['baseline']}, paired over "
            "seeds, with its 95 % t interval. McNemar: seeds with p < 0.05 after "
            f"Holm's correction over all tests.{agreement}",
        ]
    )


def _methods(summary: dict) -> str:
    tests = summary["mcnemar"]
    taught = summary["teacher"] is not None
    columns = ["method", "test error, %", "difference", "McNemar"]
    columns += ["agreement, Pearson", "Spearman"] if taught else []
    rows = []
    for name, of in summary["methods"].items():
        row = [
            name,
            plus_minus(of["test_error"], 2),
            interval(of.get("difference")),
            significant(name, tests),
        ]
        if taught:
            row += [plus_minus(of["agreement"][k], 3) for k in ("pearson", "spearman")]
        rows.append([*row, plus_minus(of["seconds"], 1)])
    return grid([*columns, "seconds a run"], rows)


def plus_minus(spread: dict, digits: int) -> str:
    """Formats a mean and its standard deviation; "–" if there is none."""
    if spread["mean"] is None:
        return "–"
    if spread["std"] is None:
        return f"{spread['mean']:.{digits}f}"
    return f"{spread['mean']:.{digits}f} ± {spread['std']:.{digits}f}"


def interval(difference: dict | None, digits: int = 2) -> str:
    """Formats a paired difference with its interval, if there is one."""
    if difference is None:
        return "–"
    mean, *ends = (difference[key] for key in ("mean", "low", "high"))
    if None in ends:
        return f"{mean:+.{digits}f}"
    low, high = (f"{end:+.{digits}f}" for end in ends)
    return f"{mean:+.{digits}f} [{low}, {high}]"


def significant(name: str, tests: list[dict]) -> str:
    """Returns the number of seeds with a significant McNemar's test, as "2 of 3".

    The test is that of a method against the baseline, with p < 0.05 after correction.
    """
    mine = [test["holm"] < 0.05 for test in tests if test["method"] == name]
    return f"{sum(mine)} of {len(mine)}" if mine else "–"


def mcnemar(tests: list[dict], baseline: str) -> list[str]:
    """Returns McNemar's tests of all methods and seeds as Markdown paragraphs."""
    if not tests:
        return []
    rows = [
        [t["method"], t["seed"], t["only_second"], t["only_first"]]
        + [f"{t['p_value']:.3g}", f"{t['holm']:.3g}"]
        for t in tests
    ]
    only = [f"right: only {baseline}", "only the method"]
    return [
        f"McNemar's test against {baseline}, seed by seed:",
        grid(["method", "seed", *only, "p", "p, Holm"], rows),
    ]


def grid(columns: list[str], rows: list[list]) -> str:
    """Returns a Markdown table whose columns are aligned in the source, too."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
