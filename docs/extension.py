"""Adapts docstrings and links to the site, and checks that every public name is in it.

Docstrings are written for `help()`: examples are indented by four columns, and names
stand in single backticks. Pages are also read in the repository, whose other files
they link.
"""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re

from docutils import nodes
from sphinx.util import logging

import rdljax
from experiments import config as configs
from experiments.config import settings

logger = logging.getLogger(__name__)


# Files outside of this folder that are pages of the site, too.
PAGES = {
    "../CONTRIBUTING.md": "contributing.md",
    "../CHANGELOG.md": "changelog.md",
    "../benchmarks/README.md": "benchmarks.md",
}


def setup(app):
    app.connect("source-read", link_pages)
    app.connect("source-read", list_settings)
    # Before napoleon, which reads the sections.
    app.connect("autodoc-process-docstring", mark_code, priority=100)
    app.connect("autodoc-process-docstring", keep_returns, priority=100)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("doctree-read", mark_cells)
    app.connect("missing-reference", find_name)
    app.connect("env-check-consistency", check_public_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def link_pages(app, name, source):
    """Replaces links to files of the repository by links to their pages."""
    depth = name.count("/")
    for file, page in PAGES.items():
        file, page = depth * "../" + file, depth * "../" + page
        source[0] = re.sub(rf"\]\({re.escape(file)}(?=[)#])", f"]({page}", source[0])


def list_settings(app, name, source):
    """Adds a table of the settings of each group to their page."""
    if name != "settings":
        return
    told = documentation(settings)
    for group in dataclasses.fields(configs.Config):
        kind = type(group.default)
        rows = ["| flag | default | |", "|---|---|---|"]
        for flag, field in configs.FIELDS.items():
            if field.group == group.name:
                value = getattr(group.default, field.name)
                text = re.sub(r"([|*])", r"\\\1", told[kind.__name__, field.name])
                rows.append(f"| `--{flag}` | {written(value)} | {text} |")
        source[0] += f"\n## {kind.__name__}\n\n{inspect.getdoc(kind)}\n\n"
        source[0] += "\n".join(rows) + "\n"


def documentation(module) -> dict[tuple[str, str], str]:
    """Returns the strings below the fields of the classes of a module."""
    found = {}
    for kind in ast.parse(inspect.getsource(module)).body:
        body = kind.body if isinstance(kind, ast.ClassDef) else []
        for field, text in zip(body, body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                found[kind.name, field.target.id] = " ".join(text.value.value.split())
    return found


def written(value) -> str:
    """Returns a value as on a command line, as Markdown."""
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"`{one}`" for one in values)


def mark_cells(app, doctree):
    """Marks cells that are not broken into lines, and those that need some width."""
    for cell in doctree.findall(nodes.entry):
        text = cell.astext()
        whole = len(text) <= 10 or " " not in text or "±" in text or "[" in text
        if whole and len(text) <= 34:
            cell["classes"].append("short")
        elif len(text) > 120:
            cell["classes"].append("long")


def mark_code(app, what, name, thing, options, lines):
    """Marks examples, paragraphs indented by four below one that is not indented."""
    for i, line in reversed(list(enumerate(lines))):
        above = next((line for line in reversed(lines[:i]) if line), " ")
        starts = re.match(r"    \S", line) and not lines[i - 1]
        if starts and not above.startswith((" ", "-")) and not above.endswith("::"):
            lines[i:i] = [".. code-block:: python", ""]


def keep_returns(app, what, name, thing, options, lines):
    """Keeps napoleon from taking the first words of "Returns:" for a type."""
    for i, line in enumerate(lines[:-1]):
        if line in ("Returns:", "Yields:"):
            lines[i + 1] = re.sub(r"(\S)", r": \1", lines[i + 1], count=1)


def skip_fields(app, what, name, thing, skip, options):
    """Leaves out fields of named tuples and classes, which are in the signature."""
    tuple_field = type(thing).__name__ == "_tuplegetter"
    class_field = what == "class" and inspect.isclass(thing)
    return True if tuple_field or class_field else None


def shorten_signature(app, what, name, thing, options, signature, returns):
    """Leaves out what Flax adds to the signature of a module; names classes."""
    signature = re.sub(r", parent=<.*\)$", ")", signature or "")
    signature = re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", signature)
    return signature or None, returns


def find_name(app, env, node, content):
    """Resolves `terms.rdl` and `docs/devices.md`, as docstrings have them."""
    target = node["reftarget"].removesuffix("()")
    page = re.fullmatch(r"docs/(.+)\.md", target)
    if page and page[1] in env.all_docs:
        uri = app.builder.get_relative_uri(node["refdoc"], page[1])
        title = env.titles[page[1]].astext()
        return nodes.reference("", title, internal=True, refuri=uri)
    domain, name = env.domains["py"], f"rdljax.{target}"
    if node.get("refdomain") != "py" or name not in domain.objects:
        return None
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, "obj", name, node, content
    )


def check_public_names(app, env):
    """Warns of each public name that is on no page, which ends the build."""
    there = env.domains["py"].objects
    for name in public_names():
        if name not in there:
            logger.warning("%s is public and on no page of docs/reference", name)


def public_names() -> set[str]:
    """Returns the public names of the library, such as `rdljax.terms.rdl`.

    Those of a module that its package has, too, are names of the package alone.
    """
    found: set[str] = set()
    offered: dict[str, set[int]] = {}
    for info in pkgutil.walk_packages(rdljax.__path__, "rdljax."):
        if "._" in info.name:
            continue
        module = importlib.import_module(info.name)
        things = {name: getattr(module, name) for name in names_of(module)}
        offered[info.name] = {id(thing) for thing in things.values()}
        told = offered.get(info.name.rpartition(".")[0], set())
        found |= {f"{info.name}.{k}" for k, v in things.items() if id(v) not in told}
    return found


def names_of(module) -> list[str]:
    """Returns the public names of a module: `__all__`, or what it defines."""
    if hasattr(module, "__all__"):
        return module.__all__
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ == module.__name__
    ]
