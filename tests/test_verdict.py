"""The result of a run in one sentence, true to its numbers."""

import pytest

from experiments.results import aggregate, verdict


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
