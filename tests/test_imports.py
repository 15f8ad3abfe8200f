"""Who may import whom: downwards only."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

from rdljax import _extras

ROOT = pathlib.Path(__file__).parents[1]

# Of each room, the rooms and the larger packages it may import. No room imports another
# that is not listed, and none imports experiments or benchmarks.
ALLOWED = {
    "__init__": set(),
    "_names": set(),
    "_extras": set(),
    "_checks": {"jax", "numpy"},
    "_indices": {"jax", "_checks"},
    "_files": {"numpy", "safetensors", "h5py", "_extras", "_names"},
    "_geometry": {"jax", "numpy", "_checks"},
    "_layerwise": {"jax", "_checks", "_geometry"},
    "_pytrees": {"jax"},
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
        "rdm",
    },
    "mmd": {"jax", "numpy", "_blocks", "_checks", "_geometry", "_pytrees"},
    "_objectives": {
        "jax",
        "numpy",
        "rdm",
        "mmd",
        "_layerwise",
        "_objectives",
        "_checks",
        "_geometry",
        "_indices",
    },
    "objectives": {"_objectives"},
    "negatives": {"jax", "numpy", "objectives", "_checks", "_indices", "_names"},
    "nets": {
        "jax",
        "numpy",
        "flax",
        "torch",
        "nets",
        "_extras",
        "_files",
        "_names",
    },
    "terms": {
        "jax",
        "optax",
        "objectives",
        "negatives",
        "nets",
        "rdm",
        "_names",
        "_checks",
        "_geometry",
        "_indices",
    },
    "teachers": {
        "jax",
        "numpy",
        "rdm",
        "terms",
        "nets",
        "checkpoints",
        "_checks",
        "_indices",
        "_names",
    },
    "measured": {"numpy", "rdm", "_files", "_names"},
    "training": {
        "jax",
        "numpy",
        "optax",
        "terms",
        "teachers",
        "nets",
        "checkpoints",
        "_checks",
        "_indices",
        "_names",
    },
    "stored": {"jax", "numpy", "tqdm", "teachers", "_extras", "_files", "_names"},
    "checkpoints": {"jax", "numpy", "orbax", "tensorstore", "_extras", "_files"},
    "statistics": {"jax", "numpy", "scipy", "rdm", "_checks", "_geometry"},
}
STANDARD = sys.stdlib_module_names


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT / "rdljax").parts[0].removesuffix(".py")


def imported(path: pathlib.Path) -> set[str]:
    """Rooms of rdljax by name, and other packages by theirs."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            found.add(rest[0] if first == "rdljax" and rest else first)
    return found - STANDARD


MODULES = sorted((ROOT / "rdljax").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_what_it_may_alone(path):
    assert imported(path) <= ALLOWED[room_of(path)]


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
        ("orbax-checkpoint", ("orbax", "orbax.checkpoint"), "checkpoints"),
    ],
)
def test_a_room_says_which_extra_it_takes(
    package, blocked, rooms, monkeypatch, imported_anew
):
    for name in blocked:
        monkeypatch.setitem(sys.modules, name, None)
    words = rf'takes the package {package}: .*pip install "rdljax\[training\]"$'
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
    brought = {"jax", "numpy", "optax", "scipy", "rdljax"}
    assert unguarded(path) - STANDARD <= brought


def test_the_extras_have_what_is_told():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for package, extra in _extras.EXTRAS.items():
        lines = project["optional-dependencies"][extra]
        assert any(line.partition(">=")[0] == package for line in lines), package


def test_requirements_are_those_of_the_package():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(r for extra in extras.values() for r in extra)]
    asked = {line for line in asked if not line.startswith("rdljax[")}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    installed = {line.partition("#")[0].strip() for line in lines}
    assert installed - {""} == asked
