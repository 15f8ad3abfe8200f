"""Files: whole or not at all, through no link; and readers that trust nobody."""

import copy
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import tracemalloc
import zipfile

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import command, weights
from rdljax import activations, checkpoints, errors, files, nets, rdm, teachers
from rdljax.nets import from_keras, from_torch


def long_ago(folder):
    """Lets all files of a folder be two minutes old."""
    for path in folder.iterdir():
        os.utime(path, (time.time() - 120,) * 2, follow_symlinks=False)


class TestDraft:
    def test_a_link_is_replaced_and_its_target_stays(self, tmp_path):
        target, path = tmp_path / "diary.txt", tmp_path / "report.html"
        target.write_text("mine")
        path.symlink_to(target)
        files.write(path, "grün")
        assert target.read_text() == "mine"
        assert not path.is_symlink() and path.read_bytes() == "grün".encode()
        path.unlink()
        path.symlink_to(tmp_path / "absent")
        files.write(path, b"\0\1")
        assert not (tmp_path / "absent").exists() and path.read_bytes() == b"\0\1"

    def test_what_was_there_stays_until_all_is_written(self, tmp_path):
        path = tmp_path / "kept.NPZ"
        path.write_bytes(b"before")
        with pytest.raises(ZeroDivisionError), files.draft(path) as file:
            np.savez(file, x=np.arange(3))
            assert pathlib.Path(file.name).suffix == ".NPZ"
            assert files.is_draft(pathlib.Path(file.name))
            _ = 1 / 0
        assert path.read_bytes() == b"before" and os.listdir(tmp_path) == [path.name]
        with files.draft(path) as file:
            np.savez(file, x=np.arange(3))
            assert path.read_bytes() == b"before"
        with np.load(path) as found:
            assert found["x"].tolist() == [0, 1, 2]
        assert os.listdir(tmp_path) == [path.name]

    def test_libraries_may_open_it_by_name(self, tmp_path):
        with files.draft(tmp_path / "x.npy") as file:
            np.save(file.name, np.arange(3))
        assert np.load(tmp_path / "x.npy").tolist() == [0, 1, 2]
        with files.draft(tmp_path / "x.h5") as file, h5py.File(file, "w") as own:
            own["x"] = np.arange(3)
        with h5py.File(tmp_path / "x.h5") as file:
            assert file["x"][2] == 2

    def test_it_may_be_read_by_whom_the_umask_lets(self, tmp_path):
        (tmp_path / "usual").touch()
        files.write(tmp_path / "x", "")
        assert (tmp_path / "x").stat().st_mode == (tmp_path / "usual").stat().st_mode

    def test_drafts_of_the_dead_go_and_those_of_the_living_stay(self, tmp_path):
        program = (
            "import os, sys; from rdljax import files\n"
            "with files.draft(sys.argv[1]) as file:\n"
            "    file.write(b'half'); file.flush(); os._exit(9)"
        )
        path, other = tmp_path / "table.md", tmp_path / "other.md"
        for at in (path, other):
            subprocess.run([sys.executable, "-c", program, at], check=False)
        assert len(os.listdir(tmp_path)) == 2 and not path.exists()
        files.write(path, "")
        assert len(os.listdir(tmp_path)) == 3  # They may be of one that begins.
        long_ago(tmp_path)
        with files.draft(path) as file:
            file.write(b"first")
            file.flush()
            long_ago(tmp_path)
            files.write(path, "second")
            assert path.read_text() == "second"
        assert path.read_text() == "first"
        left = [x for x in tmp_path.iterdir() if files.is_draft(x)]
        assert len(left) == 1 and left[0].name.endswith("other.md")

    def test_what_looks_like_a_draft_is_not_followed(self, tmp_path):
        (tmp_path / "diary.txt").write_text("mine")
        (tmp_path / ".partial-01234567-x").symlink_to(tmp_path / "diary.txt")
        os.mkfifo(tmp_path / ".partial-01234568-x")
        (tmp_path / ".partial-01234569-x").mkdir()
        long_ago(tmp_path)
        files.write(tmp_path / "x", "")
        assert (tmp_path / "diary.txt").read_text() == "mine"

    def test_what_is_no_file_is_no_place_for_one(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe", "/dev/null"):
            with pytest.raises(OSError, match="is not a regular file"):
                files.write(path, "")
        with pytest.raises(FileNotFoundError):
            files.write(tmp_path / "absent" / "x", "")
        files.write(tmp_path / ("ä" * 127), "the longest name")

    def test_what_is_the_systems_is_no_place_for_one(self, tmp_path, monkeypatch):
        for path in ("/dev/fd/999999", "/proc/self/absent"):
            with pytest.raises(OSError, match="is not a regular file: .* is a folder"):
                files.write(path, "")
        system, folder = tmp_path / "system", tmp_path / "folder"
        (system / "shm").mkdir(parents=True)
        folder.symlink_to(system)
        (system / "stdout").symlink_to(tmp_path / "target")
        (tmp_path / "target").touch()
        monkeypatch.setattr(files, "_SYSTEM", (str(system),))
        monkeypatch.setattr(files, "_MEMORY", str(system / "shm"))
        for path in (system / "stdout", folder / "stdout", folder / "new"):
            with pytest.raises(OSError, match="is not a regular file: .* is a folder"):
                files.write(path, "")
        assert sorted(os.listdir(system)) == ["shm", "stdout"]
        files.write(folder / "shm" / "x", "x")
        assert (system / "shm" / "x").read_text() == "x"

    def test_permissions_stay(self, tmp_path):
        path, link = tmp_path / "x", tmp_path / "link"
        for mode in (0o600, 0o664, 0o755):
            path.write_text("before")
            path.chmod(mode)
            with files.draft(path) as file:
                file.write(b"after")
                assert os.stat(file.name).st_mode & 0o777 == mode
            assert path.stat().st_mode & 0o777 == mode and path.read_text() == "after"
        path.chmod(0o444)
        link.symlink_to(path)
        with pytest.raises(PermissionError, match="x is read-only"):
            files.write(path, "again")
        files.write(link, "mine")  # It is a link, which no permissions protect.
        assert path.read_text() == "after" and link.stat().st_mode & 0o200
        assert len(os.listdir(tmp_path)) == 2

    @pytest.mark.parametrize("links", [True, False])
    def test_a_new_one_replaces_none(self, links, tmp_path, monkeypatch):
        def refused(*_):
            raise PermissionError("a file system without hard links")

        if not links:
            monkeypatch.setattr(os, "link", refused)
        path = tmp_path / "x"
        with files.draft(path, new=True) as file:
            file.write(b"first")
        with pytest.raises(FileExistsError, match="there is a file"):
            files.draft(path, new=True).__enter__()
        path.unlink()
        with (
            pytest.raises(FileExistsError, match="there is a file"),
            files.draft(path, new=True),
        ):
            path.write_text("another's")
        assert path.read_text() == "another's" and os.listdir(tmp_path) == ["x"]

    def test_two_processes_write_one_file(self, tmp_path):
        program = (
            "import sys; from rdljax import files\n"
            "for i in range(400): files.write(sys.argv[1], bytes(i))"
        )
        command = [sys.executable, "-c", program, tmp_path / "x"]
        both = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
        for one in both:
            assert one.communicate()[1] == b"" and one.returncode == 0
        assert os.listdir(tmp_path) == ["x"]
        assert (tmp_path / "x").stat().st_size == 399

    def test_it_is_renamed_while_it_is_locked(self, tmp_path, monkeypatch):
        rename = pathlib.Path.replace

        def after_another(name, path):
            long_ago(tmp_path)
            files._remove_drafts(path)
            return rename(name, path)

        monkeypatch.setattr(pathlib.Path, "replace", after_another)
        files.write(tmp_path / "x", "mine")
        assert (tmp_path / "x").read_text() == "mine"

    def test_a_full_disk_leaves_what_was_there(self, tmp_path):
        path = tmp_path / "report.html"
        path.write_text("before")
        program = (
            "import resource, signal, sys; from rdljax import files\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
            "files.write(sys.argv[1], bytes(10**6))"
        )
        run = subprocess.run(
            [sys.executable, "-c", program, path], capture_output=True, check=False
        )
        assert run.returncode == 1 and b"File too large" in run.stderr
        assert path.read_text() == "before" and os.listdir(tmp_path) == [path.name]


def test_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "x"
    os.mkfifo(path)
    for read in (files.npz, files.npy, files.safetensors, files.hdf5):
        with pytest.raises(errors.CannotRead, match=f"there is no file {path}"):
            read(path)
    with pytest.raises(FileNotFoundError, match=f"there is no file {path}"):
        files.read_json(path)


class TestOtherFiles:
    """HDF5 whose arrays lie in other files."""

    KINDS = ("external", "virtual", "link", "soft link")

    def write(self, kind, path, name):
        """A file whose array `name` is, or would be, another file's."""
        secret = np.float32([0.5, 0.25, 0.125])
        (path.parent / "secret.bin").write_bytes(secret.tobytes())
        with h5py.File(path.parent / "secret.h5", "w") as file:
            file["x"] = secret
        with h5py.File(path, "w") as file:
            if kind == "external":
                place = [(str(path.parent / "secret.bin"), 0, h5py.h5f.UNLIMITED)]
                file.create_dataset(name, (3,), "f4", external=place)
            elif kind == "virtual":
                layout = h5py.VirtualLayout((3,), "f4")
                layout[:] = h5py.VirtualSource(path.parent / "secret.h5", "x", (3,))
                file.create_virtual_dataset(name, layout)
            elif kind == "link":
                file[name] = h5py.ExternalLink(path.parent / "secret.h5", "x")
            else:
                group = name.rpartition("/")[0]
                there = f"{group}/there"
                file[there] = h5py.ExternalLink(path.parent / "secret.h5", "/")
                file[name] = h5py.SoftLink(f"/{there}/x")
        with h5py.File(path) as file:
            assert file[name][()].tolist() == secret.tolist()  # h5py alone reads it.

    @pytest.mark.parametrize("kind", KINDS)
    def test_are_refused_by_name(self, kind, tmp_path):
        path = tmp_path / "x.h5"
        for name, read in (
            ("layer", activations.read),
            ("model_weights/dense/kernel:0", from_keras.read),
            ("dissimilarities", rdm.io.read),
            ("pattern_descriptors/stimulus", rdm.io.read),
        ):
            self.write(kind, path, name)
            last = "there" if kind == "soft link" else name.rpartition("/")[-1]
            words = rf"x\.h5: .*{last}.* is stored in another file"
            with pytest.raises(errors.CannotRead, match=words):
                read(path)

    def test_what_is_not_asked_for_may_lie_anywhere(self, tmp_path):
        self.write("virtual", tmp_path / "x.h5", "theirs")
        with h5py.File(tmp_path / "x.h5", "a") as file:
            file["ours"] = np.ones((2, 3))
            file["again"] = h5py.SoftLink("/ours")
            file["group/itself"] = file["/"]
        found = activations.read(tmp_path / "x.h5", layers=["ours"])
        assert found.layers["ours"].sum() == 6


def bomb_npz(path, shape, dtype="f8"):
    """An array of zeros, compressed a thousand times."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as file,
    ):
        head = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, head)
        for _ in range(8):
            file.write(bytes(2**20))


def bomb_hdf5(path, shape, name="x"):
    """A fill value stands for all numbers."""
    with h5py.File(path, "w") as file:
        file.create_dataset(name, shape, "f8", chunks=(1,) * len(shape))
        assert path.stat().st_size < 10_000


class TestBombs:
    def test_rows_are_counted_before_they_are_read(self, tmp_path):
        bomb_npz(tmp_path / "x.npz", (2**20,))
        tracemalloc.start()
        with pytest.raises(errors.CannotRead, match="has 1048576 rows, expected 100"):
            activations.read(tmp_path / "x.npz", images=100)
        assert tracemalloc.get_traced_memory()[1] < 2**21
        tracemalloc.stop()
        bomb_hdf5(tmp_path / "x.h5", (2**40, 2))
        with pytest.raises(errors.CannotRead, match="rows, expected 3"):
            activations.read(tmp_path / "x.h5", ids=["a", "b", "c"])

    def test_what_is_larger_than_a_file_may_ask_for(self, tmp_path):
        bomb_npz(tmp_path / "x.npz", (100, 2**30))
        for read in (activations.read, from_torch.read, rdm.io.read):
            with pytest.raises(
                errors.CannotRead, match="take 858,993,459,200: .*limit"
            ):
                read(tmp_path / "x.npz")
        for name, read in (
            ("x", activations.read),
            ("model_weights/d/kernel:0", from_keras.read),
            ("dissimilarities", rdm.io.read),
        ):
            bomb_hdf5(tmp_path / "x.h5", (100, 2**30), name)
            with pytest.raises(
                errors.CannotRead, match="take 858,993,459,200: .*limit"
            ):
                read(tmp_path / "x.h5")

    def test_the_limit_is_lowered_and_raised(self, tmp_path):
        np.savez_compressed(tmp_path / "x.npz", x=np.zeros((100, 1000)))
        size = (tmp_path / "x.npz").stat().st_size
        assert 20 * size < 800_000
        assert (
            activations.read(tmp_path / "x.npz", limit=800_000).layers["x"].shape[0]
            == 100
        )
        assert (
            activations.read(tmp_path / "x.npz", limit=None).layers["x"].shape[1]
            == 1000
        )
        with pytest.raises(
            errors.CannotRead, match=f"x.npz has {size:,} bytes, .* 800"
        ):
            activations.read(tmp_path / "x.npz", limit=799_999)
        # What is not compressed has no limit.
        np.savez(tmp_path / "x.npz", x=np.zeros((100, 1000)))
        assert activations.read(tmp_path / "x.npz", limit=1).layers["x"].shape[0] == 100

    def test_a_chunk_larger_than_its_array(self, tmp_path):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file.create_dataset("x", (3,), "f8", chunks=(2**28,), maxshape=(None,))
        with pytest.raises(errors.CannotRead, match="take 2,147,483,648: "):
            activations.read(tmp_path / "x.h5")

    def test_groups_of_which_there_are_more_ways_than_numbers(self, tmp_path):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            group = file
            for _ in range(64):
                below = group.create_group("a")
                group["b"] = below
                group = below
            group["x"] = np.ones((2, 3))
        assert len(activations.read(tmp_path / "x.h5").layers) == 1

    def test_as_many_subjects_as_sessions(self, tmp_path):
        count = 12_000
        distances = np.ones((count, 1, 3), np.float32)
        of_each = {f"descriptor {i}": "x" for i in range(3)}
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["dissimilarities"] = distances[:, 0]
            file.create_group("descriptors").attrs.update(of_each)
            for name in ("subject", "session"):
                file[f"rdm_descriptors/{name}"] = np.arange(count)
            file.create_group("pattern_descriptors")
        with pytest.raises(errors.CannotRead, match="take 3,456,000,000: .*limit"):
            rdm.io.read(tmp_path / "x.h5")

    @pytest.mark.parametrize("version", [(1, 0), (2, 0)])
    def test_a_header_without_end_is_not_read(self, version, tmp_path):
        path = tmp_path / "x.npz"
        length = {(1, 0): b"\xff\xff", (2, 0): b"\xff\xff\xff\x7f"}[version]
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("x.npy", "w") as file,
        ):
            file.write(np.lib.format.magic(*version) + length)
            for _ in range(8):
                file.write(b" " * 2**20)
        tracemalloc.start()
        with pytest.raises(errors.CannotRead, match=r"x\.npz is not an \.npz file"):
            activations.read(path, limit=1000)
        assert tracemalloc.get_traced_memory()[1] < 2**21
        tracemalloc.stop()

    def test_members_that_are_no_arrays(self, tmp_path):
        path = tmp_path / "x.npz"
        np.savez(path, x=np.ones((2, 3)))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("notes.txt", "no array")
        with pytest.raises(errors.CannotRead, match=r"x\.npz is not an \.npz file"):
            activations.read(path)
        assert activations.read(path, layers=["x"]).layers["x"].sum() == 6


@pytest.mark.parametrize(
    ("value", "form", "words"),
    [
        ({"a": 1}, {"a": int}, ""),
        ({"a": True}, {"a": int}, "m.a is 'True', expected int"),
        ({"a": 1, "b": 2}, {"a": int}, ""),
        ({}, {"a": int}, "m lacks 'a'"),
        ({}, {"a?": int}, ""),
        ({"a": "x"}, {"a?": int}, "m.a is 'x', expected int"),
        ([], {"a": int}, r"m is '\[\]', expected dict"),
        ({"a": [3, 0]}, {"a": [files.COUNT]}, r"m.a\[1\] is '0', expected a whole"),
        ({"x": {"y": None}}, {...: {"y": str}}, "m.x.y is 'None', expected str"),
        ({"a": 1, "x": 2}, {"a": int, ...: str}, "m.x is '2', expected str"),
    ],
)
def test_fields_are_compared_with_a_form(value, form, words):
    found = files.describe_mismatch(value, form, "m")
    assert re.match(words, found) if words else found == ""


def places(words, at=()):
    """The paths to all that is in JSON."""
    yield at
    below = words.items() if isinstance(words, dict) else ()
    below = enumerate(words) if isinstance(words, list) else below
    for key, x in below:
        yield from places(x, (*at, key))


def changed(words, at, value):
    """JSON with another value in a place; `...` drops it."""
    if not at:
        return words if value is ... else value
    words = copy.deepcopy(words)
    *above, last = at
    place = functools.reduce(lambda x, key: x[key], above, words)
    place[last] = value
    if value is ...:
        del place[last]
    return words


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stored", "checkpoints", "weights"])
def test_whatever_a_manifest_says_it_is_read_or_refused(kind, tmp_path):
    values = [None, True, 0, -1, 2.5, 10**12, float("nan"), "", "float32", [], [[1]]]
    values += [{}, {"a": 1}, {"shape": [2]}, ...]
    state = {"x": np.ones(2, np.float32), "key": jax.random.key(1)}
    if kind == "stored":
        targets = lambda _, batch: {"a": batch["image"], "b/c": batch["image"] + 1}  # noqa: E731
        teacher = teachers.Teacher(np.ones(1, np.float32), targets)
        see = lambda index: {"image": jnp.ones((len(index), 2))}  # noqa: E731
        activations.write(tmp_path, teacher, see, 6, ["a", "b/c"], chunk=4, quiet=True)
        path, refusals = tmp_path / "manifest.json", errors.CannotRead
        read = lambda: activations.read(tmp_path)  # noqa: E731
    elif kind == "checkpoints":
        checkpoints.save(tmp_path, 1, state, {"epoch": 1})
        path = tmp_path / "1" / "manifest.json"
        refusals = checkpoints.CheckpointDamaged, checkpoints.CheckpointMismatch
        read = lambda: checkpoints.restore(tmp_path, state)  # noqa: E731
    else:
        net = jax.jit(nets.build("mlp", 2).init)
        variables = net(jax.random.key(0), np.ones((1, 2, 2, 1), np.float32))
        about = ("mlp", 2, (2, 2, 1), variables, ((0.5,), (0.2,)), {"file": "x"})
        weights.save(weights.TrainedNet(*about), tmp_path)
        path, refusals = tmp_path / "0" / "manifest.json", command.UsageError
        read = lambda: weights.load(tmp_path)  # noqa: E731
    whole = json.loads(path.read_text())
    seen = [0, 0]
    for at in places(whole):
        for value in values if at[:1] != ("sha256",) else ():
            manifest = changed(whole, at, value)
            if isinstance(manifest, dict):
                manifest["sha256"] = files.sha256_of_manifest(manifest)
            path.write_text(json.dumps(manifest))
            start = time.monotonic()
            try:
                read()
                seen[0] += 1
            except refusals:
                seen[1] += 1
            assert time.monotonic() - start < 10
    assert seen[1] > 5 * seen[0] > 0
