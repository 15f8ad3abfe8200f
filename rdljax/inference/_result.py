"""The result of a comparison of models: values, intervals, tests, a table."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rdljax import _checks, statistics

Correction = Callable[[np.ndarray], np.ndarray]
_ROUNDING = np.finfo(np.float64).eps
Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class ModelComparison:
    """How similar models are to measured RDMs, and how sure that is.

    `print` shows it as a table. Standard errors, intervals and tests say what is to be
    expected with other subjects, other stimuli, or both: with that over which the draws
    were.

    Attributes:
      values: For each model its mean similarity with the subjects' RDMs. With
        crossvalidation the mean over folds, which have fewer stimuli each.
      similarities: For each model its similarity with each subject over all data,
        `[subjects]`; models are fitted to all data.
      ceiling: The noise ceiling: bounds of the value of the best possible model. The
        best RDM is the mean of the subjects', normalised; NaN for one subject. (For
        whitened comparisons, too, by their plain length, as in rsatoolbox; a fitted
        model may then be above the upper bound by a little.)
      weights: For each fitted model the weights of its RDMs, `[parts]`, fitted to all
        data, of unit length.
      comparison: Name of the comparison.
      sizes: The number of each of what was drawn: "subjects", "stimuli".
      draws: The values of all models and the two bounds of the ceiling in each
        bootstrap draw, `[draws, models + 2]`.
      covariances: The covariance of these, `[models + 2, models + 2]`, by what was
        drawn: "subjects", "stimuli" or "both". With crossvalidation, without the
        variance of the divisions into folds.
      uncorrected: The same with the variance of the divisions, which takes the place of
        a variance that is not positive without it.
    """

    values: Mapping[str, float]
    similarities: Mapping[str, np.ndarray]
    ceiling: statistics.Ceiling
    weights: Mapping[str, np.ndarray]
    comparison: str
    sizes: Mapping[str, int]
    draws: np.ndarray
    covariances: Mapping[str, np.ndarray]
    uncorrected: Mapping[str, np.ndarray]

    @property
    def degrees_of_freedom(self) -> int:
        """Returns those of all t tests: the smallest number drawn from, minus 1."""
        return min(self.sizes.values()) - 1

    def variance(self, contrast: np.ndarray) -> float:
        """Computes the variance of a weighted sum of values and bounds.

        A bootstrap of n underestimates a variance by (n - 1) / n, which is corrected. A
        bootstrap over subjects and stimuli counts the variance of the measurement, and
        of the interaction of both, three times: the variance is computed from that
        bootstrap and those over one factor. It is neither below the larger of these nor
        above that of both (Schütt et al. 2023, eLife 12: the corrected bootstrap over
        two factors), and not below the rounding of float64.

        Args:
          contrast: Weights `[models + 2]` of the models and the two bounds.
        """
        of = {name: self._variance_over(name, contrast) for name in self.covariances}
        grow = {k: n / (n - 1) for k, n in self.sizes.items()}
        if len(self.sizes) == 1:
            ((name, value),) = of.items()
            return max(grow[name] * value, _ROUNDING)
        subjects, stimuli = (grow[k] * of[k] for k in ("subjects", "stimuli"))
        rest = of["both"] - of["subjects"] - of["stimuli"]
        both = subjects + stimuli - grow["subjects"] * grow["stimuli"] * rest
        return max(min(max(both, subjects, stimuli), of["both"]), _ROUNDING)

    def _variance_over(self, name: str, contrast: np.ndarray) -> float:
        corrected = float(contrast @ self.covariances[name] @ contrast)
        if corrected > 0:
            return corrected
        return float(contrast @ self.uncorrected[name] @ contrast)

    def standard_errors(self) -> dict[str, float]:
        """Returns the standard error of each model's value."""
        return dict(zip(self.values, self._errors(), strict=False))

    def ceiling_errors(self) -> statistics.Ceiling:
        """Returns the standard errors of the two bounds of the noise ceiling."""
        return statistics.Ceiling(*self._errors()[-2:])

    def _errors(self) -> list[float]:
        units = np.eye(len(self.values) + 2)
        return [float(np.sqrt(self.variance(unit))) for unit in units]

    def intervals(self, confidence: float = 0.95) -> dict[str, Interval]:
        """Returns each model's interval by Student's t distribution."""
        from scipy import stats

        _checks.check_confidence(confidence)
        factor = stats.t.ppf((1 + confidence) / 2, self.degrees_of_freedom)
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
        _checks.check_confidence(confidence)
        tail = 50 * (1 - confidence)
        ends = np.percentile(self.draws, [tail, 100 - tail], axis=0)
        columns = zip(self.values, ends.T, strict=False)
        return {name: (float(low), float(high)) for name, (low, high) in columns}

    def test_above_zero(
        self, correct: Correction | None = statistics.holm
    ) -> dict[str, float]:
        """Tests for each model whether its value is above 0 (one-sided t test).

        Args:
          correct: A function that adjusts p values for the number of tests, such as
            those of `statistics`: `holm`, `bonferroni`, `false_discovery_rate`. None:
            no correction.
        """
        from scipy import stats

        errors = self.standard_errors()
        t = np.array([self.values[name] / errors[name] for name in self.values])
        p = _corrected(stats.t.sf(t, self.degrees_of_freedom), correct)
        return dict(zip(self.values, p, strict=True))

    def test_against_ceiling(
        self, correct: Correction | None = statistics.holm
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
        return dict(zip(self.values, _corrected(p, correct), strict=True))

    def test_pairs(
        self, correct: Correction | None = statistics.holm
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
        adjusted = _corrected(p, correct)
        return {
            (names[first], names[second]): own
            for (first, second), own in zip(pairs, adjusted, strict=True)
        }

    def rows(self) -> list[dict[str, Any]]:
        """Returns the table as a list of dicts, one for each model, for any program.

        p values are adjusted by Holm's method.
        """
        errors, intervals = self.standard_errors(), self.intervals()
        zero, ceiling = self.test_above_zero(), self.test_against_ceiling()
        return [
            {
                "model": name,
                "value": value,
                "standard_error": errors[name],
                "low": intervals[name][0],
                "high": intervals[name][1],
                "p_above_zero": zero[name],
                "p_against_ceiling": ceiling[name],
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
            "ceiling_errors": self.ceiling_errors()._asdict(),
            "models": self.rows(),
            "pairs": pairs,
            "weights": {name: x.tolist() for name, x in self.weights.items()},
        }
        # (JSON has no NaN.)
        return json.dumps(_without_nan(found), indent=2)

    def __str__(self) -> str:
        drawn = " and ".join(f"{n} {name}" for name, n in self.sizes.items())
        bounds = zip(self.ceiling, self.ceiling_errors(), strict=True)
        lower, upper = (f"{bound:.3f} ± {error:.3f}" for bound, error in bounds)
        lines = [
            f"{self.comparison}, {len(self.draws)} draws of {drawn}",
            f"noise ceiling: {lower} to {upper} (standard errors)"
            if np.isfinite(self.ceiling).all()
            else "one subject, which has no noise ceiling",
        ]
        cells = [
            ("model", "value", "error", "95 % interval", "p (zero)", "p (ceiling)")
        ]
        for row in self.rows():
            cells.append(
                (
                    row["model"],
                    f"{row['value']:.3f}",
                    f"{row['standard_error']:.3f}",
                    f"[{row['low']:.3f}, {row['high']:.3f}]",
                    _format_p(row["p_above_zero"]),
                    _format_p(row["p_against_ceiling"]),
                )
            )
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for name, *others in cells:
            padded = map(str.rjust, others, widths[1:])
            lines.append("  ".join([name.ljust(widths[0]), *padded]))
        for (first, second), p in self.test_pairs().items():
            lines.append(f"{first} - {second}: p {_format_p(p, '= ')}")
        lines.append("p values of t tests, adjusted by Holm's method")
        return "\n".join(lines)

    def _two_sided(self, difference: float, contrast: np.ndarray) -> float:
        from scipy import stats

        t = difference / np.sqrt(self.variance(contrast))
        return float(2 * stats.t.sf(abs(t), self.degrees_of_freedom))


def _corrected(
    p_values: Sequence[float] | np.ndarray, correct: Correction | None
) -> list[float]:
    p = np.array(p_values)
    # (NaN: one subject has no noise ceiling.)
    if correct is not None and np.isfinite(p).all():
        p = correct(p)
    return p.tolist()


def _format_p(p: float, equals: str = "") -> str:
    if np.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{equals}{p:.3f}"


def _without_nan(x):
    if isinstance(x, dict):
        return {key: _without_nan(value) for key, value in x.items()}
    if isinstance(x, list):
        return [_without_nan(value) for value in x]
    return None if isinstance(x, float) and not np.isfinite(x) else x
