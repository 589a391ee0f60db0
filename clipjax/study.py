"""Run a study: many runs of one trainer, and what they tell.

python -m clipjax.study configs/studies/tiny.py --workdir studies/tiny
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import math
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live

from clipjax import commandline, help_pages, paths, preempt
from clipjax.types import UserError

WIDTH = 100  # columns of a pipe or a file
HELP = """\
usage: python -m clipjax.study FILE.py [--config.KEY=VALUE ...] [--workdir DIR]
                               [--max_time 2h] [--dry_run] [--retry]

  FILE.py              a study: get_study() returns a clipjax.studies.Study
  --config.data.train.path=DATA/flickr8k   a value of every run's config
  --workdir DIR        the study's folder; studies/<file name>
  --max_time 2h        ends after so long (90s, 30m, 2h): the run that goes on then is
                       saved, and the same command goes on with it
  --dry_run            show what would be run, and what it could tell apart, then exit
  --retry              run those again that have failed

The same command goes on with a study that was stopped. Started several times, on one
machine or on several that share the folder, it shares the runs between the processes.
Needs pip install -e '.[study]'.
"""


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(help_pages.help_text(argv, HELP))
        return 0
    names, left = commandline.split_words(argv, ("dry_run", "retry"))
    given = [item for item in left if item.startswith("--config.")]
    left = [item for item in left if item not in given]
    values = commandline.parse(
        left, None, workdir="", max_time="", dry_run=False, retry=False
    )
    if len(names) != 1:
        raise UserError(
            "name one study's file, such as python -m clipjax.study "
            "configs/studies/tiny.py"
        )
    limit = _seconds(values.max_time)
    from clipjax.studies import study_cells, study_file, study_plan

    study = study_file.load(names[0])
    options = {**study.options, **dict(map(_option, given))}
    study = dataclasses.replace(study, options=options)
    try:
        cells = study_cells.make(study)
        study_cells.check_budgets(study, cells)
    except UserError as error:
        raise UserError(f"{names[0]}: {error}") from error
    workdir = values.workdir or f"studies/{pathlib.Path(names[0]).stem}"
    folder = paths.local(workdir, "a study")
    width = None if sys.stdout.isatty() else WIDTH
    console = Console(width=width, highlight=False, markup=False)

    say = functools.partial(console.print, soft_wrap=True)
    from clipjax.studies import study_folder

    study_folder.check_optuna()
    steps = study_folder.check(study, cells, folder, say)
    from clipjax.studies import study_journal

    records: Mapping[str, Any] = {}
    if (folder / study_journal.FILE).exists():
        records = study_journal.Journal(folder, study, values.retry).records()
    for line in study_plan.lines(study, cells, records):
        say(line)
    if values.dry_run:
        for cell in cells:
            say(f"  {cell.name}: {steps[cell.name]:,} steps a run")
        return 0
    study_folder.claim(study, cells, steps, folder)
    journal = study_journal.Journal(folder, study, values.retry)
    return _work(study, cells, steps, folder, journal, limit, console, say)


def _work(
    study,
    cells,
    steps,
    folder,
    journal,
    limit: float,
    console: Console,
    say: Callable[[str], None],
) -> int:
    from clipjax.studies import study_jobs, study_worker

    deadline = time.monotonic() + limit
    stopped = 0
    done = False
    with _shown(study, cells, console, say) as look:
        worker = study_worker.Worker(
            study, cells, folder, journal, steps, say=say, look=look, deadline=deadline
        )
        try:
            with preempt.interrupt_by_signals():
                done = worker.work()
        except KeyboardInterrupt as error:
            stopped = int(error.args[0]) if error.args else 2
    records = journal.records()
    _end(study, cells, folder, records, console, say)
    if stopped or not done:
        over = sum(one.over for one in records.values())
        whole = sum(runs for runs, _ in study_jobs.count(study, cells).values())
        why = "stopped" if stopped else "--max_time has passed"
        say(f"{why}: {over} of {whole} runs are done; the same command goes on")
    return 128 + stopped if stopped else 0


def _end(
    study, cells, folder, records, console: Console, say: Callable[[str], None]
) -> None:
    """Prints and writes the tables."""
    from clipjax.studies import best_config, study_results, study_tables

    found = study_results.families(study, cells, records)
    of = study_results.unit(records)
    console.print(study_tables.end(study, found, of))
    if study.tuning is not None:
        curves = study_results.best_of_trials(study, cells, records)
        console.print()
        console.print(study_tables.trials(study, curves, of))
    names = study_tables.write(study, cells, records, found, folder)
    line = best_config.write(study, found[0], of, folder)
    if line:
        say(line)
    say(f"written: {folder}: {', '.join(names)}")


@contextlib.contextmanager
def _shown(
    study, cells, console: Console, say: Callable[[str], None]
) -> Iterator[Callable]:
    """Yields what shows the table of all records."""
    from clipjax.engine.activity import duration
    from clipjax.studies import study_plan, study_tables

    if not console.is_terminal:
        told = False

        def look(records) -> None:
            nonlocal told
            if told:
                return
            left = study_plan.seconds_left(study, cells, records)
            if math.isfinite(left):
                told = True
                say(f"about {duration(left)} to go for one process")

        yield look
        return
    with Live(console=console, auto_refresh=False, transient=True) as shown:
        yield lambda records: shown.update(
            study_tables.live(study, cells, records), refresh=True
        )


def _option(item: str) -> tuple[str, Any]:
    """A key and its value of --config.KEY=VALUE."""
    key, equals, text = item.removeprefix("--config.").partition("=")
    if not equals:
        raise UserError(f"{item!r}: write it as --config.KEY=VALUE")
    try:
        return key, ast.literal_eval(text)
    except (ValueError, SyntaxError):  # a text, as paths are
        return key, text


def _seconds(text: str) -> float:
    if not text:
        return math.inf
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)", text)
    if not found or not float(found[1]):
        raise UserError(f"--max_time={text}: write it as 90s, 30m or 2h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


if __name__ == "__main__":
    commandline.run(main)
