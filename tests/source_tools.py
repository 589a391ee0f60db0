"""What the tests of sources share: a small image, and the promises of every source."""

import contextlib
import io
import itertools
import os
import pathlib
import tarfile

import numpy as np
from PIL import Image

from clipjax.testing import source_contract

TIMES = itertools.count(10**18)  # nanoseconds, of the tars that were written


def jpeg(seed=0):
    color = tuple(np.random.default_rng(seed).integers(0, 255, 3).tolist())
    stream = io.BytesIO()
    Image.new("RGB", (12, 8), color).save(stream, "JPEG")
    return stream.getvalue()


def write_tar(path, members):
    """members: (name, bytes) pairs, or TarInfo for a member without content.

    Each file has a time of its own: indexes know it by that, and many disks give two
    files of a few milliseconds the same.
    """
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    now = next(TIMES)
    os.utime(path, ns=(now, now))
    return path


def count_open(folder):
    """How many descriptors this process has of a folder's files; others may come and
    go at any time.
    """
    links = pathlib.Path("/proc/self/fd").iterdir()
    names = []
    for link in links:
        with contextlib.suppress(OSError):  # closed meanwhile
            names.append(os.readlink(link))
    return sum(name.startswith(f"{folder}/") for name in names)


def check_contract(source):
    """types.Source's promises, and what all of clipjax's own sources have beside."""
    source_contract.check(source)
    assert isinstance(source.problems, list)
    assert source.key_of(0) == source[0].key
