"""Reads and checks prompt templates: texts with one `{}` for the class's name."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from typing import Any

from clipjax.data.storage import json_files, local
from clipjax.types import UserError

PLACE = "{}"
NAMED = ("{c}", "{classname}")  # CLIP_benchmark's form, and another usual one


def read(path: pathlib.Path) -> tuple[str, ...]:
    """Returns a file's templates: one a line, or a JSON list.

    `{c}`, as CLIP_benchmark writes it, counts as `{}`. Raises UserError for a template
    without `{}` and for a file without templates.
    """
    if path.suffix.lower() != ".json":
        return parse(local.read_lines(path), str(path))
    content: Any = json_files.read(path)
    if not isinstance(content, list) or not all(isinstance(t, str) for t in content):
        raise UserError(
            f'{path}: write a list of templates, ["a photo of a {{}}."]; it holds '
            f"{json_files.describe(content)}"
        )
    return parse(content, str(path))


def parse(lines: Iterable[str], origin: str) -> tuple[str, ...]:
    """Returns the templates of a file's lines; blank lines do not count."""
    templates = []
    for line in map(str.strip, lines):
        for place in NAMED:
            line = line.replace(place, PLACE)
        if line:
            templates.append(line)
    if not templates:
        raise UserError(f"{origin} holds no templates: write one a line, with {{}}")
    return check(templates, origin)


def check(templates: Iterable[str], origin: str) -> tuple[str, ...]:
    """Returns the templates; raises UserError unless each has exactly one `{}`.

    origin: the option or file that they come from, for the message.
    """
    for template in (templates := tuple(templates)):
        if template.count(PLACE) != 1:
            raise UserError(f"{origin}: {template!r} needs one {{}} for the class name")
    return templates


def fill(templates: Iterable[str], name: str) -> list[str]:
    """A class's name in each template."""
    return [template.replace(PLACE, name) for template in templates]
