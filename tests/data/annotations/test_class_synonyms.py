"""Files in which a class may have several names."""

import json
import re

import pytest

from clipjax.data.annotations import class_synonyms
from clipjax.types import UserError

NAMES = ("tench", "crane", "crane")
IDS = ("n01440764", "n02012849", "n03126707")
FOUND = [("tench",), ("crane", "crane bird"), ("crane", "construction crane")]


def read(tmp_path, content, names=NAMES, ids=IDS, suffix=None):
    text = content if isinstance(content, str) else json.dumps(content)
    suffix = suffix or (".txt" if isinstance(content, str) else ".json")
    path = tmp_path / f"names{suffix}"
    path.write_text(text, encoding="utf-8")
    return class_synonyms.read(path, names, ids)


LISTED = [["crane", "crane bird"], ["crane", "construction crane"]]


@pytest.mark.parametrize(
    "content",
    [
        "tench\ncrane; crane bird\ncrane;construction crane; crane\n",
        "n03126707\tcrane; construction crane\ntench\ttench\n1\tcrane; crane bird\n",
        "n01440764 tench\nn02012849 crane, crane bird\n"
        "n03126707 crane, construction crane\n",
        ["tench", *LISTED],
        ["tench", "crane; crane bird", LISTED[1]],
        {"tench": "tench", "1": LISTED[0], "n03126707": LISTED[1], "owl": "owl"},
        {"0": [IDS[0], "tench"], "1": [IDS[1], *LISTED[0]], "2": [IDS[2], *LISTED[1]]},
    ],
)
def test_forms(tmp_path, content):
    assert read(tmp_path, content) == FOUND


def test_the_order_of_a_list(tmp_path):
    """Folders that are numbers are in the order of the numbers, others as they are."""
    ids = ("1", "10", "2")
    assert read(tmp_path, "a\nb\nc\n", ids, ids) == [("a",), ("c",), ("b",)]
    assert read(tmp_path, ["a", "b", "c"], ids) == [("a",), ("b",), ("c",)]
    # A number in a mapping is such a folder, else the class's place.
    named = {"1": "a", "2": "b", "10": "c"}
    assert read(tmp_path, named, ids, ids) == [("a",), ("c",), ("b",)]
    named = {"1": "a", "2": "b", "0": "c"}
    assert read(tmp_path, named, ("x", "y", "z")) == [("c",), ("a",), ("b",)]


def test_a_name_with_spaces_is_no_mapping(tmp_path):
    assert read(tmp_path, "big cat\nsmall cat\n", ("a", "b"), ("a", "b")) == [
        ("big cat",),
        ("small cat",),
    ]


def test_one_text():
    assert [class_synonyms.join(names) for names in FOUND] == [
        "tench",
        "crane; crane bird",
        "crane; construction crane",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tench\ncrane\n", "names 2 classes, and the data has 3 (n01440764, n02012849"),
        ("", "names 0 classes, and the data has 3"),
        (["a", "b", "c", "d"], "names 4 classes, and the data has 3"),
        ("tench\n\ncrane\n", "names.txt, line 2: a name is blank"),
        ("tench\ncrane;\ncrane\n", "names.txt, line 2: a name is blank"),
        ("0\ttench\ncrane\n", "names.txt, line 2: write CLASS<TAB>NAME"),
        ("0\ttench\n1\tcrane\n", "does not name the class 'n03126707'; it names '0'"),
        ("0\ta\n1\tb\ntench\tc\n", "names the class 'tench' twice"),
        ({"crane": "x", "0": "a", "1": "b"}, "does not name the class 'n03126707'"),
        ({"0": ["a", 3]}, "'0': write"),
        ({"0": []}, "'0': write"),
        ([["a"], {"b": 1}, "c"], "entry 1: write"),
        ({}, "names.json: write"),
        ("7", "names 1 classes, and the data has 3"),
    ],
)
def test_other_content_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read(tmp_path, content)


@pytest.mark.parametrize("content", ["7", '"tench"', "null", "[", "\x00"])
def test_json_of_another_form_is_refused(tmp_path, content):
    with pytest.raises(UserError, match="names.json"):
        read(tmp_path, content, suffix=".json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot read .*nowhere.txt"):
        class_synonyms.read(tmp_path / "nowhere.txt", NAMES)
