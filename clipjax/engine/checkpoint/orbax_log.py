"""orbax's log: its failures reach the user as our own one line."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from typing import Any

from absl import logging as absl_logging

# In what tensorstore says of an error of the system.
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")

_hooked: list[bool] = []

# Of a save that holds no arrays, which orbax calls a success.
_TELLING = "Skipping merge"


class _NotFromOrbax(logging.Filter):
    """Drops orbax's records, but for the one that tells of a failure by itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        # With --verbosity=1 (absl's debug) everything is shown.
        return (
            "/orbax/" not in record.pathname
            or _TELLING in str(record.msg)
            or absl_logging.level_debug()
        )


class _NotAfterTheFirst(logging.Filter):
    """Drops what asyncio says of a save's other failures: the first one is raised.

    orbax writes files side by side in an event loop that ends with the first failure;
    those that fail later find it closed, or nobody who asks for their result.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or absl_logging.level_debug():
            return True
        if _is_late(error):
            return False
        traces = traceback.extract_tb(error.__traceback__)
        return not any("/orbax/" in frame.filename for frame in traces)


def _is_late(error: BaseException | None) -> bool:
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def line(error: BaseException) -> str:
    """An error in a line that fits into a message: its first, or the system's words."""
    text = getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
    if found := _SYSTEM_ERROR.search(text):  # among paths and settings
        text = os.strerror(int(found[1]))
    return f"{type(error).__name__}: {text[:200]}"


def _drop_late() -> None:
    """As _NotAfterTheFirst, of what tensorstore calls back from its own threads."""
    before = sys.unraisablehook

    def hook(unraisable: Any, /) -> None:
        if not _is_late(unraisable.exc_value):
            before(unraisable)

    sys.unraisablehook = hook


def quieten_orbax() -> None:
    """Leaves what orbax logs to those who ask for it."""
    for log, drop in (
        (absl_logging.get_absl_logger(), _NotFromOrbax()),
        (logging.getLogger("asyncio"), _NotAfterTheFirst()),
        (logging.getLogger("concurrent.futures"), _NotAfterTheFirst()),
    ):
        if not any(isinstance(found, type(drop)) for found in log.filters):
            log.addFilter(drop)
    if not _hooked:
        _hooked.append(True)
        _drop_late()
