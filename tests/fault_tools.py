"""A disk that is full or fails for chosen files, by a preloaded library; see
failing_disk.c.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import shutil
import subprocess

import pytest

SOURCE = pathlib.Path(__file__).with_name("failing_disk.c")


def preloaded(folder: pathlib.Path) -> dict[str, str]:
    """The environment of a process to which `fault` applies; skips without gcc."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("needs gcc, which is absent")
    library = folder / "failing_disk.so"
    made = [gcc, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(made, check=True)
    return {"LD_PRELOAD": str(library)}


@contextlib.contextmanager
def fault(path, calls, number, after=0, *, note=""):
    """Calls on files whose whole path matches fail with errno `number`, but for the
    first `after` ones.

    calls: of open, write, sync, rename and mkdir. note: a file that is made once one
    has failed.
    """
    values = {
        "FAULT_PATH": path,
        "FAULT_CALLS": calls,
        "FAULT_ERRNO": str(number),
        "FAULT_AFTER": str(after),
        "FAULT_NOTE": str(note),
    }
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]


@contextlib.contextmanager
def small_files(size: int):
    """A limit on file sizes, which fails writes as a full disk does, also for root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
