"""Caption tables: which captions belong to which image, from the usual text forms.

Four forms are known, told apart by their first line:
- delimited by tab, bar, comma or semicolon, with or without a header (`image,caption`
  of Flickr8k, `image_name| comment_number| comment` of Flickr30k); quotes around what
  holds delimiters or lines count only with commas and semicolons;
- `name.jpg#0<TAB>caption` (Flickr8k.token.txt, results_20130124.token);
- JSON lines, `{"image": "a.jpg", "caption": "..."}` or `"captions": ["...", ...]`, or a
  JSON list of the same (BLIP's and LLaVA's captions).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from clipjax.data import files
from clipjax.types import UserError

IMAGE_HEADERS = (
    *("image", "image_name", "file_name", "filename", "filepath", "file", "img"),
    *("image_path", "path", "name", "key"),
)
JSON_LINES = (".jsonl", ".ndjson")
JSON_LIST = re.compile(r"\[\s*(\{|\Z)")
CAPTION_HEADERS = ("caption", "comment", "text", "title", "description", "sentence")
JSON_CAPTIONS = ("captions", *CAPTION_HEADERS)
LOOKED_AT = 100  # lines of JSON, for one that has both an image and a caption

# How surrogateescape marks bytes that are not UTF-8; JSON can spell the others too.
NOT_UTF8 = re.compile("[\ud800-\udfff]")
TOKEN_NAME = re.compile(r"(\S.*?)#\d")
TOKEN_LINE = re.compile(r"(\S.*?)#\d+\t(.*)", re.DOTALL)
# Flickr30k's results.csv has a row without its second bar: "4   A dog runs ...".
LOST_BAR = re.compile(r"\s*\d+\s+(\S.*)", re.DOTALL)
NEXT_ROW = re.compile(r"\n[^,;\n\"]+\.(jpe?g|png|webp)[,;]", re.IGNORECASE)
QUOTED = re.compile(r'"((?:[^"]|"")*)"', re.DOTALL)
ADDRESS = re.compile(r"https?://|\burl\b", re.IGNORECASE)
DELIMITERS = "\t|,;"


@dataclasses.dataclass(slots=True)
class Entry:
    """One image of a table: its captions, and why it is broken ("" where it is not).

    rows: how many captions the table means it to have, broken ones included.
    """

    captions: list[str] = dataclasses.field(default_factory=list)
    rows: int = 0
    fault: str = ""

    def add(self, caption: Any) -> bool:
        """Adds a caption; one that is no text marks the entry. False for an empty one,
        which is left out.
        """
        if not isinstance(caption, str):
            self.fault = f"a caption is not text but {json.dumps(caption)[:40]}"
        elif NOT_UTF8.search(caption):
            self.fault = "a caption is not UTF-8 text"
        elif not caption.strip():
            return False
        else:
            self.captions.append(caption.strip())
        self.rows += 1
        return True

    def mark(self, fault: str) -> None:
        """Counts a caption that is missing."""
        self.fault = fault
        self.rows += 1


def read(
    path: pathlib.Path, image_column: str, caption_column: str
) -> tuple[dict[str, Entry], list[str]]:
    """Returns (image name -> entry, in the order of first mention; problems in words).

    image_column, caption_column: names in the header; "" finds the usual ones.
    Raises UserError for a table that is empty, has no such columns, is UTF-16, or has a
    quote that is never closed. A row that is merely broken marks its own image.
    """
    raw = files.content(path)
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path} is UTF-16 text: save it as UTF-8")
    # Bytes that are not UTF-8 become surrogates, so that they mark their row alone.
    text = raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    if not text.strip():
        raise UserError(f"the caption table {path} is empty")
    entries: dict[str, Entry] = {}
    nameless = empty = 0
    for name, caption in _rows(path, text, image_column, caption_column):
        stray = caption is None and not name.lower().endswith(files.IMAGE_SUFFIXES)
        if not name or stray:
            nameless += 1
            continue
        entry = entries.setdefault(name, Entry())
        if caption is None:
            entry.mark("a row of the caption table has no caption field, or too many")
        elif not entry.add(caption):
            empty += 1
    if not entries:
        raise UserError(f"the caption table {path} names no images")
    problems = []
    if nameless:
        problems.append(f"{nameless} rows that name no image, left out")
    if empty:
        problems.append(f"{empty} empty captions, left out")
    if broken := sum(1 for entry in entries.values() if entry.fault):
        problems.append(f"{broken} images with a caption that cannot be read")
    return entries, problems


def _rows(
    path: pathlib.Path, text: str, image_column: str, caption_column: str
) -> Iterator[tuple[str, Any]]:
    """(image name, caption) of each row; the caption is None where it is missing."""
    first = text.lstrip("\r\n").split("\n", 1)[0].rstrip("\r")
    listed = path.suffix.lower() == ".json" or JSON_LIST.match(text.lstrip())
    if listed or path.suffix.lower() in JSON_LINES or first.startswith("{"):
        yield from _json_rows(path, text, image_column, caption_column)
        return
    if TOKEN_LINE.fullmatch(first) and not (image_column or caption_column):
        for line in _lines(text):
            if match := TOKEN_LINE.fullmatch(line):
                yield match[1].strip(), match[2].strip()
            else:
                match = TOKEN_NAME.match(line)
                yield (match[1].strip() if match else ""), None
        return
    delimiter, header = _dialect(path, first, image_column, caption_column)
    quoted = delimiter in ",;" or first.startswith('"')  # in the others, all or none
    rows = _csv(path, text, delimiter) if quoted else _split(text, delimiter)
    width = len(next(rows)) if header else 0
    for row in rows:
        if header is None and not width and delimiter in ",;":  # name, number?, caption
            width = 3 if len(row) > 2 and row[1].strip().isdigit() else 2
        image_at, caption_at = header or (0, width - 1)
        while width and len(row) > width and not row[-1].strip():
            row.pop()
        name = row[image_at].strip() if image_at < len(row) else ""
        if delimiter == "|" and len(row) == 2 and (header or (0, 2)) == (0, 2):
            match = LOST_BAR.fullmatch(row[1])
            caption = match[1] if match else None
        elif caption_at >= len(row) or len(row) < 2:
            caption = None
        elif 0 < width < len(row):
            caption = _rest(row, caption_at, width, delimiter)
        else:
            caption = row[caption_at]
        yield name, caption.strip() if isinstance(caption, str) else caption


def _rest(row: list[str], caption_at: int, width: int, delimiter: str) -> str | None:
    """The caption of a row with more fields than columns: one that holds delimiters
    without being quoted, or whose quotes come after a space. None where it is not the
    last column, so that no one can tell.
    """
    if caption_at != width - 1:
        return None
    caption = delimiter.join(row[caption_at:]).strip()
    match = QUOTED.fullmatch(caption)
    return match[1].replace('""', '"') if match else caption


def _json_rows(
    path: pathlib.Path, text: str, image_column: str, caption_column: str
) -> Iterator[tuple[str, Any]]:
    """As `_rows`, of JSON; ("", None) for a line or item that is no object."""
    waiting: list[Any] = []  # until one has both columns: a field may be missing
    known = False
    for row in _items(path, text):
        columns = list(row) if isinstance(row, dict) else []
        image_at = _column(columns, image_column, IMAGE_HEADERS)
        caption_at = _column(columns, caption_column, JSON_CAPTIONS)
        known = known or (image_at is not None and caption_at is not None)
        waiting.append((row, image_at, caption_at))
        if known:
            for one in waiting:
                yield from _json_row(*one)
            waiting = []
        elif len(waiting) == LOOKED_AT:
            break
    if not known:
        objects = [row for row, _, _ in waiting if isinstance(row, dict)]
        if not objects:
            raise UserError(f"{path}: none of its lines or items is a JSON object")
        line = json.dumps(objects[0], ensure_ascii=False)
        raise _no_columns(path, line, image_column, caption_column)


def _json_row(
    row: Any, image_at: int | None, caption_at: int | None
) -> Iterator[tuple[str, Any]]:
    if not isinstance(row, dict):
        yield "", None
        return
    values = list(row.values())
    name = None if image_at is None else values[image_at]
    name = name.strip() if isinstance(name, str) else ""
    found = None if caption_at is None else values[caption_at]
    if caption_at is not None and found in (None, []):
        found = ""  # said to be none, where a missing field is a fault
    for caption in found if isinstance(found, list) else [found]:
        lost = caption is None and isinstance(found, list)
        yield name, [caption] if lost else caption  # a null among others: no text


def _items(path: pathlib.Path, text: str) -> Iterator[Any]:
    """What each line of JSON lines holds, or a JSON list; None for a broken line."""
    if text.lstrip().startswith("["):
        try:
            yield from json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not JSON, or cut off: {error}") from error
        return
    for line in _lines(text):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            yield None


def _dialect(
    path: pathlib.Path, first: str, image_column: str, caption_column: str
) -> tuple[str, tuple[int, int] | None]:
    """(delimiter, columns of image and caption by header, or None without a header)."""
    for delimiter in DELIMITERS:
        columns = [_plain(word) for word in first.split(delimiter)]
        image_at = _column(columns, image_column, IMAGE_HEADERS)
        caption_at = _column(columns, caption_column, CAPTION_HEADERS)
        if image_at is not None and caption_at is not None:
            return delimiter, (image_at, caption_at)
    if not (image_column or caption_column):
        for delimiter in DELIMITERS:
            name, found, _ = first.partition(delimiter)
            if _plain(name).lower().startswith(("http://", "https://")):
                break
            if found and _plain(name).lower().endswith(files.IMAGE_SUFFIXES):
                return delimiter, None
    raise _no_columns(path, first, image_column, caption_column)


def _no_columns(
    path: pathlib.Path, line: str, image_column: str, caption_column: str
) -> UserError:
    if not image_column and ADDRESS.search(line):
        return UserError(f"{path} {files.ADDRESSES}")
    if image_column or caption_column:
        return UserError(
            f"{path}: no columns {image_column or 'for images'!r} and "
            f"{caption_column or 'for captions'!r}; its first line is {line[:80]!r}"
        )
    return UserError(
        f"{path}: cannot tell the image and caption columns from its first line "
        f"{line[:80]!r}; set the options image_column and caption_column"
    )


def _column(columns: list[str], wanted: str, usual: tuple[str, ...]) -> int | None:
    """Where the wanted column is, or without a wish the first of the usual names."""
    if wanted:
        return columns.index(wanted) if wanted in columns else None
    lowered = [column.lower() for column in columns]
    return next((lowered.index(name) for name in usual if name in lowered), None)


def _plain(word: str) -> str:
    return word.strip().strip('"').strip()


def _lines(text: str) -> Iterator[str]:
    """Lines that hold something; only \\n ends a line, as captions hold others."""
    for line in text.split("\n"):
        if line.strip():
            yield line.rstrip("\r")


def _split(text: str, delimiter: str) -> Iterator[list[str]]:
    for line in _lines(text):
        fields = line.split(delimiter, 2 if delimiter == "|" else -1)
        yield [_doubled(field) if delimiter == "\t" else field for field in fields]


def _doubled(field: str) -> str:
    """A field without the quotes that programs put around one that holds some, which
    are then doubled; anything else as it is, since most such tables quote nothing.
    """
    match = QUOTED.fullmatch(field.strip()) if '""' in field else None
    return match[1].replace('""', '"') if match and match[1] else field


def _csv(path: pathlib.Path, text: str, delimiter: str) -> Iterator[list[str]]:
    raw = io.BytesIO(text.encode("utf-8", "surrogatepass"))  # StringIO: four a letter
    lines = io.TextIOWrapper(raw, "utf-8", "surrogatepass", newline="")
    reader = csv.reader(lines, delimiter=delimiter)
    line = 1
    try:
        for row in reader:
            if any(NEXT_ROW.search(field) for field in row if "\n" in field):
                raise UserError(f"{path}, line {line}: a quote is never closed")
            if row:
                yield row
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: not a CSV row ({error})") from error
