"""The result of a run in one sentence, true to its numbers."""

import pytest

from experiments.results import aggregate, markdown, verdict


def summary(errors, labels=(0, 1)):
    """A run's summary with these test errors, by method, of seeds 0, 1, ..."""
    results = [
        {
            "method": method,
            "seed": seed,
            "test_error": error,
            "predicted": [0, 1],
            "history": [{"validation_error": error}],
            "seconds": 1.0,
        }
        for method, own in errors.items()
        for seed, error in enumerate(own)
    ]
    return aggregate.summarise(results, list(labels))


PLAIN = {"plain": [10.0, 11.0, 12.0]}
CASES = {
    "lower": (
        {"rdl": [5.0, 6.1, 7.0], "kd": [8.0, 9.0, 9.9]},
        "rdl (6.03 %) and kd (8.97 %) have a lower test error than plain (11.00 %)",
    ),
    "higher": (
        {"at": [15.0, 16.1, 17.0]},
        "at (16.03 %) has a higher test error than plain (11.00 %)",
    ),
    "all three": (
        {"at": [15.0, 16.1, 17.0], "sp": [9.0, 11.5, 12.0], "kd": [8.0, 9.0, 9.9]},
        "kd (8.97 %) has a lower test error than plain (11.00 %); at (16.03 %) has a "
        "higher test error than plain (11.00 %); sp (10.83 %) cannot be distinguished "
        "from it",
    ),
    "none": (
        {"sp": [9.0, 11.5, 12.0], "cc": [10.0, 11.0, 12.1], "pkt": [12.0, 11.0, 10.0]},
        "sp (10.83 %), cc (11.03 %) and pkt (11.00 %) cannot be distinguished from "
        "plain (11.00 %)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_says_what_came_out(case):
    errors, words = CASES[case]
    found = verdict.sentence(summary(PLAIN | errors))
    how = "judged by the 95 % intervals of the paired differences over 3 seeds"
    assert found == f"{words}, {how}."


def test_one_seed_has_no_interval():
    found = verdict.sentence(summary({"plain": [10.0], "rdl": [5.0]}))
    assert found == (
        "The test errors are those of one seed, without intervals: plain (10.00 %), "
        "rdl (5.00 %)."
    )


def test_one_method_has_no_comparison():
    found = verdict.sentence(summary({"rdl": [5.0, 6.0]}))
    assert found == (
        "The test error of rdl (5.50 %) is compared with that of no other method."
    )


class TestOfATable:
    LOW, HIGH = {"rdl": [5.0, 6.1, 7.0]}, {"rdl": [15.0, 16.1, 17.0]}

    def test_of_no_column_and_of_one(self):
        assert verdict.sentence_of_table([]) == ""
        column = summary(PLAIN | self.LOW)
        assert verdict.sentence_of_table([column]) == verdict.sentence(column)

    def test_columns_are_counted(self):
        columns = [summary(PLAIN | of) for of in (self.LOW, self.LOW, self.HIGH)]
        said = verdict.sentence_of_table([*columns, summary(PLAIN)])
        assert said == (
            "Lower test error than the baseline: rdl in 2 of 3 columns; higher test "
            "error than the baseline: rdl in 1 of 3 columns; judged by the 95 % "
            "intervals of the paired differences over seeds."
        )

    def test_nothing_is_clear(self):
        columns = [summary(PLAIN | {"kd": [10.0, 11.5, 11.9]})] * 2
        said = verdict.sentence_of_table(columns)
        assert said.startswith("No method has a lower or a higher test error than")
        columns = [summary({"plain": [10.0], "kd": [11.0]})] * 2
        assert verdict.sentence_of_table(columns).startswith(
            "No method has an interval"
        )


def test_significant_seeds_have_a_direction():
    def tests(*seeds):
        keys = ("only_first", "only_second", "holm")
        return [{"method": "kd", **dict(zip(keys, of, strict=True))} for of in seeds]

    better, worse, unclear = (9, 1, 0.01), (1, 9, 0.01), (9, 1, 0.2)
    cases = {
        (better, better, unclear): "better in 2 of 3",
        (worse,): "worse in 1 of 1",
        (better, worse, worse): "better in 1, worse in 2 of 3",
        (unclear, unclear): "none of 2",
        (): "–",
    }
    for seeds, expected in cases.items():
        assert markdown.significant("kd", tests(*seeds)) == expected


def test_columns_of_numbers_are_aligned_to_the_right():
    rows = [["plain", "12.38 ± 0.98", "–"], ["kd", "8.16 ± 1.15", "-4.22 [-6, -2.4]"]]
    assert markdown.grid(["method", "error", "difference"], rows).splitlines() == [
        "| method |        error |       difference |",
        "|--------|-------------:|-----------------:|",
        "| plain  | 12.38 ± 0.98 |                – |",
        "| kd     |  8.16 ± 1.15 | -4.22 [-6, -2.4] |",
    ]
