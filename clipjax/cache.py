"""The cache: derived and downloaded files that any run may delete or make again."""

from __future__ import annotations

import os
import pathlib

from clipjax import paths


def folder(name: str) -> pathlib.Path:
    """The cache's folder of that name: $CLIPJAX_CACHE/name or ~/.cache/clipjax/name."""
    if set_by_user := os.environ.get("CLIPJAX_CACHE"):
        return paths.local(set_by_user, "the cache (CLIPJAX_CACHE)") / name
    return paths.home(".cache/clipjax") / name
