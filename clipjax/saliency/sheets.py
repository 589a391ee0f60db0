"""Makes a sheet of maps per image, and a table of their numbers."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax import atomic_files, paths
from clipjax.item_errors import BadItem
from clipjax.loaded import Loaded
from clipjax.saliency import overlays
from clipjax.saliency.explanation import Explanation, by_methods, heads_of_pixels
from clipjax.types import BadExample, Source

TABLE = "maps.jsonl"


class Asked(NamedTuple):
    """An image with its texts.

    image: as `explain` takes it, or why there is none. wrong: the number of a wrong
    text, -1 for none.
    """

    image: Any
    key: str
    texts: list[str]
    wrong: int


class Made(NamedTuple):
    """What was made of an image; error: why nothing was."""

    key: str
    file: str
    found: Explanation | None
    error: str = ""


def of_files(paths: Iterable[str], texts: list[str], wrong: str) -> Iterator[Asked]:
    """Each image file with the same texts and, unless it is "", a wrong one."""
    for path in paths:
        yield _asked(path, path, texts, wrong)


def of_source(source: Source, count: int, wrong: str) -> Iterator[Asked]:
    """The first examples, each with its first caption and a wrong one.

    wrong: "" for a caption of an example half the source away.
    """
    captions_of = getattr(source, "captions_of", lambda at: source[at].captions)
    size = len(source)
    for number in range(min(count, size)):
        try:
            example = source[number]
            own = list(example.captions)
            others = captions_of((number + (size + 1) // 2) % size)
        except BadExample as error:
            yield Asked(error, error.key or f"example {number}", [], -1)
            continue
        other = next((text for text in others if text not in own), "")
        yield _asked(example, example.key, own[:1], wrong or other)


def _asked(image: Any, key: str, texts: list[str], wrong: str) -> Asked:
    if not wrong or wrong in texts:
        return Asked(image, key, texts, -1)
    return Asked(image, key, [*texts, wrong], len(texts))


def make(
    clip: Loaded,
    asked: Iterable[Asked],
    methods: Sequence[str],
    out: pathlib.Path,
    size: int,
) -> Iterator[Made]:
    """Writes a PNG per image, of which each method has a row, and TABLE.

    The table has a line per sheet: its image, file and texts with cosine, words and
    map; it replaces the one of an earlier call when all sheets are made.
    """
    out.mkdir(parents=True, exist_ok=True)
    with atomic_files.open_to_write(out / TABLE) as table:
        for number, one in enumerate(asked):
            try:
                if isinstance(one.image, BadExample):
                    raise one.image
                if not one.texts:
                    raise BadExample("it has no caption")
                found = by_methods(clip, one.image, one.texts, methods)
            except (BadItem, BadExample) as error:
                reason = getattr(error, "reason", str(error))
                yield Made(one.key, "", None, reason)
                continue
            rows = []
            for each in found:
                tiles = each.tiles(0, one.wrong)
                if each.method == "attention":
                    tiles = _head_tiles(heads_of_pixels(clip, each.pixels)[0])
                rows += overlays.rows(each.method, tiles)
            file = f"{number:05d}_{_stem(one.key)}.png"
            picture = overlays.sheet(found[0].pixels[0], rows, size)
            with atomic_files.open_to_write(out / file, "wb", sync=False) as stream:
                picture.save(stream, "PNG", optimize=True)
            table.write(json.dumps(_line(one, file, found), ensure_ascii=False) + "\n")
            yield Made(one.key, file, found[0])


def _head_tiles(heads: np.ndarray) -> list[overlays.Tile]:
    return [
        overlays.Tile(values, ["head", str(number)], np.zeros(2))
        for number, values in enumerate(heads, start=1)
    ]


def _line(one: Asked, file: str, found: Sequence[Explanation]) -> dict[str, Any]:
    texts = [
        {
            "text": text,
            "wrong": number == one.wrong,
            "cosine": round(float(found[0].similarity[0, number]), 6),
            "words": [
                [word, round(float(share), 6)]
                for word, share in zip(
                    found[0].words[number][0], found[0].words[number][1][0], strict=True
                )
            ],
            "maps": {
                each.method: np.round(each.maps[0, number].astype(float), 6).tolist()
                for each in found
            },
        }
        for number, text in enumerate(one.texts)
    ]
    return {"image": paths.readable(one.key), "file": file, "texts": texts}


def _stem(key: str) -> str:
    """A key's last part as it may be in any file name, of at most 80 bytes."""
    plain = re.sub(r"[^\w.-]+", "_", pathlib.PurePath(key).stem)
    return plain.encode()[-80:].decode(errors="ignore")
