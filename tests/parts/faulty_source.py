"""`data=parts.faulty_source`: scenes of which every so many cannot be read."""

from __future__ import annotations

import dataclasses

from clipjax.data.sources import scenes
from clipjax.types import BadExample


class Faulty(scenes.Scenes):
    nth = 0

    def __getitem__(self, index):
        if self.nth and index % self.nth == 0:
            raise BadExample("it was made so")
        return super().__getitem__(index)


class Silent(scenes.Scenes):
    """Without captions."""

    max_captions = 0

    def __getitem__(self, index):
        return dataclasses.replace(super().__getitem__(index), captions=())


def make(
    split: str,
    *,
    size: int = 160,
    eval_size: int = 32,
    nth: int = 0,
    captions: bool = True,
) -> scenes.Scenes:
    kind = Faulty if captions else Silent
    made = kind(split, 0, size if split == "train" else eval_size, 16)
    made.nth = nth
    if not captions:
        made.caption_counts[:] = 0
    return made
