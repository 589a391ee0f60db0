"""Galleries of a retrieval: hits and misses in both directions, with ranks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from clipjax.report_parts.example_source import Examples, spread
from clipjax.report_parts.page import Answer, Card, Gallery
from clipjax.report_parts.thumbnails import Pictures
from clipjax.types import Rows

SHOWN = 5  # answers per query
DIRECTIONS = ("image_to_text", "text_to_image")


class _Side(NamedTuple):
    """One direction's rows of the first protocol: the places in the table."""

    rows: Rows
    at: np.ndarray


def is_retrieval(rows: Rows) -> bool:
    needed = {"direction", "protocol", "query", "captions", "right", "rank"}
    return needed <= rows.keys()


def galleries(
    rows: Rows, examples: Examples | None, pictures: Pictures, most: int
) -> list[Gallery]:
    """Hits and misses of both directions, and the hardest queries.

    most: cards in each gallery.
    """
    sides = {name: _side(rows, name) for name in DIRECTIONS}
    keys = {
        int(rows["query"][at]): str(rows["key"][at])
        for at in sides["image_to_text"].at.tolist()
    }
    texts = {
        int(rows["query"][at]): str(next(iter(rows["captions"][at]), ""))
        for at in sides["text_to_image"].at.tolist()
    }
    shown = _Shown(rows, keys, texts, examples, pictures)
    words = {
        "image_to_text": "Image to captions",
        "text_to_image": "Caption to images",
    }
    found = []
    for name, side in sides.items():
        ranks = np.asarray(rows["rank"])[side.at]
        hits = side.at[ranks == 1]
        misses = side.at[ranks > 1]
        hard = side.at[np.argsort(-ranks, kind="stable")][: min(most, len(misses))]
        left = np.setdiff1d(misses, hard)
        for what, chosen in (
            ("hits", _few(hits, most)),
            ("misses", _few(left, most)),
            ("hardest", hard.tolist()),
        ):
            share = {"hits": len(hits), "misses": len(misses)}.get(what)
            of = "" if share is None else f" ({share:,} of {len(side.at):,})"
            cards = [shown.card(at, name) for at in chosen]
            if cards:
                found.append(Gallery(cards, f"{words[name]}: {what}{of}"))
    return found


class _Shown:
    """Makes the cards."""

    def __init__(
        self,
        rows: Rows,
        keys: dict[int, str],
        texts: dict[int, str],
        examples: Examples | None,
        pictures: Pictures,
    ):
        self._rows, self._keys, self._texts = rows, keys, texts
        self._examples, self._pictures = examples, pictures

    def card(self, at: int, direction: str) -> Card:
        rows = self._rows
        rank = float(rows["rank"][at])
        right = set(_numbers(rows["right"][at]))
        best = [x for x in _numbers(rows["neighbours"][at]) if x >= 0][:SHOWN]
        mark = "right" if rank == 1 else "wrong"
        words = f"rank {rank:g}"
        said = [str(text) for text in rows["captions"][at]]
        if direction == "image_to_text":
            picture = self._picture(int(rows["query"][at]))
            answers = [
                Answer(_mark(x in right), self._texts.get(x, f"caption {x}"))
                for x in best[:3]
            ]
            return Card(picture, said[:1], words, mark, answers)
        own = [x for x in right if x not in best][:1]
        answers = [self._image(x, x in right, number) for number, x in enumerate(best)]
        answers += [self._image(x, True, round(rank) - 1) for x in own]
        return Card("", said[:1], words, mark, answers)

    def _image(self, number: int, right: bool, place: int) -> Answer:
        return Answer(_mark(right), f"{place + 1}", self._picture(number))

    def _picture(self, number: int) -> str:
        if self._examples is None or number not in self._keys:
            return ""
        return self._examples.picture(self._pictures, self._keys[number], number)


def _side(rows: Rows, direction: str) -> _Side:
    protocols = rows["protocol"]
    first = protocols[0] if len(protocols) else ""
    kept = [
        at
        for at, (own, protocol) in enumerate(
            zip(rows["direction"], protocols, strict=True)
        )
        if own == direction and protocol == first
    ]
    return _Side(rows, np.array(kept, np.int64))


def _few(places: np.ndarray, most: int) -> list[int]:
    return [int(places[at]) for at in spread(len(places), most)]


def _numbers(values: Any) -> list[int]:
    return [int(value) for value in (values if len(values) else ())]


def _mark(right: bool) -> str:
    return "right" if right else "wrong"
