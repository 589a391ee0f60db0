"""A page of photos: one file, its thumbnails inside, that needs no script."""

from __future__ import annotations

import base64
import dataclasses
import io
import os
import pathlib
import statistics
from collections.abc import Sequence
from concurrent import futures

from PIL import Image

from clipjax import atomic_files, paths
from clipjax.data.images import decoding
from clipjax.search_index import photo_reading
from clipjax.search_index.photo_table import Row, readable
from clipjax.types import BadExample, UserError

SIDE = 480  # pixels of a thumbnail's longer side, sharp on a phone's two columns
_QUALITY = 78
_TEMPLATE = pathlib.Path(__file__).with_name("photo_gallery.html")


@dataclasses.dataclass(frozen=True)
class Card:
    """A photo on the page. notes: a few words each, below its name. share: in [0, 1],
    the length of a bar, None for none. badge: a few characters on the picture.
    """

    row: Row
    notes: Sequence[str] = ()
    badge: str = ""
    share: float | None = None


@dataclasses.dataclass(frozen=True)
class Section:
    """Photos below a heading, "" for none."""

    cards: Sequence[Card]
    heading: str = ""


@dataclasses.dataclass(frozen=True)
class Words:
    """A part of a page's title. kind: "plus", "minus" or "plain"."""

    text: str
    kind: str = "plain"


def check(html: str) -> pathlib.Path:
    """The place of a page, which replaces one that is there.

    html: as the user wrote it.

    Raises UserError if it cannot be written, for a name that is no page's, such as that
    of a photo, and without jinja2.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise UserError("--html needs jinja2: pip install -e '.[look]'") from error
    place = paths.file_to_write("html", html, "the page", "found.html")
    if place.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--html={html}: a page's name ends in .html")
    return place


def write(
    place: pathlib.Path,
    heading: Sequence[Words],
    sections: Sequence[Section],
    *,
    facts: Sequence[str] = (),
    empty: str = "",
) -> None:
    """Writes a page. facts: lines below the heading. empty: what the page says if
    nothing was found.
    """
    import jinja2

    cards = [card for section in sections for card in section.cards]
    with futures.ThreadPoolExecutor() as pool:
        pictures = dict(
            zip(
                (card.row.path for card in cards),
                pool.map(thumbnail, (card.row for card in cards)),
                strict=True,
            )
        )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["name"] = lambda row: readable(os.path.basename(row.path))
    common = _common([card.row for card in cards])

    def folder(row: Row) -> str:
        """Below the common one; "" for that itself."""
        inside = os.path.relpath(os.path.dirname(row.path), common or b"/")
        return "" if inside == b"." else readable(inside if common else row.path)

    environment.filters["folder"] = folder
    environment.filters["address"] = lambda row: pathlib.Path(row.name).as_uri()
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        heading=heading,
        sections=sections,
        facts=[*facts, f"in {readable(common)}"] if common else facts,
        empty=empty,
        pictures=pictures,
        shape=_shape([one[1] / one[2] for one in pictures.values() if one]),
    )
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_files.open_to_write(place) as file:
        file.write(page)


def _shape(aspects: Sequence[float]) -> float:
    """Width / height of the frames: that of most photos, which are shown whole."""
    return min(max(statistics.median(aspects or [4 / 3]), 3 / 4), 3 / 2)


def _common(rows: Sequence[Row]) -> bytes:
    """The folder that holds all photos; b"" if it is the root, or there are none."""
    folders = {os.path.dirname(row.path) for row in rows}
    return os.path.commonpath(folders).rstrip(b"/") if folders else b""


def thumbnail(row: Row) -> tuple[str, int, int] | None:
    """A photo's small JPEG as a data address, its width and height.

    None if the photo cannot be read any more.
    """
    try:
        _, data = photo_reading.read(row.path)
        picture = decoding.decode(_small(row.name, data), at_least=(2 * SIDE, 2 * SIDE))
    except (BadExample, OSError):
        return None
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    text = base64.b64encode(stream.getvalue()).decode()
    return f"data:image/jpeg;base64,{text}", picture.width, picture.height


def _small(name: str, data: bytes) -> decoding.Picture:
    """What `decode` takes: encoded bytes, which it may decode at a smaller size."""
    if photo_reading.is_raw(name):
        return photo_reading.picture(name, data)
    return data
