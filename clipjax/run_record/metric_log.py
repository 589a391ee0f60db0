"""A run's metrics.jsonl, read as it grows: series of numbers by name.

A row is a JSON object on a line: "step", "time" (seconds since 1970) and numbers.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

FILE = "metrics.jsonl"
_LONGEST = 2**22  # bytes of a line; a longer one is no row
_CHUNK = 2**18  # bytes of lines that are parsed together
_EVAL = b'"eval/'  # in rows of evaluations
_MARK = 256  # bytes by which a file is known again
_LARGEST_STEP = 2**63 - 1

Row = dict[str, float]


def rows(workdir: str | os.PathLike) -> Iterator[Row]:
    """The rows of a run's metrics.jsonl, without broken lines; none without the file.

    Raises OSError if it cannot be read.
    """
    path = pathlib.Path(workdir) / FILE
    if path.exists():
        with path.open("rb") as file:
            for lines in _chunks(file):
                yield from (row for row in _parse(lines) if row is not None)


class MetricLog:
    """The numbers of a run's metrics.jsonl so far; it is only read.

    sample: 0 reads every row. Else, of a call's new rows, about so many that lie evenly
    and the last ones, besides all that have an evaluation, for who wants a quick look.

    Attributes:
      broken: lines that are no row, of those that were looked at. A last line without
        its end is none yet, because the run may be writing it.

    >>> log = MetricLog("runs/quickstart")
    >>> log.update()
    True
    >>> steps, times, values = log.series("train/loss")
    """

    def __init__(self, workdir: str | os.PathLike, *, sample: int = 0):
        self.path = pathlib.Path(workdir) / FILE
        self._sample = sample
        self._forget()

    def _forget(self) -> None:
        self.broken = 0
        self._end = 0  # bytes that were read
        self._last = b""  # the end of them
        self._steps = array.array("q")
        self._times = array.array("d")
        # Name -> (rows that have it, its values there).
        self._series: dict[str, tuple[array.array, array.array]] = {}

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._steps)

    def update(self) -> bool:
        """Reads what was added since the last call; returns whether anything changed.

        A run that resumes replaces the file, and then all of it is read again.

        Raises OSError if the file is there and cannot be read.
        """
        before = self._end, len(self)
        try:
            with self.path.open("rb") as file:
                if not self._goes_on(file):
                    self._forget()
                    before = -1, 0
                file.seek(self._end)
                stride, tail = self._stride(file)
                seen = 0
                for lines in _chunks(file):
                    end, wanted = self._end, []
                    for number, line in enumerate(lines, seen):
                        evenly = number % stride == 0 or line is lines[-1]
                        if evenly or end >= tail or _EVAL in line:
                            wanted.append(line)
                        end += len(line)
                    seen += len(lines)
                    self._take(lines, wanted)
        except FileNotFoundError:
            if self._end:
                self._forget()
        return before != (self._end, len(self))

    def names(self) -> list[str]:
        """The names of all numbers, in the order in which they first came."""
        return list(self._series)

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The steps [n] int64, times [n] float64 and values [n] float64 of a number, in
        the order of the file; n = 0 if there is none of this name.

        times: seconds since 1970, NaN in rows without one.
        """
        at, values = self._series.get(name, ((), ()))
        places = np.array(at, np.int64)
        steps, times = np.array(self._steps, np.int64), np.array(self._times)
        return steps[places], times[places], np.array(values, np.float64)

    def last(self, name: str) -> float | None:
        """A number's last value; None if there is none of this name."""
        return self._series[name][1][-1] if name in self._series else None

    def last_step(self) -> int | None:
        """The step of the last row; None without rows."""
        return self._steps[-1] if self._steps else None

    def seconds(self) -> float:
        """From the first training row to the last, without the pauses of a stopped run;
        NaN if there are less than two."""
        _, times, _ = self.series("train/loss")
        if len(times) < 2:
            return math.nan
        # A run that was stopped for longer than it logs goes on after a gap.
        apart = np.diff(times[np.isfinite(times)])
        usual = max(60.0, 20 * float(np.median(apart))) if len(apart) else 0.0
        return float(apart[(apart >= 0) & (apart <= usual)].sum())

    def _goes_on(self, file: BinaryIO) -> bool:
        """Whether the file still begins with what was read."""
        file.seek(self._end - len(self._last))
        return file.read(len(self._last)) == self._last

    def _stride(self, file: BinaryIO) -> tuple[int, int]:
        """Of how many new rows one is read, and from which byte on all are."""
        size = os.fstat(file.fileno()).st_size
        first = file.readline(_LONGEST)
        file.seek(self._end)
        if not self._sample or not first:
            return 1, 0
        stride = (size - self._end) // (len(first) * self._sample)
        return max(1, stride), size - 2**16

    def _take(self, lines: list[bytes], wanted: list[bytes]) -> None:
        """Adds the rows of the wanted ones of the next lines. The last of them is
        wanted, and left if it is no row because it may still be growing.
        """
        rows = _parse(wanted)
        last = lines[-1]
        if rows[-1] is None and not last.endswith(b"\n") and len(last) < _LONGEST:
            del lines[-1], wanted[-1], rows[-1]
        whole = [row for row in rows if row is not None]
        blank = sum(not line.strip() for line in wanted)
        self.broken += len(rows) - len(whole) - blank
        for _, alike in itertools.groupby(whole, tuple):
            self._add(list(alike))
        if lines:
            self._end += sum(map(len, lines))
            self._last = lines[-1][-_MARK:]

    def _add(self, rows: list[Row]) -> None:
        """Adds rows that have the same names."""
        places = array.array("I", range(len(self), len(self) + len(rows)))
        columns = zip(*(row.values() for row in rows), strict=True)
        numbers = dict(zip(rows[0], columns, strict=True))
        self._steps.extend(numbers.pop("step"))
        self._times.extend(numbers.pop("time", [np.nan] * len(rows)))
        for name, column in numbers.items():
            if name not in self._series:
                self._series[name] = array.array("I"), array.array("d")
            at, values = self._series[name]
            at.extend(places)
            values.extend(column)


def _chunks(file: BinaryIO) -> Iterator[list[bytes]]:
    """The lines from here on, some at a time, which is faster than each alone."""
    lines, size = [], 0
    while line := file.readline(_LONGEST):
        lines.append(line)
        size += len(line)
        if size >= _CHUNK:
            yield lines
            lines, size = [], 0
    if lines:
        yield lines


def _parse(lines: list[bytes]) -> list[Row | None]:
    """Each line's row, whose step is an int; None for a broken one."""
    text = b",".join(lines)
    # No value of such lines spans two of them: a text would hold the line's end, and an
    # object what begins with a brace and has no name.
    if b"[" not in text and all(x[:1] == b"{" and x[-2:] == b"}\n" for x in lines):
        with contextlib.suppress(ValueError, RecursionError):
            values = json.loads(b"[" + text + b"]")
            if len(values) == len(lines):
                return [_row(value) for value in values]
    return [_parse_one(line) for line in lines]


def _parse_one(line: bytes) -> Row | None:
    try:
        return _row(json.loads(line))
    except (ValueError, RecursionError):
        return None


def _row(value: Any) -> Row | None:
    """A row's numbers; None if it is no row."""
    try:
        step = int(value["step"])  # what is nested is no number
        found = {name: float(number) for name, number in value.items()}
    except (ValueError, TypeError, KeyError, ArithmeticError):
        return None
    found["step"] = step  # which a float might not hold
    return found if 0 <= step <= _LARGEST_STEP else None
