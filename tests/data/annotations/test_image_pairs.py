"""Winoground's list of pairs: its lines, and what is refused."""

import json

import pytest

from clipjax.data.annotations import image_pairs
from clipjax.types import UserError

LINE = {
    "id": 7,
    "caption_0": "a dog on a cat ",
    "caption_1": "a cat on a dog",
    "image_0": "ex_7_img_0",
    "image_1": "ex_7_img_1",
    "tag": "Noun",
    "secondary_tag": "",
    "num_main_preds": 1,
    "collapsed_tag": "Object",
}


def test_lines_and_lists(tmp_path):
    other = {**LINE, "id": 8, "image_0": "x.png", "image_1": "é", "collapsed_tag": None}
    path = tmp_path / "examples.jsonl"
    lines = [json.dumps(LINE), "", json.dumps(other, ensure_ascii=False)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    captions = ("a dog on a cat", "a cat on a dog")
    tags = {"tag": "Noun", "num_main_preds": "1", "collapsed_tag": "Object"}
    few = {"tag": "Noun", "num_main_preds": "1"}
    expected = [
        ("7", captions, ("ex_7_img_0", "ex_7_img_1"), tags),
        ("8", captions, ("x.png", "é"), few),
    ]
    assert image_pairs.read(path) == expected
    path.write_text(json.dumps([LINE, other], indent=2))
    assert image_pairs.read(path) == expected


def one(**changes):
    return json.dumps(LINE | changes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not have Winoground's form, a line per pair .* an empty list"),
        ("[]", "Winoground's form.*, but is an empty list"),
        (f"{one()}\n{one()[:50]}", "line 2, is not JSON, or truncated"),
        ("1\n2", "Winoground's form.*, but is a list of 2 items of a number"),
        ('{"filename": "a"}', "but is a list of 1 objects with 'filename'"),
        (f"{one()}\n\n[1]", r"line 3 needs texts as caption_0, .*: it is \[1\]"),
        (one(caption_1=" "), "line 1 needs texts as caption_0, caption_1, image_0, im"),
        (one(image_0=3), "line 1 needs texts"),
        (one(image_1=None), "line 1 needs texts"),
        (f"[{one()}, 3]", "entry 1 needs texts"),
        (one(image_1="ex_7_img_0"), "line 1 has 'ex_7_img_0' as both its images"),
        (
            f"{one()}\n{one(image_0='y')}",
            "line 1 and line 2 have the same image, 'ex_7",
        ),
    ],
)
def test_other_forms(text, words, tmp_path):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(UserError, match=f"x.jsonl.*{words}"):
        image_pairs.read(tmp_path / "x.jsonl")


def test_other_files(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"PK\x03\x04\xff")
    with pytest.raises(UserError, match="x.jsonl is not text, but a zip"):
        image_pairs.read(tmp_path / "x.jsonl")
