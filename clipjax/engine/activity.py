"""What a command is doing, shown while it takes time.

On a terminal a line moves until it is done. Elsewhere a plain line comes after two
seconds, and then ever more rarely.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.text import Text

from clipjax.run_record.heartbeat import Warnings

# Lines that begin so are kept for who looks at the run from elsewhere.
WARNINGS = ("warning: ", "hint: ")
# Seconds of a task before its first plain line. Between further ones: this share of the
# task's time so far, within the range.
FIRST = 2.0
SHARE = 1 / 2
PAUSE = (5.0, 60.0)


def duration(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    seconds = round(seconds)
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Task:
    """One thing that is being done. Called with the number done and their total
    (0: not known), as evaluators call their `progress`."""

    first, share = FIRST, SHARE

    def __init__(self, what: str):
        self.what = what
        self.began = time.monotonic()
        self.began_at = time.time()
        self._told: float | None = None
        self._part = self._count = ""

    def __call__(self, done: int, total: int) -> None:
        self._count = f" {done:,}/{total:,}" if total else f" {done:,}"

    def part(self, name: str) -> Task:
        """Begins a part of the task, whose numbers follow; returns the task."""
        self._part, self._count = f": {name}", ""
        return self

    def doing(self) -> str:
        """What is done, without numbers that only a line of its own has."""
        return f"{self.what}{self._part}{self._count}"

    def text(self) -> str:
        return self.doing()

    def due(self, now: float) -> bool:
        """Whether it is time for a plain line, which is printed then."""
        low, high = PAUSE
        pause = min(max(low, (now - self.began) * self.share), high)
        if self._told is None:
            since, pause = self.began, self.first
        else:
            since = self._told
        if now - since < pause:
            return False
        self._told = now
        return True

    def __rich__(self) -> Text:
        return Text(f"{self.text()}  {duration(time.monotonic() - self.began)}")


class Activity:
    """Shows the last task that was begun and is not done; use it in `with`.

    console: a quiet one shows nothing.

    Attributes:
      warnings: what `say` was told that is a warning, and all that `warn` was.
    """

    def __init__(self, console: Console):
        self.console = console
        self.warnings = Warnings()
        self._tasks: list[Task] = []
        self._lock = threading.RLock()
        self._end = threading.Event()
        self._live = None

    def __enter__(self) -> Activity:
        if not (self.console.is_terminal or self.console.quiet):
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        with self._lock:
            self._tasks.clear()
            self._show()

    @contextlib.contextmanager
    def doing(self, what: str | Task) -> Iterator[Task]:
        """Shows a task while the block runs; yields it."""
        task = Task(what) if isinstance(what, str) else what
        with self._lock:
            self._tasks.append(task)
            self._show()
        try:
            yield task
        finally:
            with self._lock:
                if task in self._tasks:
                    self._tasks.remove(task)
                self._show()

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        if text.startswith(WARNINGS):
            self.warnings.add(text)
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Prints a warning."""
        self.say(f"{WARNINGS[0]}{text}")

    def now(self) -> tuple[str, float]:
        """The last task that was begun and is not done, and since when, in seconds
        since 1970; empty and 0.0 if there is none.
        """
        with self._lock:
            task = self._tasks[-1] if self._tasks else None
        return (task.doing(), round(task.began_at, 3)) if task else ("", 0.0)

    def tell(self, task: Task, always: bool = False) -> None:
        """Prints a task's line if it is due, and not on a terminal; or always."""
        with self._lock:
            if not always and self.console.is_terminal:
                return
            if task.due(time.monotonic()) or always:
                self.say(task.text())

    def _show(self) -> None:
        """Lets the terminal's line show the last task, or none."""
        if not self.console.is_terminal or self.console.quiet:
            return
        if not self._tasks:
            if self._live is not None:
                self._live.stop()
                self._live = None
        elif self._live is None:
            self._live = self.console.status(self._tasks[-1], refresh_per_second=4)
            self._live.start()
        else:
            self._live.update(self._tasks[-1])

    def _tick(self) -> None:
        while not self._end.wait(1.0):
            with self._lock:
                task = self._tasks[-1] if self._tasks else None
                if task is None or self._end.is_set():
                    continue
                now = time.monotonic()
                if not task.due(now):
                    continue
                try:
                    self.say(f"{task.text()}  {duration(now - task.began)}")
                except (OSError, ValueError):  # closed; who prints next says so
                    return


@contextlib.contextmanager
def bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar during the block on a terminal; elsewhere a line now and then."""
    if not console.is_terminal:
        with Activity(console) as activity, activity.doing(what) as plain:
            yield plain
        return
    from rich import progress as bars  # here: training has its own line

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
