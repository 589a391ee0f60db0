"""Several captions of an image in one row or value of a table, and names by Windows."""

import csv
import io
import json
import unicodedata

import dataset_tools
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tools import check_contract

from clipjax.data.annotations import caption_columns, caption_lists, caption_tables
from clipjax.data.sources import captions, karpathy
from clipjax.types import BadExample, UserError

BOTH = {"a.jpg": ["first a", "the, second a"], "b.jpg": ["first b", "the, second b"]}


def read(place, text, image="", caption=""):
    place.write_bytes(text if isinstance(text, bytes) else text.encode())
    found, problems = caption_tables.read(place, image, caption)
    return {name: entry.captions for name, entry in found.items()}, problems


def written(rows, **dialect):
    stream = io.StringIO(newline="")
    csv.writer(stream, **dialect).writerows(rows)
    return stream.getvalue()


# Lists in a cell

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
SPELLINGS = {
    "json": json.dumps,
    "json of letters": lambda texts: json.dumps(texts, ensure_ascii=False),
    "python": str,
    "a tuple": lambda texts: str(tuple(texts)),
    "numpy": lambda texts: str(np.array(texts, object)),
    "numpy's texts": lambda texts: f"[{', '.join(f'np.str_({t!r})' for t in texts)}]",
    "numpy's repr": lambda texts: repr(np.array(texts, object)),
}


@pytest.mark.parametrize("form", SPELLINGS)
@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, max_size=6))
def test_a_list_is_read_as_it_was_spelt(form, texts):
    assert caption_lists.spelt(SPELLINGS[form](texts)) == texts


@pytest.mark.parametrize(
    "text",
    ["[applause]", "[1, 2]", '["Stop" sign]', "('a')", "['a'", "['a', ['b']]", "[", ""]
    + ["['a' ... 'b']", "['a'] dog", "array['a']", "[" * 50_000, "['a)", "(1, 2)"],
)
def test_brackets_that_are_a_captions_own(text):
    assert caption_lists.spelt(text) is None


@pytest.mark.parametrize("form", SPELLINGS)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_cell_that_holds_a_list(form, suffix, tmp_path):
    """As Flickr30k's annotations on the hub have it."""
    cells = {name: SPELLINGS[form](texts) for name, texts in BOTH.items()}
    if suffix == "jsonl":
        rows = [{"filename": n, "raw": cell} for n, cell in cells.items()]
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        rows = [("raw", "sentids", "filename")]
        rows += [(cell, "train", name) for name, cell in cells.items()]
        text = written(rows, delimiter="," if suffix == "csv" else "\t", quotechar='"')
    assert read(tmp_path / f"t.{suffix}", text) == (BOTH, [])
    named = read(tmp_path / f"t.{suffix}", text, "filename", "raw")
    assert named == (BOTH, [])


@pytest.mark.parametrize(
    "text",
    ["[{'raw': 'a dog'}]", "[b'a dog']", "[['a dog']]", '["a dog", "the']
    + ["array(['a dog', 1])", "[np.str_('a dog']"],
)
def test_lists_that_cannot_be_read_are_counted(text, tmp_path):
    rows = written([("image", "caption"), ("a.jpg", text), ("b.jpg", "[a] dog")])
    found, problems = read(tmp_path / "t.csv", rows)
    assert found == {"a.jpg": [text], "b.jpg": ["[a] dog"]}
    assert problems == [f"1 {caption_lists.BROKEN}"]


def test_lists_among_other_captions_are_counted(tmp_path):
    text = written(
        [
            *(
                ("image", "caption"),
                ("a.jpg", "['one' 'two']"),
                ("b.jpg", "[sic] a dog"),
            ),
            *(
                ("c.jpg", "['x' ... 'y']"),
                ("d.jpg", "[]"),
                ("e.jpg", "['z', None, '']"),
            ),
        ]
    )
    found, problems = read(tmp_path / "t.csv", text)
    assert found == {"a.jpg": ["one", "two"], "b.jpg": ["[sic] a dog"]} | {
        "c.jpg": ["['x' ... 'y']"],
        "d.jpg": [],
        "e.jpg": ["z"],
    }
    assert problems == [
        "1 captions look like lists but cannot be parsed, used unchanged",
        "3 empty captions, left out",
        "3 of 5 captions spell a list, whose members are taken",
    ]


# Several columns

HEADERS = {  # header after the image -> the option that names them, "" without need
    "numbered": (["caption", "caption_2"], ""),
    "from 0": (["caption_0", "caption_1"], ""),
    "without a mark": (["Caption1", "Caption2"], ""),
    "twice the same": (["caption", "caption"], ""),
    "as pandas renames": (["caption", "caption.1"], ""),
    "sentences": (["sentence_1", "sentence_2"], ""),
    "a pattern": (["alt_de", "alt_en"], "alt_*"),
    "a pattern of another case": (["ALT_de", "ALT_en"], "alt_*"),
    "named twice": (["alt", "alt"], "alt"),
}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("form", ["csv", "tsv", "bars", "jsonl"])
def test_several_columns_of_captions(header, form, tmp_path):
    names, option = HEADERS[header]
    if form == "jsonl":
        if len(set(names)) < 2:
            return
        rows = [
            {"image": n, "width": 3, **dict(zip(names, texts, strict=True))}
            for n, texts in BOTH.items()
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        rows = [["image", "width", *names]]
        rows += [[name, 3, *texts] for name, texts in BOTH.items()]
        delimiter = {"csv": ",", "tsv": "\t", "bars": "|"}[form]
        text = written(rows, delimiter=delimiter)
    assert read(tmp_path / f"t.{form}", text, caption=option) == (BOTH, [])


def test_rows_may_lack_some_of_the_captions(tmp_path):
    text = "image,caption_1,caption_2\na.jpg,x,\nb.jpg,y\nc.jpg\nd.jpg,,\n"
    place = tmp_path / "t.csv"
    place.write_text(text)
    entries, problems = caption_tables.read(place, "", "")
    assert [entry.captions for entry in entries.values()] == [["x"], ["y"], [], []]
    assert "no caption field" in entries["c.jpg"].fault
    assert problems == [
        "3 empty captions, left out",
        "1 images with a caption that cannot be read",
    ]


def test_columns_of_text_that_are_not_used_are_named(tmp_path):
    rows = [["image", "title", "blip_caption", "caption", "width", "Alt_Text"]]
    rows += [[name, "t", "blip", texts[0], 3, "alt"] for name, texts in BOTH.items()]
    expected = {name: texts[:1] for name, texts in BOTH.items()}
    said = ["3 columns with text that are not used (title, blip_caption, Alt_Text)"]
    assert read(tmp_path / "t.csv", written(rows)) == (expected, said)
    lines = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    lines = [{**line, "title": None} for line in lines]  # an empty one is no loss
    text = "".join(json.dumps(line) + "\n" for line in lines)
    said = ["2 columns with text that are not used (blip_caption, Alt_Text)"]
    assert read(tmp_path / "t.jsonl", text) == (expected, said)
    assert read(tmp_path / "t.csv", written(rows), caption="caption")[1] == []


def test_columns_of_other_languages_and_of_splits_are_named(tmp_path):
    rows = [["image", "caption", "caption_en", "Split", "text_long", "caption_id"]]
    rows += [[name, texts[0], "x", "test", "y", 1] for name, texts in BOTH.items()]
    expected = {name: texts[:1] for name, texts in BOTH.items()}
    split = "columns of splits that are not used (Split): the option split_file"
    text = "columns with text that are not used (caption_en, text_long)"
    lines = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    lined = "".join(json.dumps(line) + "\n" for line in lines)
    for name, content in {"t.csv": written(rows), "t.jsonl": lined}.items():
        found, problems = read(tmp_path / name, content)
        assert found == expected
        assert problems == [f"1 {split} names a split", f"2 {text}"]


def test_a_column_without_a_name_is_none_of_the_wanted(tmp_path):
    rows = [["", "image", "caption"]]  # as pandas writes its index
    rows += [[i, name, texts[1]] for i, (name, texts) in enumerate(BOTH.items())]
    expected = {name: texts[1:] for name, texts in BOTH.items()}
    assert read(tmp_path / "t.csv", written(rows)) == (expected, [])


def test_which_columns_hold_captions():
    names = ["id", "text", "Caption", "caption_10", "captions_x", "subcaption"]
    assert caption_columns.captions(names, "") == [[2, 3], [1]]
    assert caption_columns.captions(names, "TEXT") == [[1]]
    assert caption_columns.captions(names, "*caption*") == [[3, 4, 5]]
    assert caption_columns.captions(names, "none") == []
    assert (
        caption_columns.find(["A", "a"], "a", ()) == 1
        and caption_columns.find(["A"], "a", ()) == 0
    )


# More fields than columns, and no header

QUOTED = {
    "all quoted": {"quoting": csv.QUOTE_ALL},
    "where needed": {"quoting": csv.QUOTE_MINIMAL},
    "semicolons": {"quoting": csv.QUOTE_ALL, "delimiter": ";"},
}


@pytest.mark.parametrize("form", QUOTED)
@pytest.mark.parametrize("header", [None, ["image", "caption"]])
def test_more_quoted_fields_than_columns_are_captions(form, header, tmp_path):
    rows = [[name, *texts] for name, texts in BOTH.items()]
    text = written([header, *rows] if header else rows, **QUOTED[form])
    assert read(tmp_path / "t.csv", text) == (BOTH, [])
    if header is None:
        numbered = written(
            [[n, i, *t] for i, (n, *t) in enumerate(rows)], **QUOTED[form]
        )
        assert read(tmp_path / "t.csv", numbered) == (BOTH, [])


def test_quotes_after_spaces(tmp_path):
    text = 'image,caption\na.jpg, "a, b", "say ""x"" to me"\nb.jpg,"c", "d" ,\n'
    expected = {"a.jpg": ["a, b", 'say "x" to me'], "b.jpg": ["c", "d"]}
    assert read(tmp_path / "t.csv", text) == (expected, [])
    prose = 'image,caption\na.jpg,"Hi", said the dog\n'
    assert read(tmp_path / "t.csv", prose) == ({"a.jpg": ["Hi, said the dog"]}, [])


def test_fields_that_may_be_several_captions_are_joined_and_counted(tmp_path):
    text = "a.jpg,one,two\nb.jpg,A dog, wet\nc.jpg,x\n"
    found, problems = read(tmp_path / "t.csv", text)
    assert found == {"a.jpg": ["one,two"], "b.jpg": ["A dog, wet"], "c.jpg": ["x"]}
    (said,) = problems
    assert said.startswith("1 rows have more fields than columns, which are joined")


@pytest.mark.parametrize("delimiter", ["\t", "|"])
def test_tables_without_a_header(delimiter, tmp_path):
    rows = [delimiter.join([name, *texts]) for name, texts in BOTH.items()]
    found, problems = read(tmp_path / "t.tsv", "\n".join(rows))
    assert found == BOTH
    assert problems == [
        "2 rows without a header have several fields of text, each taken as a caption"
    ]
    plain = "".join(f"{name}{delimiter}2 dogs\n" for name in BOTH)
    assert read(tmp_path / "t.tsv", plain) == (dict.fromkeys(BOTH, ["2 dogs"]), [])
    numbered = "".join(f"{n}{delimiter}0{delimiter}{t[1]}\n" for n, t in BOTH.items())
    expected = {name: texts[1:] for name, texts in BOTH.items()}
    assert read(tmp_path / "t.tsv", numbered) == (expected, [])


# JSON of other forms

OBJECTS = {
    "lists": BOTH,
    "objects": {name: {"captions": texts, "width": 3} for name, texts in BOTH.items()},
    "a list inside": {
        "info": {"year": 2024},
        "data": [{"image": name, "captions": texts} for name, texts in BOTH.items()],
    },
    "coco": {
        "images": [{"id": "7", "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "annotations": [
            {"image_id": image_id, "caption": text}
            for image_id, texts in zip((7, "8"), BOTH.values(), strict=True)
            for text in texts
        ],
    },
}


@pytest.mark.parametrize("form", OBJECTS)
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", ["t.json", "t.txt"])
def test_one_object_that_holds_all(form, indent, name, tmp_path):
    text = json.dumps(OBJECTS[form], indent=indent)
    assert read(tmp_path / name, text) == (BOTH, [])


def test_objects_of_names_and_single_captions(tmp_path):
    text = json.dumps({"a.jpg": "x", "b.jpg": None, "c.PNG": 3, "note": "y"})
    place = tmp_path / "t.json"
    place.write_text(text)
    entries, problems = caption_tables.read(place, "", "")
    assert [e.captions for e in entries.values()] == [["x"], [], []]
    assert entries["c.PNG"].fault == "a caption is not text but 3"
    assert problems == [
        "1 empty captions, left out",
        "1 images with a caption that cannot be read",
        "1 rows that name no image, left out",
    ]
    one = {"image": "a.jpg", "caption": "x"}
    for indent in (None, 2):
        text = json.dumps(one, indent=indent)
        assert read(place, text) == ({"a.jpg": ["x"]}, [])


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            {"version": 1, "paths": ["a.jpg"]},
            "an object with 'version', 'paths' .a list",
        ),
        (
            {"a": [{"x": 1}], "b": [{"y": 1}]},
            r"'a' \(a list of 1\), 'b' \(a list of 1\)",
        ),
        (
            [{"file": "a.jpg", "words": "x"}] * 2,
            "from its first object .*'words'|words",
        ),
        (["a.jpg", "b.jpg"], "JSON object: it is a list of 2 items of text$"),
        (3, "none of its lines or items is a JSON object"),
        ({"images": [{"filename": "a", "sentences": []}]}, "with data=karpathy and"),
    ],
)
def test_json_of_another_form_says_what_it_is(found, words, tmp_path):
    with pytest.raises(UserError, match=words) as caught:
        read(tmp_path / "t.json", json.dumps(found))
    assert "t.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("depth", [200, 900, 1000, 3000, 200_000])
@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
@pytest.mark.parametrize("begin", ["", '[{"image": "a.jpg", "caption": ', '{"a.jpg": '])
def test_json_that_is_nested_too_deep_is_one_line(depth, name, begin, tmp_path):
    end = "" if not begin else "}]" if begin[0] == "[" else "}"
    text = begin + "[" * depth + "]" * depth + end
    try:
        found, problems = read(tmp_path / name, text)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
    else:
        assert found == {"a.jpg": []}
        assert problems == ["1 images with a caption that cannot be read"]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\x1f\x8b\x08", "compressed by gzip"),
        (b"PK\x03\x04xl", "a zip archive, or a spreadsheet"),
        (b"PAR1", "a parquet file: read those with data=parquet"),
    ],
)
def test_a_table_that_is_no_text_is_told(raw, words, tmp_path):
    with pytest.raises(UserError, match=f"t.csv is not a table of text, but {words}"):
        read(tmp_path / "t.csv", raw)


# Names by Windows


def table(folder, rows, name="captions.csv"):
    (folder / name).write_text(
        "image,caption\n" + "".join(f"{row},of {row}\n" for row in rows)
    )
    return str(folder)


def keys(source):
    return [source.key_of(i) for i in range(len(source))]


def test_backslashes_are_slashes(tmp_path):
    dataset_tools.images(tmp_path / "images" / "x", [f"{n}.jpg" for n in "abcd"])
    rows = ["images\\x\\a.jpg", "images/x/b.jpg", ".\\images\\x\\c.jpg"]
    path = table(tmp_path, [*rows, "images/x/a.jpg"])
    source = captions.make("all", path=path)
    check_contract(source)
    assert keys(source) == ["images/x/a.jpg", "images/x/b.jpg", "images/x/c.jpg"]
    assert source[0].captions == ("of images\\x\\a.jpg", "of images/x/a.jpg")
    assert source.problems == []
    (tmp_path / "mine.txt").write_text("images\\x\\b.jpg\nimages\\x\\c\n")
    some = captions.make("test", path=path, split_file="mine.txt")
    assert keys(some) == ["images/x/b.jpg", "images/x/c.jpg"] and some.problems == []
    # The same images are held out as by the table of another machine.
    other = table(tmp_path, ["images/x/a.jpg", *(f"images/x/{n}.jpg" for n in "bc")])
    for split in ("train", "val"):
        own = captions.make(split, path=path, val_fraction=0.5)
        assert keys(own) == keys(captions.make(split, path=other, val_fraction=0.5))


def test_a_file_may_have_a_backslash_in_its_name(tmp_path):
    dataset_tools.images(tmp_path, ["x\\a.jpg"])
    dataset_tools.images(tmp_path / "x", ["b.jpg", "y\\c.jpg"])
    path = table(tmp_path, ["x\\a.jpg", "x\\b.jpg", "x/y\\c.jpg"])
    source = captions.make("all", path=path)
    check_contract(source)
    assert keys(source) == ["x\\a.jpg", "x/b.jpg", "x/y\\c.jpg"]
    assert source[1].key == "x/b.jpg"


def test_backslashes_with_accents_of_the_other_form(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "caf\u00e9.jpg") for form in ("NFC", "NFD"))
    dataset_tools.images(tmp_path / "images", [nfd])
    check_contract(captions.make("all", path=table(tmp_path, [f"images\\{nfc}"])))


@pytest.mark.parametrize("form", ["jsonl", "coco", "karpathy"])
def test_backslashes_in_lists_of_other_forms(form, tmp_path):
    dataset_tools.images(tmp_path / "val", ["a.jpg"])
    path, name = str(tmp_path), "val\\a.jpg"
    if form == "karpathy":
        image = {"filename": name, "split": "test", "sentences": [{"raw": "x"}]}
        (tmp_path / "dataset.json").write_text(json.dumps({"images": [image]}))
        source = karpathy.make("test", path=path)
    else:
        if form == "coco":
            rows = {
                "images": [{"id": 1, "file_name": name}],
                "annotations": [{"image_id": 1, "caption": "x"}],
            }
        else:
            rows = {"image": name, "caption": "x"}
        (tmp_path / "t.json").write_text(json.dumps(rows))
        source = captions.make("all", path=path, table="t.json")
    check_contract(source)
    assert keys(source) == ["val/a.jpg"] and source[0].captions == ("x",)


@pytest.mark.parametrize(
    "name", ["C:\\data\\a.jpg", "d:/data/a.jpg", "\\\\server\\data\\a.jpg"]
)
def test_absolute_paths_of_windows_are_told(name, tmp_path):
    dataset_tools.images(tmp_path, ["a.jpg"])
    with pytest.raises(UserError, match="absolute paths of Windows, such as") as caught:
        captions.make("all", path=table(tmp_path, [name]))
    assert name in str(caught.value)
    source = captions.make("all", path=table(tmp_path, ["a.jpg", name]))
    assert source.problems[-1].startswith("1 images named by absolute paths of Windows")
    assert source[0].captions == ("of a.jpg",)
    with pytest.raises(BadExample, match="names it by a path of Windows"):
        source[1]


def test_two_spellings_of_a_path_are_one_image(tmp_path):
    dataset_tools.images(tmp_path / "images", ["a.jpg", "b.jpg", ".c.jpg"])
    same = ["./images/a.jpg", "images//a.jpg", "images/./a.jpg", ".//images\\\\a.jpg"]
    path = table(tmp_path, [*same, "images/a.jpg", "images/b.jpg", "images/.c.jpg"])
    source = captions.make("all", path=path)
    check_contract(source)
    assert keys(source) == ["images/a.jpg", "images/b.jpg", "images/.c.jpg"]
    assert len(source[0].captions) == 5
    (tmp_path / "mine.txt").write_text("./images/a.jpg\nimages//b\n")
    some = captions.make("test", path=path, split_file="mine.txt")
    assert keys(some) == ["images/a.jpg", "images/b.jpg"] and some.problems == []
