"""Files of prompt templates."""

import json

import pytest

from clipjax.data.annotations import prompt_templates
from clipjax.types import UserError


def test_text_and_json(tmp_path):
    expected = ("a photo of a {}.", "{} in the wild")
    text, listed = tmp_path / "t.txt", tmp_path / "t.json"
    text.write_text("a photo of a {}.\r\n\n  {} in the wild \n")
    listed.write_text(json.dumps(expected))
    assert prompt_templates.read(text) == prompt_templates.read(listed) == expected


def test_clip_benchmarks_form():
    lines = ["a photo of a {c}.", "art of the {classname}."]
    assert prompt_templates.parse(lines, "x") == ("a photo of a {}.", "art of the {}.")


def test_filled():
    assert prompt_templates.fill(("a {}.", "{}"), "cat {}") == ["a cat {}.", "cat {}"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.txt", "a {}\na photo\n", "t.txt: 'a photo' needs one {}"),
        ("t.txt", "a {} and {}\n", "needs one {}"),
        ("t.txt", "\n \n", "holds no templates"),
        ("t.json", "[]", "holds no templates"),
        ("t.json", '{"a": "{}"}', "write a list of templates"),
        ("t.json", "[1]", "write a list of templates"),
        ("t.json", "[", "t.json is not JSON"),
    ],
)
def test_wrong_files_are_refused(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        prompt_templates.read(tmp_path / name)
    with pytest.raises(UserError, match="cannot read"):
        prompt_templates.read(tmp_path)  # a folder
