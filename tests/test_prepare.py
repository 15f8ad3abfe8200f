"""Folders prepared from small synthetic IDX files, and from real ones where named."""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import os
import pathlib
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc

import numpy as np
import pytest

from experiments import data, locks, prepare
from experiments.data import downloads, originals, preparing
from rdljax import errors

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("PIL.Image")

COUNTS = {"train": 40, "t10k": 20}


def _idx(array):
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes((0, 0, 8, array.ndim)) + shape + array.tobytes()


def _arrays(prefix):
    """Images whose every pixel is noise and whose first pixel is their number."""
    count = COUNTS[prefix]
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    images[:, 0, 0] = np.arange(count)
    return images, (np.arange(count) % 10).astype(np.uint8)


def _contents():
    contents = {}
    for prefix in COUNTS:
        images, labels = _arrays(prefix)
        contents[f"{prefix}-images-idx3-ubyte.gz"] = _idx(images)
        contents[f"{prefix}-labels-idx1-ubyte.gz"] = _idx(labels)
    return contents


@pytest.fixture
def original(tmp_path, monkeypatch):
    """Makes a folder of original files and says that they are the published ones.

    Call it with contents that differ from the usual ones; answers the folder.
    """

    def make(name="mnist", url="http://127.0.0.1:9/", **changed):
        folder = tmp_path / "original"
        folder.mkdir(exist_ok=True)
        files = {}
        for file, content in (_contents() | changed).items():
            packed = gzip.compress(content)
            (folder / file).write_bytes(packed)
            files[file] = (hashlib.sha256(packed).hexdigest(),)
        source = originals.Source(url, files, originals.read_mnist)
        monkeypatch.setitem(originals.SOURCES, name, source)
        return folder

    return make


def _tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _is_whole(data_dir, name):
    """Whether both readers answer the images and labels of `_arrays`, each once."""
    ours = data.load(name, str(data_dir), validation=0)
    theirs = tfds.data_source(name, data_dir=data_dir, download=False)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = _arrays(prefix)
        read = getattr(ours, split)
        number = read.image[:, 2, 2, 0]
        np.testing.assert_array_equal(np.sort(number), np.arange(COUNTS[prefix]))
        np.testing.assert_array_equal(read.image[:, 2:30, 2:30, 0], images[number])
        np.testing.assert_array_equal(read.label, labels[number])
        assert len(theirs[split]) == COUNTS[prefix]
        for example in theirs[split]:
            number = example["image"][0, 0, 0]
            np.testing.assert_array_equal(example["image"][:, :, 0], images[number])
            assert example["label"] == labels[number]
    return True


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_both_readers_answer_what_was_written(name, original, tmp_path):
    folder = preparing.prepare(name, tmp_path / "made", manual_dir=original(name))
    assert folder == tmp_path / "made" / name / "3.0.1"
    assert _is_whole(tmp_path / "made", name)
    assert [path.name for path in (tmp_path / "made").iterdir()] == [name]
    assert [path.name for path in (tmp_path / "made" / name).iterdir()] == ["3.0.1"]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_folder_describes_itself_as_tfds_does(name, original, tmp_path):
    folder = preparing.prepare(name, tmp_path / "made", manual_dir=original(name))
    info = tfds.builder_from_directory(folder).info
    stock = tfds.builder_cls(name)(data_dir=tmp_path / "none").info
    assert info.name == name
    assert info.description == stock.description
    assert info.citation == stock.citation
    assert info.supervised_keys == ("image", "label")
    assert info.file_format.value == "array_record"
    assert info.module_name == "tensorflow_datasets.image_classification.mnist"
    assert info.features["image"].shape == (28, 28, 1)
    assert info.features["label"].names == stock.features["label"].names
    expected = "T-shirt/top" if name == "fashion_mnist" else "0"
    assert info.features["label"].int2str(0) == expected


def test_the_images_come_in_the_order_that_tfds_gives_them(original, tmp_path):
    preparing.prepare("mnist", tmp_path / "made", manual_dir=original())
    # TFDS sorts by the MD5 of the split's name and the example's number.
    source = tfds.data_source("mnist", data_dir=tmp_path / "made", download=False)
    numbers = [int(example["image"][0, 0, 0]) for example in source["test"]]
    by_hash = sorted(range(20), key=lambda i: hashlib.md5(f"test{i}".encode()).digest())
    assert numbers == by_hash


def test_the_published_sums_are_those_of_tfds():
    package = pathlib.Path(tfds.__file__).parent / "url_checksums"
    for name in originals.SOURCES:
        source = originals.SOURCES[name]
        lines = (package / f"{name}.txt").read_text().split("\n")
        published = {line.split("\t")[0]: line.split("\t")[2] for line in lines if line}
        ours = {source.url + file: sums[0] for file, sums in source.files.items()}
        assert ours == published


class TestRefused:
    """Each is refused by name, and leaves no folder behind."""

    def _refused(self, tmp_path, match, folder):
        with pytest.raises(downloads.CannotPrepare, match=match):
            preparing.prepare("mnist", tmp_path / "made", manual_dir=folder)
        assert not (tmp_path / "made").exists()

    @pytest.mark.parametrize("file", sorted(_contents()))
    def test_another_file(self, file, original, tmp_path):
        folder = original()
        content = bytearray(_contents()[file])
        content[-1] ^= 1
        (folder / file).write_bytes(gzip.compress(bytes(content)))
        self._refused(tmp_path, f"{file} is not the original", folder)

    def test_a_damaged_file(self, original, tmp_path):
        folder = original()
        file = folder / "t10k-images-idx3-ubyte.gz"
        file.write_bytes(file.read_bytes()[:-100])
        self._refused(tmp_path, "t10k-images.* is not the original", folder)

    def test_missing_files(self, original, tmp_path):
        folder = original()
        for prefix in COUNTS:
            (folder / f"{prefix}-labels-idx1-ubyte.gz").unlink()
        match = "lacks train-labels-idx1-ubyte.gz, t10k-labels-idx1-ubyte.gz"
        self._refused(tmp_path, match, folder)

    @pytest.mark.parametrize(
        "change,match",
        [
            (lambda c: c[:-1], "too short"),
            (lambda c: c + b"\0", "too long"),
            (lambda c: c[:10], "truncated IDX file of 10 bytes"),
            (lambda c: b"", "not an IDX file"),
            (lambda c: c[:2] + b"\x0d" + c[3:], "not an IDX file"),
            (lambda c: c[:3] + b"\x01" + c[4:], "not an IDX file"),
        ],
    )
    def test_no_idx_file(self, change, match, original, tmp_path):
        file = "train-images-idx3-ubyte.gz"
        folder = original(**{file: change(_contents()[file])})
        self._refused(tmp_path, f"{file}: .*{match}", folder)

    def test_images_of_another_size(self, original, tmp_path):
        images = np.zeros((40, 27, 28), np.uint8)
        folder = original(**{"train-images-idx3-ubyte.gz": _idx(images)})
        self._refused(tmp_path, "train: images .40, 27, 28", folder)

    def test_fewer_labels_than_images(self, original, tmp_path):
        labels = np.zeros(39, np.uint8)
        folder = original(**{"train-labels-idx1-ubyte.gz": _idx(labels)})
        self._refused(tmp_path, "labels .39,", folder)

    def test_an_eleventh_class(self, original, tmp_path):
        labels = np.full(40, 10, np.uint8)
        folder = original(**{"train-labels-idx1-ubyte.gz": _idx(labels)})
        self._refused(tmp_path, "up to 10 are not", folder)

    def test_an_unknown_name(self, tmp_path):
        with pytest.raises(errors.UnknownName, match="did you mean 'mnist'"):
            preparing.prepare("minst", tmp_path)


def test_a_file_packed_anew_is_known_by_its_content(original, tmp_path):
    folder = original()
    source = originals.SOURCES["mnist"]
    for file, content in _contents().items():
        source.files[file] += (hashlib.sha256(content).hexdigest(),)
        (folder / file).write_bytes(gzip.compress(content, 1, mtime=1))
    preparing.prepare("mnist", tmp_path / "made", manual_dir=folder)
    assert _is_whole(tmp_path / "made", "mnist")


def _interrupt_after(monkeypatch, count):
    encode, seen = preparing._png, []

    def interrupt(image):
        seen.append(image)
        if len(seen) > count:
            raise KeyboardInterrupt
        return encode(image)

    monkeypatch.setattr(preparing, "_png", interrupt)
    return seen


@pytest.mark.parametrize("count", [0, 5, COUNTS["train"] + 5])
def test_an_interrupted_run_leaves_nothing(count, original, tmp_path, monkeypatch):
    seen = _interrupt_after(monkeypatch, count)
    with pytest.raises(KeyboardInterrupt):
        preparing.prepare("mnist", tmp_path / "made", manual_dir=original())
    assert len(seen) == count + 1
    assert list((tmp_path / "made").iterdir()) == []


def test_what_exists_is_kept_unless_overwritten(original, tmp_path, monkeypatch):
    make = functools.partial(preparing.prepare, "mnist", tmp_path / "made")
    folder = make(manual_dir=original())
    (folder / "mark").touch()
    assert make(manual_dir=tmp_path / "no such folder") == folder
    assert (folder / "mark").exists()
    with monkeypatch.context() as patch:
        _interrupt_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            make(manual_dir=original(), overwrite=True)
    assert (folder / "mark").exists()
    assert _is_whole(tmp_path / "made", "mnist")
    assert make(manual_dir=original(), overwrite=True) == folder
    assert not (folder / "mark").exists()
    assert _is_whole(tmp_path / "made", "mnist")
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["mnist"]


def test_what_a_killed_process_has_left_is_removed(original, tmp_path):
    """One that dies before the second of its two renames."""
    program = (
        "import os, sys, pathlib; from experiments.data import originals, preparing\n"
        "originals.SOURCES['mnist'] = eval(sys.argv[2], vars(originals))\n"
        "rename = pathlib.Path.rename\n"
        "pathlib.Path.rename = lambda path, to: (\n"
        "    rename(path, to) if 'replaced' in str(to) else os._exit(9))\n"
        "preparing.prepare("
        "'mnist', sys.argv[1], overwrite=True, manual_dir=sys.argv[3])"
    )
    made, files = tmp_path / "made", original()
    source = f"Source('', {dict(originals.SOURCES['mnist'].files)!r}, read_mnist)"
    folder = preparing.prepare("mnist", made, manual_dir=files)
    (folder / "mark").touch()
    command = [sys.executable, "-c", program, made, source, files]
    assert subprocess.run(command, check=False).returncode == 9
    assert not folder.exists() and len(list(made.glob(".mnist-*"))) == 1
    assert preparing.prepare("mnist", made, manual_dir=files) == folder
    assert (folder / "mark").exists() and _is_whole(made, "mnist")
    assert [path.name for path in made.iterdir()] == ["mnist"]


def test_what_is_not_left_by_the_killed_stays(original, tmp_path):
    made, files = tmp_path / "made", original()
    theirs, alive, link = (
        made / f".mnist-{x}" for x in ("original", "0123abcd", "l" * 8)
    )
    for path in (theirs / "photographs", alive / "mnist", tmp_path / "downloads"):
        path.mkdir(parents=True)
    link.symlink_to(tmp_path / "downloads")
    empty = made / ".mnist-justmade"
    empty.mkdir()
    with locks.hold(alive):
        preparing.prepare("mnist", made, manual_dir=files)
        assert empty.exists()  # Its process is about to lock it.
        os.utime(empty, (0, 0))
        assert alive.exists() and theirs.exists() and link.is_symlink()
    preparing.prepare("mnist", made, manual_dir=files)
    assert theirs.exists() and link.is_symlink()
    assert not alive.exists() and not empty.exists()


def test_where_the_new_folder_does_not_come_the_old_one_stays(
    original, tmp_path, monkeypatch
):
    made, files = tmp_path / "made", original()
    folder = preparing.prepare("mnist", made, manual_dir=files)
    (folder / "mark").touch()
    rename = pathlib.Path.rename

    def full(path, to):
        if to == folder and path.name != "replaced":
            raise OSError("no space left on device")
        return rename(path, to)

    monkeypatch.setattr(pathlib.Path, "rename", full)
    with pytest.raises(OSError, match="no space"):
        preparing.prepare("mnist", made, manual_dir=files, overwrite=True)
    assert (folder / "mark").exists()
    assert [path.name for path in made.iterdir()] == ["mnist"]


class TestBombs:
    """Few bytes that stand for many."""

    def test_no_more_is_unpacked_than_an_original_has(self, tmp_path, monkeypatch):
        monkeypatch.setattr(downloads, "LARGEST", 2**20)
        path, content = tmp_path / "x.gz", bytes(2**23)
        path.write_bytes(gzip.compress(content))
        sums = [hashlib.sha256(x).hexdigest() for x in (path.read_bytes(), content)]
        tracemalloc.start()
        for published in ("0" * 64, sums[1]):
            with pytest.raises(
                downloads.CannotPrepare, match="x.gz is not the original"
            ):
                downloads.unpack(path, (published,))
        assert tracemalloc.get_traced_memory()[1] < 2**22
        tracemalloc.stop()
        assert downloads.unpack(path, (sums[0],)) == content
        monkeypatch.setattr(downloads, "LARGEST", 2**23)
        assert downloads.unpack(path, (sums[1],)) == content

    @pytest.mark.parametrize("told", [True, False])
    def test_no_more_is_downloaded(self, told, original, server, tmp_path, monkeypatch):
        folder = original(url=server.url)
        monkeypatch.setattr(downloads, "LARGEST", 2**20)
        (folder / "train-images-idx3-ubyte.gz").write_bytes(bytes(2**22))
        if not told:
            opened = downloads._open

            def untold(url):
                response = opened(url)
                response.length = None
                return response

            monkeypatch.setattr(downloads, "_open", untold)
        size = f"{2**22:,}" if told else "[12],[0-9,]+"
        words = f"has {size} bytes or more, and no original"
        with pytest.raises(downloads.CannotPrepare, match=words):
            preparing.prepare("mnist", tmp_path / "made")
        assert _tree(tmp_path / "made" / "downloads" / "mnist") == []


@pytest.fixture
def server(tmp_path):
    """Serves `tmp_path`; its attribute `asked` lists the paths that were asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *unused):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        served.asked = asked
        served.url = f"http://127.0.0.1:{served.server_port}/original/"
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


class TestDownload:
    def test_files_are_fetched_once(self, original, server, tmp_path):
        original(url=server.url)
        preparing.prepare("mnist", tmp_path / "made")
        assert _is_whole(tmp_path / "made", "mnist")
        assert len(server.asked) == 4
        cache = tmp_path / "made" / "downloads" / "mnist"
        assert _tree(cache) == sorted(_contents())
        preparing.prepare("mnist", tmp_path / "made", overwrite=True)
        assert len(server.asked) == 4
        assert _is_whole(tmp_path / "made", "mnist")

    def test_another_file_is_not_kept(self, original, server, tmp_path):
        folder = original(url=server.url)
        (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"a hotel's login page")
        with pytest.raises(
            downloads.CannotPrepare, match="t10k-images.* not the origin"
        ):
            preparing.prepare("mnist", tmp_path / "made")
        cache = tmp_path / "made" / "downloads" / "mnist"
        assert "t10k-images-idx3-ubyte.gz" not in _tree(cache)
        assert all("partial" not in path for path in _tree(cache))
        assert not (tmp_path / "made" / "mnist").exists()

    def test_a_file_that_the_server_lacks(self, original, server, tmp_path):
        folder = original(url=server.url)
        (folder / "t10k-images-idx3-ubyte.gz").unlink()
        with pytest.raises(downloads.CannotPrepare, match="404.*--manual_dir"):
            preparing.prepare("mnist", tmp_path / "made")

    def test_no_network(self, original, tmp_path):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        original(url=f"http://127.0.0.1:{port}/")
        with pytest.raises(downloads.CannotPrepare, match="refused.*--manual_dir"):
            preparing.prepare("mnist", tmp_path / "made")
        assert not (tmp_path / "made" / "mnist").exists()

    def test_a_network_that_swallows_everything(self, original, tmp_path, monkeypatch):
        gate = threading.Event()
        monkeypatch.setattr(downloads, "PATIENCE", 0.2)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *unused, **more: gate.wait())
        original(url="http://example.invalid/")
        start = time.monotonic()
        try:
            with pytest.raises(
                downloads.CannotPrepare, match="no response within 0.2 s"
            ):
                preparing.prepare("mnist", tmp_path / "made")
        finally:
            gate.set()
        assert time.monotonic() - start < 10

    def test_a_server_that_falls_silent(self, original, tmp_path, monkeypatch):
        monkeypatch.setattr(downloads, "PATIENCE", 0.5)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            original(url=f"http://127.0.0.1:{listening.getsockname()[1]}/")

            def answer():
                connection, _ = listening.accept()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nabc")
                kept.append(connection)

            kept = []
            thread = threading.Thread(target=answer)
            thread.start()
            with pytest.raises(
                downloads.CannotPrepare, match="timed out.*--manual_dir"
            ):
                preparing.prepare("mnist", tmp_path / "made")
            thread.join()
            kept[0].close()

    def test_a_server_that_drips(self, original, tmp_path, monkeypatch):
        monkeypatch.setattr(downloads, "PATIENCE", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            original(url=f"http://127.0.0.1:{listening.getsockname()[1]}/")

            def answer():
                connection, _ = listening.accept()
                with connection, contextlib.suppress(OSError):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
                    for _ in range(99):
                        connection.sendall(b"a")
                        time.sleep(0.03)

            thread = threading.Thread(target=answer)
            thread.start()
            with pytest.raises(
                downloads.CannotPrepare, match="fewer than 10,000 a seco"
            ):
                preparing.prepare("mnist", tmp_path / "made")
            thread.join()
        assert _tree(tmp_path / "made" / "downloads" / "mnist") == []


class TestCommandLine:
    def test_it_prints_the_folder(self, original, tmp_path, capsys):
        made = tmp_path / "made"
        command = ["mnist", f"--data_dir={made}", f"--manual_dir={original()}"]
        assert prepare.main(command) == 0
        assert capsys.readouterr().out == f"{made / 'mnist' / '3.0.1'}\n"
        assert _is_whole(made, "mnist")
        mark = made / "mnist" / "3.0.1" / "mark"
        mark.touch()
        assert prepare.main([*command, "--overwrite"]) == 0
        assert not mark.exists()

    def test_missing_files(self, original, tmp_path, capsys):
        folder = original()
        (folder / "t10k-images-idx3-ubyte.gz").unlink()
        command = ["mnist", f"--data_dir={tmp_path}", f"--manual_dir={folder}"]
        assert prepare.main(command) == 2
        assert "lacks t10k-images-idx3-ubyte.gz" in capsys.readouterr().err

    def test_a_folder_that_cannot_be_made(self, original, tmp_path, capsys):
        (tmp_path / "file").touch()
        command = ["mnist", f"--data_dir={tmp_path / 'file' / 'in'}"]
        assert prepare.main([*command, f"--manual_dir={original()}"]) == 1
        assert "cannot prepare mnist" in capsys.readouterr().err

    def test_the_home_folder(self, original, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        command = ["mnist", f"--manual_dir=~/{original().name}"]
        assert prepare.main([*command, "--data_dir=~/data"]) == 0
        assert (tmp_path / "data" / "mnist" / "3.0.1").is_dir()
        assert prepare.main([*command, "--data_dir=~nobody-has-this-name/a"]) == 2
        assert "error: " in capsys.readouterr().err
        assert not [*tmp_path.glob("*~*")]

    def test_an_interruption(self, original, tmp_path, capsys, monkeypatch):
        _interrupt_after(monkeypatch, 5)
        command = ["mnist", f"--data_dir={tmp_path}", f"--manual_dir={original()}"]
        assert prepare.main(command) == 130
        assert "nothing was prepared" in capsys.readouterr().err

    def test_an_absent_package(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
        assert prepare.main(["mnist", f"--data_dir={tmp_path}"]) == 2
        assert "pip install" in capsys.readouterr().err

    def test_an_unknown_name_in_a_process_of_its_own(self, tmp_path):
        command = [sys.executable, "-m", "experiments.prepare", "fashion-mnist"]
        done = subprocess.run(
            [*command, f"--data_dir={tmp_path}"],
            capture_output=True,
            text=True,
            cwd=pathlib.Path(prepare.__file__).parents[1],
        )
        assert done.returncode == 2
        assert "did you mean 'fashion_mnist'" in done.stderr
        assert "Traceback" not in done.stderr


FINE = [f"fine{i}" for i in range(100)]
COARSE = [f"coarse{i}" for i in range(20)]


def _records(count, labels, seed):
    """Records of CIFAR, and the images and labels in them."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    image[:, 0, 0, 0] = np.arange(count)
    label = np.stack([rng.integers(0, top, count, np.uint8) for top in labels], axis=1)
    planes = image.transpose(0, 3, 1, 2).reshape(count, -1)
    return np.concatenate([label, planes], axis=1).tobytes(), image, label


def _cifar(name, folder, monkeypatch, change=lambda members: members):
    """Makes an archive as CIFAR's, and says that it is the published one."""
    if name == "cifar10":
        batches = [_records(4, (10,), i) for i in range(5)]
        test = _records(6, (10,), 9)
        members = {f"data_batch_{i + 1}.bin": b[0] for i, b in enumerate(batches)}
        members |= {"test_batch.bin": test[0]}
        members["batches.meta.txt"] = "\n".join(FINE[:10]).encode() + b"\n\n"
        expected = {"train": batches, "test": [test]}
    else:
        train, test = _records(12, (20, 100), 0), _records(5, (20, 100), 1)
        members = {"train.bin": train[0], "test.bin": test[0]}
        members["fine_label_names.txt"] = "\n".join(FINE).encode()
        members["coarse_label_names.txt"] = "\n".join(COARSE).encode()
        expected = {"train": [train], "test": [test]}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for member, content in change(members).items():
            about = tarfile.TarInfo(f"{name}-binary/{member}")
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    packed = file.getvalue()
    source = originals.SOURCES[name]
    (archive_name,) = source.files
    sums = {archive_name: (hashlib.sha256(packed).hexdigest(),)}
    monkeypatch.setitem(
        originals.SOURCES, name, dataclasses.replace(source, files=sums)
    )
    folder.mkdir()
    (folder / archive_name).write_bytes(packed)
    return expected


class TestCifar:
    @pytest.mark.parametrize("name", ["cifar10", "cifar100"])
    def test_what_was_written_is_read(self, name, tmp_path, monkeypatch):
        expected = _cifar(name, tmp_path / "original", monkeypatch)
        made = tmp_path / "made"
        folder = preparing.prepare(name, made, manual_dir=tmp_path / "original")
        assert folder == made / name / "3.0.2"
        theirs = tfds.data_source(name, data_dir=made, download=False)
        for split, parts in expected.items():
            # As in the archive, from `_records` itself: every pixel in its place.
            every = np.concatenate(
                [np.frombuffer(p[0], np.uint8).reshape(len(p[1]), -1) for p in parts]
            )
            labels = every[:, : every.shape[1] - 3072]
            planes = every[:, -3072:].reshape(-1, 3, 32, 32)
            assert len(theirs[split]) == len(every)
            for example in theirs[split]:
                number = int(example["id"].decode().removeprefix(f"{split}_"))
                for channel in range(3):
                    np.testing.assert_array_equal(
                        example["image"][:, :, channel], planes[number, channel]
                    )
                assert example["label"] == labels[number, -1]
                if name == "cifar100":
                    assert example["coarse_label"] == labels[number, 0]
        info = tfds.builder_from_directory(folder).info
        count = 10 if name == "cifar10" else 100
        assert info.features["label"].names == FINE[:count]

    @pytest.mark.parametrize("name", ["cifar10", "cifar100"])
    def test_an_experiment_loads_it(self, name, tmp_path, monkeypatch):
        expected = _cifar(name, tmp_path / "original", monkeypatch)
        made = tmp_path / "made"
        preparing.prepare(name, made, manual_dir=tmp_path / "original")
        if name == "cifar100":  # A class of each at least is wanted there.
            with pytest.raises(ValueError, match="100 classes and only 12 images"):
                data.load(name, str(made), validation=0)
            return
        ours = data.load(name, str(made), validation=0)
        images = np.concatenate([part[1] for part in expected["test"]])
        order = ours.test.image[:, 0, 0, 0]
        np.testing.assert_array_equal(ours.test.image, images[order])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: {k: v for k, v in m.items() if k != "test.bin"}, "lacks test.b"),
            (lambda m: m | {"train.bin": m["train.bin"][:-1]}, "not records of 3074"),
            (lambda m: m | {"test.bin": b""}, "are 0 bytes"),
            (lambda m: m | {"fine_label_names.txt": b"one"}, "with 1 names"),
        ],
    )
    def test_another_archive_is_refused(self, change, message, tmp_path, monkeypatch):
        _cifar("cifar100", tmp_path / "original", monkeypatch, change)
        with pytest.raises(downloads.CannotPrepare, match=message):
            preparing.prepare(
                "cifar100", tmp_path / "made", manual_dir=tmp_path / "original"
            )
        assert not (tmp_path / "made").exists()


def test_the_real_files(tmp_path, tfds_dir):
    manual = os.environ.get("RDLJAX_FASHION_IDX")
    if manual is None:
        pytest.skip(
            "$RDLJAX_FASHION_IDX names no folder with Fashion-MNIST's IDX files"
        )
    preparing.prepare("fashion_mnist", tmp_path, manual_dir=manual)
    ours, theirs = (
        tfds.data_source("fashion_mnist", data_dir=data_dir, download=False)
        for data_dir in (tmp_path, tfds_dir)
    )
    for split, count in (("train", 60000), ("test", 10000)):
        assert len(ours[split]) == len(theirs[split]) == count
        for start in range(0, count, 5000):
            part = range(start, start + 5000)
            for a, b in zip(
                ours[split].__getitems__(part),
                theirs[split].__getitems__(part),
                strict=True,
            ):
                assert a["label"] == b["label"]
                np.testing.assert_array_equal(a["image"], b["image"])
