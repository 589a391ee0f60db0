"""Reads caption tables: each image's captions, from the usual text forms.

A table's first characters tell its form:
- delimited by tab, bar, comma or semicolon, with or without a header (Flickr8k's
  `image,caption`, Flickr30k's `image_name| comment_number| comment`); quotes around
  delimiters and line ends have a meaning only with commas and semicolons;
- `name.jpg#0<TAB>caption`, see flickr_tables.py;
- JSON: MS-COCO's form, and those in clipjax/data/annotations/caption_json.py.

An image may have several captions: in several rows, in several columns
(clipjax/data/annotations/caption_columns.py), or in a cell that spells a list.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from clipjax.data.annotations import (
    caption_columns,
    caption_json,
    caption_lists,
    coco_json,
    flickr_tables,
)
from clipjax.data.annotations.caption_entries import Counts, Entry, problems
from clipjax.data.storage import file_contents, local
from clipjax.types import UserError

NEXT_ROW = re.compile(r"\n[^,;\n\"]+\.(jpe?g|png|webp)[,;]", re.IGNORECASE)
QUOTED = re.compile(r'"((?:[^"]|"")*)"', re.DOTALL)
DELIMITERS = "\t|,;"


@dataclasses.dataclass(frozen=True)
class Form:
    """A delimited table's form: its columns of image and captions, from its header.

    width: the number of columns; 0 without a header. Then the captions follow the
    image's name, or the number after it (`numbered`).
    """

    delimiter: str
    image: int = 0
    captions: tuple[int, ...] = ()
    width: int = 0
    numbered: bool = False


def read(
    path: pathlib.Path, image_column: str, caption_column: str
) -> tuple[dict[str, Entry], list[str]]:
    """Returns (image name -> entry, in the order of first mention; problems).

    image_column, caption_column: names in the header; "" finds the usual ones, and
    `caption_*` takes all columns that match. Raises UserError for a table that is
    empty, has no such columns, is UTF-16 or compressed, or has an unclosed quote. A
    broken row marks only its own image.
    """
    raw = local.content(path)
    if other_form := file_contents.other(raw):
        raise UserError(f"{path} is not a table of text, but {other_form}")
    # Bytes that are not UTF-8 become surrogates, so that they mark their row alone.
    text = raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    if not text.strip():
        raise UserError(f"the caption table {path} is empty")
    counts = Counts()
    if caption_json.holds_json(path, text):
        content = caption_json.parse(path, text)
        if coco_json.is_coco(content):
            return coco_json.read(path, content)
        rows = caption_json.rows(path, content, image_column, caption_column, counts)
    else:
        rows = _rows(path, text, image_column, caption_column, counts)
    entries: dict[str, Entry] = {}
    cells = lists = 0
    for name, cell in rows:
        stray = cell is None and not name.lower().endswith(local.IMAGE_SUFFIXES)
        if not name or stray:
            counts["rows that name no image, left out"] += 1
            continue
        entry = entries.setdefault(name, Entry())
        if cell is None:
            entry.mark("a row of the caption table has no caption field, or too many")
            continue
        cells += len(cell)
        for value in cell:
            if not isinstance(value, str) or not caption_lists.may_be(value):
                entry.add(value, counts)
                continue
            spelt = caption_lists.spelt(value)
            lists += spelt is not None
            counts[caption_lists.BROKEN] += caption_lists.is_broken(value, spelt)
            for caption in [value] if spelt is None else spelt or [None]:
                entry.add(caption, counts)
    if not entries:
        raise UserError(
            f"the caption table {path} names no images"
            + "".join(f" ({n} {problem})" for problem, n in counts.items())
        )
    if 0 < lists < cells:
        counts[f"of {cells} captions spell a list, whose members are taken"] += lists
    return entries, problems(counts, entries)


JOINED = (
    "rows have more fields than columns, which are joined to one caption: quote each "
    "field if they are several"
)
SEVERAL = "rows without a header have several fields of text, each taken as a caption"


def _rows(
    path: pathlib.Path,
    text: str,
    image_column: str,
    caption_column: str,
    counts: Counts,
) -> Iterator[caption_json.Row]:
    """Yields (image name, captions) per row; captions are None if they are missing."""
    first = text.lstrip("\r\n").split("\n", 1)[0].rstrip("\r")
    if flickr_tables.is_token(first) and not (image_column or caption_column):
        yield from flickr_tables.token_rows(_lines(text))
        return
    form, names = _form(path, first, image_column, caption_column)
    if form.width and not caption_column:
        if unused := caption_columns.unused_columns(
            names, (*form.captions, form.image)
        ):
            counts[caption_columns.describe_unused(unused)] += len(unused)
    if form.width and (
        splits := caption_columns.splits(names, (*form.captions, form.image))
    ):
        counts[caption_json.SPLIT.format(", ".join(splits))] += len(splits)
    # Tables with other delimiters quote every field or none.
    quoted = form.delimiter in ",;" or first.startswith('"')
    rows = _csv(path, text, form.delimiter) if quoted else _split(text, form)
    if form.width:
        next(rows)
    for row, raw in rows:
        image = row[form.image] if form.image < len(row) else ""
        yield image.strip(), _captions(row, raw, form, counts)


def _captions(
    row: list[str], raw: list[str], form: Form, counts: Counts
) -> list[Any] | None:
    """Returns a row's captions; None if it has no such field, or too many fields.

    raw: the row's unparsed lines, [] if the table has no quotes.
    """
    if len(row) == form.width:
        return [row[i] for i in form.captions]
    delimiter = form.delimiter
    columns = form.captions or (2 if form.numbered else 1,)
    if delimiter == "|" and len(row) == 2 and columns == (2,):
        return flickr_tables.without_second_bar(row[1])
    last = max(columns)
    if len(row) < 2:
        return None
    if not form.width and not raw:
        if len(row) > last + 1:
            counts[SEVERAL] += 1
        return row[last:] or None
    width = form.width or last + 1
    extra = row[width:]
    while extra and not extra[-1].strip():
        extra.pop()
    if not extra:
        captions = [row[i] for i in columns if i < len(row)]
        return captions or None
    if last != width - 1:
        return None  # which field is superfluous is unknown
    captions = [row[i] for i in columns if i < last]
    return captions + _rest(
        row[last : width + len(extra)], raw, last, delimiter, counts
    )


def _rest(
    fields: list[str], raw: list[str], first: int, delimiter: str, counts: Counts
) -> list[str]:
    """Returns the captions in the last fields of a row with more fields than columns.

    Quoted fields are a caption each. Others are one caption that contains unquoted
    delimiters. first: the index of the first of these fields in the row.
    """
    parsed = _fields("".join(raw).rstrip("\r\n"), delimiter)[first:] if raw else []
    while parsed and not parsed[-1][0].strip():
        parsed.pop()
    prose = any(not quoted and text[:1] == " " for text, quoted in parsed[1:])
    if any(quoted for _, quoted in parsed) and not prose:
        return [text for text, _ in parsed]
    if any(field[:1] not in (" ", "") for field in fields[1:]):
        counts[JOINED] += 1
    return [delimiter.join(fields)]


def _fields(raw: str, delimiter: str) -> list[tuple[str, bool]]:
    """Returns (text, whether quoted) per field; white space may precede quotes."""
    stop = re.escape(delimiter)
    field = re.compile(
        rf'[^\S{stop}]*"((?:[^"]|"")*)"[^\S{stop}]*(?={stop}|\Z)|([^{stop}]*)',
        re.DOTALL,
    )
    fields, position = [], 0
    while True:
        match = field.match(raw, position)
        assert match  # its second form matches the empty text, too
        quoted = match[1] is not None
        fields.append((match[1].replace('""', '"') if quoted else match[2], quoted))
        position = match.end() + 1
        if position > len(raw):
            return fields


def _form(
    path: pathlib.Path, first: str, image_column: str, caption_column: str
) -> tuple[Form, list[str]]:
    """Returns a table's form, by its first line; and its header, [] without one."""
    for delimiter in DELIMITERS:
        names = [_plain(word) for word in first.split(delimiter)]
        image = caption_columns.find(names, image_column, local.IMAGE_HEADERS)
        groups = caption_columns.captions(names, caption_column)
        if image is not None and groups:
            return Form(delimiter, image, tuple(groups[0]), len(names)), names
    if not (image_column or caption_column):
        for delimiter in DELIMITERS:
            name, separator, _ = first.partition(delimiter)
            if _plain(name).lower().startswith(("http://", "https://")):
                break
            if separator and _plain(name).lower().endswith(local.IMAGE_SUFFIXES):
                fields = first.split(delimiter)
                numbered = len(fields) > 2 and _plain(fields[1]).isdigit()
                return Form(delimiter, numbered=numbered), []
    raise caption_json.no_columns(
        path, repr(first[:80]), image_column, caption_column, "line"
    )


def _plain(word: str) -> str:
    return word.strip().strip('"').strip()


def _lines(text: str) -> Iterator[str]:
    """Yields lines that are not blank. Only \\n ends one, as captions hold others."""
    for line in text.split("\n"):
        if line.strip():
            yield line.rstrip("\r")


def _split(text: str, form: Form) -> Iterator[tuple[list[str], list[str]]]:
    """Yields (row, []) per row of a table without quotes, in the form of `_csv`."""
    delimiter = form.delimiter
    for line in _lines(text):
        fields = line.split(delimiter)
        if delimiter == "|":  # the last column may contain it
            width = form.width or (3 if form.numbered else 0)
            fields = line.split(delimiter, width - 1)
        yield [_unquoted(f) if delimiter == "\t" else f for f in fields], []


def _unquoted(field: str) -> str:
    """Removes quotes around a field that has doubled quotes in it.

    Programs write a field with quotes so. Other fields stay unchanged, because most
    tables with tabs quote nothing.
    """
    match = QUOTED.fullmatch(field.strip()) if '""' in field else None
    return match[1].replace('""', '"') if match and match[1] else field


def _csv(
    path: pathlib.Path, text: str, delimiter: str
) -> Iterator[tuple[list[str], list[str]]]:
    """Yields (row, its unparsed lines) of a table with quotes.

    The list of lines is valid until the next row.
    """
    # StringIO takes four bytes per character.
    raw = io.BytesIO(text.encode("utf-8", "surrogatepass"))
    lines = io.TextIOWrapper(raw, "utf-8", "surrogatepass", newline="")
    row_lines: list[str] = []  # of the row that is being read

    def recorded() -> Iterator[str]:
        for line in lines:
            row_lines.append(line)
            yield line

    reader = csv.reader(recorded(), delimiter=delimiter)
    number = 1
    try:
        for row in reader:
            if any(NEXT_ROW.search(field) for field in row if "\n" in field):
                raise UserError(f"{path}, line {number}: a quote is never closed")
            if row:
                yield row, row_lines
            row_lines.clear()
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {number}: not a CSV row ({error})") from error
