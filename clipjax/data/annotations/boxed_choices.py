"""Reads right and wrong captions of parts of images, in the form of ARO (2210.01936).

`visual_genome_relation.json` and `visual_genome_attribution.json` are lists of

    {"image_id": 1, "image_path": "1.jpg", "bbox_x": 0, "bbox_y": 0, "bbox_w": 9,
     "bbox_h": 9, "true_caption": "...", "false_caption": "...",
     "relation_name": "on", or "attributes": ["old", "red"]}

A choice belongs to a group, its relation or its pair of attributes. ARO's number is the
mean of the groups' accuracies, over a part of the groups: `counted`.
"""

from __future__ import annotations

import collections
import pathlib
from typing import Any, NamedTuple

from clipjax.data.annotations.caption_choices import OwnChoice
from clipjax.data.storage import json_files
from clipjax.types import UserError

RELATION, ATTRIBUTION = "vg_relation", "vg_attribution"
FILES = {
    RELATION: "visual_genome_relation.json",
    ATTRIBUTION: "visual_genome_attribution.json",
}
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
TEXTS = ("image_path", "true_caption", "false_caption")
_GROUPS = {RELATION: "relation_name", ATTRIBUTION: "attributes"}
_MOST = 1e9  # pixels; other numbers, and NaN, are mistakes
_LEAST = 25  # choices of a counted pair of attributes

# The relations that ARO's published number leaves out as symmetric: its notebook
# "Replicate ARO! VG-Relation, VG-Attribution.ipynb", in the repository
# mertyg/vision-language-models-are-bows.
_NOT_COUNTED = frozenset(
    " ".join(name.split())
    for name in """
    adjusting, around, attached to, beside, between, bigger than, biting, boarding,
    brushing, by, chewing, cleaning, climbing, close to, coming from, coming out of,
    contain, crossing, dragging, draped over, drinking, drinking from, driving,
    driving down, driving on, eating from, eating in, enclosing, exiting, facing,
    filled with, floating in, floating on, flying, flying above, flying in, flying over,
    flying through, full of, going down, going into, going through, grazing in,
    growing in, growing on, guiding, hanging from, hanging in, hanging off,
    hanging over, higher than, holding onto, hugging, in between, jumping off,
    jumping on, jumping over, kept in, larger than, leading, leaning over, leaving,
    licking, longer than, looking in, looking into, looking out, looking over,
    looking through, lying next to, lying on top of, making, mixed with, mounted on,
    moving, near, next to, of, on the back of, on the edge of, on the front of,
    on the other side of, on the side of, opening, painted on, parked at, parked beside,
    parked by, parked in, parked in front of, parked near, parked next to, perched on,
    petting, piled on, playing, playing in, playing on, playing with, pouring,
    reaching for, reading, reflected on, riding on, running in, running on,
    running through, seen through, sitting behind, sitting beside, sitting by,
    sitting in front of, sitting near, sitting next to, sitting under, skiing down,
    skiing on, sleeping in, sleeping on, smiling at, sniffing, splashing, sprinkled on,
    stacked on, standing against, standing around, standing behind, standing beside,
    standing in front of, standing near, standing next to, staring at, stuck in,
    surrounding, swimming in, swinging, talking to, topped with, touching,
    traveling down, traveling on, tying, typing on, underneath, wading in, waiting for,
    walking across, walking by, walking down, walking next to, walking through, with,
    working in, working on, worn on, wrapped around, wrapped in
    """.split(",")
)


class BoxedChoice(NamedTuple):
    """A choice, and the part of its image: left, top, width and height in pixels."""

    choice: OwnChoice
    box: tuple[float, float, float, float]


def read(path: pathlib.Path, kind: str) -> list[BoxedChoice]:
    """Returns the choices of a file, of kind RELATION or ATTRIBUTION.

    Raises UserError for a file of another form, and for an entry without its fields.
    """
    content: Any = json_files.read(path)
    items = content if isinstance(content, list) else []
    if not any(isinstance(item, dict) and TEXTS[2] in item for item in items):
        raise UserError(
            f"{path} does not have ARO's form, a list of objects with "
            f"{', '.join((*TEXTS, *BOX, _GROUPS[kind]))}, but is "
            f"{json_files.describe(content)}"
        )
    found = [_choice(path, kind, number, item) for number, item in enumerate(items)]
    counts = collections.Counter(boxed.choice.group for boxed in found)
    return [
        boxed._replace(
            choice=boxed.choice._replace(
                counted=boxed.choice.group not in _NOT_COUNTED
                if kind == RELATION
                else counts[boxed.choice.group] >= _LEAST
            )
        )
        for boxed in found
    ]


def _choice(path: pathlib.Path, kind: str, number: int, item: Any) -> BoxedChoice:
    values = item if isinstance(item, dict) else {}
    texts: list[Any] = [values.get(name) for name in TEXTS]
    box: list[Any] = [values.get(name) for name in BOX]
    group = values.get(_GROUPS[kind])
    words = group if isinstance(group, list) else [group]
    if not words or not all(isinstance(x, str) and x.strip() for x in (*texts, *words)):
        raise UserError(
            f"{path}: entry {number} needs texts as {', '.join(TEXTS)} and "
            f"{_GROUPS[kind]}: it is {json_files.short_json(item, 80)}"
        )
    numbers = [float(x) for x in box if type(x) in (int, float) and abs(x) < _MOST]
    if len(numbers) != len(BOX):
        raise UserError(
            f"{path}: entry {number} needs numbers as {', '.join(BOX)}: they are "
            f"{json_files.short_json(box, 80)}"
        )
    image, right, wrong = (str(text).strip() for text in texts)
    name = ", ".join(str(word).strip() for word in words)
    choice = OwnChoice(kind, number, image, (right, wrong), name, True)
    left, top, width, height = numbers
    return BoxedChoice(choice, (left, top, width, height))
