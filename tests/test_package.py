"""What the package index shows, and what is said in several files."""

import pathlib
import re
import tomllib

import pytest

import rdljax

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
# A Markdown link's target, of the picture in a link too, and an HTML attribute's.
LINK = r'\]\(([^)]*)\)|(?:src|srcset|href)="([^"]*)"'


def described(text):
    """Returns README as it is on the package index: with its substitutions."""
    hook = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for rule in hook["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    return text


def links(text):
    return [one or other for one, other in re.findall(LINK, text)]


def test_links_of_the_description_are_absolute():
    before = (ROOT / "README.md").read_text()
    text = described(before)
    base = PROJECT["urls"]["Homepage"]
    for link in links(text):
        assert link.startswith(("https://", "#")), link
    # Each leads to a file of the repository, pictures to their content.
    own = [link.removeprefix(base) for link in links(text) if link.startswith(base)]
    assert len(own) > 3
    for link in own:
        kind, _, path = link.removeprefix("/").partition("/main/")
        is_picture = path.endswith((".png", ".svg", ".jpg"))
        assert kind == ("raw" if is_picture else "blob")
        assert (ROOT / path.partition("#")[0]).exists(), path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](docs/a.md#b)", "[a](BASE/blob/main/docs/a.md#b)"),
        ("![a\nb](docs/a.png)", "![a\nb](BASE/raw/main/docs/a.png)"),
        ("[a](https://b.c/d)", "[a](https://b.c/d)"),
        ("[a](#b)", "[a](#b)"),
        ("[![a](b.svg)](c.md)", "[![a](BASE/raw/main/b.svg)](BASE/blob/main/c.md)"),
    ],
)
def test_a_link(text, expected):
    base = PROJECT["urls"]["Homepage"]
    assert described(text) == expected.replace("BASE", base)


def test_every_address_of_the_repository_is_the_same():
    base = PROJECT["urls"]["Homepage"]
    for file in ("pyproject.toml", "CITATION.cff"):
        found = re.findall(
            r"https://github\.com/[\w.-]+/[\w.-]+", (ROOT / file).read_text()
        )
        assert found and set(found) == {base}, file
    assert all(url.startswith(base) for url in PROJECT["urls"].values())


def test_the_citation_has_this_version():
    yaml = pytest.importorskip("yaml")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == rdljax.__version__
    assert cited["license"] == PROJECT["license"]


def test_the_console_command_is_there():
    from experiments import __main__ as main

    module, _, name = PROJECT["scripts"]["rdljax"].partition(":")
    assert module == main.__name__ and callable(getattr(main, name))
