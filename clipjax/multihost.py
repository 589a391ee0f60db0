"""How several processes come to one answer; plain calls if there is only one."""

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
        "clipjax.engine.distributed.initialise in its place"
    )


def same(what: str, facts: Mapping[str, Any]) -> None:
    """Raises UserError on every process if facts (JSON values) differ between them.

    what: the facts are of, in words. Each difference is named with its process.
    """
    told = [json.loads(text) for text in gather(json.dumps(dict(facts)))]
    lines = []
    for key in sorted({key for each in told for key in each}):
        values: dict[str, list[int]] = {}
        for process, each in enumerate(told):
            value = json.dumps(each[key]) if key in each else "(absent)"
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
    """Calls `act` on process 0 only; every process must call it.

    Returns its result (a JSON value) or raises its UserError on all of them.
    """
    if peers.group() is None:
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
        raise UserError(atomic_files.told(error)) from error
