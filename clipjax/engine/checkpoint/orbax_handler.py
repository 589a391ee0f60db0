"""How orbax writes and reads a step: its items, and the limits of a save."""

from __future__ import annotations

import orbax.checkpoint as ocp

from clipjax.engine.checkpoint.step_folder import JSON_NAME

# orbax's timeout of 10 minutes is too short for a slow disk.
_SAVE_SECONDS = 6 * 3600
# Folders are created synchronously: if creating one in the background fails, threads
# wait for it until the timeout and keep the process from ending.
ASYNC = ocp.AsyncOptions(
    timeout_secs=_SAVE_SECONDS, create_directories_asynchronously=False
)
# The file that lists a step's arrays; it is written last.
ARRAYS_FILE = "manifest.ocdbt"


def handler() -> ocp.CompositeCheckpointHandler:
    """A handler of a step's items: its arrays, and JSON."""
    return ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(async_options=ASYNC),
        state=ocp.StandardCheckpointHandler(),
        meta=ocp.JsonCheckpointHandler(filename=JSON_NAME),
        layout=ocp.JsonCheckpointHandler(filename=JSON_NAME),
    )
