"""Formats the agreement of a run's nets with a brain as Markdown."""

from experiments.results import markdown


def table(summary: dict) -> str:
    """Returns the agreement with each measured RDM in Markdown; "" without a brain."""
    found = summary.get("brain")
    if found is None:
        return ""
    parts = [
        f"\nAgreement with measured RDMs on {found['held_out']} stimuli that were held "
        f"out of {found['held_out'] + found['shown']} (shown: Pearson on the others). "
        "Mean over subjects; mean and standard deviation over seeds; interval: 95 % "
        "bootstrap interval of Pearson's over stimuli; difference: from "
        f"{summary['baseline']}; before: students before their training.",
    ]
    for name, of in found["rdms"].items():
        parts.append(f"{name}{_ceilings(of['ceilings'])}:")
        columns = ["method", "layer", "Pearson", "interval", "difference"]
        columns += ["Spearman", "whitened", "shown"]
        rows = [
            [method, layer, *_row(there)]
            for method, layers in of["agreement"].items()
            for layer, there in layers.items()
        ]
        parts.append(markdown.grid(columns, rows))
    return "\n\n".join(parts) + "\n"


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
    each = ", ".join(f"{k} {a:.3f} to {b:.3f}" for k, (a, b) in ceilings.items())
    return f" (noise ceiling: {each})"
