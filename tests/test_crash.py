"""After a crash: what was broken off ends with the same bytes as the unbroken run."""

import contextlib
import functools
import json
import os
import pathlib
import pty
import re
import resource
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
from matplotlib import figure
from tensorboardX.proto import event_pb2

from experiments import command, options
from experiments.analyses.report import numbers, page
from experiments.results import plots
from experiments.training import events, interrupts
from rdljax import checkpoints, files
from tests import test_main

ROOT = pathlib.Path(__file__).parents[1]
STEPS_AN_EPOCH = 3
STEPS = 2 * STEPS_AN_EPOCH
KILLED = -9


class Process:
    """One of `broken.py`, which trains until it is killed."""

    def __init__(self, devices, errors):
        flag = "xla_force_host_platform_device_count="
        flags = re.sub(rf"{flag}\d+", f"{flag}{devices}", os.environ["XLA_FLAGS"])
        assert f"{flag}{devices}" in flags.removeprefix("--").split(" --")
        self.errors = errors
        with errors.open("w") as file:
            self.child = subprocess.Popen(
                [sys.executable, ROOT / "tests" / "broken.py"],
                env=os.environ
                | {
                    "XLA_FLAGS": flags,
                    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                    "PYTHONPATH": str(ROOT),
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    def train(self, *asked):
        """Answers the status of a training, and what it said."""
        self.child.stdin.write(json.dumps(asked) + "\n")
        self.child.stdin.flush()
        if answer := self.child.stdout.readline():
            return json.loads(answer)
        assert self.child.wait() == KILLED, self.errors.read_text()
        return KILLED, ""

    def close(self):
        for pipe in (self.child.stdin, self.child.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self.child.wait()


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Trains in a folder, in another process; answers its status and what it says.

    What is killed, a new process goes on with; what is not serves the next training.
    """
    errors = tmp_path_factory.mktemp("said") / "errors"
    processes = {}

    def run(folder, how="end", number=0, devices=2, epochs=2):
        if devices not in processes:
            processes[devices] = Process(devices, errors)
        process = processes[devices]
        status, said = process.train(str(folder), how, number, epochs)
        if status == KILLED:
            processes.pop(devices).close()
        return status, said

    yield run
    for process in processes.values():
        process.close()


@pytest.fixture(scope="module")
def unbroken(start, tmp_path_factory):
    """What a training comes to that nothing happens to; it leaves copies of itself."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    status, said = start(folder, "copies")
    assert status == 0
    result = json.loads(said) | {"folder": folder}
    assert result["leaves"] > 20 and result["changes"] > 100
    return result


@pytest.fixture
def broken_off(unbroken, tmp_path):
    """The folder as it is when a training is killed before a step."""

    def copy(step):
        folder = unbroken["folder"].with_name(f"run before step {step}")
        return pathlib.Path(shutil.copytree(folder, tmp_path / "run"))

    return copy


def ends_alike(start, folder, unbroken, epochs=2):
    status, said = start(folder, epochs=epochs)
    assert status == 0
    assert json.loads(said.splitlines()[-1])["hash"] == unbroken["hash"]


def newest(folder):
    return checkpoints.latest(folder / "checkpoint")


class TestKilled:
    def kill(self, start, folder, unbroken, kills, seed, epochs):
        """Kills it between two epochs, then at seeded changes and steps."""
        start = functools.partial(start, epochs=epochs)
        if not folder.exists():
            assert start(folder, "step", STEPS_AN_EPOCH)[0] == KILLED
        assert newest(folder) == STEPS_AN_EPOCH
        rng = np.random.default_rng(seed)
        # What a checkpoint changes; the last step has two.
        each = unbroken["changes"] // (epochs * STEPS_AN_EPOCH + 1)
        for kill in range(kills - 1):
            if kill % 2:
                status, _ = start(folder, "step", int(rng.integers(2)))
            else:
                status, _ = start(folder, "event", int(rng.integers(1, each + 1)))
            assert status == KILLED
        ends_alike(start, folder, unbroken, epochs)

    def test_twice(self, start, unbroken, broken_off):
        folder = broken_off(STEPS_AN_EPOCH)
        self.kill(start, folder, unbroken, kills=2, seed=0, epochs=2)

    @pytest.mark.slow
    def test_three_times(self, start, unbroken, tmp_path):
        self.kill(start, tmp_path / "run", unbroken, kills=3, seed=0, epochs=2)

    @pytest.mark.slow
    @pytest.mark.timeout(1200)
    def test_ten_times(self, start, tmp_path):
        status, said = start(tmp_path / "unbroken", epochs=5)
        assert status == 0
        unbroken = json.loads(said)
        for seed in (1, 2):
            folder = tmp_path / str(seed)
            self.kill(start, folder, unbroken, kills=10, seed=seed, epochs=5)

    @pytest.mark.slow
    @pytest.mark.timeout(1200)
    def test_at_every_change_that_a_checkpoint_makes(self, start, unbroken, tmp_path):
        # The third checkpoint, for which the first is removed, and a part of the next.
        each = unbroken["changes"] // (STEPS + 1)
        assert start(tmp_path / "two", "step", 2)[0] == KILLED
        after = set()
        for number in range(1, each + 5):
            folder = tmp_path / str(number)
            shutil.copytree(tmp_path / "two", folder)
            assert start(folder, "event", number)[0] == KILLED
            after.add(newest(folder))
            if number % 5 == 0:
                ends_alike(start, folder, unbroken)
        assert after == {2, 3}


def test_a_full_disk(start, unbroken, broken_off):
    folder = broken_off(2)
    kept = newest(folder)
    assert kept == 2
    status, said = start(folder, "disk", 2000)
    assert status == 1 and "could not be written" in said
    assert newest(folder) == kept
    ends_alike(start, folder, unbroken)


def test_events_are_read_back(tmp_path):
    for step, found in ((3, {"loss": 1.5, "rdl/pairs": 0.25}), (6, {"loss": 2.0})):
        with contextlib.closing(events.Events(tmp_path / "net")) as own:
            own.add(found, step)
            own.flush()
            (path, *_) = sorted((tmp_path / "net").iterdir(), reverse=True)
            content, read = path.read_bytes(), []
            while content:  # A length, its checksum, the event, its checksum.
                (length,) = struct.unpack("<Q", content[:8])
                read.append(event_pb2.Event.FromString(content[12 : 12 + length]))
                content = content[16 + length :]
        assert read[0].file_version == "brain.Event:2"
        values = [(x.step, value) for x in read[1:] for value in x.summary.value]
        assert {v.tag: v.simple_value for _, v in values} == found
        assert {at for at, _ in values} == {step}
    names = [path.name for path in (tmp_path / "net").iterdir()]
    assert len(names) == 2 and all("tfevents" in name for name in names)


@pytest.mark.parametrize("room", [pytest.param(0, marks=pytest.mark.slow), 300])
def test_a_disk_that_is_full_of_events(start, unbroken, broken_off, room):
    folder = broken_off(2)
    status, said = start(folder, "events", room)
    assert status == 1 and re.search(r"No space left .*/events\.out\.tfevents\.", said)
    ends_alike(start, folder, unbroken)


@contextlib.contextmanager
def files_no_longer_than(size):
    """Limits this process's files, as a disk does that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def a_figure(path):
    plots.save(figure.Figure(), path)


def a_page(path):
    run = path.parent.parent / "run"
    run.mkdir(exist_ok=True)
    (run / "result.json").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers, "run_numbers", lambda *_: ())
        patch.setattr(page, "run_page", lambda: 5000 * "x")
        try:
            numbers.run(options.Report(str(run), out=str(path)))
        except command.UsageError as error:
            raise error.__cause__ from None


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize(
    "write",
    [a_figure, a_page, lambda path: files.write_json(path, [*range(1000)])],
    ids=["figure", "page", "JSON"],
)
def test_on_a_full_disk_what_was_there_stays(tmp_path, write, link):
    path, other = tmp_path / "here" / "kept", tmp_path / "other"
    path.parent.mkdir()
    file = other if link else path
    file.write_text("before")
    if link:
        path.symlink_to(other)
    for room in (0, 900):
        with pytest.raises(OSError, match="File too large"), files_no_longer_than(room):
            write(path)
        assert path.read_text() == "before" and path.is_symlink() == link
        assert [*path.parent.iterdir()] == [path]
    write(path)
    assert path.stat().st_size > 900 and not path.is_symlink()
    assert not link or other.read_text() == "before"
    assert [*path.parent.iterdir()] == [path]


PROGRAM_INTERRUPTED_IN_GARBAGE_COLLECTION = """
import gc, signal, sys, time
from experiments import command

def collecting(phase, _):
    gc.callbacks.clear()
    signal.raise_signal(signal.SIGTERM)

def main():
    gc.callbacks.append(collecting)
    gc.collect()
    time.sleep(20)

command.handle_signals_from_start()
sys.exit(command.exit_status(main))
"""


# Of commands, arguments with which they come to import what they work with.
IMPORTING = {
    "report": ["nowhere"],
    "run": ["mnist_rdl", "--data=nowhere"],
    "table": ["rdl_mnist", "--data=nowhere"],
    "probe": ["nowhere"],
    "detection": ["a=nowhere"],
    "prepare": ["nothing", "--data_dir=nowhere"],
}


class TestAskedToStop:
    ASKING = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]

    @pytest.mark.parametrize(("number", "status"), ASKING)
    def test_once_is_a_request_and_ctrl_c_then_ends(self, number, status):
        before = signal.getsignal(number)
        with (
            pytest.raises(interrupts.Interrupted) as stopped,
            interrupts.Interrupt() as interrupt,
        ):
            assert not interrupt.requested
            signal.raise_signal(number)
            assert interrupt.requested
            for again in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
                signal.raise_signal(again)
            with pytest.raises(command.Stopped):
                signal.raise_signal(signal.SIGINT)
            assert (
                command.exit_status(lambda: signal.raise_signal(signal.SIGINT)) == 130
            )
            raise interrupts.Interrupted("teacher")
        assert stopped.value.status == status
        assert signal.getsignal(number) is before

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_a_pipe_that_nobody_reads_any_more(self, number):
        reading, writing = os.pipe()
        before = os.dup(2)
        later = threading.Timer(0.02, os.close, [reading])
        try:
            os.dup2(writing, 2)
            if number == signal.SIGHUP:
                later.start()  # As `tee` ends, which gets the hangup too.
            else:
                os.close(reading)
            with interrupts.Interrupt():
                signal.raise_signal(number)
                if number == signal.SIGHUP:
                    later.join()
                os.write(2, b"on")
        finally:
            os.dup2(before, 2)
            os.close(before)
            os.close(writing)

    def test_a_handler_of_a_library_stays(self, monkeypatch):
        """One that was not set by Python, which says that it is None."""
        own = signal.getsignal
        found = {signal.SIGTERM: None}
        monkeypatch.setattr(signal, "getsignal", lambda n: found.get(n, own(n)))
        before = own(signal.SIGTERM)
        with interrupts.Interrupt():
            assert own(signal.SIGTERM) is before

    def test_a_program_that_imports_experiments_keeps_its_own(self, tmp_path):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "__init__.py").write_text("import experiments")
        path = tmp_path / "other" / "program.py"
        path.write_text("import signal; print(signal.getsignal(signal.SIGTERM) == 0)")
        paths = os.pathsep.join((str(ROOT), str(tmp_path)))
        for call in (["-m", "other.program"], ["-Bmother.program", "--of", "it"]):
            done = subprocess.run(
                [sys.executable, *call],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": paths},
                capture_output=True,
                text=True,
                check=True,
            )
            assert done.stdout == "True\n"

    def test_where_python_drops_exceptions(self, tmp_path):
        """In a function that the garbage collector calls, as one of JAX's."""
        path = tmp_path / "program.py"
        path.write_text(PROGRAM_INTERRUPTED_IN_GARBAGE_COLLECTION)
        done = subprocess.run(
            [sys.executable, path],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (143, "\nstopped\n")

    def test_a_hangup_that_is_ignored_stays_so(self):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with interrupts.Interrupt() as interrupt:
                signal.raise_signal(signal.SIGHUP)
                assert not interrupt.requested
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGHUP, before)

    # At the command's start, and when its `main` imports.
    @pytest.mark.parametrize("after", ["experiments", "numpy"])
    @pytest.mark.parametrize(
        ("number", "status", "module", "console"),
        [
            (*ASKING[1], "report", False),
            (*ASKING[0], "run", True),
            *(
                pytest.param(*asking, module, console, marks=pytest.mark.slow)
                for asking in ASKING
                for module in IMPORTING
                for console in (False, True)
            ),
        ],
    )
    def test_during_imports(self, number, status, module, console, after, tmp_path):
        command = ["-m", f"experiments.{module}"]
        if console:
            command = [*test_main.install(tmp_path)[1:], module]
        with subprocess.Popen(
            [sys.executable, "-X", "importtime", *command, *IMPORTING[module]],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            for line in process.stderr:
                if line.rpartition("|")[2].strip() == after:
                    process.send_signal(number)
                    break
            said = process.stderr.read()
        assert process.returncode == status
        assert said.endswith("\nstopped\n") and "Traceback" not in said


FEW = ["--train_per_class=20", "--seeds=1"]
MLPS = ["--teacher=mlp", "--student=mlp", "--layers", "pooled", "logits"]
LONG = [*FEW, "--teacher_epochs=100000"]


def command_after(first, *arguments):
    """A command that runs some Python first, and is then Python with the arguments.

    (Not by `preexec_fn`: where another test has begun to use JAX, it warns of forks.)
    """
    then = "import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    return [sys.executable, "-c", f"{first}; {then}", *map(str, arguments)]


def call(module, *arguments, first="pass", **settings):
    """Runs a command in a process of its own."""
    command = command_after(first, "-m", f"experiments.{module}", *arguments)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **settings)


def call_on_a_full_disk(room, module, *arguments):
    """Runs a command whose files may be no longer than `room` bytes.

    It compiles without a cache, in which JAX would leave parts of programs.
    """
    return call(
        module,
        *arguments,
        first=f"import resource as r; r.setrlimit(r.RLIMIT_FSIZE, ({room}, {room}))",
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": ""},
    )


SHORT = [*FEW, *MLPS, "--teacher_epochs=1", "--epochs=1", "--methods", "plain"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    call("run", "mnist_rdl", *SHORT, f"--out={folder}", check=True)
    return folder


@pytest.mark.slow
class TestCommands:
    # Each with what it has written when it is amidst of it.
    TRAINING = {
        "run": (["mnist_rdl", *LONG, *MLPS, "--methods", "plain"], "teacher/rdms/*"),
        "table": (["rdl_mnist", *LONG, "--only=one teacher"], "*/teacher/rdms/*"),
        "detection": (
            ["drawn=random:resnet8", "--epochs=100000", "--canvases=8", "--size=48"]
            + ["--test_canvases=6", "--batch=4", "--objects=2", "--frozen"],
            "detection.json",
        ),
    }

    @pytest.mark.parametrize(
        ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)]
    )
    @pytest.mark.parametrize("module", TRAINING)
    def test_a_training_goes_on_from_a_checkpoint(
        self, tmp_path, module, number, status
    ):
        arguments, begun = self.TRAINING[module]
        command = [sys.executable, "-m", f"experiments.{module}", *arguments]
        reached = 0
        for _ in range(2):
            with subprocess.Popen(
                command if reached else [*command, f"--out={tmp_path}"],
                cwd=ROOT,
                stderr=subprocess.PIPE,
                text=True,
            ) as process:
                self.wait(process, tmp_path, begun)
                process.send_signal(number)
                time.sleep(0.05)
                process.send_signal(signal.SIGHUP)  # As bash and systemd do.
                said = process.stderr.read()
            assert process.returncode == status
            assert "Traceback" not in said and "\nstopped in " in said
            if module == "detection":  # (Which begins a net anew.)
                return
            command = shlex.split(said.strip().splitlines()[-1])
            before, reached = reached, max(map(newest, self.nets(tmp_path)))
            assert reached > before

    def nets(self, folder):
        return [path.parent for path in folder.rglob("checkpoint")]

    def wait(self, process, folder, begun, read=lambda: None):
        """Until a process that goes on has written more of the files."""
        known, deadline = set(folder.glob(begun)), time.monotonic() + 200
        while set(folder.glob(begun)) <= known:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
            read()

    def test_a_closed_terminal(self, tmp_path):
        arguments, begun = self.TRAINING["run"]
        ours, its = pty.openpty()
        own = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
        process = subprocess.Popen(
            command_after(
                own, "-m", "experiments.run", *arguments, f"--out={tmp_path}"
            ),
            cwd=ROOT,
            **dict.fromkeys(("stdin", "stdout", "stderr"), its),
            start_new_session=True,
        )
        os.close(its)

        def read():
            if select.select([ours], [], [], 0)[0]:
                os.read(ours, 10_000)

        self.wait(process, tmp_path, begun, read)
        os.close(ours)
        assert process.wait(120) == 129
        assert newest(tmp_path / "teacher") > 0

    @pytest.mark.parametrize("module", ["report", "probe", "correlations"])
    def test_others_leave_whole_files(self, finished, tmp_path, module):
        out = tmp_path / {"probe": "probe", "report": "a.html"}.get(module, "a.png")
        arguments = [finished, f"--out={out}"]
        arguments += ["--data=digits"] if module == "probe" else []
        command = [sys.executable, "-m", f"experiments.{module}", *map(str, arguments)]
        begin = time.monotonic()
        assert call(module, *arguments).returncode == 0
        seconds, whole = time.monotonic() - begin, self.files(tmp_path)
        statuses = []
        for share in (0.1, 0.4, 0.7, 0.85, 0.95):
            for path in whole:
                path.unlink(missing_ok=True)
            with subprocess.Popen(
                command, cwd=ROOT, stderr=subprocess.PIPE, text=True
            ) as process:
                time.sleep(share * seconds)
                process.send_signal(signal.SIGTERM)
                said = process.stderr.read()
            # (When Python ends, the signal's own action is back.)
            statuses.append(process.returncode)
            assert process.returncode in (0, 143, -signal.SIGTERM)
            assert "Traceback" not in said
            assert process.returncode != 143 or "\nstopped\n" in said
            left = self.files(tmp_path)
            assert left.keys() <= whole.keys()
            assert all(left[path] == whole[path] for path in left)
        assert 143 in statuses

    @pytest.mark.parametrize("module", ["report", "probe", "correlations"])
    def test_a_full_disk_in_others(self, finished, tmp_path, module):
        out = tmp_path / {"probe": "probe", "report": "a.html"}.get(module, "a.png")
        arguments = [finished, f"--out={out}"]
        arguments += ["--data=digits"] if module == "probe" else []
        done = call_on_a_full_disk(100, module, *arguments)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: cannot write ")
        assert not self.files(tmp_path)

    def files(self, folder):
        """By path, how long each file is."""
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path: path.stat().st_size for path in files if path.name[0] != "."}

    @pytest.mark.parametrize("room", [100, 3_000, 50_000])
    def test_a_full_disk_in_a_run(self, finished, tmp_path, room):
        arguments = ["mnist_rdl", *SHORT, f"--out={tmp_path / 'run'}"]
        done = call_on_a_full_disk(room, "run", *arguments)
        assert done.returncode in (1, 2) and "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: ")
        for path in (tmp_path / "run").rglob("*.json"):
            json.loads(path.read_text())
        assert call("run", *arguments, "--resume").returncode == 0
        expected, found = (
            json.loads((folder / "result.json").read_text())["methods"]["plain"]
            for folder in (finished, tmp_path / "run")
        )
        assert found["test_error"] == expected["test_error"]

    @pytest.mark.parametrize(
        ("module", "room"), [("table", 50_000), ("detection", 100)]
    )
    def test_a_full_disk_in_others_that_train(self, tmp_path, module, room):
        out = tmp_path / "out"
        arguments = [*self.TRAINING[module][0], "--epochs=1", f"--out={out}"]
        if module == "table":
            arguments += ["--teacher_epochs=1", "--methods", "kd", "hint"]
        done = call_on_a_full_disk(room, module, *arguments)
        assert done.returncode in (1, 2) and "Traceback" not in done.stderr
        assert "error: " in done.stderr
        for path in out.rglob("*.json"):
            json.loads(path.read_text())
        more = ["--resume"] if module == "detection" else []
        assert call(module, *arguments, *more).returncode == 0

    def test_a_table_that_is_killed_goes_on(self, tmp_path):
        arguments, begun = self.TRAINING["table"]
        command = [sys.executable, "-m", "experiments.table", *arguments]
        command.append(f"--out={tmp_path}")
        for number in (signal.SIGKILL, signal.SIGTERM):
            for path in tmp_path.glob(begun):  # (It had left no checkpoint yet.)
                path.unlink()
            with subprocess.Popen(
                command, cwd=ROOT, stderr=subprocess.PIPE, text=True
            ) as process:
                self.wait(process, tmp_path, begun)
                process.send_signal(number)
                said = process.stderr.read()
        assert process.returncode == 143
        assert "Traceback" not in said and "\nstopped in " in said


def flip(folder):
    file = max((folder / "state").rglob("*"), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(folder):
    file = max((folder / "state").rglob("*"), key=lambda f: f.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def remove_the_manifest(folder):
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [flip, truncate, remove_the_manifest])
def test_a_damaged_checkpoint(start, unbroken, broken_off, damage):
    folder = broken_off(3)
    step = newest(folder)
    assert step == 3
    damage(folder / "checkpoint" / str(step))
    status, said = start(folder)
    assert status == 0
    message, result = said.splitlines()
    assert "is damaged" in message and message.endswith("; step 2 is used")
    assert json.loads(result)["hash"] == unbroken["hash"]


@pytest.mark.slow
def test_other_devices_go_on_with_it(start, unbroken, broken_off):
    folder = broken_off(2)
    status, said = start(folder, devices=4)
    assert status == 0
    found = checkpoints.about(folder / "checkpoint")
    assert found["devices"] == 4 and len(found["history"]) == 2
    # The same numbers, though sums are rounded otherwise; rows that do not divide are
    # filled up with others.
    expected, found = (leaves(x) for x in (unbroken["folder"], folder))
    assert expected.keys() == found.keys() and len(found) > 20
    for path, leaf in expected.items():
        if "per_device" in path:
            assert leaf.shape[0] == 2 and found[path].shape[0] == 4
        if "count" in path:
            assert found[path].shape == (4, 3) and leaf.shape == (2, 5)
            continue
        own = np.reshape(found[path], leaf.shape)
        tolerance = 1e-4 * (np.max(np.abs(leaf.astype(float)), initial=0) + 1e-3)
        np.testing.assert_allclose(own, leaf, rtol=0, atol=tolerance, err_msg=path)


def leaves(folder):
    """By path, every array of a folder's newest checkpoint."""
    state = folder / "checkpoint" / str(newest(folder)) / "state"
    with ocp.StandardCheckpointer() as checkpointer:
        return {k: np.asarray(x) for k, x in checkpointer.restore(state).items()}
