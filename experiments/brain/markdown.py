"""Formats the agreement of a run's nets with a brain as Markdown, and as tables."""

from typing import NamedTuple

from experiments.results import markdown


class Table(NamedTuple):
    """A table of texts.

    Attributes:
      name: The name of the measured RDM.
      ceilings: The noise ceilings in words; "" if there are none.
      columns: The names of the columns.
      rows: The cells of each row.
    """

    name: str
    ceilings: str
    columns: list[str]
    rows: list[list[str]]


def table(summary: dict) -> str:
    """Returns the agreement with each measured RDM in Markdown; "" without a brain."""
    if "brain" not in summary:
        return ""
    parts = [f"\n{explanation(summary)}"]
    for own in tables(summary):
        ceilings = f" ({own.ceilings})" if own.ceilings else ""
        parts += [f"{own.name}{ceilings}:", markdown.grid(own.columns, own.rows)]
    return "\n\n".join(parts) + "\n"


def explanation(summary: dict) -> str:
    """Returns sentences that explain the columns of the tables."""
    found = summary["brain"]
    return (
        f"Agreement with measured RDMs on {found['held_out']} stimuli that were held "
        f"out of {found['held_out'] + found['shown']} (shown: Pearson on the others). "
        "Mean over subjects; mean and standard deviation over seeds; interval: 95 % "
        "bootstrap interval of Pearson's over stimuli; difference: from "
        f"{summary['baseline']}; before: students before their training."
    )


def tables(summary: dict) -> list[Table]:
    """Returns a table of the agreement with each measured RDM."""
    columns = ["method", "layer", "Pearson", "interval", "difference"]
    columns += ["Spearman", "whitened", "shown"]
    return [
        Table(
            name,
            _ceilings(of["ceilings"]),
            columns,
            [
                [method, layer, *_row(there)]
                for method, layers in of["agreement"].items()
                for layer, there in layers.items()
            ],
        )
        for name, of in summary["brain"]["rdms"].items()
    ]


def _row(of: dict) -> list[str]:
    interval = difference = "–"
    if "interval" in of:
        interval = "[{:.3f}, {:.3f}]".format(*of["interval"])
    if "difference" in of:
        difference = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*of["difference"])
    pearson, *others = (
        markdown.plus_minus(of[k], 3)
        for k in ("pearson", "spearman", "whitened", "shown")
    )
    return [pearson, interval, difference, *others]


def _ceilings(ceilings: dict[str, list[float]]) -> str:
    if not ceilings:
        return ""
    names = {"pearson": "Pearson", "spearman": "Spearman"}
    each = ", ".join(
        f"{names.get(kind, kind)} {low:.3f} to {high:.3f}"
        for kind, (low, high) in ceilings.items()
    )
    return f"noise ceiling: {each}"
