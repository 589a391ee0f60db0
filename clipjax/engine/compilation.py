"""The persistent compilation cache: later starts skip compilation."""

from __future__ import annotations

import pathlib
import time
import zlib
from collections.abc import Callable

import jax

from clipjax import atomic_files, cache

FRESH = 2.0  # seconds for which another process may still be writing an entry


def enable_cache(say: Callable[[str], None]) -> None:
    """Turns jax's compilation cache on, after deleting unreadable entries.

    A process killed during a write leaves a truncated entry. jax reports it at every
    start and compiles again, but never replaces it. If the folder cannot be written,
    there is no cache, which costs only time.
    """
    folder = cache.folder("xla")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in unreadable(folder):
            path.unlink(missing_ok=True)
            say(f"deleted an unreadable compilation-cache entry: {path.name}")
    except OSError as error:
        say(
            f"no compilation cache: {folder} cannot be used ({error.strerror}); "
            "set CLIPJAX_CACHE to a folder that can be written"
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def unreadable(folder: pathlib.Path) -> list[pathlib.Path]:
    """Entries whose compressed content is truncated or damaged.

    Entries with the name, size and time of an earlier check are not read again. Nor are
    those that changed less than FRESH seconds ago.
    """
    listing = folder / "checked.txt"
    checked = set(listing.read_text().splitlines()) if listing.exists() else set()
    good, bad = [], []
    for path in sorted(folder.glob("*-cache")):
        try:
            status = path.stat()
            if 0 <= time.time() - status.st_mtime < FRESH:
                continue
            mark = f"{path.name} {status.st_size} {status.st_mtime_ns}"
            if mark not in checked and not _readable(path.read_bytes()):
                bad.append(path)
                continue
        except FileNotFoundError:  # another process deleted it
            continue
        good.append(mark)
    with atomic_files.open_to_write(listing) as file:
        file.write("\n".join(good))
    return bad


def _readable(content: bytes) -> bool:
    if content[:4] == b"\x28\xb5\x2f\xfd":  # zstd, which jax takes if installed
        try:
            import zstandard
        except ImportError:
            return False  # jax could not read it either
        try:
            zstandard.ZstdDecompressor().decompress(content)
        except zstandard.ZstdError:
            return False
        return True
    try:
        zlib.decompress(content)
    except zlib.error:
        return False
    return True
