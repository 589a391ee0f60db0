"""How several processes come to one answer; plain calls where there is only one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from clipjax.types import UserError


def gather(text: str) -> list[str]:
    """The texts of all processes, in their order; every process must call it."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(data.size, np.int32))
    padded = np.zeros(max(1, *sizes), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [row[:n].tobytes().decode() for row, n in zip(rows, sizes, strict=True)]


def on_primary(act: Callable[[], Any]) -> Any:
    """Calls `act` on process 0 only; every process must call it.

    Returns its result (a JSON value) or raises its UserError on all of them.
    """
    if jax.process_count() == 1:
        return _told(act)
    outcome: list[Any] = ["", None]
    if jax.process_index() == 0:
        try:
            outcome = ["", _told(act)]
        except UserError as error:
            outcome = [str(error), None]
    failure, result = json.loads(gather(json.dumps(outcome))[0])
    if failure:
        raise UserError(failure)
    return result


def _told(act: Callable[[], Any]) -> Any:
    """Calls `act`; what the file system refuses becomes a UserError."""
    try:
        return act()
    except OSError as error:
        raise UserError(f"the run's files: {error}") from error
