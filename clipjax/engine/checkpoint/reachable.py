"""A path by which orbax reaches a folder of any name.

A folder's name may hold anything, and orbax takes some of it for something else: it
globs for its own files with the folder as part of the pattern (`[ ]`, `*`, `?`), makes
`/` of a backslash and `gs://` of a part that ends in `gs:`, takes /gs, /s3, /az and /hf
for buckets, and cannot pass on names that are not UTF-8. Such a folder is opened, and
orbax is given the name that the system has for the open folder.
"""

from __future__ import annotations

import os
import pathlib
import re

from clipjax.multihost import gather
from clipjax.types import UserError

_DESCRIPTORS = pathlib.Path("/proc/self/fd")
_TAKEN_OTHERWISE = re.compile(r"[*?\[\\]|gs:/|\.__lock(/|$)|^/(gs|s3|az|hf)(/|$)")


def is_plain(folder: pathlib.Path) -> bool:
    """Whether orbax takes the folder's name for what it is."""
    name = str(folder)
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return not _TAKEN_OTHERWISE.search(f"{name}/")


class Reachable:
    """`folder`, a path that names `given`; valid until `close`.

    Raises UserError if a name is not plain and the system has no other for it, or
    several processes have different ones.
    """

    def __init__(self, given: pathlib.Path):
        self.folder = given
        self._descriptor = -1
        if is_plain(given) or not given.is_dir():
            return
        if not _DESCRIPTORS.is_dir():
            raise UserError(
                f"{given}: checkpoints cannot be kept below a folder whose name holds "
                r"* ? [ or \ on this system: give another --workdir"
            )
        self._descriptor = os.open(given, os.O_RDONLY | os.O_DIRECTORY)
        self.folder = _DESCRIPTORS / str(self._descriptor)
        if len({*gather(str(self.folder))}) > 1:
            self.close()
            raise UserError(
                f"{given}: several processes cannot share a folder whose name holds "
                r"* ? [ or \: give another --workdir"
            )

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
