"""Writes TFDS folders from the publishers' files of image sets.

    python -m experiments.prepare cifar100 --data_dir data

The original files are downloaded, or taken from --manual_dir, and checked against
their published SHA-256. TFDS's own builder then writes the folder, with the same names
and in the same order as with TensorFlow, so that `experiments.data.load` and
`tfds.data_source(NAME, data_dir=..., download=False)` both read it.
"""

import contextlib
import io
import os
import pathlib
import shutil
import tempfile
import time
from typing import Any

import numpy as np

from experiments import command, display, locks
from experiments.data import downloads, originals
from rdljax import errors

# The temporary name of the old folder while it is replaced.
_REPLACED = "replaced"
# Seconds within which a process locks the hidden folder that it has made.
_UNLOCKED = 60.0


def prepare(
    name: str,
    data_dir: str | os.PathLike[str],
    *,
    manual_dir: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes the folder `data_dir/NAME/VERSION` in TFDS's array_record format.

    It appears complete or not at all: it is written to a hidden folder of `data_dir`
    and then renamed. Hidden folders left by killed processes are removed; an old folder
    that was being replaced is restored.

    Args:
      name: The name of the data set, a key of `originals.SOURCES`.
      data_dir: The folder of data sets; it is created if it is missing. Downloads are
        kept in `data_dir/downloads`.
      manual_dir: The folder of the original files; nothing is downloaded then.
      overwrite: Whether an existing folder is replaced; it is kept otherwise.

    Returns:
      The folder.

    Raises:
      UnknownName: If `name` is not a key of `originals.SOURCES`.
      CannotPrepare: If a file is missing, cannot be downloaded, or is not the original.
      RuntimeError: If a path begins with the home folder of a user who has none.
    """
    errors.check_name("data set to prepare", name, originals.SOURCES)
    import tensorflow_datasets as tfds

    data_dir = pathlib.Path(data_dir).expanduser()
    version = str(tfds.builder_cls(name).VERSION)
    folder = data_dir / name / version
    _remove_left(name, data_dir, folder)
    if folder.exists() and not overwrite:
        return folder
    if manual_dir is None:
        source = originals.SOURCES[name]
        cache = data_dir / "downloads" / name
        files = downloads.fetch(source.url, source.files, cache)
    else:
        files = _find_originals(name, pathlib.Path(manual_dir).expanduser())
    content = originals.SOURCES[name].read(name, files)
    data_dir.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{name}-", dir=data_dir) as scratch,
        locks.hold(pathlib.Path(scratch)),
    ):
        written = _write(name, content, pathlib.Path(scratch))
        folder.parent.mkdir(exist_ok=True)
        replaced = pathlib.Path(scratch) / _REPLACED
        if folder.exists():
            folder.rename(replaced)
        try:
            written.rename(folder)
        finally:
            _put_back(replaced, folder)
    return folder


def _remove_left(name: str, data_dir: pathlib.Path, folder: pathlib.Path) -> None:
    """Removes the hidden folders of a data set to which no process writes any more."""
    for left in data_dir.glob(f".{name}-{'[a-z0-9_]' * 8}"):
        # (An error: its process is alive, or it belongs to another user.)
        with contextlib.suppress(command.UsageError, OSError):
            found = {path.name for path in left.iterdir()}
            if left.is_symlink() or found - {_REPLACED, name, "downloads", locks.NAME}:
                continue
            age = time.time() - left.stat().st_mtime
            if found <= {locks.NAME} and age < _UNLOCKED:
                continue
            with locks.hold(left):
                _put_back(left / _REPLACED, folder)
                shutil.rmtree(left)


def _put_back(replaced: pathlib.Path, folder: pathlib.Path) -> None:
    """Restores a replaced folder if the replacement was interrupted."""
    if replaced.exists() and not folder.exists():
        replaced.rename(folder)


def _find_originals(name: str, manual_dir: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the original files in a folder, by name."""
    source = originals.SOURCES[name]
    files = {file: manual_dir / file for file in source.files}
    missing = [file for file, path in files.items() if not path.is_file()]
    if missing:
        raise downloads.CannotPrepare(
            f"{manual_dir} lacks {', '.join(missing)} (from {source.url})"
        )
    return files


def _write(
    name: str, content: originals.Content, data_dir: pathlib.Path
) -> pathlib.Path:
    """Writes a folder with TFDS's builder, from images and labels in memory."""
    import tensorflow_datasets as tfds

    stock: Any = tfds.builder_cls(name)

    # (mypy does not know the keywords of a base class that is known only at run time.)
    class InMemory(stock, skip_registration=True):  # type: ignore[call-arg]
        # The folder names the class that reads it: TFDS's own builder.
        __module__ = stock.__module__

        def _split_generators(self, dl_manager):
            for feature, classes in content.names.items():
                self.info.features[feature].names = classes
            return {split: self._generate_examples(split) for split in content.splits}

        def _generate_examples(self, split):
            images, labels = content.splits[split]
            progress = display.progress_bar(images, desc=f"{name} {split}")
            for index, image in enumerate(progress):
                # Bytes, since TFDS encodes arrays with TensorFlow. With the index as
                # key the order is the same as TFDS's.
                example: dict[str, Any] = {
                    key: int(label[index]) for key, label in labels.items()
                }
                if "id" in self.info.features:
                    example["id"] = f"{split}_{index:05d}"
                yield index, {"image": _png(image), **example}

    InMemory.name = name
    builder = InMemory(data_dir=data_dir, file_format="array_record")
    tfds.disable_progress_bar()
    # (TFDS prints that it downloads, and the name of the folder before the renaming.)
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_dir=data_dir / "downloads")
    return pathlib.Path(builder.data_dir)


def _png(image: np.ndarray) -> bytes:
    """Encodes an image uint8 `[H, W]` or `[H, W, 3]` as the bytes of a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "PNG")
    return file.getvalue()
