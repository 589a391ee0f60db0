"""Reads ARO's parts of images, each with a right and a wrong caption (2210.01936).

PATH/visual_genome_relation.json and PATH/visual_genome_attribution.json, or one of
them, with PATH/images/*.jpg. A choice's box of its image is an example, with the right
caption; `choices` has the wrong ones too, for evals=caption_choice.

    python -m clipjax.evaluate --model X --evals=caption_choice \\
        --data=aro --data.path=FOLDER --data.split=test
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from clipjax import paths
from clipjax.data.annotations import boxed_choices, image_list
from clipjax.data.annotations.boxed_choices import (
    ATTRIBUTION,
    FILES,
    RELATION,
    BoxedChoice,
)
from clipjax.data.images import decoding
from clipjax.data.storage import file_contents, local
from clipjax.types import BadExample, Example, UserError

FOLDERS = ("images", ".")
PARTS = {"relation": RELATION, "attribution": ATTRIBUTION}


def make(split: str, *, path: str = "", part: str = "", images: str = "") -> Boxes:
    """Reads the lists; images are read on access.

    Options:
      path: the folder of the lists and the images.
      part: "relation" or "attribution"; "" takes the lists that are there.
      images: folder of the images, relative to `path`; "" finds `images`.

    Raises UserError for another split than "test", missing files and a list of another
    form.
    """
    local.check_split("aro", split, "test")
    if part and part not in PARTS:
        raise UserError(f"data=aro: part={part!r}: use {' or '.join(PARTS)}")
    base = local.folder(path, "ARO's lists and images")
    wanted = [PARTS[part]] if part else list(FILES)
    kinds = [kind for kind in wanted if (base / FILES[kind]).is_file()]
    if not kinds:
        names = " or ".join(FILES[kind] for kind in wanted)
        raise UserError(
            f"{base} has no {names} ({file_contents.summary(base)}): put ARO's lists "
            "there, beside its folder images"
        )
    found = [
        boxed
        for kind in kinds
        for boxed in boxed_choices.read(base / FILES[kind], kind)
    ]
    names = list(dict.fromkeys(boxed.choice.image for boxed in found))
    table = base / FILES[kinds[0]]
    folder = image_list.find_images(base, images, names, table, FOLDERS)
    return Boxes(folder, found)


class Boxes:
    """A `clipjax.types.Source` of boxes of images.

    folder: of the images. choices: one per example.
    """

    def __init__(self, folder: pathlib.Path, found: Sequence[BoxedChoice]):
        self._folder = folder
        self._boxes = np.array([boxed.box for boxed in found])
        self.choices = [boxed.choice for boxed in found]
        self.caption_counts = np.ones(len(found), np.int32)
        self.max_captions = 1
        self.class_names: dict[str, list[str]] = {}
        self.templates: dict[str, tuple[str, ...]] = {}
        self.problems: list[str] = []

    def __len__(self) -> int:
        return len(self.choices)

    def __getitem__(self, index: int) -> Example:
        """Reads one image and cuts the box out of it; raises BadExample, naming it, if
        it cannot be read or has less than half of the box.

        The box is in the upright picture. As in ARO's own code, what it has beyond the
        picture is black.
        """
        key = self.key_of(index)
        data = local.read_bytes(self._folder / self.choices[index].image, key)
        try:
            picture = decoding.decode(data)
        except BadExample as error:
            raise BadExample(error.reason, key) from error
        left, top, width, height = self._boxes[index].tolist()
        edges = left, top, left + width, top + height
        left, top, right, bottom = map(round, edges)
        wide = min(right, picture.width) - max(left, 0)
        high = min(bottom, picture.height) - max(top, 0)
        area = (right - left) * (bottom - top)
        if wide <= 0 or high <= 0 or 2 * wide * high < area:
            raise BadExample(
                f"its box of {width:g} x {height:g} pixels at ({left:g}, {top:g}) is "
                f"out of the image, which has {picture.width} x {picture.height}",
                key,
            )
        box = picture.crop((left, top, right, bottom))
        return Example(np.asarray(box), self.captions_of(index), key=key)

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Returns an example's right caption without reading its image."""
        return self.choices[local.position(index, len(self))].captions[:1]

    def key_of(self, index: int) -> str:
        """Returns an example's key without reading its image."""
        choice = self.choices[local.position(index, len(self))]
        return paths.readable(f"{choice.kind}/{choice.number}/{choice.image}")
