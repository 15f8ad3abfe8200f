"""Prints the size of the code as a table in Markdown: `python -m tests.size [FOLDER]`.

FOLDER is a checkout, by default this one. CONTRIBUTING.md has the definitions.
"""

import ast
import pathlib
import sys


def lines_of(function: ast.FunctionDef) -> int:
    """Returns the number of lines of a function without those of its docstring."""
    parts = [function, function.body[0]]
    whole, first = (part.end_lineno - part.lineno + 1 for part in parts)
    return whole - first if ast.get_docstring(function) is not None else whole


def modules_imported(tree: ast.Module, modules: dict[str, str]) -> set[str]:
    """Returns which of the modules a file imports, whole or some names of them."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            both = [
                (f"{node.module}.{alias.name}", node.module) for alias in node.names
            ]
            names |= {name if name in modules else module for name, module in both}
    return names & modules.keys()


def size_of(root: pathlib.Path, package: str) -> dict[str, int]:
    """Returns the numbers of one package, by the names of the table's rows."""
    texts = {}
    for path in sorted((root / package).rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        texts[name.removesuffix(".__init__")] = path.read_text()
    trees = {name: ast.parse(text) for name, text in texts.items()}
    lines = [len(text.splitlines()) for text in texts.values()]
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    arguments = [
        (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs) for f in functions
    ]
    parameters = [sum(a.arg not in ("self", "cls") for a in each) for each in arguments]
    public = [
        node
        for name, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not any(part.startswith("_") for part in (*name.split("."), node.name))
    ]
    return {
        "files": len(texts),
        "lines": sum(lines),
        "public functions and classes": len(public),
        "functions above 50 lines": sum(lines_of(f) > 50 for f in functions),
        "functions with more than 6 parameters": sum(count > 6 for count in parameters),
        "lines of the longest file": max(lines),
        "imports between files": sum(
            len(modules_imported(tree, texts) - {name}) for name, tree in trees.items()
        ),
    }


if __name__ == "__main__":
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    sizes = {
        name: size_of(root, name) for name in ("rdljax", "experiments", "benchmarks")
    }
    print(f"| | {' | '.join(sizes)} |\n|---|---:|---:|---:|")
    for row in sizes["rdljax"]:
        print(f"| {row} | {' | '.join(f'{size[row]:,}' for size in sizes.values())} |")
