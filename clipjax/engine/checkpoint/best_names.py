"""Names of a run's best steps that say the metric: links in checkpoints/best.

`checkpoints/best/40-retrieval.mean_recall@1=0.2000` leads to `checkpoints/40`. Steps
are loaded by number as before; nothing needs the links, which a copy may lack.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections.abc import Mapping

FOLDER = "best"
_LONGEST = 100  # characters of a metric
_LINK = re.compile(r"(\d+)-.+")


def name(step: int, metric: str, value: float) -> str:
    """The name of a step; characters that some file systems lack become "_".

    >>> name(40, "retrieval/mean_recall@1", 0.2)
    '40-retrieval.mean_recall@1=0.2000'
    """
    plain = re.sub(r"[^A-Za-z0-9_@.+-]", "_", metric.replace("/", "."))[:_LONGEST]
    usual = value == 0 or 1e-3 <= abs(value) < 1e6
    return f"{step}-{plain}={value:{'.4f' if usual else '.4g'}}"


class BestNames:
    """The links of a folder of steps."""

    def __init__(self, checkpoints: pathlib.Path):
        self._checkpoints = checkpoints
        self._folder = checkpoints / FOLDER
        self._refused = False

    def renew(self, metric: str, values: Mapping[int, float]) -> str:
        """Makes the links those of these steps, and removes others.

        values: of the metric, by step. Returns a line if the file system refuses links,
        once, and "" otherwise.
        """
        if self._refused:
            return ""
        wanted = {name(step, metric, value): step for step, value in values.items()}
        try:
            for link in self._links():
                if link.name not in wanted or not link.exists():
                    link.unlink()
            if wanted:
                self._folder.mkdir(exist_ok=True)
            for text, step in wanted.items():
                with contextlib.suppress(FileExistsError):
                    (self._folder / text).symlink_to(pathlib.Path("..", str(step)))
        except OSError as error:
            self._refused = True
            why = f"{self._checkpoints}: the best steps get no names"
            return f"{why} ({error.strerror}); they are kept"
        return ""

    def drop_dangling(self) -> None:
        """Removes the links to steps that are gone; raises OSError."""
        for link in self._links():
            if not link.exists():
                link.unlink()

    def step_of(self, text: str) -> int | None:
        """The step that a link's name stands for; None if there is no such link."""
        match = _LINK.fullmatch(text)
        if not match or "/" in text or not (self._folder / text).is_symlink():
            return None
        return int(match[1])

    def _links(self) -> list[pathlib.Path]:
        if not self._folder.is_dir():
            return []
        return [path for path in self._folder.iterdir() if path.is_symlink()]
