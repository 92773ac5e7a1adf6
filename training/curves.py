"""TensorBoard's file of a run, written at once: its own writer has a thread, whose errors are late, and tracebacks."""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from store.files import storage_error


class Curves:
    """Numbers over the global step. UserError where the file cannot be written, from every method but `close`."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        """A resumed run has a file of its own, which says that what others say of `first_step` and later is void."""
        from tensorboard.compat.proto import event_pb2, summary_pb2  # late: take a second
        from tensorboard.summary.writer.record_writer import RecordWriter

        events: Any = event_pb2  # generated, without types
        summaries: Any = summary_pb2
        self._event, self._summary = events.Event, summaries.Summary
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.time_ns()}"
        self._path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("xb")
        except OSError as error:
            raise storage_error(self._path, error) from error
        self._records = RecordWriter(self._file)
        self._write(self._event(wall_time=time.time(), file_version="brain.Event:2"))
        started = events.SessionLog(status=events.SessionLog.START)
        self._write(self._event(wall_time=time.time(), step=first_step, session_log=started))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """After step `step` (1 = the first)."""
        points = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(self._event(wall_time=time.time(), step=step, summary=self._summary(value=points)))

    def close(self) -> None:
        with suppress(OSError):  # the rest of a write that failed, which was told
            self._file.close()

    def _write(self, event: Any) -> None:
        try:
            self._records.write(event.SerializeToString())
            self._records.flush()
        except OSError as error:
            raise storage_error(self._path, error) from error
