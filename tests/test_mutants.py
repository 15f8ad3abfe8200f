"""The list of faults that tests have to find (tests/mutants) fits the code."""

import ast
import json

import pytest

from tests import mutants
from tests.mutants import __main__ as runner

LISTED = mutants.load()


def test_there_are_many_of_different_names():
    assert len({mutant.name for mutant in LISTED}) == len(LISTED) >= 60


@pytest.mark.parametrize("mutant", LISTED, ids=lambda mutant: mutant.name)
def test_its_place_is_there_once_and_its_tests_exist(mutant):
    changed = mutant.changed()  # Raises where `old` is not there once.
    assert changed != (mutants.ROOT / mutant.file).read_text()
    if mutant.file.endswith(".py"):
        ast.parse(changed)
    assert mutant.tests
    for file in mutant.tests:
        assert (mutants.ROOT / file).is_file() and file.startswith("tests/test_")


def test_what_was_found_is_of_the_list_and_killed():
    found = json.loads(mutants.LIST.with_name("found.json").read_text())
    names = [one["name"] for one in found]
    assert len(set(names)) == len(names)
    assert set(names) <= {mutant.name for mutant in LISTED}
    assert {one["outcome"] for one in found} == {"killed"}


def test_a_place_that_is_not_there_is_said():
    with pytest.raises(ValueError, match="has `old` 0 times"):
        LISTED[0]._replace(old="no such text").changed()


@pytest.mark.parametrize(
    "status,said,expected",
    [
        (0, "", ("survived", "")),
        (None, "", ("killed", "timeout")),
        (1, "...\nFAILED tests/a.py::b[c d] - no\n", ("killed", "tests/a.py::b[c d]")),
        (1, "ERROR tests/a.py::b\n", ("killed", "tests/a.py::b")),
        (2, "rdljax/mmd.py:1: in <module>\nERROR tests/a.py", ("killed", "import")),
        (2, "tests/a.py:1: in <module>", ("error", "status 2: tests/a.py:1: in <mod")),
        (-9, "", ("error", "status -9: ")),
    ],
)
def test_what_an_exit_status_means(status, said, expected):
    mutant = LISTED[0]._replace(file="rdljax/mmd.py")
    outcome, by = runner.judged(mutant, status, said)
    assert outcome == expected[0] and by.startswith(expected[1])
