"""Look at runs while they train: `python -m clipjax.monitor runs/x`.

It reads the files of the runs alone, and never imports jax.
"""

from __future__ import annotations

import sys
import time

from rich.console import Console, RenderableType
from rich.live import Live

from clipjax import atomic_files, commandline, help_pages
from clipjax.monitoring import screen, snapshot
from clipjax.monitoring.snapshot import Snapshot, Watched
from clipjax.types import UserError

EVERY = 2  # seconds between looks
WIDTH = 100  # columns of a pipe or a file
HELP = """\
usage: python -m clipjax.monitor RUN [RUN ...] [--every SECONDS] [--once] [--json]
                                 [--metrics NAME,...]

  RUN                  a run's folder, or one that holds runs
  --every 2            seconds between looks
  --once               print what is to be seen now, and end
  --json               the same as JSON, for programs
  --metrics NAME,...   the curves: train/loss,eval/val_loss

One run is shown with its curves, several as a table. It ends with the runs, or by
Ctrl-C; the exit status is 1 if a run is dead, silent, failed or gone. In a pipe a line
comes for all that is new. Nothing is written into the runs.
"""


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(help_pages.help_text(argv, HELP))
        return 0
    names, left = commandline.split_words(argv, ("once", "json"))
    values = commandline.parse(
        left, None, every=EVERY, once=False, json=False, metrics=""
    )
    if values.every < 1:
        raise UserError(f"--every={values.every}: use 1 second or more")
    if not names:
        raise UserError(
            "no run is named: use python -m clipjax.monitor runs/quickstart, or runs "
            "for all in it"
        )
    runs = snapshot.find(names)
    metrics = [name for name in values.metrics.split(",") if name]
    width = None if sys.stdout.isatty() else WIDTH
    console = Console(width=width, highlight=False, markup=False)
    if values.json:
        shown = [run.look() for run in runs]
        print(
            atomic_files.json_text({"runs": [one.to_json() for one in shown]}), end=""
        )
    elif values.once:
        shown = [run.look() for run in runs]
        console.print(_view(shown, console, metrics), soft_wrap=len(shown) == 1)
    elif console.is_terminal:
        shown = _follow(runs, console, metrics, values.every)
    else:
        shown = _log(runs, values.every)
    return 1 if any(one.condition.word in snapshot.BAD for one in shown) else 0


def _view(
    shown: list[Snapshot], console: Console, metrics: list[str]
) -> RenderableType:
    if len(shown) == 1:
        return screen.one_run(shown[0], console, metrics)
    return screen.table(shown)


def _follow(
    runs: list[Watched], console: Console, metrics: list[str], every: float
) -> list[Snapshot]:
    """Shows the runs on the whole terminal until all have ended, then the last view."""
    shown = [run.look() for run in runs]
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(_view(shown, console, metrics), refresh=True)
                if _all_over(shown):
                    break
                time.sleep(every)
                shown = [run.look() for run in runs]
    except KeyboardInterrupt:
        pass
    console.print(_view(shown, console, metrics))
    return shown


def _log(runs: list[Watched], every: float) -> list[Snapshot]:
    """Prints a line for each news of a run until all have ended."""
    told: dict[str, tuple] = {}
    while True:
        shown = [run.look() for run in runs]
        for one in shown:
            news = one.condition.word, one.log.last_step(), *one.troubles
            if told.get(one.name) != news:
                told[one.name] = news
                print(screen.line(one), flush=True)
        if _all_over(shown):
            return shown
        time.sleep(every)


def _all_over(shown: list[Snapshot]) -> bool:
    return all(
        one.settled and (one.condition.over or one.condition.word == snapshot.ABSENT)
        for one in shown
    )


if __name__ == "__main__":
    commandline.run(main)
