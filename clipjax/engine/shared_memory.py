"""Shared memory of a run's data workers: recorded by name, freed after a kill.

A killed run cannot free its workers' segments in /dev/shm, which take memory. So the
names of one start's segments share a prefix, which is recorded with the run.
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
KEPT = 100  # the number of starts recorded
PLACE = pathlib.Path("/dev/shm")
_PROCESSES = pathlib.Path("/proc")


def begin(workdir: pathlib.Path, workers: int, say: Callable[[str], None]) -> str:
    """Frees segments that earlier starts of this run left, and records a new prefix.

    Every process calls it while the run's lock is held. Returns the prefix of this
    start's names, "" without workers. Raises UserError if the record cannot be written.
    """
    earlier, new = on_primary(lambda: _record(workdir, workers, say))
    count = free(earlier)
    if count:
        say(f"freed {count} pieces of shared memory that a killed run left")
    return new


def _record(
    workdir: pathlib.Path, workers: int, say: Callable[[str], None]
) -> tuple[list[str], str]:
    """The prefixes of earlier starts, and this start's, which it records."""
    path, earlier = workdir / FILE, []
    if path.exists():
        try:
            earlier = [str(name) for name in read_json(path)["names_begin_with"]]
        except (UserError, KeyError, TypeError) as error:
            say(f"{path} is ignored: {error}")
    # A damaged record must not name other programs' memory.
    earlier = [name for name in earlier if name.startswith("psm_") and len(name) > 12]
    if not workers:
        return earlier, ""
    new = f"psm_{secrets.token_hex(4)}_"
    atomic_files.write_json(path, {"names_begin_with": [*earlier, new][-KEPT:]})
    return earlier, new


def free(prefixes: Iterable[str]) -> int:
    """Removes segments with these prefixes, unless a live process maps them.

    Returns the number removed.
    """
    prefixes = tuple(prefixes)
    if not prefixes or not PLACE.is_dir():
        return 0
    segments = [path for path in PLACE.iterdir() if path.name.startswith(prefixes)]
    mapped = _mapped() if segments else set()
    count = 0
    for path in segments:
        if str(path) not in mapped:
            with contextlib.suppress(OSError):  # another user's, or removed meanwhile
                path.unlink()
                count += 1
    return count


def _mapped() -> set[str]:
    """The paths of the segments that processes map."""
    mapped = set()
    for path in _PROCESSES.glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            for line in path.read_text(errors="replace").splitlines():
                name = line.split(maxsplit=5)[-1]
                if name.startswith(f"{PLACE}/"):
                    mapped.add(name)
    return mapped
