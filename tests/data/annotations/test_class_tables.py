"""Files of class names: mappings and plain lists, as lines and as JSON."""

import json

import pytest

from clipjax.data.annotations import class_tables
from clipjax.types import UserError

FOLDERS = ["n01440764", "n01443537"]


def names(tmp_path, text, classes=FOLDERS, file="names.txt"):
    (tmp_path / file).write_text(text if isinstance(text, str) else json.dumps(text))
    return class_tables.names(tmp_path / file, classes)


@pytest.mark.parametrize(
    "text",
    [
        "tench\ngoldfish\n",
        "n01443537\tgoldfish\nn01440764\ttench\n",
        "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n",
        # A whole data set's mapping, of which the folders are a part.
        "n0 a\nn1 b\nn2 c\nn01443537 goldfish\nn01440764 tench\nn3 d\n",
    ],
)
def test_lines(tmp_path, text):
    assert names(tmp_path, text) == ["tench", "goldfish"]


@pytest.mark.parametrize(
    "content",
    [
        ["tench", "goldfish"],
        {"n01443537": "goldfish", "n01440764": "tench"},
        {"n01443537": ["goldfish", "Carassius auratus"], "n01440764": ["tench"]},
        {"1": ["n01443537", "goldfish"], "0": ["n01440764", "tench"]},
    ],
)
def test_json(tmp_path, content):
    assert names(tmp_path, content, file="names.json") == ["tench", "goldfish"]


def test_names_with_spaces_are_a_list():
    classes = ["1", "10", "2"]
    assert class_tables.in_order(classes) == ["1", "2", "10"]
    assert class_tables.in_order(["b", "a"]) == ["b", "a"]


def test_a_list_for_numbered_folders_is_in_their_order(tmp_path):
    text = "pink primrose\nsweet pea\nglobe thistle\n"
    found = names(tmp_path, text, ["1", "10", "2"])
    assert found == ["pink primrose", "globe thistle", "sweet pea"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tench\n", r"names 1 classes, and there are 2 class folders \(n01440764, "),
        ("tench\ngoldfish\nshark\n", "names 3 classes, and there are 2"),
        ("", "names 0 classes"),
        ("\ngoldfish\n", "line 1: the name is blank"),
        ("n01440764\ttench\n", "does not name the class folder 'n01443537'"),
        ("n01440764\ttench\nn01443537\n", "line 2: write FOLDER<TAB>NAME"),
    ],
)
def test_wrong_lines_are_refused(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        names(tmp_path, text)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (["tench"], "names 1 classes"),
        ([], "names 0 classes"),
        ({"n01440764": "tench"}, "does not name the class folder 'n01443537'"),
        ([1, 2], "or a list of names; it holds a list of 2 items of a number"),
        ({"n01440764": 3}, "or a list of names; it holds an object with 'n01440764'"),
        ("tench", "or a list of names; it holds text"),
        ({}, "names 0 classes"),
    ],
)
def test_wrong_json_is_refused(tmp_path, content, words):
    (tmp_path / "names.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        class_tables.names(tmp_path / "names.json", FOLDERS)
