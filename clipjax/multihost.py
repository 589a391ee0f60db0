"""Agreement between several processes; plain calls if there is only one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax

from clipjax import atomic_files, peers
from clipjax.types import UserError


def gather(text: str) -> list[str]:
    """The texts of all processes, in their order; every process must call it.

    Raises UserError if the processes were joined by another program than clipjax's.
    """
    group = peers.group()
    if group is not None:
        return group.gather(text)
    if jax.process_count() == 1:
        return [text]
    raise UserError(
        "these processes were joined by jax.distributed.initialize: call "
        "clipjax.engine.distributed.initialise instead"
    )


def same(what: str, facts: Mapping[str, Any]) -> None:
    """Raises UserError on every process if facts (JSON values) differ between them.

    what: what the facts describe, for the message, which names each difference with its
    process.
    """
    gathered = [json.loads(text) for text in gather(json.dumps(dict(facts)))]
    lines = []
    for key in sorted({key for theirs in gathered for key in theirs}):
        values: dict[str, list[int]] = {}
        for process, theirs in enumerate(gathered):
            value = json.dumps(theirs[key]) if key in theirs else "(absent)"
            values.setdefault(value, []).append(process)
        if len(values) > 1:
            parts = (
                f"{value} in process {', '.join(map(str, processes))}"
                for value, processes in values.items()
            )
            lines.append(f"{key} is {' and '.join(parts)}")
    if lines:
        raise UserError(
            f"the processes differ in {what}: {'; '.join(lines)}. Start all of them "
            "with the same command, code and data"
        )


def on_primary(act: Callable[[], Any]) -> Any:
    """Calls `act` on process 0 only; every process must call this function.

    Returns its result (a JSON value), or raises its UserError, on all processes.
    """
    if peers.group() is None:
        return _with_one_line(act)
    outcome: list[Any] = ["", None]
    if jax.process_index() == 0:
        try:
            outcome = ["", _with_one_line(act)]
        except UserError as error:
            outcome = [str(error), None]
    failure, result = json.loads(gather(json.dumps(outcome))[0])
    if failure:
        raise UserError(failure)
    return result


def _with_one_line(act: Callable[[], Any]) -> Any:
    """Calls `act` and turns an OSError into a UserError."""
    try:
        return act()
    except OSError as error:
        raise UserError(atomic_files.describe_os_error(error)) from error
