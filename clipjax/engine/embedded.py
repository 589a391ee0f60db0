"""What a job of clipjax.embed has done, and the lines that say it."""

from __future__ import annotations

import dataclasses
import pathlib

from clipjax.embeddings.stored import Broken
from clipjax.engine.activity import duration

LISTED = 5  # broken examples that are printed


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What a job of `embed_data` has done.

    folder: the embeddings', to read by `clipjax.read_embeddings`.
    examples, texts: encoded now. kept: the parts of this job that were there before.
    parts: the numbers of parts that are there, and of all.
    seconds: without reading the model and compiling. rate: examples per second.
    waited: the share of the time in which the device waited for images.
    broken: all examples of this job's parts that have no embeddings.
    stopped_by: the signal that ended it early, 0 if none.
    """

    folder: pathlib.Path
    examples: int
    texts: int
    kept: int
    parts: tuple[int, int]
    seconds: float
    rate: float
    waited: float
    broken: list[Broken]
    stopped_by: int = 0

    def lines(self, what: str, device: str) -> list[str]:
        """What was done, what is broken, and what to do next.

        what: "images" or "texts". device: its number and kind.
        """
        found = []
        if self.examples:
            line = f"embedded {self.examples:,} {what}"
            if self.texts and what == "images":
                line += f" and {self.texts:,} captions"
            line += f" in {duration(self.seconds)}: {self.rate:,.1f} {what}/s on "
            line += device
            if what == "images":
                line += f", which waited for data {self.waited:.0%} of the time"
            found.append(line)
        if self.kept:
            found.append(f"{self.kept} of this job's parts were there already")
        if self.broken:
            found.append(
                f"broken, with a row of zeros: {len(self.broken):,} of this job's "
                f"{what} (all: `valid` and `reason` of each part's rows.parquet):"
            )
            for bad in self.broken[:LISTED]:
                found.append(f"  {bad.key}: {bad.reason}")
            if len(self.broken) > LISTED:
                found.append(f"  and {len(self.broken) - LISTED:,} more")
        there, total = self.parts
        if self.stopped_by:
            found.append(
                f"stopped: {there} of {total} parts are whole; the same command goes on"
            )
        elif there < total:
            found.append(
                f"{there} of {total} parts are there; other jobs (--part) make the rest"
            )
        else:
            found.append(f"written to {self.folder}: all {total} parts")
        return found
