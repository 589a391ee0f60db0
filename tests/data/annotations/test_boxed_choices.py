"""ARO's lists: their fields, which groups count, and what is refused."""

import json

import pytest

from clipjax.data.annotations import boxed_choices
from clipjax.data.annotations.boxed_choices import ATTRIBUTION, RELATION
from clipjax.types import UserError

ENTRY = {
    "image_id": "5",
    "image_path": "5.jpg",
    "bbox_x": 1,
    "bbox_y": 2.5,
    "bbox_w": 30,
    "bbox_h": 40,
    "true_caption": "the horse is eating the grass ",
    "false_caption": "the grass is eating the horse",
    "relation_name": "eating",
    "attributes": ["old", "red"],
}


def read(path, entries, kind=RELATION):
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return boxed_choices.read(path, kind)


def test_relations(tmp_path):
    names = "eating", "next to", "sitting under", "on", "wrapped in", "with"
    entries = [ENTRY | {"relation_name": name} for name in names]
    found = read(tmp_path / "x.json", entries)
    captions = "the horse is eating the grass", "the grass is eating the horse"
    choice = RELATION, 0, "5.jpg", captions, "eating", True
    assert found[0] == (choice, (1, 2.5, 30, 40))
    # Relations that are listed as symmetric do not count.
    counted = {boxed.choice.group for boxed in found if boxed.choice.counted}
    assert counted == {"eating", "on"}
    assert [boxed.choice.number for boxed in found] == list(range(6))


def test_attributes_count_from_25_choices_on(tmp_path):
    other = ENTRY | {"attributes": ["red", "old"]}
    found = read(tmp_path / "x.json", [ENTRY] * 25 + [other] * 24, ATTRIBUTION)
    groups = {(boxed.choice.group, boxed.choice.counted) for boxed in found}
    assert groups == {("old, red", True), ("red, old", False)}
    assert found[30].choice.kind == ATTRIBUTION


def without(name):
    return {key: value for key, value in ENTRY.items() if key != name}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("[{", "is not JSON, or truncated"),
        ([], "does not have ARO's form, a list .*relation_name, but is an empty list"),
        ({"a": ENTRY}, "but is an object with 'a'"),
        ([{"filename": "1.jpg"}], "but is a list of 1 objects with 'filename'"),
        ([ENTRY, 3], "entry 1 needs texts as image_path, .*: it is 3"),
        ([ENTRY, without("image_path")], "entry 1 needs texts as image_path"),
        ([ENTRY, ENTRY | {"true_caption": " "}], "entry 1 needs texts"),
        ([ENTRY, without("relation_name")], "needs texts as .* and relation_name"),
        ([ENTRY | {"relation_name": []}], "entry 0 needs texts"),
        ([ENTRY | {"bbox_w": "3"}], r"needs numbers as bbox_x, .*: they are \[1"),
        ([ENTRY, without("bbox_y")], "entry 1 needs numbers"),
        ([ENTRY | {"bbox_h": float("nan")}], "entry 0 needs numbers"),
        ([ENTRY | {"bbox_h": 10**400}], "entry 0 needs numbers"),
        ([ENTRY | {"bbox_h": True}], "entry 0 needs numbers"),
    ],
)
def test_other_forms(entries, words, tmp_path):
    with pytest.raises(UserError, match=f"x.json.*{words}"):
        read(tmp_path / "x.json", entries)
