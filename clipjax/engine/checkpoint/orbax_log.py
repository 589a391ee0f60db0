"""orbax's log is hidden: its failures reach the user as one line of ours."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from typing import Any

from absl import logging as absl_logging

# How tensorstore writes the code of a system error.
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")

_hooked: list[bool] = []

# Logged for a save without arrays, which orbax counts as a success.
_NO_ARRAYS = "Skipping merge"


class _NotFromOrbax(logging.Filter):
    """Drops orbax's records except the only sign of a failure, _NO_ARRAYS."""

    def filter(self, record: logging.LogRecord) -> bool:
        # With --verbosity=1 (absl's debug) everything is shown.
        return (
            "/orbax/" not in record.pathname
            or _NO_ARRAYS in str(record.msg)
            or absl_logging.level_debug()
        )


class _NotAfterTheFirst(logging.Filter):
    """Drops asyncio's records of a save's later failures: the first one is raised.

    orbax writes files concurrently in an event loop that ends at the first failure.
    Writes that fail later see a closed loop, or nobody awaits their result.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or absl_logging.level_debug():
            return True
        if _is_late(error) or _is_tensorstores(error):
            return False
        traces = traceback.extract_tb(error.__traceback__)
        return not any("/orbax/" in frame.filename for frame in traces)


def _is_late(error: BaseException | None) -> bool:
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def _is_tensorstores(error: BaseException) -> bool:
    """Its threads make such errors, so no traceback leads to orbax."""
    text = str(error)
    return "tensorstore_spec" in text or bool(_SYSTEM_ERROR.search(text))


def line(error: BaseException) -> str:
    """An error as one short line: its first line, or the system's text for its code."""
    text = getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
    if match := _SYSTEM_ERROR.search(text):  # among paths and settings
        text = os.strerror(int(match[1]))
    return f"{type(error).__name__}: {text[:200]}"


def _drop_late() -> None:
    """Does the same for callbacks from tensorstore's own threads."""
    previous = sys.unraisablehook

    def hook(unraisable: Any, /) -> None:
        if not _is_late(unraisable.exc_value):
            previous(unraisable)

    sys.unraisablehook = hook


def quieten_orbax() -> None:
    """Hides orbax's log unless --verbosity=1."""
    for log, drop in (
        (absl_logging.get_absl_logger(), _NotFromOrbax()),
        (logging.getLogger("asyncio"), _NotAfterTheFirst()),
        (logging.getLogger("concurrent.futures"), _NotAfterTheFirst()),
    ):
        if not any(isinstance(other, type(drop)) for other in log.filters):
            log.addFilter(drop)
    if not _hooked:
        _hooked.append(True)
        _drop_late()
