"""The machine: disk, shared memory, file limits, clock. `ask` alone asks the system."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator

from clipjax import byte_sizes, cores
from clipjax.checkup.findings import Finding, error, ok, warning

SHARED = pathlib.Path("/dev/shm")
FILES = 1024  # open files that workers, shards and checkpoints need at least
SKEW = 5.0  # seconds by which a file system's clock may differ
OLDEST = 1735689600  # 2025-01-01: before that a clock is not set
LITTLE = 1e9  # bytes of shared memory or disk that are little for any run


@dataclasses.dataclass(frozen=True)
class Machine:
    """What the system says, sizes in bytes.

    disk_free: in the place of the runs. shared_size, shared_free: of /dev/shm, None
    without one. files: how many a process may open. memory, memory_free: of the
    machine. clock: seconds since 1970. skew: by how many seconds the time of a new file
    is behind the clock, None if the place cannot be written.
    """

    disk_free: int
    shared_size: int | None
    shared_free: int | None
    files: int
    memory: int
    memory_free: int
    clock: float
    skew: float | None


def ask(place: pathlib.Path) -> Machine:
    """What the system says; place: of the runs, or the nearest folder that is there."""
    import psutil

    shared = shutil.disk_usage(SHARED) if SHARED.is_dir() else None
    memory = psutil.virtual_memory()
    return Machine(
        disk_free=shutil.disk_usage(place).free,
        shared_size=shared.total if shared else None,
        shared_free=shared.free if shared else None,
        files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        memory=memory.total,
        memory_free=memory.available,
        clock=time.time(),
        skew=_skew(place),
    )


def existing(place: pathlib.Path) -> pathlib.Path:
    """The folder, or the nearest above it that is there."""
    return next(one for one in (place, *place.absolute().parents) if one.is_dir())


def checks(
    machine: Machine,
    place: pathlib.Path,
    *,
    saves: int = 0,
    batches: int | None = None,
) -> Iterator[Finding]:
    """saves: the bytes of all checkpoints that a run keeps, 0: no run is known.
    batches: those that its workers hold in shared memory, None: no run is known.
    """
    if machine.skew is None:
        yield error(f"{place} cannot be written", "choose another --workdir")
    free = f"{place} has {byte_sizes.text(machine.disk_free)} free"
    more = "free space, choose another --workdir, or a lower checkpoint.keep"
    if saves and machine.disk_free < saves:
        yield error(f"{free} and the checkpoints take {byte_sizes.text(saves)}", more)
    elif saves:
        yield ok(f"disk: {free}; the checkpoints take {byte_sizes.text(saves)}")
    elif machine.disk_free < LITTLE:
        yield warning(f"{free}, which is little for checkpoints", more)
    else:
        yield ok(f"disk: {free}")
    yield from _shared(machine, batches)
    yield ok(
        f"memory: {byte_sizes.text(machine.memory_free)} of "
        f"{byte_sizes.text(machine.memory)} is available, {cores.usable()} cores"
    )
    if 0 <= machine.files < FILES:
        yield warning(
            f"a process may open {machine.files} files, {FILES} or more are needed for "
            "many shards or workers",
            f"ulimit -n {4 * FILES}",
        )
    else:
        yield ok(f"open files: {machine.files if machine.files >= 0 else 'no limit'}")
    if machine.clock < OLDEST:
        yield error(
            f"the clock says {time.strftime('%Y-%m-%d', time.gmtime(machine.clock))}",
            "set it: resuming, caches and evaluate --follow compare times of files",
        )
    elif machine.skew is not None and abs(machine.skew) > SKEW:
        yield warning(
            f"the clock of the file system differs by {machine.skew:.0f} s",
            "set the clocks of both machines, such as by NTP",
        )
    else:
        yield ok(f"clock: {time.strftime('%Y-%m-%d %H:%M:%S %z')}")


def _shared(machine: Machine, batches: int | None) -> Iterator[Finding]:
    if machine.shared_free is None or machine.shared_size is None:
        if batches:
            yield warning("there is no /dev/shm", "--config.data.workers=0")
        return
    need = f"; the workers' batches take {byte_sizes.text(batches)}" if batches else ""
    told = f"/dev/shm has {byte_sizes.text(machine.shared_free)} free"
    mend = (
        "enlarge it (docker run --shm-size=8g; mount -o remount,size=8G /dev/shm), or "
        "--config.data.workers=0, which reads in threads"
    )
    if batches and machine.shared_free < batches:
        yield error(f"{told}{need}", mend)
    elif batches is None and machine.shared_size < LITTLE:
        yield warning(f"{told}, which is little for data.workers above 0", mend)
    else:
        yield ok(f"{told}{need}")


def _skew(place: pathlib.Path) -> float | None:
    """By how much a new file's time is behind the clock; None if none can be made."""
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"1")
            file.flush()
            return time.time() - os.fstat(file.fileno()).st_mtime
    except OSError:
        return None
