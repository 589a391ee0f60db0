"""JSON that others wrote: read whole, and described when it has another form."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from clipjax.data.storage import file_contents, local
from clipjax.types import UserError

SHOWN = 8  # fields of an object


def parse(path: pathlib.Path, text: str) -> Any:
    """What a JSON text holds; raises UserError for one that is none, or too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UserError(f"{path}: its JSON is nested too deep to be read") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON, or cut off: {error}") from error


def read(path: pathlib.Path) -> Any:
    """What a JSON file holds; raises UserError as `parse`, and for no file.

    Bytes that are not UTF-8 become surrogates, so that they mark their image alone.
    """
    raw = local.content(path)
    if what := file_contents.other(raw):
        raise UserError(f"{path} is no JSON, but {what}")
    return parse(path, raw.decode("utf-8-sig", "surrogateescape"))


def shown(value: Any, length: int = 40) -> str:
    """The beginning of a value as JSON, on one line."""
    try:
        return json.dumps(value, ensure_ascii=False)[:length]
    except RecursionError:
        return "something nested too deep"


def described(value: Any) -> str:
    """What form a value has: "an object with images (a list of 3 objects)"."""
    if isinstance(value, dict):
        parts = [f"{name!r}{_inner(one)}" for name, one in list(value.items())[:SHOWN]]
        more = f" and {len(value) - SHOWN} more" if len(value) > SHOWN else ""
        return (
            f"an object with {', '.join(parts)}{more}" if parts else "an empty object"
        )
    if isinstance(value, list):
        first = next((one for one in value if isinstance(one, dict)), None)
        if first is None:
            kind = f" of {_kind(value[0])}" if value else ""
            return f"a list of {len(value)} items{kind}" if value else "an empty list"
        names = ", ".join(map(repr, list(first)[:SHOWN]))
        return f"a list of {len(value)} objects with {names or 'no field'}"
    return _kind(value)


def _inner(value: Any) -> str:
    if isinstance(value, list):
        return f" (a list of {len(value)})"
    return " (an object)" if isinstance(value, dict) else ""


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return kinds.get(type(value), "null" if value is None else "a number")
