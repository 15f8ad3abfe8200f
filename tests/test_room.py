"""Every file of the library has tests that `make check` finds."""

import pathlib
import subprocess

import pytest

from tests import room

ROOT = pathlib.Path(__file__).parents[1]


def test_every_file_of_code_has_tests_that_exist():
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in ("rdljax", "experiments", "benchmarks", "docs")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".py", ".md", ".ipynb") and "_build" not in path.parts
    ]
    assert len(found) > 250
    for file in found:
        tests = room.tests_of(file)
        assert tests, file
        assert all((ROOT / test).is_file() for test in tests), file


def test_every_entry_is_of_something():
    assert [entry for entry in room.TESTS if not (ROOT / entry).exists()] == []


@pytest.mark.parametrize(
    ("file", "tests"),
    [
        ("rdljax/rdm/distances.py", ["tests/test_rdm.py"]),
        ("rdljax/rdm/_moments.py", ["tests/test_forms.py"]),
        ("rdljax/rdmm.py", []),
        ("tests/test_mmd.py", ["tests/test_mmd.py"]),
        ("LICENSE", []),
    ],
)
def test_the_longest_entry_counts(file, tests):
    assert room.tests_of(file) == tests


@pytest.fixture
def calls(monkeypatch):
    """The arguments of the processes that would be started; each ends with 3."""
    found = []

    def record(call, **_):
        found.append(call[1:])
        return subprocess.CompletedProcess(call, 3)

    monkeypatch.setattr(subprocess, "run", record)
    return found


def test_runs_them_with_the_options_of_pytest(calls):
    assert room.main(["-k=x", "rdljax/mmd/kernels.py", "LICENSE"]) == 3
    tests = ["tests/test_mmd.py", "tests/test_imports.py"]
    assert calls == [["-m", "pytest", "-q", "-x", "-k=x", *tests]]


def test_more_files_are_divided_over_processes(calls):
    room.main(["rdljax/terms/base.py"])
    room.main(["rdljax/terms/base.py", "-n1"])
    divided, single = calls
    assert "-nauto" in divided and "--dist=loadfile" in divided
    assert "-nauto" not in single and "-n1" in single


def test_finds_what_differs_from_the_last_commit():
    files = room.changed()
    assert all((ROOT / file).exists() for file in files)
