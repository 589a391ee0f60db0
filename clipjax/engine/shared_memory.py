"""Shared memory of a run's data workers: recorded by name, and freed after a kill.

A killed run cannot free what its workers made in /dev/shm, which counts as memory. So
the names of each start begin alike, and that beginning is recorded with the run.
"""

from __future__ import annotations

import contextlib
import pathlib
import secrets
from collections.abc import Callable, Iterable

from clipjax import atomic_files
from clipjax.engine.assemble import read_json
from clipjax.multihost import on_primary
from clipjax.types import UserError

FILE = "shared_memory.json"  # in a run's folder
KEPT = 100  # starts recorded
PLACE = pathlib.Path("/dev/shm")
_PROCESSES = pathlib.Path("/proc")


def begin(workdir: pathlib.Path, workers: int, say: Callable[[str], None]) -> str:
    """Frees what earlier starts of this run left, and records a new one's names.

    Every process calls it, while the run's lock is held. Returns what the names of this
    start are to begin with, "" without workers. Raises UserError if the record cannot
    be written.
    """
    earlier, new = on_primary(lambda: _record(workdir, workers, say))
    count = free(earlier)
    if count:
        say(f"freed {count} pieces of shared memory that a killed run left")
    return new


def _record(
    workdir: pathlib.Path, workers: int, say: Callable[[str], None]
) -> tuple[list[str], str]:
    """The beginnings of earlier starts, and this one's, which the record now has."""
    path, earlier = workdir / FILE, []
    if path.exists():
        try:
            earlier = [str(name) for name in read_json(path)["names_begin_with"]]
        except (UserError, KeyError, TypeError) as error:
            say(f"{path} is left out: {error}")
    # A damaged record must not name others' memory.
    earlier = [name for name in earlier if name.startswith("psm_") and len(name) > 12]
    if not workers:
        return earlier, ""
    new = f"psm_{secrets.token_hex(4)}_"
    atomic_files.write_json(path, {"names_begin_with": [*earlier, new][-KEPT:]})
    return earlier, new


def free(beginnings: Iterable[str]) -> int:
    """Removes shared memory whose names begin so, unless a live process maps it.

    Returns how many pieces were removed.
    """
    chosen = tuple(beginnings)
    if not chosen or not PLACE.is_dir():
        return 0
    found = [path for path in PLACE.iterdir() if path.name.startswith(chosen)]
    mapped = _mapped() if found else set()
    count = 0
    for path in found:
        if str(path) not in mapped:
            with contextlib.suppress(OSError):  # another's, or gone meanwhile
                path.unlink()
                count += 1
    return count


def _mapped() -> set[str]:
    """The shared memory that processes map, by its path."""
    found = set()
    for path in _PROCESSES.glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            for line in path.read_text(errors="replace").splitlines():
                name = line.split(maxsplit=5)[-1]
                if name.startswith(f"{PLACE}/"):
                    found.add(name)
    return found
