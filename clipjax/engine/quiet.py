"""orbax's log: its failures reach the user as our own one line."""

from __future__ import annotations

import logging

from absl import logging as absl_logging

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


def quieten_orbax() -> None:
    """Leaves what orbax logs to those who ask for it."""
    log = absl_logging.get_absl_logger()
    if not any(isinstance(found, _NotFromOrbax) for found in log.filters):
        log.addFilter(_NotFromOrbax())
