"""Formats the result of a run as Markdown."""

import re
from collections.abc import Sequence

from experiments import display
from experiments.results import verdict

# The cells of a column that is aligned to the right: numbers, also with their spread or
# interval, and "–".
NUMERIC = re.compile(r"[-+\d.e±%,/\[\]() –]*")


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
    origin = f"after {display.count_of(config['teacher_epochs'], 'epoch')}"
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
            f"{teacher}Student {config['student']}: "
            f"{display.count_of(config['epochs'], 'epoch')}, "
            f"{display.count_of(config['seeds'], 'seed')}.",
            f"Difference: test error minus that of {summary['baseline']}, paired over "
            "seeds, with its 95 % t interval. McNemar: the number of seeds in which "
            f"the method is better or worse than {summary['baseline']} (p < 0.05 after "
            f"Holm's correction over all tests).{agreement}",
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
    """Returns in how many seeds a method is better and in how many it is worse.

    It is so by McNemar's test against the baseline, with p < 0.05 after correction:
    "better in 2 of 3", "better in 2, worse in 1 of 3", "none of 3".

    Args:
      name: The name of the method.
      tests: The tests of all methods, from `aggregate.summarise`.
    """
    mine = [test for test in tests if test["method"] == name]
    if not mine:
        return "–"
    clear = [test for test in mine if test["holm"] < 0.05]
    better = sum(test["only_first"] > test["only_second"] for test in clear)
    counts = {"better": better, "worse": len(clear) - better}
    words = ", ".join(f"{how} in {count}" for how, count in counts.items() if count)
    return f"{words or 'none'} of {len(mine)}"


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
    """Returns a Markdown table whose columns are aligned in the source, too.

    Columns of numbers are aligned to the right.
    """
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    lines: list[list[str]] = [[] for _ in range(len(cells) + 1)]
    for name, *texts in zip(*cells, strict=True):
        width = max(map(len, (name, *texts)))
        right = is_numeric(texts)
        rule = "-" * (width + 1) + ":" if right else "-" * (width + 2)
        padded = [x.rjust(width) if right else x.ljust(width) for x in (name, *texts)]
        first, *others = (f" {x} " for x in padded)
        for line, text in zip(lines, [first, rule, *others], strict=True):
            line.append(text)
    return "\n".join(f"|{'|'.join(line)}|" for line in lines)


def is_numeric(texts: Sequence[str]) -> bool:
    """Returns whether all texts of a column are numbers, intervals or "–"."""
    return all(NUMERIC.fullmatch(text) for text in texts)
