"""Who may import whom: downwards only."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# From the ground up: a room imports rooms that stand before it, never one after it.
FLOORS = (
    ("_names", "_geometry"),
    ("_layerwise", "rdm"),
    ("mmd",),
    ("objectives", "nets", "statistics", "checkpoints"),
    ("terms",),
    ("teachers",),
    ("training",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Further promises: what a room must never import, wherever the floors stand.
NEVER = {
    "objectives": {"flax", "optax", "scipy", "nets", "terms", "training"},
    "rdm": {"flax", "optax", "scipy", "objectives"},
    "_geometry": {"flax", "optax", "scipy"},
    "_layerwise": {"flax", "optax", "scipy"},
    "nets": {"objectives", "terms", "training"},
}


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT / "rdljax").parts[0].removesuffix(".py")


def imported(path: pathlib.Path) -> set[str]:
    """Rooms of rdljax by name, and other packages by theirs."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            found.add(rest[0] if first == "rdljax" and rest else first)
    return found


MODULES = sorted((ROOT / "rdljax").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_rooms_below_it(path):
    room, names = room_of(path), imported(path)
    assert "experiments" not in names and "benchmarks" not in names
    assert not names & NEVER.get(room, set())
    if room == "__init__":
        assert not names
        return
    above = {n for n in names & set(FLOOR) if n != room and FLOOR[n] > FLOOR[room]}
    assert not above


def test_every_room_has_a_floor():
    assert {room_of(path) for path in MODULES} <= {*FLOOR, "__init__"}


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


def test_requirements_are_those_of_the_package():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(r for extra in extras.values() for r in extra)]
    asked = {line for line in asked if not line.startswith("rdljax[")}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    installed = {line.partition("#")[0].strip() for line in lines}
    assert installed - {""} == asked
