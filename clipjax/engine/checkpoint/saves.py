"""A run's checkpoints: saved in the background, verified when read, pruned last.

The only user of orbax. The order of a save is a contract:
1. orbax writes to a temporary folder and commits it by renaming;
2. the step is opened and must hold every array; the first step is read completely;
3. the files are hashed and synced to the disk, and the manifest is written;
4. only then are older steps deleted.
step_folder.py decides what is kept, because orbax's CheckpointManager deletes before 3,
keeps its own list that ignores moved steps, and refuses older steps silently.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from clipjax import preempt
from clipjax.engine.checkpoint import layout, orbax_log
from clipjax.engine.checkpoint.best_names import BestNames
from clipjax.engine.checkpoint.orbax_handler import ARRAYS_FILE, ASYNC, handler
from clipjax.engine.checkpoint.reachable import Reachable
from clipjax.engine.checkpoint.step_folder import BROKEN, Store
from clipjax.multihost import gather, on_primary
from clipjax.pulse import pulse
from clipjax.types import UserError

State = TypeVar("State")
logger = logging.getLogger(__name__)


class Checkpoints:
    """The saved steps of one run directory.

    One process group writes at a time, which a lock ensures; any number may read with
    `read_only`. On several hosts every process makes the same calls, and process 0
    writes manifests and prunes.

    Args:
      keep: how many of the latest steps are kept.
      every_keep: multiples of this step are always kept; 0: none.
      keep_best: how many steps with the best values are kept too.
      best_metric: the metric of these; "": that of the saves so far.
      best_mode: "max", "min", or "" for the mode saved with the metric. While that is
        unknown, the steps with the largest and with the smallest values are both kept.
      warn: takes one line per step that is damaged, ignored or moved.

    Raises:
      UserError: the directory cannot be written or reached, or another process writes
        in it.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        keep: int = 2,
        every_keep: int = 0,
        keep_best: int = 1,
        best_metric: str = "",
        best_mode: str = "max",
        read_only: bool = False,
        warn: Callable[[str], None] = logger.warning,
    ):
        least = min(keep, keep_best)
        if least < 1 or every_keep < 0 or best_mode not in ("", "max", "min"):
            raise UserError(
                f"checkpoints: keep={keep} and keep_best={keep_best} must be at least "
                f"1, every_keep={every_keep} at least 0, best_mode={best_mode!r} "
                "'max', 'min' or empty"
            )
        self._store = Store(workdir, warn)
        self.workdir = self._store.workdir
        self._names = BestNames(self._store.folder)
        self._keep = keep
        self._every_keep = every_keep
        self._keep_best = keep_best
        self._best = (best_metric, best_mode)
        self._read_only = read_only
        self._warn = warn
        self._thread: threading.Thread | None = None
        self._finished = threading.Event()
        self._failure: tuple[int, BaseException] | None = None
        self._note = ""
        self._read_back = False
        orbax_log.quieten_orbax()
        if not read_only:
            on_primary(self._store.open)
        try:
            self._reachable = Reachable(self._store.folder)
        except UserError:
            self._store.close()
            raise
        self._saver = ocp.AsyncCheckpointer(handler(), async_options=ASYNC)
        self._reader = ocp.Checkpointer(handler())
        self._opener = handler()  # a checkpointer would wait for all processes

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            # After an error the other processes may be at any call, so none is awaited.
            self.close(agree=error is None)
        except UserError as late:
            if error is None:
                raise
            self._warn(str(late))  # the first error is raised

    def steps(self) -> list[int]:
        """The committed steps, damaged ones included, ascending."""
        return self._store.steps()

    def metrics(self, step: int) -> dict[str, float]:
        """A step's saved metrics; raises UserError if they cannot be read."""
        try:
            return self._store.item(step, "meta")["metrics"]
        except BROKEN as error:
            why = orbax_log.line(error)
            raise UserError(self._store.damage_message(step, [why])) from error

    def best_step(self) -> int | None:
        """The step with the best finite value; ties: the latest; None: unknown."""
        steps = [*self._store.best(*self.best_metric())]
        return steps[0] if len(steps) == 1 else None

    def best_metric(self) -> tuple[str, str]:
        """The metric that chooses the best step, and its mode; empty if unknown."""
        return self._best if self._best[0] else self._store.best_metric()

    def follow(self, metric: str, mode: str) -> None:
        """Chooses the best step by another metric; see `best_metric`, `best_mode`."""
        self._best = (metric, mode)

    def save(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        modes: Mapping[str, str] | None = None,
    ) -> None:
        """Starts a save; returns once the state is copied, so it may be donated.

        Waits for the previous save and raises its error. This step and newer ones that
        exist are set aside.

        Args:
          state: a pytree of arrays, numbers and typed keys.
          meta: JSON values.
          metrics: the values among which `best_metric` chooses.
          modes: "max" or "min" per metric.

        Raises:
          UserError: this save or the previous one failed.
          ValueError: the state holds other leaves, or the checkpoints are read-only.
        """
        if self._read_only:
            raise ValueError(f"the checkpoints of {self.workdir} are open read-only")
        self.wait()
        values = {name: float(value) for name, value in (metrics or {}).items()}
        if values and self._best[0] and self._best[0] not in values:
            self._warn(
                f"no metric {self._best[0]!r} among {', '.join(values)}: step {step} "
                "cannot become the best checkpoint"
            )
        best = self.best_metric()
        scores = {"metrics": values, "modes": dict(modes or {}), "best": best}
        items = {
            "meta": {"meta": dict(meta), **scores},
            "layout": layout.layout(state),
        }
        json.dumps(items)  # raises TypeError here rather than in the background
        arrays = layout.arrays(state)
        on_primary(lambda: self._store.make_way(step))
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),
            **{name: ocp.args.JsonSave(item) for name, item in items.items()},
        )
        with preempt.defer_interrupt():
            try:
                with pulse.working():
                    self._saver.save(self._path(step), args=args)
            except Exception as error:
                self._forget_failures()
                raise UserError(self._store.save_error(step, error)) from error
            self._finished.clear()
            self._thread = threading.Thread(target=self._finish, args=(step,))
            self._thread.start()

    def wait(self, agree: bool = True) -> None:
        """Waits until the save is on the disk; raises UserError if it failed.

        agree: all processes call it, and each raises if any of them failed.
        """
        if self._thread is None:
            return
        with pulse.working():
            self._finished.wait()  # an interrupted `join` takes the thread for ended
            self._thread.join()
        self._thread = None
        failure, self._failure = self._failure, None
        note, self._note = self._note, ""
        if note:
            self._warn(note)
        text = self._store.save_error(*failure) if failure else ""
        texts = gather(text) if agree else [text]
        if any(texts):
            raise UserError(max(texts)) from (failure and failure[1])

    def close(self, agree: bool = True) -> None:
        """Finishes the current save and releases the lock."""
        try:
            self.wait(agree)
        finally:
            if self._thread is not None:  # an interrupt may not truncate a save
                self._finished.wait()
            with contextlib.suppress(OSError):  # from an interrupted save
                self._saver.close()
            self._reader.close()
            self._opener.close()
            self._reachable.close()
            self._store.close()

    def restore_latest(
        self, template: State
    ) -> tuple[State, dict[str, Any], int] | None:
        """Returns the newest good step, (state, meta, step), or None if none was saved.

        A damaged step is reported through `warn`, skipped and, unless read-only, set
        aside, so that it can be saved again.

        Args:
          template: the state, or its shapes; leaves with a sharding are restored
            directly to it, whichever devices saved them.

        Raises:
          UserError: every saved step is damaged, or the newest good one differs in
            tree, shape or dtype.
        """
        self.wait()
        if not self._read_only:
            self._store.check_room(layout.size(template))
        return self._newest(template, set_aside=not self._read_only)

    def restore(self, which: int | str = "latest", template: Any = None) -> Any:
        """Returns a step by number, "latest", "best" or its name in checkpoints/best:
        (state, meta, step).

        Without a template the state is nested dicts of host arrays, with tuples by
        index and typed keys as their uint32 data.

        Raises UserError if the step does not exist, is damaged ("latest" skips damaged
        steps) or does not fit the template.
        """
        self.wait()
        if which == "latest":
            newest = self._newest(template, set_aside=False)
            if newest is None:
                raise UserError(f"{self.workdir} holds no checkpoint")
            return newest
        steps = on_primary(self.steps)
        step: Any = on_primary(lambda: self.step_of(which))
        if step not in steps:
            raise UserError(
                f"{self.workdir} holds no checkpoint {which!r}; its steps: "
                f"{', '.join(map(str, steps)) or 'none'}"
            )
        loaded, problems = self._load(step, template)
        if problems:
            raise UserError(self._store.damage_message(step, problems))
        return loaded

    def step_of(self, which: int | str) -> int | None:
        """A step's number, of "best", or of a name in checkpoints/best; None: none."""
        if isinstance(which, int):
            return which
        return self.best_step() if which == "best" else self._names.step_of(which)

    def _newest(self, template: Any, set_aside: bool) -> Any:
        damaged: list[int] = []
        for step in on_primary(self._store.candidates):
            loaded, problems = self._load(step, template)
            if not problems:
                if set_aside:
                    on_primary(lambda: self._store.set_aside(damaged))
                return loaded
            self._warn(self._store.damage_message(step, problems))
            damaged.append(step)
        if damaged:
            raise UserError(
                f"{self.workdir}: none of its checkpoints (step "
                f"{', '.join(map(str, damaged))}) can be read; nothing was changed. "
                f"Put the files back from a copy, or move {self._store.folder} away "
                "to start from scratch, or give another --workdir"
            )
        return None

    def _load(self, step: int, template: Any) -> tuple[Any, list[str]]:
        """Returns ((state, meta, step), []) or (None, the problems of its files)."""
        sealed, problems = on_primary(lambda: self._store.verify(step))
        if sealed and problems:
            return None, problems
        try:
            rows = [(tuple(p), text) for p, text in self._store.item(step, "layout")]
            meta = self._store.item(step, "meta")["meta"]
        except BROKEN as error:
            return None, [f"its JSON cannot be read: {orbax_log.line(error)}"]
        if template is None:
            targets = layout.raw_targets(rows)
        else:
            layout.check_fit(f"step {step} of {self.workdir}", rows, template)
            targets = layout.targets(template)
        state, failure = None, ""
        try:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(targets))
            stored = self._reader.restore(self._complete(step), args=args)["state"]
            if template is None:
                state = layout.raw_rebuild(rows, stored)
            else:
                state = layout.rebuild(template, stored)
        except Exception as error:  # orbax raises any type, with many lines
            failure = f"orbax cannot read it: {orbax_log.line(error)}"
        if any(failures := gather(failure)):
            return None, [max(failures)]
        if not sealed:
            self._warn(
                f"step {step} of {self.workdir} has no manifest (the run ended before "
                "it was written): its files are readable but unverified"
            )
        return (state, meta, step), []

    def _finish(self, step: int) -> None:
        """Runs `_seal` in a thread."""
        try:
            self._seal(step)
        finally:
            self._finished.set()

    def _seal(self, step: int) -> None:
        """Waits for the commit, opens the step, writes its manifest, then prunes."""
        try:
            self._saver.wait_until_finished()
            if jax.process_index() > 0:
                return
            self._open(step)
            self._store.seal(step)
        except BaseException as error:
            self._forget_failures()
            self._failure = (step, error)
            return
        try:
            metric, mode = self.best_metric()
            best = self._store.best(metric, mode, self._keep_best)
            self._store.prune(self._keep, self._every_keep, best)
            self._note = self._names.renew(metric, best)
        except OSError as error:  # the save itself is good
            self._note = f"{self._store.folder}: cannot delete old steps: {error}"

    def _forget_failures(self) -> None:
        """Takes the save's other failures, which orbax would raise in the next save."""
        for _ in range(100):  # more than the writes that can fail
            try:
                self._saver.wait_until_finished()
                return
            except Exception:  # the first one was reported
                continue

    def _path(self, step: int) -> pathlib.Path:
        """The path by which orbax reaches a step."""
        return self._reachable.folder / str(step)

    def _complete(self, step: int) -> Any:
        """`_path`; raises FileNotFoundError before orbax starts threads that fail."""
        (self._path(step) / "state" / ARRAYS_FILE).stat()
        return self._path(step)

    def _open(self, step: int) -> None:
        """Raises OSError unless the committed step can be opened.

        A process's first step is read completely, so that a folder that orbax cannot
        read is found at the start.
        """
        rows = [(tuple(p), text) for p, text in self._store.item(step, "layout")]
        wanted = layout.raw_targets(rows)
        try:
            if self._read_back:
                items: Any = self._opener.metadata(self._complete(step)).item_metadata
                actual = items["state"].tree
            else:
                args = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
                actual = self._opener.restore(self._complete(step), args=args)["state"]
            same = layout.alike(wanted, actual)
        except Exception as error:  # orbax raises any type
            why = orbax_log.line(error)
            raise OSError(f"it cannot be read back ({why})") from error
        if not same:
            raise OSError("it cannot be read back: its arrays have other shapes")
        self._read_back = True
