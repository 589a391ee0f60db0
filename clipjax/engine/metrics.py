"""A run's metric files: metrics.jsonl, metrics.csv and TensorBoard events.

Method names are those of clu's MetricWriter, which needs TensorFlow.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from clipjax import atomic_files
from clipjax.run_record import metric_log
from clipjax.types import UserError


class MetricWriter:
    """Writes rows of scalars by step.

    Earlier rows after `resume_step` are dropped, because those steps run again. So is
    a truncated last line from a killed process. Each row is written to the operating
    system immediately, so a kill loses none.

    Each method raises UserError if a file cannot be written.
    """

    def __init__(
        self, workdir: str | os.PathLike, resume_step: int, *, tensorboard: bool
    ):
        self._folder = pathlib.Path(workdir)
        self._jsonl_path = self._folder / metric_log.FILE
        self._csv_path = self._folder / "metrics.csv"
        self._columns: list[str] = []
        self._events = None
        with _user_error():
            rows = [
                row
                for row in metric_log.rows(self._folder)
                if row["step"] <= resume_step
            ]
            self._rows = rows
            with atomic_files.open_to_write(self._jsonl_path) as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            self._write_csv(extra=())
            # Unbuffered, because close would retry a failed write.
            self._jsonl = self._jsonl_path.open("ab", buffering=0)
            if tensorboard:
                self._events = _Events(self._folder / "tensorboard", resume_step)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        row = {"step": step, "time": round(time.time(), 3)}
        row.update((name, float(value)) for name, value in scalars.items())
        self._rows.append(row)
        line = (json.dumps(row) + "\n").encode()
        with _user_error():
            with atomic_files.name_errors(self._jsonl_path):
                if self._jsonl.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if set(row) <= set(self._columns):
                with (
                    atomic_files.name_errors(self._csv_path),
                    self._csv_path.open("a", encoding="utf-8", newline="") as file,
                ):
                    csv.DictWriter(file, self._columns, restval="").writerow(row)
            else:
                self._write_csv(extra=row)
            if self._events is not None:
                self._events.write(step, scalars)

    def close(self) -> None:
        with _user_error():
            self._jsonl.close()
            if self._events is not None:
                self._events.close()

    def _write_csv(self, extra: Any) -> None:
        """Writes the whole table again, because a new column changes the header."""
        names = dict.fromkeys(name for row in self._rows for name in row)
        names.update(dict.fromkeys(extra))
        self._columns = list(names)
        lines: list[list[Any]] = [self._columns] if self._columns else []
        for row in self._rows:
            lines.append([row.get(name, "") for name in self._columns])
        with atomic_files.open_to_write(self._csv_path, newline="") as file:
            csv.writer(file).writerows(lines)


@contextlib.contextmanager
def _user_error() -> Iterator[None]:
    """Turns an OSError into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{atomic_files.describe_os_error(error)}; the run goes on from its last "
            "checkpoint"
        ) from error


class _Events:
    """A TensorBoard event file; tensorboardX's writer flushes only every 2 minutes."""

    def __init__(self, folder: pathlib.Path, resume_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        self._folder = folder
        folder.mkdir(exist_ok=True)
        # Generated at import, so a type checker does not know them.
        events: Any = event_pb2
        summaries: Any = summary_pb2
        self._event, self._summary = events.Event, summaries.Summary
        # The default name has seconds only: two starts within one would share a file.
        with atomic_files.name_errors(folder):
            self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        # TensorBoard drops earlier files' events from this step on.
        log = events.SessionLog(status=events.SessionLog.START)
        self._add(step=resume_step + 1, session_log=log)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        values = [
            self._summary.Value(tag=name, simple_value=float(value))
            for name, value in scalars.items()
        ]
        self._add(step=step, summary=self._summary(value=values))

    def close(self) -> None:
        with atomic_files.name_errors(self._folder):
            self._writer.close()

    def _add(self, **fields: Any) -> None:
        with atomic_files.name_errors(self._folder):
            self._writer.write_event(self._event(wall_time=time.time(), **fields))
            self._writer.flush()
