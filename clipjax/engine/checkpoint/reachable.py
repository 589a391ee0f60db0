"""A path by which orbax reaches a folder of any name.

orbax misreads some folder names. It globs for its own files with the folder as part of
the pattern (`[ ]`, `*`, `?`), turns a backslash into `/` and a part that ends in `gs:`
into `gs://`, takes /gs, /s3, /az and /hf for buckets, and cannot pass on names that are
not UTF-8. Reachable opens such a folder and gives orbax the system's path of the open
folder.
"""

from __future__ import annotations

import os
import pathlib
import re

from clipjax.multihost import gather
from clipjax.types import UserError

_DESCRIPTORS = pathlib.Path("/proc/self/fd")
_MISREAD = re.compile(r"[*?\[\\]|gs:/|\.__lock(/|$)|^/(gs|s3|az|hf)(/|$)")


def is_plain(folder: pathlib.Path) -> bool:
    """Whether orbax reads the folder's name as it is."""
    name = str(folder)
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return not _MISREAD.search(f"{name}/")


class Reachable:
    """`folder` is a path to `original` that orbax reads; valid until `close`.

    Raises UserError if the name is not plain and the system has no other path to the
    folder, or if several processes have different paths.
    """

    def __init__(self, original: pathlib.Path):
        self.folder = original
        self._descriptor = -1
        if is_plain(original) or not original.is_dir():
            return
        if not _DESCRIPTORS.is_dir():
            raise UserError(
                f"{original}: checkpoints cannot be kept below a folder whose name "
                r"holds * ? [ or \ on this system: give another --workdir"
            )
        self._descriptor = os.open(original, os.O_RDONLY | os.O_DIRECTORY)
        self.folder = _DESCRIPTORS / str(self._descriptor)
        if len({*gather(str(self.folder))}) > 1:
            self.close()
            raise UserError(
                f"{original}: several processes cannot share a folder whose name holds "
                r"* ? [ or \: give another --workdir"
            )

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
