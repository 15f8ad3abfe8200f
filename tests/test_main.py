"""The console command, and what the help of every command imports."""

import ast
import os
import pathlib
import re
import subprocess
import sys
import typing

import pytest

import rdljax
from experiments import __main__ as main
from experiments import command, prepare
from experiments.config import choices, functions
from experiments.data import originals
from rdljax import _extras
from tests import test_imports

ROOT = pathlib.Path(__file__).parents[1]
# What pip writes for the entry point of `pyproject.toml`.
SCRIPT = """
import sys
from experiments.__main__ import main
sys.exit(main())
"""


def install(folder):
    """Returns the words that call the console command as if it was installed."""
    path = folder / "rdljax"
    path.write_text(SCRIPT)
    return [sys.executable, str(path)]


def call(words, **settings):
    return subprocess.run(
        words,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        **settings,
    )


class TestOverview:
    def test_has_every_command_with_its_task(self, capsys):
        assert main.main([]) == 0
        said = capsys.readouterr().out
        listed = re.findall(r"^  ([\w-]+) +(\w.*)\.$", said, re.M)
        assert [name for name, _ in listed] == [*main.COMMANDS]
        modules = [name.replace("-", "_") for name in main.COMMANDS]
        assert sorted(modules) == sorted(test_imports.COMMANDS)
        assert all(len(line) <= 88 for line in said.splitlines())
        assert main.main(["--help"]) == 0
        assert capsys.readouterr().out == said

    def test_as_it_was_called(self, monkeypatch, capsys):
        for program, expected in {
            "/some/bin/rdljax": "usage: rdljax COMMAND",
            "rdljax.exe": "usage: rdljax COMMAND",
            "/some/experiments/__main__.py": "usage: python -m experiments COMMAND",
        }.items():
            monkeypatch.setattr(sys, "argv", [program])
            assert main.main([]) == 0
            assert capsys.readouterr().out.startswith(expected)

    def test_the_version(self, capsys):
        assert main.main(["--version"]) == 0
        assert capsys.readouterr().out == f"rdljax {rdljax.__version__}\n"


def test_an_unknown_command_has_its_nearest(capsys):
    assert main.main(["exprot-torch"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: there is no command 'exprot-torch'; did you mean ")
    assert "'export-torch'" in said


@pytest.mark.parametrize("name", ["import-torch", "import_torch"])
def test_a_command_answers_with_its_status(name, tmp_path, capsys):
    assert main.main([name, "resnet8", str(tmp_path / "no.npz")]) == 2
    assert "no.npz" in capsys.readouterr().err
    assert main.main([name, "--help"]) == 0


HELP = """
import contextlib, importlib, io
from experiments import __main__, config, tables

calls = [[], ["run", "mnist_rdl"], ["table", "rdl_mnist"]]
for arguments in [*calls, *([name] for name in __main__.COMMANDS)]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = __main__.main([*arguments, "--help"])
    assert status == 0 and len(said.getvalue()) > 200, arguments
for name in config.names():
    config.load(name)
for name in tables.names():
    tables.load(name)
print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_a_help_text_imports_neither_jax_nor_numpy():
    done = call([sys.executable, "-c", f"import sys\n{HELP}"], check=True)
    assert done.stderr == ""
    imported = set(done.stdout.split())
    assert "tyro" in imported and "rdljax" in imported
    slow = {"jax", "flax", "optax", "orbax", "numpy", "scipy", "matplotlib", "sklearn"}
    assert not imported & {*slow, "tensorflow_datasets", "jinja2", "PIL", "mlxtend"}


def test_an_overview_imports_no_tyro():
    code = "import sys\nsys.argv = ['rdljax']\n"
    code += "import experiments.__main__ as main\nassert main.main() == 0\n"
    code += "print(*{name.partition('.')[0] for name in sys.modules})"
    done = call([sys.executable, "-c", code], check=True)
    *listed, imported = done.stdout.splitlines()
    assert len(listed) > len(main.COMMANDS)
    assert not {*imported.split()} & {"tyro", "jax", "numpy"}


def test_without_the_experiments_packages(tmp_path):
    """Where pip installed what the losses need."""
    path = tmp_path / "without.py"
    path.write_text(f"import sys\nsys.modules['tyro'] = None\n{SCRIPT}")
    done = call([sys.executable, str(path), "run", "mnist_rdl"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the experiments need the package tyro: pip install "
        '"rdljax[experiments]"\n'
    )


def test_a_package_that_the_library_lacks():
    with (
        pytest.raises(command.UsageError, match=r"the package flax: .*experiments\]"),
        command.importing(),
        _extras.needed("flax", "rdljax.nets"),
    ):
        raise ModuleNotFoundError("no module named flax")


def test_an_error_of_our_own_is_not_taken_for_a_missing_package():
    with pytest.raises(ModuleNotFoundError), command.importing():
        import experiments.nothing  # noqa: F401


@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_has_ended(buffered, tmp_path):
    """As in `rdljax --help | head -1`."""
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment["PYTHONUNBUFFERED"] = "" if buffered else "1"
    done = subprocess.run(
        [*install(tmp_path), "--help"],
        env=environment,
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (command.CLOSED_PIPE, b"")


def test_a_closed_pipe_of_another_process_is_an_error():
    def run():
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        command.exit_status(run)


class TestNames:
    """Commands in messages are written as the user called this one."""

    TEXT = "python -m experiments.import_torch NAME, or python -m experiments.run"

    def test_in_texts(self, monkeypatch):
        assert command.as_called(self.TEXT) == self.TEXT
        monkeypatch.setattr(sys, "argv", ["/some/bin/rdljax", "run"])
        assert command.as_called(self.TEXT) == "rdljax import-torch NAME, or rdljax run"

    def test_in_a_help_and_an_error(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["/some/bin/rdljax", "run"])
        calls = (["report"], ["run", "mnist_rdl"], ["export-images"])
        for arguments in ([*words, "--help"] for words in calls):
            assert main.main(arguments) == 0
            said = capsys.readouterr().out
            assert said.startswith(f"usage: rdljax {' '.join(arguments[:-1])} ")
            assert "python -m" not in said and "experiments.run" not in said
        assert main.main(["probe"]) == 2
        assert "rdljax probe" in capsys.readouterr().err
        assert main.main(["run", "mnist_rdl", "--data=mnist"]) == 2
        said = capsys.readouterr().err
        assert "rdljax prepare mnist --data_dir" in said and "python -m" not in said

    def test_in_a_call_to_repeat(self, monkeypatch, tmp_path):
        own = [sys.executable, "-m", "experiments.import_torch"]
        assert command.again("experiments.import_torch") == own
        program = tmp_path / "rdljax"
        program.touch(0o755)
        monkeypatch.setattr(sys, "argv", [str(program), "run"])
        monkeypatch.setenv("PATH", "")
        found = command.again("experiments.import_torch")
        assert found == [str(program), "import-torch"]
        monkeypatch.setenv("PATH", str(tmp_path))
        assert command.again("experiments.run") == ["rdljax", "run"]


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (choices.Distance, functions.DISTANCES),
        (choices.Comparison, functions.COMPARISONS),
        (choices.BrainComparison, functions.BRAIN_COMPARISONS),
        (choices.Sampling, functions.SAMPLINGS),
        (choices.OptimizerName, functions.OPTIMIZERS),
        (choices.Schedule, functions.SCHEDULES),
    ],
)
def test_every_choice_has_a_function(names, table):
    assert typing.get_args(names) == tuple(table)


def test_texts_name_pages_of_the_documentation_by_their_titles():
    """Not by paths, which an installed package lacks."""
    pages = (ROOT / "docs").rglob("*.md")
    titles = {page.read_text().splitlines()[0].removeprefix("# ") for page in pages}
    named = []
    for file in (ROOT / "experiments").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = " ".join(node.value.split())
                assert "docs/" not in text and "make mnist" not in text, file
                named += re.findall(r'documentation:? \(?"([^"]+)"', text)
    assert len(named) >= 6 and {*named} <= titles


def test_the_help_of_prepare_has_every_source(capsys):
    assert prepare.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in originals.SOURCES)
