"""SugarCrepe's form: files, folders, and what is refused."""

import json

import pytest

from clipjax.data.annotations import caption_choices
from clipjax.types import UserError

ENTRY = {"filename": "1.jpg", "caption": "a b ", "negative_caption": "b a"}


def test_a_folder_of_kinds(tmp_path):
    (tmp_path / "swap_obj.json").write_text(json.dumps({"0": ENTRY, "7": ENTRY}))
    several = ENTRY | {"filename": "2.jpg", "negative_caption": ["b a", "c é"]}
    text = json.dumps([several], ensure_ascii=False)
    (tmp_path / "add_att.json").write_text(text, encoding="utf-8")
    (tmp_path / "README.md").write_text("not read")
    (tmp_path / "._swap_obj.json").write_bytes(b"\0")  # macOS leaves such files
    found = caption_choices.read(tmp_path)
    assert list(found) == ["add_att", "swap_obj"]
    assert found["add_att"] == [("2.jpg", ("a b", "b a", "c é"))]
    assert found["swap_obj"] == [("1.jpg", ("a b", "b a"))] * 2
    assert caption_choices.read(tmp_path / "swap_obj.json").keys() == {"swap_obj"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON, or truncated"),
        ("[1]", "does not have SugarCrepe's form.*a list of 1 items"),
        ("{}", "but is an empty object"),
        ('{"a.jpg": ["a", "b"]}', "but is an object with 'a.jpg'"),
        ({"0": ENTRY, "1": ENTRY | {"caption": " "}}, "entry '1' needs texts as 'file"),
        ({"0": ENTRY, "x": ENTRY | {"filename": 3}}, "entry 'x' needs texts"),
        ([ENTRY, ENTRY | {"negative_caption": []}], "entry 1 needs texts"),
        ([ENTRY, ENTRY | {"negative_caption": ["a", None]}], "entry 1 needs texts"),
        ({"0": ENTRY, "1": "a b"}, "entry '1' needs .*: it is \"a b\""),
    ],
)
def test_other_forms(content, words, tmp_path):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=f"x.json.*{words}"):
        caption_choices.read(tmp_path)


def test_no_files(tmp_path):
    with pytest.raises(UserError, match="holds no JSON files of right and wrong"):
        caption_choices.read(tmp_path)
    with pytest.raises(UserError, match="absent does not exist. Name a JSON file"):
        caption_choices.read(tmp_path / "absent")
