"""A run's checkpoint folder: names, damage, retention. No orbax, no devices.

WORKDIR/checkpoints holds one folder per step (orbax's item folders and their files),
manifests/STEP.json with the sha256 of every file of that step, best/ with links to the
best steps (best_names.py), and set_aside/ with steps that were moved away for new ones.
On several hosts only process 0 writes here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from clipjax import atomic_files
from clipjax.engine.checkpoint import manifest, orbax_log
from clipjax.engine.checkpoint.best_names import BestNames
from clipjax.types import UserError

JSON_NAME = "metadata"  # the file in the folder of a JSON item
# The errors that reading a damaged JSON item may raise.
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError)
_UNFINISHED = "*.orbax-checkpoint-tmp*"
_PRUNED = ".pruned"
_PROBE_BYTES = 2**20


class Mark(NamedTuple):
    """What tells a file from a later one of the same name.

    time: of its last change, in nanoseconds. number, size: of the file.
    """

    time: int
    number: int
    size: int

    @classmethod
    def of(cls, path: pathlib.Path) -> Mark:
        """A file's; raises OSError."""
        status = path.stat()
        return cls(status.st_mtime_ns, status.st_ino, status.st_size)


class Store:
    """A run's steps as files. `warn` takes one line per damaged or moved step."""

    def __init__(self, workdir: str | os.PathLike, warn: Callable[[str], None]):
        self.workdir = pathlib.Path(workdir).resolve()
        self.folder = self.workdir / "checkpoints"
        self._manifests = self.folder / "manifests"
        self._aside = self.folder / "set_aside"
        self._warn = warn
        self._lock: Any = None

    def path(self, step: int) -> pathlib.Path:
        return self.folder / str(step)

    def steps(self) -> list[int]:
        """The committed steps, damaged ones included, ascending."""
        return _numbered(self.folder, "")

    def whole(self) -> dict[int, Mark]:
        """The steps that are saved and have a manifest, ascending, and its mark."""
        found = {}
        with _may_vanish():
            for step in self.steps():
                with _may_vanish():
                    found[step] = Mark.of(self._manifest(step))
        return found

    def item(self, step: int, name: str) -> Any:
        """The value of a step's JSON item; raises one of BROKEN."""
        text = (self.path(step) / name / JSON_NAME).read_text(encoding="utf-8")
        return atomic_files.parse_json(text)

    def candidates(self) -> list[int]:
        """The steps to try to restore, newest first.

        Steps newer than every committed one are included if only their manifest is
        left: clipjax never deletes the newest step, so their folder was lost.

        Raises UserError if only steps that were set aside are left.
        """
        steps = self.steps()
        newest = steps[-1] if steps else -1
        gone = [s for s in _numbered(self._manifests, ".json") if s > newest]
        if not steps and not gone and self._aside.is_dir():
            raise UserError(
                f"{self.folder} holds no checkpoint, but {self._aside} does: move one "
                f"back with its manifest, or move {self.folder} away to start from "
                "scratch"
            )
        return sorted([*steps, *gone], reverse=True)

    def sizes(self, step: int) -> dict[str, int]:
        """The bytes of each file by a step's manifest; raises one of BROKEN."""
        files = manifest.read(self._manifest(step))
        return {name: size for name, (size, _) in files.items()}

    def verify(self, step: int) -> tuple[bool, list[str]]:
        """Returns whether a step has a manifest, and the differences from it."""
        path = self._manifest(step)
        return path.exists(), manifest.check(self.path(step), path)

    def seal(self, step: int) -> None:
        """Forces a committed step to the disk and writes its manifest."""
        manifest.write(self.path(step), self._manifest(step))

    def damage_message(self, step: int, problems: list[str]) -> str:
        """The message for a step that differs from its manifest, or cannot be read."""
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return f"step {step} of {self.workdir} is damaged: {problems[0]}{more}"

    def save_error(self, step: int, error: BaseException) -> str:
        """The message for a save that failed."""
        return (
            f"saving step {step} in {self.folder} failed: {orbax_log.line(error)}. "
            "Mend the cause and start again: the run goes on from the last good step"
        )

    def best_metric(self) -> tuple[str, str]:
        """The metric that chooses the best step, and its mode; ("", "") if unknown."""
        for step in reversed(self.steps()):
            try:
                metric, mode = self.item(step, "meta")["best"]
                return metric, mode
            except BROKEN:
                continue  # damaged: an earlier step holds it too
        return "", ""

    def mode(self, metric: str) -> str:
        """A metric's mode ("max" or "min") as saved with it; "" if no step holds it.

        Saves by older versions hold the mode of the followed metric only.
        """
        followed = ""
        for step in reversed(self.steps()):
            try:
                meta = self.item(step, "meta")
                if mode := meta.get("modes", {}).get(metric):
                    return mode
                name, mode = meta["best"]
            except BROKEN:
                continue
            followed = followed or (mode if name == metric else "")
        return followed

    def _values(self, metric: str) -> dict[int, float]:
        """The finite values of a metric by their steps, ascending."""
        found = {}
        for step in self.steps():
            try:
                value = float(self.item(step, "meta")["metrics"].get(metric, math.nan))
            except BROKEN:
                continue  # damaged: restoring it reports that
            if math.isfinite(value):
                found[step] = value
        return found

    def best(self, metric: str, mode: str, count: int = 1) -> dict[int, float]:
        """The values of so many steps with a metric's best finite ones, ascending by
        step; of equal ones the latest.

        mode: "max", "min", or "" for `self.mode`. If that is unknown, the steps with
        the largest and those with the smallest values are returned.
        """
        mode = mode or self.mode(metric)
        values = self._values(metric)
        rising = sorted(values, key=lambda step: (values[step], step))
        falling = sorted(values, key=lambda step: (-values[step], step))
        largest, smallest = {*rising[-count:]}, {*falling[-count:]}
        both = largest | smallest
        chosen = {"max": largest, "min": smallest}.get(mode, both)
        return {step: value for step, value in values.items() if step in chosen}

    def prune(self, keep: int, every_keep: int, best: Collection[int]) -> None:
        """Deletes the steps that have `keep` newer ones with a manifest.

        The `best` steps and multiples of `every_keep` (0: none) stay. Raises OSError.
        """
        steps = self.steps()
        sealed = [step for step in steps if self._manifest(step).exists()]
        for step in steps:
            newer = sum(other > step for other in sealed)
            multiple = every_keep and step % every_keep == 0
            if newer >= keep and step not in best and not multiple:
                # Renamed first, because a kill could leave a step with half its files.
                doomed = self.path(step).rename(self.folder / f"{step}{_PRUNED}")
                self._manifest(step).unlink(missing_ok=True)
                shutil.rmtree(doomed)

    def open(self) -> None:
        """Takes the lock, tests that the folder is writable, removes unfinished saves.

        Raises UserError if the folder cannot be written or another process writes.
        """
        try:
            self._manifests.mkdir(parents=True, exist_ok=True)
            self._probe()
            self._lock = (self.folder / ".lock").open("w")
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be written ({error.strerror}): make room or "
                "give another --workdir"
            ) from error
        try:
            # A lockf lock is the process's: a worker that outlives it holds none.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            self.close()
            raise UserError(
                f"{self.workdir} is being written by another process: end that run, or "
                "give another --workdir"
            ) from error
        except OSError as error:
            self._warn(f"{self.folder} cannot be locked ({error.strerror})")
        for name in self._sweep():
            self._warn(
                f"the save of step {name.split('.')[0]} was interrupted in an earlier "
                f"run of {self.workdir}: it is ignored"
            )

    def check_room(self, size: int) -> None:
        """Warns if the disk may be too full for a checkpoint of `size` bytes."""
        free = shutil.disk_usage(self.folder).free
        if free < size:
            self._warn(
                f"{self.folder} has {free / 1e9:.2f} GB free and a checkpoint takes up "
                f"to {size / 1e9:.2f} GB: saving may fail; make room"
            )

    def close(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def make_way(self, step: int) -> None:
        """Moves this step and later ones out of the way of a save."""
        self._sweep()
        existing = {*self.steps(), *_numbered(self._manifests, ".json")}
        self.set_aside(sorted(other for other in existing if other >= step))

    def set_aside(self, steps: list[int]) -> None:
        """Moves steps and their manifests to set_aside/; overwrites nothing."""
        for step in steps:
            self._aside.mkdir(exist_ok=True)
            count, name = 1, str(step)
            while any((self._aside / f"{name}{end}").exists() for end in ("", ".json")):
                count += 1
                name = f"{step}-{count}"
            # The folder first: without its manifest a step would count as unverified.
            if self.path(step).exists():
                self.path(step).rename(self._aside / name)
            if self._manifest(step).exists():
                self._manifest(step).rename(self._aside / f"{name}.json")
            self._warn(f"step {step} is moved to {self._aside / name}")
        BestNames(self.folder).drop_dangling()

    def _probe(self) -> None:
        probe = self.folder / ".probe"
        with probe.open("wb") as file:
            file.write(b"\1" * _PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
        probe.unlink()

    def _sweep(self) -> list[str]:
        """Deletes half-written and half-deleted folders; names the half-written."""
        unfinished = sorted(self.folder.glob(_UNFINISHED))
        for path in [*unfinished, *self.folder.glob(f"*{_PRUNED}")]:
            _remove(path)
        return [path.name for path in unfinished]

    def _manifest(self, step: int) -> pathlib.Path:
        return self._manifests / f"{step}.json"


@contextlib.contextmanager
def _may_vanish() -> Iterator[None]:
    """Ends the block if another process, perhaps of another machine, has just removed
    what it reads."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            raise


def _remove(folder: pathlib.Path) -> None:
    """Deletes a folder while threads of a failed save may still create files in it."""
    for _ in range(100):
        try:
            return shutil.rmtree(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise
        if not folder.exists():
            return
        time.sleep(0.05)
    shutil.rmtree(folder)


def _numbered(folder: pathlib.Path, suffix: str) -> list[int]:
    """The numbers that are names of a folder's entries, ascending."""
    if not folder.is_dir():
        return []
    stems = (
        p.name.removesuffix(suffix) for p in folder.iterdir() if p.suffix == suffix
    )
    return sorted(int(stem) for stem in stems if stem.isdecimal())
