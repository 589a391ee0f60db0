"""What a source's classes are called, by the option class_names."""

import pytest

from clipjax.data.annotations import class_naming
from clipjax.types import UserError


def test_raw_keeps_the_ids():
    assert class_naming.name_classes(["a_b", "n01440764"], "raw") == (
        ["a_b", "n01440764"],
        [],
    )


def test_auto_writes_spaces_and_says_so():
    names, notes = class_naming.name_classes(["rose", "bull-dog_puppy"], "auto")
    assert names == ["rose", "bull dog puppy"]
    assert notes == [
        "1 class names with spaces for _ and - ('bull-dog_puppy' is 'bull dog puppy'; "
        "class_names=raw keeps them)"
    ]
    assert class_naming.name_classes(["rose", "tulip"], "auto") == (
        ["rose", "tulip"],
        [],
    )


def test_auto_keeps_names_that_would_become_equal():
    names, notes = class_naming.name_classes(["a_b", "a-b", "c_d"], "auto")
    assert names == ["a_b", "a-b", "c d"] and notes[0].startswith("1 class names")


def test_auto_knows_imagenets_ids():
    names, notes = class_naming.name_classes(
        ["n01440764", "n02012849", "n99999999"], "auto"
    )
    assert names == ["tench", "crane bird", "n99999999"]
    assert "2 class names of ImageNet ('n01440764' is 'tench'" in notes[0]
    assert "1 ids are none of its 1000" in notes[0]


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["tulips", "daisy"], ["tulips", "daisy"]),
        (["Tulips", "DAISY"], ["tulips", "daisy"]),
        (["0", "1", "2", "3", "4"], ["dandelion", "daisy", "tulips"]),
        (["1", "2", "3", "4", "5"], ["dandelion", "daisy", "tulips"]),
        (["05", "01", "04", "02", "03"], ["roses", "dandelion", "sunflowers"]),
    ],
)
def test_a_data_sets_names(ids, names):
    # tensorflow-datasets has dandelion, daisy, tulips, sunflowers, roses.
    found, notes = class_naming.name_classes(ids, "tf_flowers")
    assert found[: len(names)] == names and "as in tf_flowers" in notes[0]


def test_numbers_are_numbers_not_texts():
    found, _ = class_naming.name_classes(
        sorted(map(str, range(1, 103))), "oxford_flowers102"
    )
    assert found[:3] == [
        *("pink primrose", "globe thistle", "blanket flower")  # 1, 10, 100
    ]


@pytest.mark.parametrize(
    "ids", [["0", "1"], ["rose", "daisy"], ["1", "3", "4", "5", "6"]]
)
def test_ids_that_the_data_set_lacks_are_refused(ids):
    with pytest.raises(UserError, match="is none of its 5 classes .dandelion, daisy"):
        class_naming.name_classes(ids, "tf_flowers")
