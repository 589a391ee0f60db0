"""The cache: derived and downloaded files, which can be deleted at any time."""

from __future__ import annotations

import os
import pathlib

from clipjax import paths


def folder(name: str) -> pathlib.Path:
    """A folder in the cache: $CLIPJAX_CACHE/name or ~/.cache/clipjax/name."""
    if set_by_user := os.environ.get("CLIPJAX_CACHE"):
        return paths.local(set_by_user, "the cache (CLIPJAX_CACHE)") / name
    return paths.home(".cache/clipjax") / name
