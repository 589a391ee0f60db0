"""Caption tables: which captions belong to which image, from the usual text forms.

Three forms are known, told apart by their beginning:
- delimited by tab, bar, comma or semicolon, with or without a header (`image,caption`
  of Flickr8k, `image_name| comment_number| comment` of Flickr30k); quotes around what
  holds delimiters or lines count only with commas and semicolons;
- `name.jpg#0<TAB>caption`, see flickr_tables.py;
- JSON: clipjax/data/annotations/caption_json.py says which, and MS-COCO's form.

An image may have several captions: in rows of its own, in several columns
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
    """How a delimited table is written: columns of image and captions by its header.

    width: how many columns there are; 0 without a header, and then the captions are
    what follows the image's name, or the number (`numbered`) after it.
    """

    delimiter: str
    image: int = 0
    captions: tuple[int, ...] = ()
    width: int = 0
    numbered: bool = False


def read(
    path: pathlib.Path, image_column: str, caption_column: str
) -> tuple[dict[str, Entry], list[str]]:
    """Returns (image name -> entry, in the order of first mention; problems in words).

    image_column, caption_column: names in the header; "" finds the usual ones, and
    `caption_*` takes all columns that are called so. Raises UserError for a table that
    is empty, has no such columns, is UTF-16 or compressed, or has a quote that is never
    closed. A row that is merely broken marks its own image.
    """
    raw = local.content(path)
    if what := file_contents.other(raw):
        raise UserError(f"{path} is no table of text, but {what}")
    # Bytes that are not UTF-8 become surrogates, so that they mark their row alone.
    text = raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    if not text.strip():
        raise UserError(f"the caption table {path} is empty")
    counts = Counts()
    if caption_json.holds_json(path, text):
        found = caption_json.parse(path, text)
        if coco_json.is_coco(found):
            return coco_json.read(path, found)
        rows = caption_json.rows(path, found, image_column, caption_column, counts)
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
            + "".join(f" ({n} {what})" for what, n in counts.items())
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
    """(image name, captions) of each row; None as captions if they are missing."""
    first = text.lstrip("\r\n").split("\n", 1)[0].rstrip("\r")
    if flickr_tables.is_token(first) and not (image_column or caption_column):
        yield from flickr_tables.token_rows(_lines(text))
        return
    form, names = _form(path, first, image_column, caption_column)
    if form.width and not caption_column:
        if left := caption_columns.unused(names, (*form.captions, form.image)):
            counts[caption_columns.not_used(left)] += len(left)
    if form.width and (
        said := caption_columns.splits(names, (*form.captions, form.image))
    ):
        counts[caption_json.SPLIT.format(", ".join(said))] += len(said)
    quoted = form.delimiter in ",;" or first.startswith('"')  # in the others, all/none
    rows = _csv(path, text, form.delimiter) if quoted else _split(text, form)
    if form.width:
        next(rows)
    for row, raw in rows:
        image = row[form.image] if form.image < len(row) else ""
        yield image.strip(), _captions(row, raw, form, counts)


def _captions(
    row: list[str], raw: list[str], form: Form, counts: Counts
) -> list[Any] | None:
    """The captions of a row; None if it has no such field, or too many fields.

    raw: the row's lines as they stand in the file, [] if it quotes nothing.
    """
    if len(row) == form.width:
        return [row[i] for i in form.captions]
    delimiter = form.delimiter
    places = form.captions or (2 if form.numbered else 1,)
    if delimiter == "|" and len(row) == 2 and places == (2,):
        return flickr_tables.without_second_bar(row[1])
    last = max(places)
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
        found = [row[i] for i in places if i < len(row)]
        return found or None
    if last != width - 1:
        return None  # no one can tell which field is one too many
    found = [row[i] for i in places if i < last]
    return found + _rest(row[last : width + len(extra)], raw, last, delimiter, counts)


def _rest(
    fields: list[str], raw: list[str], first: int, delimiter: str, counts: Counts
) -> list[str]:
    """The captions in the last fields of a row that has more of them than columns.

    Quoted ones are a caption each. Otherwise it is one caption that holds delimiters
    without being quoted. first: the place of these fields in the row.
    """
    again = _fields("".join(raw).rstrip("\r\n"), delimiter)[first:] if raw else []
    while again and not again[-1][0].strip():
        again.pop()
    prose = any(not quoted and text[:1] == " " for text, quoted in again[1:])
    if any(quoted for _, quoted in again) and not prose:
        return [text for text, _ in again]
    if any(field[:1] not in (" ", "") for field in fields[1:]):
        counts[JOINED] += 1
    return [delimiter.join(fields)]


def _fields(raw: str, delimiter: str) -> list[tuple[str, bool]]:
    """The fields of a row, and whether each is quoted, also after white space."""
    stop = re.escape(delimiter)
    field = re.compile(
        rf'[^\S{stop}]*"((?:[^"]|"")*)"[^\S{stop}]*(?={stop}|\Z)|([^{stop}]*)',
        re.DOTALL,
    )
    found, at = [], 0
    while True:
        match = field.match(raw, at)
        assert match  # its second form matches nothing as well
        quoted = match[1] is not None
        found.append((match[1].replace('""', '"') if quoted else match[2], quoted))
        at = match.end() + 1
        if at > len(raw):
            return found


def _form(
    path: pathlib.Path, first: str, image_column: str, caption_column: str
) -> tuple[Form, list[str]]:
    """How a table is written, by its first line; and its header, [] without one."""
    for delimiter in DELIMITERS:
        names = [_plain(word) for word in first.split(delimiter)]
        image = caption_columns.find(names, image_column, local.IMAGE_HEADERS)
        groups = caption_columns.captions(names, caption_column)
        if image is not None and groups:
            return Form(delimiter, image, tuple(groups[0]), len(names)), names
    if not (image_column or caption_column):
        for delimiter in DELIMITERS:
            name, found, _ = first.partition(delimiter)
            if _plain(name).lower().startswith(("http://", "https://")):
                break
            if found and _plain(name).lower().endswith(local.IMAGE_SUFFIXES):
                fields = first.split(delimiter)
                numbered = len(fields) > 2 and _plain(fields[1]).isdigit()
                return Form(delimiter, numbered=numbered), []
    raise caption_json.no_columns(
        path, repr(first[:80]), image_column, caption_column, "line"
    )


def _plain(word: str) -> str:
    return word.strip().strip('"').strip()


def _lines(text: str) -> Iterator[str]:
    """Lines that hold something; only \\n ends a line, as captions hold others."""
    for line in text.split("\n"):
        if line.strip():
            yield line.rstrip("\r")


def _split(text: str, form: Form) -> Iterator[tuple[list[str], list[str]]]:
    """The rows of a table that quotes nothing, with [] for `_csv`'s second value."""
    delimiter = form.delimiter
    for line in _lines(text):
        fields = line.split(delimiter)
        if delimiter == "|":  # which the last column may hold
            width = form.width or (3 if form.numbered else 0)
            fields = line.split(delimiter, width - 1)
        yield [_doubled(f) if delimiter == "\t" else f for f in fields], []


def _doubled(field: str) -> str:
    """A field without the quotes that programs put around one that holds some, which
    are then doubled; anything else as it is, since most such tables quote nothing.
    """
    match = QUOTED.fullmatch(field.strip()) if '""' in field else None
    return match[1].replace('""', '"') if match and match[1] else field


def _csv(
    path: pathlib.Path, text: str, delimiter: str
) -> Iterator[tuple[list[str], list[str]]]:
    """The rows of a table with quotes, and the lines of each as they stand in the file,
    until the next is asked for.
    """
    raw = io.BytesIO(text.encode("utf-8", "surrogatepass"))  # StringIO: four a letter
    lines = io.TextIOWrapper(raw, "utf-8", "surrogatepass", newline="")
    seen: list[str] = []  # of the row that is being read

    def watched() -> Iterator[str]:
        for line in lines:
            seen.append(line)
            yield line

    reader = csv.reader(watched(), delimiter=delimiter)
    number = 1
    try:
        for row in reader:
            if any(NEXT_ROW.search(field) for field in row if "\n" in field):
                raise UserError(f"{path}, line {number}: a quote is never closed")
            if row:
                yield row, seen
            seen.clear()
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {number}: not a CSV row ({error})") from error
