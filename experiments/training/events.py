"""Writes the metrics of a net for TensorBoard."""

import contextlib
import pathlib
import socket
import time
from collections.abc import Iterator

from tensorboardX import record_writer, summary
from tensorboardX.proto import event_pb2

from experiments.results import folder as results_folder


class Events:
    """Metrics of a net for TensorBoard, in a file of its folder.

    They are written in the caller's thread. (`tensorboardX.SummaryWriter` has its own
    thread, which ends on a full disk; a caller who fills its queue then waits forever.)
    """

    def __init__(self, folder: pathlib.Path):
        """Creates the file.

        Raises:
          OSError: If the file cannot be written; the error has its name. The methods
            raise this error, too.
        """
        host = socket.gethostname()
        name = results_folder.EVENTS_FILE.format(time=time.time(), host=host)
        # (A path that begins with "s3:" is a bucket to tensorboardX.)
        self._path = folder.absolute() / name
        folder.mkdir(parents=True, exist_ok=True)
        with self._telling():
            self._records = record_writer.RecordWriter(str(self._path))
        self._write(file_version="brain.Event:2")

    def add(self, metrics: dict[str, float], step: int) -> None:
        """Writes the metrics measured after a step."""
        for name, value in metrics.items():
            self._write(step=step, summary=summary.scalar(name, value))

    def flush(self) -> None:
        """Waits until all metrics are on the disk."""
        with self._telling():
            self._records.flush()

    def close(self) -> None:
        with self._telling():
            self._records.close()

    def _write(self, **content) -> None:
        event = event_pb2.Event(wall_time=time.time(), **content)
        with self._telling():
            self._records.write(event.SerializeToString())

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
