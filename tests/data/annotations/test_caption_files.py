"""The text and JSON beside an image: which is used, and what each holds."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tools import check_contract, jpeg, write_tar

from clipjax.data.annotations import caption_files
from clipjax.data.sources import img2dataset, webdataset

ONE, TWO = ["a dog"], ["one", "two"]
LINES = caption_files.SEVERAL
CASES = {  # .txt, fields of .json -> captions, what is said
    "null": ("a dog", {"captions": None}, ONE, ""),
    "empty": ("a dog", {"captions": []}, ONE, ""),
    "blank": ("a dog", {"captions": ["", " "]}, ONE, ""),
    "nulls": ("a dog", {"captions": [None, None]}, ONE, ""),
    "blank single": ("a dog", {"caption": " "}, ONE, ""),
    "null and single": (None, {"captions": None, "caption": "a dog"}, ONE, ""),
    "blank and single": (None, {"captions": [" "], "caption": "a dog"}, ONE, ""),
    "no field": ("a dog", {"status": "success"}, ONE, ""),
    "blank text": (" \n", {"caption": "a dog"}, ONE, ""),
    "no bytes": ("", {"caption": ["one", "two"]}, TWO, ""),
    "a list as caption": (None, {"caption": ["one", " two "]}, TWO, ""),
    "text as captions": (None, {"captions": "a dog"}, ONE, ""),
    "a list in text": (None, {"caption": "['one' 'two']"}, TWO, ""),
    "a list before text": ("a dog", {"caption": ["one", "two"]}, TWO, ""),
    "text before single": ("a dog", {"caption": "a cat"}, ONE, ""),
    "some blank": (None, {"captions": ["one", None, "two", ""]}, TWO, "2 empty cap"),
    "all blank": (" ", {"captions": []}, [], "1 empty captions, left out"),
    "neither": (None, None, [], ""),
    # As CLIP_benchmark exports Flickr30k and MS-COCO.
    "lines": ("one\ntwo", None, TWO, f"1 {LINES}"),
    "lines and JSON": ("one\n\n two \n", {"caption": "a dog"}, TWO, f"1 {LINES}"),
    "lines of Windows": ("one\r\ntwo\r\n", {"url": "x"}, TWO, f"1 {LINES}"),
    "one line": ("a dog\n", None, ONE, ""),
    "one caption of lines": ("a\ndog", {"caption": "a\ndog"}, ["a\ndog"], ""),
    "a list in a text": ("['one'\n 'two']", None, TWO, ""),
    "a list of nothing": ("[\n null\n]", None, [], "1 empty captions, left out"),
    "a JSON list in a text": ('[\n "a dog"\n]\n', None, ONE, ""),
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path_factory.mktemp("cache")))


def members(key, text, fields):
    found = [(f"{key}.jpg", jpeg())]
    found += [] if text is None else [(f"{key}.txt", text.encode())]
    return found + (
        [] if fields is None else [(f"{key}.json", json.dumps(fields).encode())]
    )


def make(form, folder, files, **options):
    """The source of these files in a shard or a folder."""
    if form == "tar":
        write_tar(folder / "train-0.tar", files)
        return webdataset.make("train", path=str(folder), **options)
    (folder / "00000").mkdir(exist_ok=True)
    for name, data in files:
        (folder / "00000" / name).write_bytes(data)
    return img2dataset.make("all", path=str(folder), **options)


@pytest.mark.parametrize("form", ["tar", "files"])
def test_which_captions_an_image_has(form, tmp_path):
    cases = dict(CASES)
    if form == "files":  # of two that say something the JSON is not read there
        del cases["a list before text"]
    cases = {f"{i:02}": case for i, case in enumerate(cases.values())}
    files = [member for key, c in cases.items() for member in members(key, *c[:2])]
    source = make(form, tmp_path, files)
    check_contract(source)
    found = [list(source.captions_of(i)) for i in range(len(source))]
    expected = {key: case[2] for key, case in cases.items()}
    assert found == list(expected.values())
    for i, captions in enumerate(expected.values()):
        assert source.caption_counts[i] == len(captions)
        assert list(source[i].captions) == captions
    said = [problem.removeprefix("train-0.tar: ") for problem in source.problems]
    assert said == ["4 empty captions, left out", f"3 {LINES}"]


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_of_it(case, tmp_path):
    text, fields, _, said = CASES[case]
    source = make("tar", tmp_path, members("a", text, fields))
    if said:
        (problem,) = source.problems
        assert problem.startswith(f"train-0.tar: {said}")
    else:
        assert source.problems == []


@pytest.mark.parametrize("form", ["tar", "files"])
def test_texts_of_several_lines_can_be_kept_whole(form, tmp_path):
    files = [*members("a", "one\n\ntwo\n", None), *members("b", "three", None)]
    for lines, expected in {
        True: [TWO, ["three"]],
        False: [["one\n\ntwo"], ["three"]],
    }.items():
        source = make(form, tmp_path, files, text_lines=lines)
        check_contract(source)
        assert [list(source[i].captions) for i in range(2)] == expected
        assert len(source.problems) == lines


def test_a_broken_file_hides_no_fault(tmp_path):
    files = [*members("a", "a dog", None), ("a.json", b'{"captions": ["x"')]
    source = make("tar", tmp_path, files)
    assert source.problems == ["train-0.tar: 1 caption files that cannot be read"]
    assert source.caption_counts.tolist() == [1]


LINE = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(LINE, min_size=2, max_size=5), st.sampled_from(["\n", "\r\n"]))
def test_lines_come_back_as_captions(lines, end):
    lines = ["a cat", "a dog", *lines]
    data = end.join(lines).encode()
    found = caption_files.inspect(caption_files.TXT, data)
    kept = [line.strip() for line in lines if line.strip()]
    assert found.kind == caption_files.LINES and found.captions == len(kept)
    assert caption_files.parse(found.kind, data) == kept


def test_an_index_of_an_older_form_is_made_anew(tmp_path):
    source = make("tar", tmp_path, members("a", "one\ntwo", None))
    folder = os.path.join(os.environ["CLIPJAX_CACHE"], "index")
    (name,) = os.listdir(folder)
    with open(os.path.join(folder, name), "r+b") as file:
        head = file.readline()
        file.seek(0)
        file.write(head.replace(b'"stamp": "[', b'"stamp": "(', 1))
    again = webdataset.make("train", path=str(tmp_path))
    assert again.captions_of(0) == source.captions_of(0) == TWO
