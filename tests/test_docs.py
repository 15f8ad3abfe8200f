"""The documentation has every module, and its links lead somewhere."""

import importlib
import pathlib
import re

import pytest

from tests import test_imports

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("[!_]*.md"),
    *(ROOT / "docs").glob("[!_]*/**/*.md"),
    *(ROOT / "experiments").glob("*.md"),
    *(ROOT / "benchmarks").glob("*.md"),
]


def text_of(page: pathlib.Path) -> str:
    """Returns a page without its blocks of code."""
    return re.sub(r"^(```|~~~).*?^\1", "", page.read_text(), flags=re.S | re.M)


def anchors(page: pathlib.Path) -> set[str]:
    """Returns the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.M)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_its_heading(page):
    for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", text_of(page)):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_pages_have_links():
    links = [re.findall(r"\]\((?!\w+:)([^)\s]+)\)", text_of(page)) for page in PAGES]
    assert sum(map(len, links)) > 100


def test_every_public_module_has_a_page():
    # (That every name is on it is checked when the site is built.)
    text = "".join(p.read_text() for p in (ROOT / "docs" / "reference").glob("*.md"))
    pages = set(re.findall(r"automodule:: rdljax\.([\w.]+)", text))
    missing = set()
    for path in (ROOT / "rdljax").rglob("*.py"):
        parts = path.relative_to(ROOT / "rdljax").with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not parts or any(part.startswith("_") for part in parts):
            continue
        package = importlib.import_module(".".join(("rdljax", *parts[:-1])))
        offered = set(getattr(package, "__all__", ()))
        if not test_imports.defined(path) <= offered:
            missing |= {".".join(parts)} - pages
    assert not missing
