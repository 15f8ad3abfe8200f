"""README's programs run on their own and print what it says; its numbers and links."""

import functools
import pathlib
import re

import jax
import numpy as np
import pytest

from rdljax import terms
from tests.losses import LOSSES

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)
NUMBER = r"\d+\.\d+"


def test_every_program_has_its_output():
    assert len(PROGRAMS) == README.count("```python") == 2


@pytest.mark.parametrize(("program", "output"), PROGRAMS, ids=["loss", "rdms"])
def test_a_program_prints_what_readme_says(
    program, output, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    printed = capsys.readouterr().out
    assert re.sub(NUMBER, "", printed) == re.sub(NUMBER, "", output)
    found, expected = (re.findall(NUMBER, text) for text in (printed, output))
    # (Other versions and processors round differently.)
    np.testing.assert_allclose(np.float64(found), np.float64(expected), atol=0.02)
    for path in re.findall(r'savefig\("(.*?)"\)', program):
        assert (tmp_path / path).stat().st_size > 10_000


def test_its_results_are_those_of_the_pages_of_results():
    pages = "".join(page.read_text() for page in (ROOT / "docs/results").glob("*.md"))
    measured = re.findall(r"\d+\.\d+ ± \d+\.\d+|[-+]\d+\.\d+ \[.*?\]", README)
    assert len(measured) == 8
    for numbers in measured:
        assert numbers in pages


def test_it_is_short_and_counts_the_objectives():
    assert len(README.splitlines()) <= 150
    assert f"[All {len(LOSSES)} objectives]" in README


def test_the_table_of_the_site_lists_every_objective():
    page = (ROOT / "docs" / "reference" / "objectives.md").read_text()
    named = re.findall(r"<rdljax\.objectives\.(\w+)>", page)
    assert set(LOSSES) == set(named)


def test_the_program_of_the_brain_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "brain.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(block, names)
    assert 0 < names["loss"] < 2
    batch = {"stimulus": np.arange(10)}
    teacher, student = names["teacher"], {"stimuli/pooled": names["student"]}
    taught = jax.jit(teacher.targets)(teacher.arrays, batch)
    apply = jax.jit(functools.partial(names["term"].apply, {}, terms.State()))
    value, _ = apply(student, taught, batch)
    assert 0 < value < 2


def test_every_file_that_is_linked_exists():
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert links and all((ROOT / link).exists() for link in links)
