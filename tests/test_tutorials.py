"""Checks the tutorials that are notebooks; building the site executes them."""

import json
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "tutorials"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def test_a_notebook_is_found():
    assert "first_distillation.ipynb" in NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_opens_in_colab_and_has_no_results(name):
    notebook = json.loads((FOLDER / name).read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert f"/github/rdljax/rdljax/blob/main/docs/tutorials/{name})" in "".join(
        cells[0]["source"]
    )
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert "".join(code[0]["source"]).startswith("%pip install ")
    skipped = ["skip-execution" in c["metadata"].get("tags", []) for c in code]
    assert skipped == [True] + [False] * (len(code) - 1)
    assert all(not c["outputs"] and c["execution_count"] is None for c in code)
