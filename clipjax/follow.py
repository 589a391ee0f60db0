"""`evaluate --follow`: each new checkpoint of a run is evaluated as it comes.

It reads the run alone, locks nothing, and writes only into the run's `evaluations`, so
the run can train in another process, or on another machine with the same file system.
"""

from __future__ import annotations

import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console

from clipjax import (
    atomic_files,
    config_check,
    evaluation_request,
    paths,
    result_tables,
    results,
)
from clipjax.engine import assemble, distributed, evaluation, resume
from clipjax.engine import run as runs
from clipjax.engine.activity import Activity, Task, duration
from clipjax.engine.checkpoint.step_folder import BROKEN, Mark, Store
from clipjax.engine.compilation import enable_cache
from clipjax.evaluation_request import Prepared, Request, Wanted
from clipjax.run_record import status
from clipjax.types import EvalResult, UserError, Variables
from clipjax.weights import read_model

POLL = 5  # seconds between looks at the run's folder
TIMEOUT = 3600  # seconds without anything new after which a run is taken for ended
CONFIG = "config.json"
# What a run's weights mean, besides its config; written before its first checkpoint.
_MEANING = ("tokenizer.json", "classes.json")


def follow(
    request: Request,
    console: Console,
    *,
    poll: float = POLL,
    timeout: float = TIMEOUT,
) -> list[int]:
    """Evaluates a run's whole checkpoints, oldest first, until the run has ended.

    Steps that have this evaluation are left out. Each other one gets a folder as
    `whole_runs.evaluate` writes it, and a line. A step that is removed before or while
    it is read, or is damaged, is skipped with a line.

    Args:
      request: of a run, which may not exist yet; `checkpoint` is not used.
      poll: seconds between looks at the run's folder.
      timeout: the run is taken for ended if neither its checkpoints nor its metrics
        change for so many seconds of waiting; 0: only when its last step is saved.

    Returns the steps that were evaluated.

    Raises:
      UserError: for a released model; as `evaluate_model`; if no checkpoint comes
        within `timeout`; if the folder holds another run than at the beginning.
    """
    if read_model.is_foreign(request.model):
        raise UserError(
            f"--follow: {request.model} is a released model, which gets no new "
            "checkpoints: evaluate it without --follow"
        )
    distributed.refuse_several("--follow")
    with Activity(console) as activity:
        return _Follower(request, activity, poll, timeout).run()


class _Waiting(Task):
    """It moves on a terminal; elsewhere hours of waiting print nothing."""

    first = math.inf


class _Follower:
    def __init__(
        self, request: Request, activity: Activity, poll: float, timeout: float
    ):
        self._request = request
        self._activity = activity
        self._say = activity.say
        self._poll = poll
        self._timeout = timeout
        self._workdir = paths.local(request.model, "a run")
        self._store = Store(self._workdir, self._say)
        self._files = _Files(self._workdir, request)
        self._done: dict[int, Mark] = {}  # evaluated, there already, or damaged
        self._pending: dict[int, Mark] = {}
        self._evaluated: list[int] = []
        self._ready: Any = None  # Prepared, from the first checkpoint on
        self._new_at = time.monotonic()
        self._looks: Any = None

    def run(self) -> list[int]:
        self._await_first()
        self._prepare()
        while True:
            while self._look():
                self._evaluate(min(self._pending))
                self._new_at = time.monotonic()  # evaluating is not waiting
            if end := self._end():
                self._say(end)
                return self._evaluated
            of = f" of {total}" if (total := self._length()) else ""
            what = f"waiting for a checkpoint after step {self._newest()}{of}"
            self._wait(what, lambda: self._look() or bool(self._end()))

    def _await_first(self) -> None:
        """Waits for the run's first whole checkpoint."""
        told = ""
        while not self._store.whole():
            there = (self._workdir / CONFIG).exists()
            if there:  # wrong flags end it now
                self._files.read()
            lacks = "has no checkpoint" if there else "is no run"
            if lacks != told:
                self._say(f"{self._workdir} {lacks} yet: waiting for its first")
                told = lacks
            if self._is_over():
                raise UserError(
                    f"{self._workdir} {lacks} yet, and nothing new came for "
                    f"{duration(self._timeout)}: check the name, or wait longer by "
                    "--follow_timeout=SECONDS"
                )

            def more(before: bool = there) -> bool:
                now = (self._workdir / CONFIG).exists()
                return now != before or bool(self._store.whole())

            self._wait("waiting for the first checkpoint", more)

    def _prepare(self) -> None:
        """Makes the model, the data and the evaluators, once for all steps."""
        wanted = self._files.read()
        top = self._workdir / results.FOLDER
        try:
            top.mkdir(exist_ok=True)
            atomic_files.check_place(top)
        except OSError as error:
            raise evaluation.unwritten(top, error) from error
        enable_cache(self._say)
        with self._activity.doing("reading the data and preparing the evaluators"):
            self._ready = evaluation_request.prepare(wanted, self._say, weights=({}, 0))
        name = evaluation_request.folder_name(wanted, 0).removeprefix("0")
        self._say(f"following {self._workdir}: results in {top / f'STEP{name}'}")
        self._ready.tell(self._say)

    def _look(self) -> bool:
        """Finds the steps that wait for their evaluation; False if there are none."""
        self._files.check(self._say)
        whole = self._store.whole()
        for step in sorted(self._pending.keys() - whole.keys()):
            self._say(f"step {step} was removed before it was read: skipped")
        new = {x: mark for x, mark in whole.items() if self._done.get(x) != mark}
        there = {x: mark for x, mark in new.items() if self._is_there(x, mark, None)}
        if there:
            plural = "s" if len(there) > 1 else ""
            self._say(f"there already: step{plural} {', '.join(map(str, there))}")
        self._done |= there
        self._pending = {x: mark for x, mark in new.items() if x not in there}
        return bool(self._pending)

    def _evaluate(self, step: int) -> None:
        mark = self._pending.pop(step)
        variables = self._read(step, mark)
        if variables is None:
            return
        self._files.check(self._say)
        ready: Prepared = self._ready
        identity = ready.identity(variables)
        if self._is_there(step, mark, identity):  # of an older save with these weights
            self._say(f"there already: step {step}")
            self._done[step] = mark
            return
        begin = time.monotonic()
        with self._activity.doing(f"evaluating step {step}") as task:
            found = ready.run(variables, task.part)
        took = duration(time.monotonic() - begin)
        self._done[step] = mark
        if not self._is_there(step, mark, identity):  # the run's own, at its end
            self._write(step, found, identity)
        self._evaluated.append(step)
        lines = [result_tables.main_metric(*x, intervals=True) for x in found.items()]
        self._say(f"evaluated step {step} in {took}: {'; '.join(lines)}")

    def _read(self, step: int, mark: Mark) -> Variables | None:
        """A step's weights; None, with a line, if it cannot be read."""
        try:
            with self._activity.doing(f"reading step {step}"):
                variables, _ = assemble.load_variables(
                    self._workdir, str(step), self._request.ema
                )
        except (UserError, OSError) as error:
            if self._store.whole().get(step) == mark:
                self._say(f"{error}: skipped")
                self._done[step] = mark
            else:
                self._say(f"step {step} was removed while it was read: skipped")
            return None
        if self._store.whole().get(step, mark) != mark:  # parts of two saves, perhaps
            self._say(f"step {step} was saved again while it was read")
            return None
        return variables

    def _write(
        self, step: int, found: dict[str, EvalResult], identity: dict[str, str]
    ) -> None:
        place = self._place(step)
        try:
            results.save(place, {"": (found, self._ready.meta(step, identity))})
        except OSError as error:
            raise evaluation.unwritten(place, error) from error

    def _place(self, step: int) -> pathlib.Path:
        name = evaluation_request.folder_name(self._ready.wanted, step)
        return self._workdir / results.FOLDER / name

    def _is_there(self, step: int, mark: Mark, identity: dict[str, str] | None) -> bool:
        """Whether a step has this evaluation.

        identity: of its weights. None: an evaluation counts that is newer than the
        step, as an older one may be of another run's save of the step.
        """
        first = place = self._place(step)
        wanted = results.to_json({}, self._ready.meta(step, None))["meta"]
        number = 1
        while (place / results.FILE).exists():
            try:
                meta = results.read(place).meta
                counts = (place / results.FILE).stat().st_mtime_ns >= mark.time
            except (UserError, OSError):  # damaged, or removed
                meta, counts = {}, False
            same = all(
                meta.get(x) == wanted[x] for x in ("step", "ema", "evals", "data")
            )
            if identity is not None:
                counts = meta.get("identity") == identity
            if same and counts and meta.keys().isdisjoint(("embeddings", "failed")):
                return True
            number += 1
            place = first.with_name(f"{first.name}-{number}")
        return False

    def _newest(self) -> int:
        return max(self._done, default=0)

    def _length(self) -> int:
        """The run's steps; 0 if they are not known."""
        try:
            meta = self._store.item(self._newest(), "meta")["meta"]
            return runs.total_steps(self._files.wanted.own, meta["epoch_size"])
        except BROKEN:
            return 0

    def _end(self) -> str:
        """The last line if the run has ended; "" if it may go on."""
        newest, total = self._newest(), self._length()
        count = len(self._evaluated)
        made = f"{count} step{'' if count == 1 else 's'} evaluated"
        if (total and newest >= total) or self._is_finished(newest):
            return f"{self._workdir} has ended at step {newest}: {made}"
        if not self._is_over():
            return ""
        of = f" of {total}" if total else ""
        text = (
            f"{self._workdir} has had nothing new for {duration(self._timeout)} and is "
            f"taken for ended at step {newest}{of}: {made}"
        )
        if left := [x for x in self._store.steps() if x not in self._store.whole()]:
            text += f"; step {left[-1]} is not whole and was left out"
        return text

    def _is_finished(self, newest: int) -> bool:
        """Whether the run says that it ended with this step, perhaps before its last.

        A start of the run since then is a running one.
        """
        try:
            found = status.read(self._workdir)
        except UserError:  # it is being replaced, or damaged
            return False
        return (
            found is not None
            and found.state == status.FINISHED
            and newest >= found.step
        )

    def _is_over(self) -> bool:
        """Whether nothing new has come for longer than the timeout."""
        looks = (self._store.whole(), _mark(self._workdir / "metrics.jsonl"))
        if looks != self._looks:
            self._looks, self._new_at = looks, time.monotonic()
        waited = time.monotonic() - self._new_at
        return bool(self._timeout) and waited >= self._timeout

    def _wait(self, what: str, arrived: Callable[[], bool]) -> None:
        with self._activity.doing(_Waiting(what)):
            while not self._is_over():
                time.sleep(self._poll)
                if arrived():
                    return


class _Files:
    """The files that say what a run's weights mean, as they were read."""

    def __init__(self, workdir: pathlib.Path, request: Request):
        self._workdir = workdir
        self._request = request

    def read(self) -> Wanted:
        """Reads them anew, and looks the request up; raises as `look_up`."""
        self._marks = self._now()
        self._meaning = self._contents()
        self.wanted = evaluation_request.look_up(self._request)
        return self.wanted

    def check(self, say: Callable[[str], None]) -> None:
        """Takes a new length, with a line.

        Raises UserError if they are another run's, or the evaluation would be another.
        """
        now = self._now()
        if now == self._marks or now[0] is None:  # or the folder is being moved
            return
        before, meaning = self.wanted, self._meaning
        wanted = self.read()
        found = _differences(before, wanted)
        for name, old in meaning.items():
            if self._meaning[name] != old:
                found[name] = "one content", "another"
        allowed = {key: found.pop(key) for key in [*found] if resume.may_change(key)}
        if found:
            lines = [f"{key}: {old!r} -> {new!r}" for key, (old, new) in found.items()]
            raise UserError(
                f"{self._workdir} is not the run that it was when --follow began "
                f"({'; '.join(lines)}): start --follow again for the one that is there"
            )
        for key, (old, new) in allowed.items():
            say(f"{key} was {old} and is {new}")

    def _now(self) -> list[Mark | None]:
        return [_mark(self._workdir / name) for name in (CONFIG, *_MEANING)]

    def _contents(self) -> dict[str, bytes]:
        places = {name: self._workdir / name for name in _MEANING}
        return {x: one.read_bytes() for x, one in places.items() if one.exists()}


def _differences(old: Wanted, new: Wanted) -> dict[str, tuple]:
    """What differs of two lookups of a request: key -> (old, new)."""
    assert old.own is not None and new.own is not None  # they are of a run
    found = config_check.differences(config_check.to_dict(old.own), new.own)
    asked = config_check.changes(old.what, new.what)
    evaluation = ("evals.", "data.eval.")
    return found | {x: both for x, both in asked.items() if x.startswith(evaluation)}


def _mark(place: pathlib.Path) -> Mark | None:
    """What tells a file from a later one of its name; None if there is none."""
    try:
        return Mark.of(place)
    except OSError:
        return None
