"""Who may import whom: downwards only."""

import ast
import importlib
import pathlib
import re
import subprocess
import sys

import pytest

from rdljax import _extras

ROOT = pathlib.Path(__file__).parents[1]

# Of each room, the rooms and the larger packages that it imports, no more and no less.
# None imports experiments or benchmarks.
ALLOWED = {
    "__init__": set(),
    "errors": set(),
    "_extras": {"errors"},
    "_checks": {"jax", "numpy"},
    "_indices": {"jax", "numpy"},
    "validate": {"jax", "numpy"},
    "files": {"numpy", "safetensors", "h5py", "_extras", "errors"},
    "_geometry": {"jax", "numpy"},
    "_layerwise": {"jax", "_checks", "_geometry"},
    "_pytrees": {"jax"},
    "_types": {"jax"},
    "_pruned": {"jax"},
    "_blocks": {"jax", "numpy"},
    "rdm": {
        "jax",
        "numpy",
        "scipy",
        "tqdm",
        "_blocks",
        "_checks",
        "_extras",
        "_geometry",
        "_indices",
        "_pytrees",
        "errors",
        "files",
        "rdm",
        "validate",
    },
    "mmd": {"jax", "numpy", "_blocks", "_checks", "_geometry", "_pytrees", "mmd"},
    "_objectives": {
        "jax",
        "numpy",
        "rdm",
        "mmd",
        "_layerwise",
        "_checks",
        "_geometry",
        "_indices",
    },
    "objectives": {"_objectives"},
    "nets": {
        "jax",
        "numpy",
        "flax",
        "torch",
        "nets",
        "_extras",
        "_pruned",
        "_types",
        "errors",
        "files",
    },
    "terms": {
        "jax",
        "numpy",
        "optax",
        "_layerwise",
        "objectives",
        "nets",
        "rdm",
        "terms",
        "_checks",
        "_extras",
        "_geometry",
        "_indices",
        "_pruned",
        "_types",
        "errors",
    },
    "teachers": {"jax", "numpy", "rdm", "_checks", "_indices", "_types", "errors"},
    "training": {
        "jax",
        "numpy",
        "optax",
        "terms",
        "teachers",
        "training",
        "nets",
        "_checks",
        "_extras",
        "_types",
        "errors",
    },
    "activations": {
        "jax",
        "numpy",
        "tqdm",
        "activations",
        "teachers",
        "_extras",
        "errors",
        "files",
    },
    "checkpoints": {"jax", "numpy", "orbax", "tensorstore", "_extras", "files"},
    "statistics": {
        "jax",
        "numpy",
        "scipy",
        "rdm",
        "_checks",
        "_geometry",
        "_resampling",
        "validate",
    },
    "_resampling": {"numpy"},
    "inference": {
        "numpy",
        "scipy",
        "inference",
        "rdm",
        "statistics",
        "_checks",
        "_geometry",
        "_resampling",
        "validate",
    },
    "plots": {"numpy", "scipy", "matplotlib", "rdm", "plots", "_extras"},
}
STANDARD = sys.stdlib_module_names


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT / "rdljax").parts[0].removesuffix(".py")


def names_imported(path: pathlib.Path) -> set[str]:
    """All that a file imports, with the module in front."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def imported(path: pathlib.Path) -> set[str]:
    """Rooms of rdljax by name, and other packages by theirs."""
    found = set()
    for name in names_imported(path):
        first, *rest = name.split(".")
        if first not in STANDARD:
            found.add(rest[0] if first == "rdljax" and rest else first)
    return found


MODULES = sorted((ROOT / "rdljax").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_what_it_may_alone(path):
    assert imported(path) <= ALLOWED[room_of(path)]


@pytest.mark.parametrize("room", ALLOWED)
def test_a_file_of_the_room_imports_what_it_may(room):
    paths = [path for path in MODULES if room_of(path) == room]
    assert set().union(*map(imported, paths)) == ALLOWED[room]


PACKAGES = ("rdljax", "experiments", "benchmarks")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_private_module_is_imported_by_its_own_package_alone(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        within = path.relative_to(ROOT).parts[:-1]
        for name in names_imported(path):
            parts = name.split(".")
            if parts[0] not in PACKAGES:
                continue
            private = [i for i, part in enumerate(parts) if part.startswith("_")]
            owner = tuple(parts[: private[0]]) if private else ()
            assert within[: len(owner)] == owner, f"{path} imports {name}"


# The rooms of experiments, each of which imports those before it alone; commands are
# files at the top that import any room.
ROOMS = (
    "display",
    "command",
    "options",
    "locks",
    "config",
    "methods",
    "data",
    "weights",
    "presets",
)
ROOMS += ("tables", "results", "brain", "training", "analyses")
COMMANDS = ("run", "table", "trials", "report", "probe", "correlations", "detection")
COMMANDS += ("prepare", "import_torch", "export_torch", "export_images")
OF_ALL = "__main__"  # Calls any of them.


def test_the_rooms_of_experiments_are_all_there():
    folder = ROOT / "experiments"
    there = {
        path.stem
        for path in folder.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert there == {"__init__", OF_ALL, *ROOMS, *COMMANDS}


@pytest.mark.parametrize("room", [*ROOMS, *COMMANDS, OF_ALL])
def test_a_room_of_experiments_imports_those_before_it_alone(room):
    below = {*ROOMS[: ROOMS.index(room)], room} if room in ROOMS else {*ROOMS}
    path = ROOT / "experiments" / room
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    for file in files:
        names = (name.split(".") for name in names_imported(file))
        found = {name[1] for name in names if name[0] == "experiments"}
        assert found <= below, file


# What the picture of docs/architecture.md leaves out, besides private modules and the
# arrows that follow from others.
NOT_DRAWN = {"__init__", "errors", "command", "display", "locks", "options", OF_ALL}


def picture(kind: str) -> str:
    return (ROOT / "docs" / "pictures" / f"architecture.{kind}").read_text()


def drawn(package: str) -> set[tuple[str, str]]:
    """Returns the arrows between the rooms of a package in the picture."""
    (part,) = re.findall(
        rf"subgraph cluster_{package} {{\n(.*?)\n    }}", picture("dot"), re.DOTALL
    )
    label = dict(re.findall(r"(\w+) \[label=(\w+)\]", part))
    arrows = re.findall(r"^ *(\w+) -> (\w+)$", part, re.MULTILINE)
    return {(label.get(a, a), label.get(b, b)) for a, b in arrows}


def test_the_picture_is_drawn_from_the_present_arrows():
    arrows = re.findall(r"(\w+) -> (\w+)", picture("dot"))
    svg = re.findall(r"<title>(\w+)&#45;&gt;(\w+)</title>", picture("svg"))
    assert sorted(arrows) == sorted(svg)


def imports_between(package: str) -> set[tuple[str, str]]:
    """Returns the pairs of rooms of a package of which the first imports the second."""
    names = {"_objectives": "objectives"} | dict.fromkeys(COMMANDS, "commands")
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        own = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        for name in names_imported(path):
            first, *rest = name.split(".")
            if first == package and rest:
                pair = names.get(own, own), names.get(rest[0], rest[0])
                found.add(pair)
    return {
        (a, b)
        for a, b in found
        if a != b and not {a, b} & NOT_DRAWN and a[0] != "_" and b[0] != "_"
    }


def reachable(start: str, arrows: set[tuple[str, str]]) -> set[str]:
    nearest = {b for a, b in arrows if a == start}
    return nearest.union(*(reachable(b, arrows) for b in nearest))


@pytest.mark.parametrize("package", ["rdljax", "experiments"])
def test_the_picture_is_that_of_the_imports(package):
    found = imports_between(package)
    follow = {
        (a, b)
        for a, b in found
        if any(b in reachable(c, found) for other, c in found if other == a)
    }
    assert drawn(package) == found - follow


def test_the_packages_import_each_other_as_in_the_picture():
    found = {
        (package, other)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for name in names_imported(path)
        if (other := name.split(".")[0]) in {*PACKAGES} - {package}
    }
    # (That benchmarks also import rdljax follows from the two arrows.)
    follows = {("benchmarks", "rdljax")}
    assert found == {("benchmarks", "experiments"), ("experiments", "rdljax"), *follows}
    for a, b in found - follows:
        arrow = rf"(\b{a} -> \w+ \[|ltail=cluster_{a} )lhead=cluster_{b}\]"
        assert re.search(arrow, picture("dot")), (a, b)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_short(command):
    lines = (ROOT / "experiments" / f"{command}.py").read_text().splitlines()
    assert len(lines) <= 80


PUBLIC = [
    ".".join(path.relative_to(ROOT).parts[:-1])
    for path in sorted((ROOT / "rdljax").rglob("__init__.py"))
    if not path.parent.name.startswith("_") and path.parent.name != "rdljax"
]


def test_the_library_says_which_modules_it_has():
    names = {path.stem for path in (ROOT / "rdljax").iterdir() if path.suffix == ".py"}
    names |= {package.split(".")[1] for package in PUBLIC}
    told = re.findall(r"^`(\w+)`", importlib.import_module("rdljax").__doc__, re.M)
    assert sorted(told) == sorted(n for n in names if not n.startswith("_"))


def test_experiments_say_which_commands_and_rooms_they_have():
    told = re.findall(r"^`(\w+)`", importlib.import_module("experiments").__doc__, re.M)
    assert told == [*COMMANDS, *ROOMS]


@pytest.mark.parametrize("package", PUBLIC)
def test_a_package_says_what_is_in_it(package):
    room = importlib.import_module(package)
    assert room.__all__ == sorted(room.__all__)
    for name in room.__all__:
        assert hasattr(room, name)
        assert f"`{name}`" in room.__doc__, name


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_of_a_package_is_told(package):
    """Functions and classes, at the head of the package or of their module."""
    room = importlib.import_module(package)
    for path in (ROOT / package.replace(".", "/")).glob("[!_]*.py"):
        assert re.search(rf"`(\w+\.)?{path.stem}`", room.__doc__), path.stem
        module = importlib.import_module(f"{package}.{path.stem}")
        told = room.__doc__ + module.__doc__
        for name in defined(path):
            assert re.search(rf"`(\w+\.)?{name}(\(.*?\))?`", told), f"{path}: {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_all_has_every_public_name(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    module = importlib.import_module(name.removesuffix(".__init__"))
    if hasattr(module, "__all__"):
        assert defined(path) <= set(module.__all__)


def defined(path: pathlib.Path) -> set[str]:
    """Returns the public functions and classes that a module defines."""
    kinds = ast.FunctionDef | ast.ClassDef
    nodes = ast.parse(path.read_text()).body
    names = {node.name for node in nodes if isinstance(node, kinds)}
    return {name for name in names if not name.startswith("_")}


def test_no_two_rooms_import_each_other():
    below = {room: allowed & set(ALLOWED) for room, allowed in ALLOWED.items()}
    order: list[str] = []
    while len(order) < len(below):
        free = [r for r in below if r not in order and below[r] - {r} <= set(order)]
        assert free, f"a circle among {set(below) - set(order)}"
        order += free


BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(name + " is absent")

sys.meta_path.insert(0, Block())
import jax.numpy as jnp
from rdljax import objectives
x = jnp.arange(12.0).reshape(4, 3)
assert objectives.rdl(x, x) == 0
assert objectives.kd(x, x) == 0
"""


def test_losses_need_jax_alone():
    blocked = {"flax", "scipy", "optax", "orbax", "tensorflow_datasets", "mlxtend"}
    code = BLOCKED.format(blocked=blocked)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


@pytest.fixture
def imported_anew():
    """Rooms are imported again in the test, and are afterwards what they were."""

    def take_out():
        names = [name for name in sys.modules if name.partition(".")[0] == "rdljax"]
        return {name: sys.modules.pop(name) for name in names}

    before = take_out()
    yield
    take_out()
    sys.modules.update(before)


@pytest.mark.parametrize(
    ("package", "blocked", "rooms"),
    [
        (
            "flax",
            ("flax", "flax.linen", "flax.nnx"),
            "nets nets.capture nets.from_torch terms training",
        ),
        ("optax", ("optax",), "terms training"),
        ("orbax-checkpoint", ("orbax", "orbax.checkpoint"), "checkpoints"),
    ],
)
def test_a_room_says_which_extra_it_takes(
    package, blocked, rooms, monkeypatch, imported_anew
):
    for name in blocked:
        monkeypatch.setitem(sys.modules, name, None)
    words = rf'needs the package {package}: .*pip install "rdljax\[training\]"$'
    for room in rooms.split():
        with pytest.raises(ImportError, match=words):
            importlib.import_module(f"rdljax.{room}")


def unguarded(path: pathlib.Path) -> set[str]:
    """Packages that a module imports outside of all that would tell of their absence.

    (Below nets none is looked for: their `__init__` comes first.)
    """
    found = set()

    def visit(node):
        if isinstance(node, ast.With | ast.Try):
            return
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
        for child in ast.iter_child_nodes(node):
            visit(child)

    if "nets" not in path.parts:
        visit(ast.parse(path.read_text()))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_a_plain_installation_lacks_is_told(path):
    brought = {"jax", "numpy", "scipy", "rdljax"}  # (jax brings SciPy.)
    assert unguarded(path) - STANDARD <= brought


def test_the_extras_have_what_is_told():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for package, extra in _extras.EXTRAS.items():
        lines = project["optional-dependencies"][extra]
        assert any(line.partition(">=")[0] == package for line in lines), package


def makefile_line(pattern: str) -> str:
    (line,) = re.findall(rf"^.*{pattern}.*$", (ROOT / "Makefile").read_text(), re.M)
    return line


def test_requirements_are_those_of_the_package():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    # (`make docs` installs what it needs itself.)
    docs = {line for line in extras.pop("docs") if not line.startswith("rdljax[")}
    assert docs == set(re.findall(r'"(.+?)"', makefile_line("pip install.*sphinx")))
    asked = [*project["dependencies"], *(r for extra in extras.values() for r in extra)]
    asked = {line for line in asked if not line.startswith("rdljax[")}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    installed = {line.partition("#")[0].strip() for line in lines}
    assert installed - {""} == asked
