"""Reads JSON files, and describes those that have another form than expected."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from clipjax.data.storage import file_contents, local
from clipjax.types import UserError

SHOWN = 8  # fields of an object


def parse(path: pathlib.Path, text: str) -> Any:
    """Parses JSON; raises UserError if the text is not JSON or is nested too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UserError(f"{path}: its JSON is nested too deep to be read") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON, or truncated: {error}") from error


def read(path: pathlib.Path) -> Any:
    """Parses a JSON file; raises UserError as `parse` does, or if there is no file.

    Bytes that are not UTF-8 become surrogates, so that they mark their image alone.
    """
    raw = local.content(path)
    if other_form := file_contents.other(raw):
        raise UserError(f"{path} is not JSON, but {other_form}")
    return parse(path, raw.decode("utf-8-sig", "surrogateescape"))


def short_json(value: Any, length: int = 40) -> str:
    """Returns the first `length` characters of a value as JSON, on one line."""
    try:
        return json.dumps(value, ensure_ascii=False)[:length]
    except RecursionError:
        return "something nested too deep"


def describe(value: Any) -> str:
    """Describes a value's form: "an object with images (a list of 3 objects)"."""
    if isinstance(value, dict):
        fields = list(value.items())[:SHOWN]
        parts = [f"{name!r}{_inner(field)}" for name, field in fields]
        more = f" and {len(value) - SHOWN} more" if len(value) > SHOWN else ""
        return (
            f"an object with {', '.join(parts)}{more}" if parts else "an empty object"
        )
    if isinstance(value, list):
        first = next((item for item in value if isinstance(item, dict)), None)
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
