"""Checkpoints of a run: saved in the background, verified when read, pruned last.

The only user of orbax. The order of a save is a contract:
1. orbax writes to a temporary folder and commits it by renaming;
2. the step is opened: it must hold every array of the state; the first is read whole;
3. the files are hashed and forced to the disk, and the manifest appears;
4. only then are older steps deleted.
Retention is ours (step_folder.py): orbax's CheckpointManager deletes before 3, keeps a
list of its own that ignores what is moved, and refuses older steps without a word.
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
from clipjax.engine.checkpoint.reachable import Reachable
from clipjax.engine.checkpoint.step_folder import BROKEN, JSON_NAME, Store
from clipjax.multihost import gather, on_primary
from clipjax.pulse import pulse
from clipjax.types import UserError

State = TypeVar("State")
logger = logging.getLogger(__name__)

# orbax gives a save up after 10 minutes, which is short for a slow disk.
_SAVE_SECONDS = 6 * 3600
# Folders are made first: if one cannot be made in the background, threads wait for it
# as long as for a save, and keep the process from ending.
_ASYNC = ocp.AsyncOptions(
    timeout_secs=_SAVE_SECONDS, create_directories_asynchronously=False
)
# Where the arrays of a step are listed; it is written last.
_ARRAYS = "manifest.ocdbt"


class Checkpoints:
    """The saved steps of one run directory.

    One process group writes at a time (held by a lock); any number may read with
    `read_only`. On several hosts every process makes the same calls; process 0 writes
    manifests and prunes.

    Args:
      keep: the latest this many steps are kept.
      every_keep: steps that it divides are kept for ever; 0: none.
      best_metric: the step with the best value of this metric is kept too; "": that of
        the saves so far.
      best_mode: "max", "min", or "" for what was saved with the metric. While that is
        not known, the steps with the largest and the smallest value are both kept.
      warn: takes one line about what was found damaged, ignored or moved.

    Raises:
      UserError: where the directory cannot be written or reached, or another process
        writes in it.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        keep: int = 2,
        every_keep: int = 0,
        best_metric: str = "",
        best_mode: str = "max",
        read_only: bool = False,
        warn: Callable[[str], None] = logger.warning,
    ):
        if keep < 1 or every_keep < 0 or best_mode not in ("", "max", "min"):
            raise UserError(
                f"checkpoints: keep={keep} must be at least 1, every_keep={every_keep} "
                f"at least 0, best_mode={best_mode!r} 'max', 'min' or empty"
            )
        self._store = Store(workdir, warn)
        self.workdir = self._store.workdir
        self._keep = keep
        self._every_keep = every_keep
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
        self._saver = ocp.AsyncCheckpointer(_handler(), async_options=_ASYNC)
        self._reader = ocp.Checkpointer(_handler())
        self._opener = _handler()  # of one process: a checkpointer waits for all

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            # After an error the other processes may be anywhere: nothing is agreed on.
            self.close(agree=error is None)
        except UserError as late:
            if error is None:
                raise
            self._warn(str(late))  # the first error is the one to show

    def steps(self) -> list[int]:
        """The committed steps, ascending; damaged ones among them."""
        return self._store.steps()

    def metrics(self, step: int) -> dict[str, float]:
        """The metrics saved with a step; {} without. Raises UserError if unreadable."""
        try:
            return self._store.item(step, "meta")["metrics"]
        except BROKEN as error:
            why = orbax_log.line(error)
            raise UserError(self._store.damaged(step, [why])) from error

    def best_step(self) -> int | None:
        """The step with the best finite value; ties: the latest; None: not known."""
        found = self._store.best(*self._followed())
        return found.pop() if len(found) == 1 else None

    def _followed(self) -> tuple[str, str]:
        return self._best if self._best[0] else self._store.followed()

    def follow(self, metric: str, mode: str) -> None:
        """Lets another metric tell the best step; `mode` is as `best_mode`."""
        self._best = (metric, mode)

    def save(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        modes: Mapping[str, str] | None = None,
    ) -> None:
        """Starts saving; returns when the state is copied, so it may be donated.

        Waits for the save before, and raises its error. Steps not older are set aside.

        Args:
          state: a pytree of arrays, numbers and typed keys.
          meta: JSON values.
          metrics: what `best_metric` chooses from.
          modes: the better side of each, "max" or "min".

        Raises:
          UserError: this save, or the one before, failed.
          ValueError: the state holds something else, or the checkpoints are read-only.
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
        told = {"metrics": values, "modes": dict(modes or {}), "best": self._followed()}
        items = {
            "meta": {"meta": dict(meta), **told},
            "layout": layout.layout(state),
        }
        json.dumps(items)  # raises TypeError here rather than in the background
        arrays = layout.arrays(state)
        on_primary(lambda: self._store.make_way(step))
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),
            **{name: ocp.args.JsonSave(item) for name, item in items.items()},
        )
        with preempt.held():
            try:
                with pulse.working():
                    self._saver.save(self._path(step), args=args)
            except Exception as error:
                self._forget_failures()
                raise UserError(self._store.not_saved(step, error)) from error
            self._finished.clear()
            self._thread = threading.Thread(target=self._finish, args=(step,))
            self._thread.start()

    def wait(self, agree: bool = True) -> None:
        """Returns when all is on the disk; raises UserError if that failed.

        agree: whether all processes call it and hear of a failure in any of them.
        """
        if self._thread is None:
            return
        with pulse.working():
            self._finished.wait()  # a `join` that is interrupted takes it for ended
            self._thread.join()
        self._thread = None
        failure, self._failure = self._failure, None
        note, self._note = self._note, ""
        if note:
            self._warn(note)
        text = self._store.not_saved(*failure) if failure else ""
        texts = gather(text) if agree else [text]
        if any(texts):
            raise UserError(max(texts)) from (failure and failure[1])

    def close(self, agree: bool = True) -> None:
        """Finishes the save under way and lets another process write."""
        try:
            self.wait(agree)
        finally:
            if self._thread is not None:  # an interrupt cuts no save short
                self._finished.wait()
            with contextlib.suppress(OSError):  # of a save that was interrupted
                self._saver.close()
            self._reader.close()
            self._opener.close()
            self._reachable.close()
            self._store.close()

    def restore_latest(
        self, template: State
    ) -> tuple[State, dict[str, Any], int] | None:
        """The newest good step: (state, meta, step), or None if none was saved.

        A damaged step is named through `warn`, passed over and, unless read-only, set
        aside, so that it can be saved again.

        Args:
          template: the state, or its shapes; leaves that carry a sharding are restored
            straight to it, whatever devices saved them.

        Raises:
          UserError: every saved step is damaged, or the newest good one is of another
            tree, shape or dtype.
        """
        self.wait()
        if not self._read_only:
            self._store.check_room(layout.size(template))
        return self._newest(template, set_aside=not self._read_only)

    def restore(self, which: int | str = "latest", template: Any = None) -> Any:
        """A step by number, "latest" or "best": (state, meta, step).

        Without a template the state comes as nested dicts of host arrays, tuples by
        index and typed keys as their uint32 data.

        Raises UserError if there is no such step, or it is damaged ("latest" passes
        over damaged steps), or it does not fit the template.
        """
        self.wait()
        if which == "latest":
            found = self._newest(template, set_aside=False)
            if found is None:
                raise UserError(f"{self.workdir} holds no checkpoint")
            return found
        steps = on_primary(self.steps)
        step: Any = on_primary(self.best_step) if which == "best" else which
        if step not in steps:
            raise UserError(
                f"{self.workdir} holds no checkpoint {which!r}; its steps: "
                f"{', '.join(map(str, steps)) or 'none'}"
            )
        loaded, problems = self._load(step, template)
        if problems:
            raise UserError(self._store.damaged(step, problems))
        return loaded

    def _newest(self, template: Any, set_aside: bool) -> Any:
        damaged: list[int] = []
        for step in on_primary(self._store.candidates):
            loaded, problems = self._load(step, template)
            if not problems:
                if set_aside:
                    on_primary(lambda: self._store.set_aside(damaged))
                return loaded
            self._warn(self._store.damaged(step, problems))
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
        """Returns ((state, meta, step), []) or (None, what is wrong with the files)."""
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
            stored = self._reader.restore(self._whole(step), args=args)["state"]
            if template is None:
                state = layout.raw_rebuild(rows, stored)
            else:
                state = layout.rebuild(template, stored)
        except Exception as error:  # orbax raises anything, over many lines
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
        """In a thread: what follows orbax's commit."""
        try:
            self._seal(step)
        finally:
            self._finished.set()

    def _seal(self, step: int) -> None:
        """Awaits the commit, opens the step, writes its manifest, then prunes."""
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
            best = self._store.best(*self._followed())
            self._store.prune(self._keep, self._every_keep, best)
        except OSError as error:  # the save itself is good
            self._note = f"{self._store.folder}: cannot delete old steps: {error}"

    def _forget_failures(self) -> None:
        """Of one save several files may fail; the next save would be told of them."""
        for _ in range(100):  # more than it writes apart from each other
            try:
                self._saver.wait_until_finished()
                return
            except Exception:  # the first one was told
                continue

    def _path(self, step: int) -> pathlib.Path:
        """By which orbax reaches a step."""
        return self._reachable.folder / str(step)

    def _whole(self, step: int) -> Any:
        """As `_path`; FileNotFoundError comes before orbax leaves failing threads."""
        (self._path(step) / "state" / _ARRAYS).stat()
        return self._path(step)

    def _open(self, step: int) -> None:
        """Raises OSError unless the step that was committed can be opened.

        The first of a process is read whole: what orbax cannot do in a folder shows
        from the start.
        """
        rows = [(tuple(p), text) for p, text in self._store.item(step, "layout")]
        wanted = layout.raw_targets(rows)
        try:
            if self._read_back:
                items: Any = self._opener.metadata(self._whole(step)).item_metadata
                found = items["state"].tree
            else:
                args = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
                found = self._opener.restore(self._whole(step), args=args)["state"]
            same = layout.alike(wanted, found)
        except Exception as error:  # orbax raises anything
            why = orbax_log.line(error)
            raise OSError(f"it cannot be read back ({why})") from error
        if not same:
            raise OSError("it cannot be read back: arrays of another shape are there")
        self._read_back = True


def _handler() -> ocp.CompositeCheckpointHandler:
    return ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(async_options=_ASYNC),
        state=ocp.StandardCheckpointHandler(),
        meta=ocp.JsonCheckpointHandler(filename=JSON_NAME),
        layout=ocp.JsonCheckpointHandler(filename=JSON_NAME),
    )
