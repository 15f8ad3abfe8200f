"""Summarises the results of all nets: means, differences, tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rdljax import statistics


def summarise(results: list[dict], labels: np.ndarray) -> dict:
    """Returns the numbers of the table.

    Args:
      results: The results of all nets, the teacher's first, if there is one.
      labels: The labels of the test images, `[N]`.

    Returns:
      `teacher`: its test error, or None. `methods`: for each method, the test error of
      every seed with mean and standard deviation, the validation error at the last and
      at the best epoch, agreement by layer, and, except for the baseline, the paired
      difference from it over seeds. `mcnemar`: McNemar's tests against the baseline,
      seed by seed, with Holm's correction over all of them.
    """
    by_method: dict[str, list[dict]] = {}
    teacher, students = _sides(results)
    for result in students:
        by_method.setdefault(result["method"], []).append(result)
    baseline = "plain" if "plain" in by_method else next(iter(by_method))
    methods = {name: _method(runs) for name, runs in by_method.items()}
    tests = []
    for name, runs in by_method.items():
        if name == baseline:
            continue
        for own, plain in zip(runs, by_method[baseline], strict=True):
            found = statistics.mcnemar(labels, own["predicted"], plain["predicted"])
            tests.append({"method": name, "seed": own["seed"], **found._asdict()})
        errors = ([run["test_error"] for run in r] for r in (runs, by_method[baseline]))
        first, second = errors
        difference = statistics.paired_difference(first, second)
        methods[name]["difference"] = {
            k: _number(v) for k, v in difference._asdict().items()
        }
    if tests:
        corrected = statistics.holm([test["p_value"] for test in tests])
        for test, p in zip(tests, corrected, strict=True):
            test["holm"] = float(p)
    return {
        "teacher": teacher
        and {k: teacher[k] for k in ("test_error", "members") if k in teacher},
        "baseline": baseline,
        "methods": methods,
        "mcnemar": tests,
    }


def _sides(results: list[dict]) -> tuple[dict | None, list[dict]]:
    """Splits results into the teacher's, or None, and the students'."""
    if results[0]["method"] == "teacher":
        return results[0], results[1:]
    return None, results


def _method(runs: list[dict]) -> dict:
    return {
        "test_error": spread_and_values([run["test_error"] for run in runs]),
        "validation_error": spread_and_values(
            [run["history"][-1]["validation_error"] for run in runs]
        ),
        "best_validation_error": spread_and_values(
            [min(e["validation_error"] for e in run["history"]) for run in runs]
        ),
        **({} if "agreement" not in runs[0] else _agreement(runs)),
        "seconds": spread_and_values([run["seconds"] for run in runs]),
    }


def _agreement(runs: list[dict]) -> dict:
    """Returns the agreement with the teacher's RDMs: mean over layers, and by layer."""
    layers = runs[0]["agreement"]
    means = {
        kind: spread_and_values(
            [np.mean([r["agreement"][k][kind] for k in layers]) for r in runs]
        )
        for kind in ("pearson", "spearman")
    }
    by_layer = {
        k: spread_and_values([r["agreement"][k]["pearson"] for r in runs])
        for k in layers
    }
    return {"agreement": means, "agreement_by_layer": by_layer}


def spread_and_values(values: Sequence[float]) -> dict[str, Any]:
    """Returns the content of `spread` and the `values`, None in place of NaN."""
    return spread(values) | {"values": [_number(float(v)) for v in values]}


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Returns the `mean` of values over seeds and their standard deviation `std`.

    They are None in place of NaN, which JSON does not have: both if a value is NaN, and
    the standard deviation if there is only one value.
    """
    mean, std, _ = statistics.spread(values)
    return {"mean": _number(mean), "std": _number(std)}


def _number(value: float) -> float | None:
    """Returns a number, or None for NaN, which JSON does not have."""
    return None if np.isnan(value) else value
