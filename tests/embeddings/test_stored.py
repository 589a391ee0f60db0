"""Stored embeddings are read as they were written, or refused in one line."""

import json

import numpy as np
import pyarrow.parquet
import pytest
from embedding_tools import content

import clipjax
from clipjax.embeddings import header, parts
from clipjax.embeddings.stored import Rows
from clipjax.types import UserError

MODEL = {"name": "m", "weights": "1", "settings": "2", "preprocess": "3"}
MODEL["tokenizer"] = "4"
DATA = {"name": "scenes", "split": "val", "options": {}, "fingerprint": {"examples": 5}}


def made(folder, captions=(2, 0, 1, 0, 0), **changes):
    """A folder of five examples in parts of two, of known numbers."""
    options = {"outputs": ("embed",), "dtype": "float32", "captions": True, **changes}
    head = header.Header(MODEL, DATA, "image_embed", 5, 2, **options)
    folder.mkdir(exist_ok=True)
    header.write_once(folder, head)
    for number in range(head.parts):
        rows = head.rows_of(number)
        words = [[f"{i}.{k}" for k in range(captions[i])] for i in rows]
        table = {
            "index": list(rows),
            "key": [str(i) for i in rows],
            "captions": pyarrow.array(words, pyarrow.list_(pyarrow.string())),
            "valid": [i != 3 for i in rows],
            "reason": ["" if i != 3 else "torn" for i in rows],
        }
        count = sum(map(len, words))
        arrays = {
            "images": np.array([[i, -i] for i in rows], np.float32),
            "texts": np.full((count, 2), number, np.float32),
        }
        place = folder / head.part_name(number)
        parts.write(place, arrays, pyarrow.table(table))
    return folder


def test_what_was_written(tmp_path):
    stored = clipjax.read_embeddings(made(tmp_path / "emb"))
    expected = np.array([[i, -i] for i in range(5)], np.float32)
    np.testing.assert_array_equal(np.asarray(stored.images), expected)
    assert np.asarray(stored.images, np.float16).dtype == np.float16
    np.testing.assert_array_equal(stored.texts, [[0, 0], [0, 0], [1, 1]])
    assert stored.text_ends.tolist() == [0, 2, 2, 3, 3, 3]
    assert [tuple(bad) for bad in stored.broken] == [(3, "3", "torn")]
    file = tmp_path / "emb" / "part-00001-of-00003" / "images.npy"
    assert np.load(file, mmap_mode="r").shape == (2, 2)
    assert {path.name for path in (tmp_path / "emb").iterdir()} == {
        header.FILE,
        *(f"part-0000{i}-of-00003" for i in (1, 2, 3)),
    }


def test_rows_are_those_of_the_joined_array():
    draw = np.random.default_rng(0)
    arrays = [draw.random((n, 3), np.float32) for n in (4, 0, 1, 5)]
    rows, whole = Rows(arrays), np.concatenate(arrays)
    assert rows.shape == whole.shape and len(rows) == 10 and rows.dtype == np.float32
    for places in (3, -1, slice(None), slice(8, 2, -2), [9, 0, 4, 4]):
        np.testing.assert_array_equal(rows[places], whole[places])
    assert rows[[]].shape == (0, 3)
    np.testing.assert_array_equal(rows[draw.integers(-10, 10, (2, 4))].shape, (2, 4, 3))
    mask = whole[:, 0] > 0.5
    np.testing.assert_array_equal(rows[mask], whole[mask])
    np.testing.assert_array_equal(rows[mask.tolist()], whole[mask])
    for place in (10, -11, [0, 10], mask[:9], True, 1.0, [0.5], ["1"]):
        with pytest.raises(IndexError):
            rows[place]


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def fewer_rows(path):
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.slice(0, table.num_rows - 1), path)


def fewer_captions(path):
    table = pyarrow.parquet.read_table(path)
    none = pyarrow.array([[]] * len(table), pyarrow.list_(pyarrow.string()))
    pyarrow.parquet.write_table(table.set_column(2, "captions", none), path)


def another_column(path):
    table = pyarrow.parquet.read_table(path).rename_columns(list("abcde"))
    pyarrow.parquet.write_table(table, path)


def another_part(path):
    other = path.parent.with_name("part-00002-of-00003") / path.name
    path.write_bytes(other.read_bytes())


def other_width(path):
    np.save(path, np.zeros((2, 7), np.float32))


def other_dtype(path):
    np.save(path, np.zeros((2, 2), np.float64))


def objects(path):
    np.save(path, np.array([{}, {}]), allow_pickle=True)


def gone(path):
    path.unlink()


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("images.npy", cut, "images.npy cannot be read"),
        ("images.npy", gone, "images.npy cannot be read"),
        ("images.npy", objects, "images.npy cannot be read"),
        ("images.npy", other_width, "the parts' images.npy differ in width"),
        ("images.npy", other_dtype, "images.npy is float64 [2, 2], not float32"),
        ("rows.parquet", cut, "rows.parquet cannot be read"),
        ("rows.parquet", gone, "rows.parquet cannot be read"),
        ("rows.parquet", fewer_rows, "has 1 rows and its part 2 examples"),
        ("rows.parquet", fewer_captions, "texts.npy is float32 [2, 2], not"),
        ("rows.parquet", another_column, "cannot be read (it has no column 'index')"),
        ("rows.parquet", another_part, "rows.parquet has the examples of another part"),
    ],
)
def test_damage(file, damage, words, tmp_path):
    folder = made(tmp_path / "emb")
    damage(folder / "part-00001-of-00003" / file)
    with pytest.raises(UserError) as found:
        clipjax.read_embeddings(folder)
    assert words in str(found.value) and "\n" not in str(found.value)
    assert str(folder) in str(found.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged (its form is not 1)"),
        ('{"form": 2}', "is damaged (its form is not 1)"),
        ('{"form": 1}', "is damaged"),
        ("model", "is damaged (it lacks the model's identity)"),
        ("data", "is damaged (it does not say what was embedded)"),
        ("part_size", "is damaged (its sizes or dtype are not possible)"),
    ],
)
def test_a_damaged_header(text, words, tmp_path):
    folder = made(tmp_path / "emb")
    changes = {"part_size": 0, "model": {"name": "m"}, "data": {"name": "scenes"}}
    if text in changes:
        value = json.loads((folder / header.FILE).read_text())
        text = json.dumps({**value, text: changes[text]})
    (folder / header.FILE).write_text(text)
    with pytest.raises(UserError) as found:
        clipjax.read_embeddings(folder)
    assert words in str(found.value)


def test_no_embeddings_there(tmp_path):
    with pytest.raises(UserError, match="holds no embeddings .*name the --out of"):
        clipjax.read_embeddings(tmp_path)


def test_parts_without_a_header_may_be_of_any_model(tmp_path):
    folder = made(tmp_path / "emb")
    (folder / header.FILE).unlink()
    before = content(folder)
    with pytest.raises(UserError, match=r"without their embeddings.json, so their mod"):
        made(folder)
    assert content(folder) == before


def test_the_first_header_stays(tmp_path):
    folder = made(tmp_path / "emb")
    before = content(folder)
    made(folder)  # the same again
    assert content(folder) == before
    with pytest.raises(UserError, match="dtype float32 there, float16 here"):
        made(folder, dtype="float16")
    assert content(folder) == before
