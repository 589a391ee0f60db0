"""Text, categories and numbers with names as captions, labels and splits of parquet."""

from typing import Any

import dataset_tools
import pyarrow
import pyarrow.parquet
import pytest
from source_tools import check_contract, jpeg

from clipjax.data.annotations import caption_lists
from clipjax.data.sources import parquet
from clipjax.types import BadExample, UserError

STRING, LARGE = pyarrow.string(), pyarrow.large_string()
CATEGORY = pyarrow.dictionary(pyarrow.int8(), STRING)
NAMES = ["cat", "dog", "fox"]
IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
WORDS = ["dog", "fox", None, "cat", "dog"]


def write(place, columns, features=None, image="image"):
    """columns: name -> (values, type); the images are of as many rows."""
    place.parent.mkdir(parents=True, exist_ok=True)
    count = len(next(iter(columns.values()))[0])
    images = [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in range(count)]
    columns = {image: (images, IMAGE), **columns}
    fields = [(name, kind) for name, (_, kind) in columns.items()]
    schema = dataset_tools.hub_schema(fields, features or {})
    arrays = [pyarrow.array(values, kind) for values, kind in columns.values()]
    table = pyarrow.Table.from_arrays(arrays, schema=schema)
    pyarrow.parquet.write_table(table, place, row_group_size=2)


KINDS = {
    "text": STRING,
    "large text": LARGE,
    "category": CATEGORY,
    "category of large text": pyarrow.dictionary(pyarrow.int32(), LARGE),
    "class label": pyarrow.int64(),
}


def column(kind, words, names=NAMES):
    """A column that says these words, and what `datasets` would say of it."""
    arrow = KINDS[kind]
    if kind != "class label":
        return (words, arrow), {}
    numbers = [-1 if word is None else names.index(word) for word in words]
    return (numbers, arrow), {"_type": "ClassLabel", "names": names}


@pytest.mark.parametrize("kind", KINDS)
def test_labels(kind, tmp_path):
    values, feature = column(kind, WORDS)
    write(tmp_path / "train.parquet", {"label": values}, {"label": feature})
    values, feature = column(kind, ["fox", "dog"])  # without the class of number 0
    write(tmp_path / "test.parquet", {"label": values}, {"label": feature})
    for labels in ((), ("label",), ("LABEL",)):
        options: dict[str, Any] = {"path": str(tmp_path), "val_fraction": 0.0}
        options["labels"] = labels
        source = parquet.make("train", **options)
        check_contract(source)
        assert source.class_names == {"label": NAMES} and source.problems == []
        assert [source[i].labels for i in range(5)] == [
            {} if word is None else {"label": NAMES.index(word)} for word in WORDS
        ]
        test = parquet.make("test", **options)
        assert test.class_names == {"label": NAMES}
        assert [test[i].labels["label"] for i in range(2)] == [2, 1]
    some = parquet.make("train", **options, max_classes=2, max_samples_per_class=1)
    assert some.class_names == {"label": ["cat", "dog"]}
    assert [some[i].labels for i in range(len(some))] == [{"label": 1}, {"label": 0}]


def test_a_file_names_the_classes_of_text(tmp_path):
    write(tmp_path / "train.parquet", {"label": (WORDS, STRING)})
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    source = parquet.make(
        "all", path=str(tmp_path), classes="names.txt", labels=("label",)
    )
    assert source.class_names == {"label": ["dog", "cat"]}
    assert [source[i].labels.get("label") for i in range(5)] == [0, None, None, 1, 0]
    assert source.problems == ["1 images whose label is none of names.txt"]


def test_names_of_one_splits_shards_are_said_to_be_its_own(tmp_path):
    for split, words in {"train": WORDS, "test": ["fox", "dog"]}.items():
        write(tmp_path / f"{split}.parquet", {"label": (words, STRING)})
    test = parquet.make("test", path=str(tmp_path), shards="{split}.parquet")
    assert test.class_names == {"label": ["dog", "fox"]}
    (said,) = test.problems
    assert "label are numbered" in said and "the option classes" in said


def test_a_label_of_no_text_at_all(tmp_path):
    write(tmp_path / "a.parquet", {"label": ([None, " "], STRING)})
    source = parquet.make("all", path=str(tmp_path))
    assert source.class_names == {}
    assert source.problems == ["the column label holds no class at all, left out"]
    write(tmp_path / "b.parquet", {"label": ([1], pyarrow.int64())})
    with pytest.raises(UserError, match="b.parquet has other labels .* than .*a.parq"):
        parquet.make("all", path=str(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_captions(kind, tmp_path):
    values, feature = column(kind, WORDS)
    write(tmp_path / "a.parquet", {"Caption": values}, {"Caption": feature})
    if kind == "class label":  # which is no caption unless it is asked for
        with pytest.raises(UserError, match="no column caption_column=captoin"):
            parquet.make("all", path=str(tmp_path), caption_column="captoin")
    source = parquet.make("all", path=str(tmp_path), caption_column="caption")
    check_contract(source)
    expected = [[] if word is None else [word] for word in WORDS]
    assert [list(source.captions_of(i)) for i in range(5)] == expected
    assert source.caption_counts.tolist() == [1, 1, 0, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_splits(kind, tmp_path):
    splits = ["train", "test", "train", "valid", None]
    values, feature = column(kind, splits, ["test", "valid", "train"])
    texts = [f"{i}" for i in range(5)]
    columns = {"Split": values, "text": (texts, STRING)}
    write(tmp_path / "0.parquet", columns, {"Split": feature})
    for split, expected in {"train": "02", "test": "1", "val": "3"}.items():
        source = parquet.make(split, path=str(tmp_path), split_column="split")
        found = [source.captions_of(i)[0] for i in range(len(source))]
        assert found == list(expected)


def test_a_column_of_splits_that_is_not_used_is_named(tmp_path):
    columns = {"Split": (["train", "test"], STRING), "text": (["a", "b"], STRING)}
    write(tmp_path / "0.parquet", columns)
    (said,) = parquet.make("all", path=str(tmp_path)).problems
    assert said.endswith("not used: the option split_column=Split uses them")
    options = {"path": str(tmp_path), "split_column": "split"}
    assert parquet.make("test", **options).problems == []


def test_lists_that_cannot_be_read_are_counted(tmp_path):
    texts = (["['a dog'", "a cat", "[{'raw': 'a cat'}]"], STRING)
    write(tmp_path / "0.parquet", {"text": texts})
    said = parquet.make("all", path=str(tmp_path)).problems
    assert said == [f"2 {caption_lists.BROKEN}"]


def test_names_of_columns_in_another_case(tmp_path):
    texts = (["a", "b"], STRING)
    columns = {"TEXT": texts, "Label": ([1, 0], pyarrow.int64())}
    write(tmp_path / "0.parquet", {**columns, "KEY": (["k", "l"], STRING)}, image="IMG")
    source = parquet.make("all", path=str(tmp_path))
    assert source[1].captions == ["b"] and source[1].labels == {"Label": 0}
    assert source[1].key == "0.parquet:l"
    named = parquet.make(
        "all", path=str(tmp_path), image_column="img", caption_column="text"
    )
    assert named[0] == source[0]


FORMS = {  # columns of two rows -> captions, what is said
    "a JSON list": ({"caption": ('["a", "b"]', '["c"]')}, [["a", "b"], ["c"]], []),
    "as pandas writes": (
        {"raw": ("['a' 'b']", "['c'\n 'd']")},
        [["a", "b"], ["c", "d"]],
        [],
    ),
    "in one of two": (
        {"caption": ("['a', 'b', '']", "[sic] c")},
        [["a", "b"], ["[sic] c"]],
        [
            "1 empty captions, left out",
            "1 of 2 captions spell a list, whose members are taken",
        ],
    ),
    "several columns": (
        {"caption": ("a", "c"), "caption_1": ("b", None)},
        [["a", "b"], ["c"]],
        [],
    ),
    "blank": ({"caption": ("  ", "")}, [[], []], ["1 empty captions, left out"]),
    "columns beside": (
        {"caption": ("a", "b"), "title": ("x", "y"), "alt_text": ("x", "y")},
        [["a"], ["b"]],
        ["2 columns with text that are not used (title, alt_text)"],
    ),
    "none is called so": (
        {"blip_caption": ("a", "b")},
        [[], []],
        ["1 columns with text that are not used (blip_caption)"],
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [STRING, LARGE, CATEGORY])
def test_forms_of_captions_in_text(form, kind, tmp_path):
    columns, expected, said = FORMS[form]
    write(tmp_path / "0.parquet", {n: (list(v), kind) for n, v in columns.items()})
    source = parquet.make("all", path=str(tmp_path))
    assert [list(source.captions_of(i)) for i in range(2)] == expected
    assert source.caption_counts.tolist() == [len(texts) for texts in expected]
    assert source.problems == said


def test_lists_of_a_fixed_size_and_columns_of_nothing(tmp_path):
    pairs = pyarrow.list_(STRING, 2)
    write(tmp_path / "a.parquet", {"caption": ([["a", "b"], ["c", None]], pairs)})
    write(tmp_path / "b.parquet", {"caption": ([None], pyarrow.null())})
    source = parquet.make("all", path=str(tmp_path))
    found = [list(source.captions_of(i)) for i in range(3)]
    assert found == [["a", "b"], ["c"], []]


def test_a_number_is_no_comment(tmp_path):
    write(tmp_path / "a.parquet", {"comment": ([3, 4], pyarrow.int64())})
    assert parquet.make("all", path=str(tmp_path)).max_captions == 0


def test_bytes_that_are_no_text(tmp_path):
    values = ([b"cat", b"caf\xe9"], pyarrow.binary())
    write(tmp_path / "a.parquet", {"caption": values, "label": values})
    source = parquet.make("all", path=str(tmp_path))
    assert source.class_names == {"label": ["caf\\xe9", "cat"]}
    with pytest.raises(BadExample, match="not UTF-8"):
        source[1]
    assert source[0].captions == ["cat"]


def test_a_folder_without_parquet_says_what_it_holds(tmp_path):
    (tmp_path / "data.csv").touch()
    with pytest.raises(UserError, match=r"no .parquet files \(it holds data.csv\)"):
        parquet.make("all", path=str(tmp_path))
