"""data=arrayrecord: records, metadata, their faults; read back as written."""

import concurrent.futures
import json
import pathlib
import pickle
import struct

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tools import check_contract, jpeg

from clipjax.data.containers import record_shards
from clipjax.data.images import decoding
from clipjax.data.prepare import convert
from clipjax.data.sources import arrayrecord, multimodal
from clipjax.types import BadExample, Example, UserError


class Listed:
    """A source of given examples, or of BadExamples."""

    problems: list = []

    def __init__(self, examples, class_names=None, templates=None):
        self.examples = examples
        counts = [len(getattr(e, "captions", ())) for e in examples]
        self.caption_counts = np.array(counts, np.int32)
        self.max_captions = max(counts)
        self.class_names = class_names or {}
        self.templates = templates or {}

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        if isinstance(self.examples[index], BadExample):
            raise self.examples[index]
        return self.examples[index]


def make(folder, examples, split="train", **options):
    source = examples if hasattr(examples, "caption_counts") else Listed(examples)
    return convert.convert(source, split, folder, convert.Options(**options), {})


def several(count=7):
    return [
        Example(jpeg(i), [f"{i} größer {c}" for c in range(i % 3)], {}, f"k{i}")
        for i in range(count)
    ]


# Records


def test_a_record_by_hand():
    """The format as the module's docstring says it, byte by byte."""
    header = b'{"key": "a", "captions": ["x"], "labels": {"class": 2}, "image": 3}'
    record = b"cjx1" + struct.pack("<I", len(header)) + header + b"jpg"
    example = Example(b"jpg", ("x",), {"class": 2}, "a")
    assert record_shards.encode(example) == record
    assert record_shards.decode(record) == example


@given(
    captions=st.lists(st.text(max_size=9), max_size=3),
    key=st.text(max_size=9),
    image=st.binary(max_size=30),
    shape=st.lists(st.integers(0, 3), max_size=3),
    dtype=st.sampled_from(["<f4", ">f4", "<i8", "u1", "?"]),
    damage=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=60)
def test_records_come_back_whole_or_are_refused(
    captions, key, image, shape, dtype, damage
):
    audio = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    record = record_shards.encode(
        Example(image, captions, {"c": 1}, key, {"audio": audio})
    )
    found = record_shards.decode(record)
    assert (found.image, list(found.captions), found.key) == (image, captions, key)
    np.testing.assert_array_equal(found.others["audio"], audio)
    assert found.others["audio"].dtype == np.dtype(dtype).newbyteorder("<")
    for end in (0, 3, 7, len(record) // 2, len(record) - 1):
        with pytest.raises(BadExample):
            record_shards.decode(record[:end])
    with pytest.raises(BadExample):
        record_shards.decode(record + b"x")
    altered = bytearray(record)
    altered[damage % len(record)] ^= 1 << damage % 7
    try:
        record_shards.decode(bytes(altered))
    except BadExample:
        pass


def test_a_record_of_objects_is_refused():
    for dtype, shape in (("|O", [1]), ("<U2", [1]), ("<f4", [-1, -2])):
        header = json.dumps(
            dict(key="", captions=[], labels={}, image=0, others=[["a", dtype, shape]])
        ).encode()
        with pytest.raises(BadExample, match="header"):
            head = b"cjx1" + struct.pack("<I", len(header)) + header
            record_shards.decode(head + b"\0" * 8)


# The source


def test_converted_examples_are_read_back(tmp_path):
    wanted = several()
    source = Listed(wanted, {"class": ["a", "b"]}, {"class": ["a {}."]})
    wanted[3] = Example(wanted[3].image, wanted[3].captions, {"class": 1}, "k3")
    make(tmp_path, source, shard_size=3)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [f"train-0000{i}.arrayrecord" for i in range(3)] + ["train.json"]
    found = arrayrecord.make("train", path=str(tmp_path))
    check_contract(found)
    for i, example in enumerate(wanted):
        assert (found[i].image, found[i].key) == (example.image, example.key)
        assert list(found[i].captions) == list(example.captions)
        assert found[i].labels == example.labels
    assert found.class_names == source.class_names
    assert found.templates == source.templates
    assert found.caption_counts.tolist() == [0, 1, 2, 0, 1, 2, 0]
    few = arrayrecord.make("train", path=str(tmp_path), max_samples=4)
    assert len(few) == 4 and few[3].labels == {"class": 1}


def test_other_modalities_and_drawn_images_survive(tmp_path):
    source = multimodal.make("val", size=5)
    make(tmp_path, source, split="val")
    found = arrayrecord.make("val", path=str(tmp_path))
    for i in range(5):
        before, after = source[i], found[i]
        np.testing.assert_array_equal(before.others["audio"], after.others["audio"])
        pixels = np.asarray(decoding.decode(after.image))
        np.testing.assert_array_equal(pixels, before.image)


def test_threads_and_copies_read_many_shards_with_few_readers(tmp_path):
    wanted = several(40)
    make(tmp_path, wanted, shard_size=4)
    split = record_shards.read_split(tmp_path / "train.json")
    readers = record_shards.Readers(tmp_path, split.shards, limit=3)
    copy = pickle.loads(pickle.dumps(readers))

    def read(n):
        i = (n * 7) % 40
        return record_shards.decode(copy.read(i // 4, i % 4)).key == f"k{i}"

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(400)))
    assert len(copy._open) == 3


# Faults


@pytest.fixture
def made(tmp_path):
    make(tmp_path / "d", several(), shard_size=4)
    return tmp_path / "d"


def refused(folder, split="train"):
    with pytest.raises(UserError) as caught:
        arrayrecord.make(split, path=str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_and_foreign_data(made, tmp_path):
    assert "no split 'trian'. Did you mean 'train'? Its splits: train" in refused(
        made, "trian"
    )
    (tmp_path / "other").mkdir()
    assert "holds no train.json" in refused(tmp_path / "other")
    (tmp_path / "other" / "train.json").write_text('{"images": []}')
    assert "was not written for data=arrayrecord" in refused(tmp_path / "other")
    (tmp_path / "other" / ".val.partial").mkdir()
    assert "unfinished conversion of the split 'val'" in refused(
        tmp_path / "other", "val"
    )


def test_damaged_metadata(made):
    place = made / "train.json"
    text = place.read_text()
    place.write_text(text[: len(text) // 2])
    assert f"{place} is damaged" in refused(made)
    for change, words in (
        ({"version": 99}, "version 99"),
        ({"examples": 8}, "do not add up"),
        ({"shards": [{}]}, "is damaged"),
        ({"shards": [], "examples": 0}, "lists no examples"),
        ({"class_names": []}, "is damaged"),
    ):
        place.write_text(json.dumps({**json.loads(text), **change}))
        assert words in refused(made)
    outside = json.loads(text)
    outside["shards"][0]["file"] = "../train-00000.arrayrecord"
    place.write_text(json.dumps(outside))
    assert "not a file name" in refused(made)


def test_missing_and_truncated_shards(made):
    shard = made / "train-00001.arrayrecord"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    assert f"{shard} has {len(data) - 1} bytes, not {len(data)}" in refused(made)
    shard.unlink()
    assert f"{shard} is missing" in refused(made)


def broken(source, index):
    with pytest.raises(BadExample) as caught:
        source[index]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_damage_inside_a_shard_is_that_examples(made):
    """Found when the example is read; ArrayRecord hashes its blocks."""
    shard = made / "train-00000.arrayrecord"
    data = bytearray(shard.read_bytes())
    place = bytes(data).index(b"cjx1")
    data[place + 30 : place + 60] = bytes(30)
    shard.write_bytes(data)
    source = arrayrecord.make("train", path=str(made))
    assert broken(source, 0).startswith("train-00000.arrayrecord:0: cannot read")
    assert source[1].key == "k1" and source[6].key == "k6"


def test_another_file_of_the_same_size(made):
    shard = made / "train-00001.arrayrecord"
    shard.write_bytes(b"x" * shard.stat().st_size)
    source = arrayrecord.make("train", path=str(made))
    assert "train-00001.arrayrecord:2: cannot read the shard" in broken(source, 6)
    shard.unlink()
    assert "No such file" in broken(pickle.loads(pickle.dumps(source)), 6)


def test_records_of_someone_else(made):
    shard = made / "train-00001.arrayrecord"
    writer = ArrayRecordWriter(str(shard), "group_size:1")
    for i in range(3):
        writer.write(b"theirs %d" % i)
    writer.close()
    found = json.loads((made / "train.json").read_text())
    found["shards"][1]["bytes"] = shard.stat().st_size
    (made / "train.json").write_text(json.dumps(found))
    source = arrayrecord.make("train", path=str(made))
    assert "clipjax.prepare did not write" in broken(source, 5)
    writer = ArrayRecordWriter(str(shard), "group_size:1")
    writer.write(record_shards.encode(Example(b"", ["one", "two", "three"])))
    writer.close()
    size = pathlib.Path(shard).stat().st_size
    found["shards"][1]["bytes"] = size
    (made / "train.json").write_text(json.dumps(found))
    source = arrayrecord.make("train", path=str(made))
    assert "it holds 1 records, not 3" in broken(source, 4)
