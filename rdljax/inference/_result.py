"""The result of a comparison of models: values, intervals, tests, a table."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rdljax import _checks, statistics

Correction = Callable[[np.ndarray], np.ndarray]
Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class ModelComparison:
    """How similar models are to measured RDMs, and how sure that is.

    `print` shows it as a table. Standard errors, intervals and tests say what is to be
    expected with other subjects, other stimuli, or both: with that over which the draws
    were.

    Attributes:
      values: For each model its mean similarity with the subjects' RDMs. (If a model
        was fitted, with parts of the data that it was not fitted to.)
      similarities: For each model its similarity with each subject, `[subjects]`.
        (Fitted models: fitted to all data.)
      ceiling: The noise ceiling: the bounds of the best possible model's value.
      weights: For each fitted model the weights of its RDMs, `[parts]`, fitted to all
        data, of unit length.
      comparison: Name of the comparison.
      sizes: The number of each of what was drawn: "subjects", "stimuli".
      draws: The values of all models and the two bounds of the ceiling in each
        bootstrap draw, `[draws, models + 2]`.
      covariances: The covariance of these, `[models + 2, models + 2]`, by what was
        drawn: "subjects", "stimuli" or "both".
    """

    values: Mapping[str, float]
    similarities: Mapping[str, np.ndarray]
    ceiling: statistics.Ceiling
    weights: Mapping[str, np.ndarray]
    comparison: str
    sizes: Mapping[str, int]
    draws: np.ndarray
    covariances: Mapping[str, np.ndarray]

    @property
    def degrees_of_freedom(self) -> int:
        """Returns those of all t tests: the smallest number drawn from, minus 1."""
        return min(self.sizes.values()) - 1

    def variance(self, contrast: np.ndarray) -> float:
        """Computes the variance of a weighted sum of values and bounds.

        A bootstrap of n underestimates a variance by (n - 1) / n, which is corrected. A
        bootstrap over subjects and stimuli counts the variance of the measurement, and
        of the interaction of both, three times: the variance is computed from that
        bootstrap and those over one factor, and lies between theirs (Schütt et al.
        2023, eLife 12: the corrected bootstrap over two factors).

        Args:
          contrast: Weights `[models + 2]` of the models and the two bounds.
        """
        of = {k: float(contrast @ x @ contrast) for k, x in self.covariances.items()}
        grow = {k: n / (n - 1) for k, n in self.sizes.items()}
        if len(self.sizes) == 1:
            ((name, value),) = of.items()
            return max(grow[name] * value, 0.0)
        subjects, stimuli = (grow[k] * of[k] for k in ("subjects", "stimuli"))
        rest = of["both"] - of["subjects"] - of["stimuli"]
        both = subjects + stimuli - grow["subjects"] * grow["stimuli"] * rest
        return max(min(max(both, subjects, stimuli), of["both"]), 0.0)

    def standard_errors(self) -> dict[str, float]:
        """Returns the standard error of each model's value."""
        units = np.eye(len(self.values) + 2)
        return {
            name: float(np.sqrt(self.variance(unit)))
            for name, unit in zip(self.values, units, strict=False)
        }

    def intervals(self, confidence: float = 0.95) -> dict[str, Interval]:
        """Returns each model's interval by Student's t distribution."""
        from scipy import stats

        factor = stats.t.ppf((1 + _level(confidence)) / 2, self.degrees_of_freedom)
        return {
            name: (
                float(self.values[name] - factor * error),
                float(self.values[name] + factor * error),
            )
            for name, error in self.standard_errors().items()
        }

    def percentile_intervals(self, confidence: float = 0.95) -> dict[str, Interval]:
        """Returns each model's interval that has this share of the draws.

        With two factors it is too wide: see `variance`.
        """
        tail = 50 * (1 - _level(confidence))
        ends = np.percentile(self.draws, [tail, 100 - tail], axis=0)
        columns = zip(self.values, ends.T, strict=False)
        return {name: (float(low), float(high)) for name, (low, high) in columns}

    def test_above_zero(
        self, correct: Correction = statistics.holm
    ) -> dict[str, float]:
        """Tests for each model whether its value is above 0 (one-sided t test).

        Args:
          correct: A function that adjusts p values for the number of tests, such as
            those of `statistics`: `holm`, `bonferroni`, `false_discovery_rate`; `list`
            leaves them as they are.
        """
        from scipy import stats

        errors = self.standard_errors()
        t = [_ratio(self.values[name], errors[name]) for name in self.values]
        p = correct(stats.t.sf(t, self.degrees_of_freedom))
        return dict(zip(self.values, map(float, p), strict=True))

    def test_below_ceiling(
        self, correct: Correction = statistics.holm
    ) -> dict[str, float]:
        """Tests whether each value differs from the lower bound of the noise ceiling.

        Args:
          correct: As in `test_above_zero`.
        """
        models = len(self.values)
        p = []
        for place, value in enumerate(self.values.values()):
            contrast = np.zeros(models + 2)
            contrast[[place, models]] = 1, -1
            p.append(self._two_sided(value - self.ceiling.lower, contrast))
        return dict(zip(self.values, map(float, correct(np.array(p))), strict=True))

    def test_pairs(
        self, correct: Correction = statistics.holm
    ) -> dict[tuple[str, str], float]:
        """Tests for every two models whether their values differ (two-sided t test).

        Args:
          correct: As in `test_above_zero`.
        """
        pairs, p = list(itertools.combinations(range(len(self.values)), 2)), []
        names, values = [*self.values], [*self.values.values()]
        for first, second in pairs:
            contrast = np.zeros(len(names) + 2)
            contrast[[first, second]] = 1, -1
            p.append(self._two_sided(values[first] - values[second], contrast))
        adjusted = correct(np.array(p)) if pairs else np.array(p)
        return {
            (names[first], names[second]): float(own)
            for (first, second), own in zip(pairs, adjusted, strict=True)
        }

    def rows(self) -> list[dict[str, Any]]:
        """Returns the table as a list of dicts, one for each model, for any program.

        p values are adjusted by Holm's method.
        """
        errors, intervals = self.standard_errors(), self.intervals()
        zero, ceiling = self.test_above_zero(), self.test_below_ceiling()
        return [
            {
                "model": name,
                "value": value,
                "standard_error": errors[name],
                "low": intervals[name][0],
                "high": intervals[name][1],
                "p_above_zero": zero[name],
                "p_below_ceiling": ceiling[name],
            }
            for name, value in self.values.items()
        ]

    def to_json(self) -> str:
        """Returns the table, the pairs' p values and the noise ceiling as JSON."""
        pairs = [
            {"first": first, "second": second, "p": p}
            for (first, second), p in self.test_pairs().items()
        ]
        found = {
            "comparison": self.comparison,
            "drawn": dict(self.sizes),
            "draws": len(self.draws),
            "ceiling": self.ceiling._asdict(),
            "models": self.rows(),
            "pairs": pairs,
            "weights": {name: x.tolist() for name, x in self.weights.items()},
        }
        # (JSON has no NaN.)
        return json.dumps(_without_nan(found), indent=2)

    def __str__(self) -> str:
        drawn = " and ".join(f"{n} {name}" for name, n in self.sizes.items())
        lines = [
            f"{self.comparison}, {len(self.draws)} draws of {drawn}; noise ceiling "
            f"{self.ceiling.lower:.3f} to {self.ceiling.upper:.3f}"
        ]
        cells = [("model", "value", "error", "95 % interval", "p > 0", "p < ceiling")]
        for row in self.rows():
            cells.append(
                (
                    row["model"],
                    f"{row['value']:.3f}",
                    f"{row['standard_error']:.3f}",
                    f"[{row['low']:.3f}, {row['high']:.3f}]",
                    _words(row["p_above_zero"]),
                    _words(row["p_below_ceiling"]),
                )
            )
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for name, *others in cells:
            padded = map(str.rjust, others, widths[1:])
            lines.append("  ".join([name.ljust(widths[0]), *padded]))
        for (first, second), p in self.test_pairs().items():
            lines.append(f"{first} - {second}: p {_words(p, '= ')}")
        lines.append("p values of t tests, adjusted by Holm's method")
        return "\n".join(lines)

    def _two_sided(self, difference: float, contrast: np.ndarray) -> float:
        from scipy import stats

        t = _ratio(difference, np.sqrt(self.variance(contrast)))
        return float(2 * stats.t.sf(abs(t), self.degrees_of_freedom))


def _ratio(value: float, error: float) -> float:
    """Returns value / error; 0 / 0 is 0."""
    if error > 0 or np.isnan(error):
        return value / error
    return np.copysign(np.inf, value) if value else 0.0


def _level(confidence: float) -> float:
    _checks.check_number("confidence", confidence, above=0, at_most=1)
    return confidence


def _words(p: float, equals: str = "") -> str:
    return "< 0.001" if p < 0.001 else f"{equals}{p:.3f}"


def _without_nan(x):
    if isinstance(x, dict):
        return {key: _without_nan(value) for key, value in x.items()}
    if isinstance(x, list):
        return [_without_nan(value) for value in x]
    return None if isinstance(x, float) and not np.isfinite(x) else x
