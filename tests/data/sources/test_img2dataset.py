"""What img2dataset writes, in its three forms: as distributed, parts, faults."""

import concurrent.futures
import json
import os
import pathlib
import pickle
import subprocess
import sys

import dataset_tools
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tools import check_contract, jpeg

from clipjax.data.containers import parquet_rows
from clipjax.data.sources import img2dataset, webdataset
from clipjax.data.storage import selection
from clipjax.types import BadExample, UserError

GOOD = [key for key in dataset_tools.KEYS if key not in dataset_tools.FAILED]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path_factory.mktemp("cache")))


def read(source):
    """key -> (image, captions), where the key is img2dataset's."""
    found = {}
    for i in range(len(source)):
        example = source[i]
        key = example.key.replace(":", "/").split("/")[1].partition(".")[0]
        found[key] = (example.image, list(example.captions))
    return found


EXPECTED = {
    key: (
        jpeg(int(key)),
        [caption] if (caption := dataset_tools.img2dataset_caption(key)) else [],
    )
    for key in GOOD
}


@pytest.mark.parametrize("shards", ["*.tar", "{00000..00001}.tar"])
def test_its_tar_shards_are_read_by_webdataset(shards, tmp_path):
    dataset_tools.img2dataset(tmp_path, "webdataset")
    source = webdataset.make("train", path=str(tmp_path), shards=shards)
    check_contract(source)
    assert read(source) == EXPECTED and list(read(source)) == GOOD
    assert source.problems == []
    with pytest.raises(UserError, match=r"tar shards \(00000.tar, ...\): .*webdataset"):
        img2dataset.make("train", path=str(tmp_path))


@pytest.mark.parametrize("form", ["files", "parquet"])
def test_its_other_forms(form, tmp_path):
    dataset_tools.img2dataset(tmp_path, form)
    path = str(tmp_path)
    source = img2dataset.make("all", path=path)
    check_contract(source)
    assert read(source) == EXPECTED and list(read(source)) == GOOD
    assert source.caption_counts.tolist() == [len(c) for _, c in EXPECTED.values()]
    gone = ["2 rows without an image, left out"] if form == "parquet" else []
    assert source.problems == gone
    for i in range(len(source)):
        assert list(source.captions_of(i)) == list(source[i].captions)
    one = img2dataset.make("all", path=path, shards="{00001..00001}")
    assert list(read(one)) == [key for key in GOOD if key.startswith("00001")]
    both = img2dataset.make("all", path=path, shards="00001::00000")
    assert list(read(both)) == sorted(GOOD, key=lambda key: (key[4] == "0", key))
    some = img2dataset.make("all", path=path, max_samples=3, subset_seed=5)
    chosen = selection.examples(len(GOOD), max_samples=3, subset_seed=5)
    assert list(read(some)) == [GOOD[i] for i in chosen]
    with pytest.raises(UserError, match="00002(.parquet)? does not exist.*names it"):
        img2dataset.make("all", path=path, shards="{00000..00002}")
    with pytest.raises(UserError, match="no shard of .* matches 9"):
        img2dataset.make("all", path=path, shards="9*")


@pytest.mark.parametrize("form", ["files", "parquet"])
def test_validation_is_held_out_by_the_keys(form, tmp_path):
    dataset_tools.img2dataset(tmp_path, form)
    path = str(tmp_path)
    train = img2dataset.make("train", path=path, val_fraction=0.5)
    val = img2dataset.make("val", path=path, val_fraction=0.5)
    golden = ["000000002", "000010000", "000010001", "000010003"]  # never changes
    assert list(read(val)) == golden
    assert list(read(train)) == [key for key in GOOD if key not in read(val)]
    with pytest.raises(UserError, match="none of the 6 images .*val_fraction=0.0;"):
        img2dataset.make("val", path=path, val_fraction=0.0)
    with pytest.raises(UserError, match="no split 'test'; use train, val, all"):
        img2dataset.make("test", path=path)


def test_folders_that_hold_something_else(tmp_path):
    path = str(tmp_path)
    with pytest.raises(UserError, match="neither folders .* nor parquet files"):
        img2dataset.make("train", path=path)
    dataset_tools.img2dataset(tmp_path, "webdataset")
    for shard in ("00000.tar", "00001.tar"):
        (tmp_path / shard).unlink()
    with pytest.raises(UserError, match="addresses of images.*with img2dataset"):
        img2dataset.make("train", path=path)
    (tmp_path / "00000").mkdir()
    with pytest.raises(UserError, match="the 1 shards of .* hold no images"):
        img2dataset.make("train", path=path)
    with pytest.raises(UserError, match="are of parquet files; .* remove the options"):
        img2dataset.make("train", path=path, caption_column="caption")


FAULTS = {  # the text file, the JSON file -> the captions, or the complaint
    "no text, JSON": (None, b'{"caption": "from json"}', ["from json"]),
    "neither": (None, None, []),
    "null": (None, b'{"caption": null}', []),
    "blank": (b" \n", None, []),
    "blank, JSON": (b" \n", b'{"caption": "from json"}', ["from json"]),
    "lines": (b"one\n\ntwo\r\n", None, ["one", "two"]),
    "lines of one": (b"one\ntwo", b'{"caption": "one two"}', ["one\ntwo"]),
    "latin": ("café".encode("latin-1"), None, "not UTF-8"),
    "no JSON": (None, b'{"caption": "x"', "broken JSON"),
    "a list": (None, b'{"caption": ["x"]}', ["x"]),
    "a list of others": (None, b'{"caption": [3]}', "must be strings"),
    "several": (None, b'{"captions": ["x", "y"]}', ["x", "y"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_text_breaks_its_example_alone(fault, tmp_path):
    dataset_tools.img2dataset(tmp_path, "files")
    text, fields, expected = FAULTS[fault]
    for suffix, data in ((".txt", text), (".json", fields)):
        place = tmp_path / "00000" / f"000000002{suffix}"
        place.unlink() if data is None else place.write_bytes(data)
    source = img2dataset.make("all", path=str(tmp_path))
    at = GOOD.index("000000002")
    if isinstance(expected, list):
        assert list(source[at].captions) == expected
        assert source.caption_counts[at] == len(expected)
    else:
        with pytest.raises(BadExample, match=f"^00000/000000002.jpg: .*{expected}"):
            source[at]
        assert source.caption_counts[at] == 1
    for i, key in enumerate(GOOD):
        if i != at:
            assert (source[i].image, list(source[i].captions)) == EXPECTED[key]
    (tmp_path / "00001" / "000010000.jpg").unlink()
    with pytest.raises(BadExample, match="^00001/000010000.jpg: .* is missing"):
        source[GOOD.index("000010000")]


# parquet


def write(place, rows, types=None, **options):
    types = types or {}
    names = list(rows[0])
    fields = [
        (n, types.get(n, pyarrow.binary() if n == "jpg" else pyarrow.string()))
        for n in names
    ]
    columns = [pyarrow.array([r[n] for r in rows], kind) for n, kind in fields]
    table = pyarrow.Table.from_arrays(columns, schema=pyarrow.schema(fields))
    pyarrow.parquet.write_table(table, place, **options)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.text(max_size=9)),
            st.one_of(st.none(), st.binary(min_size=1, max_size=9)),
            st.booleans(),
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 5),
)
def test_what_a_parquet_file_holds_is_what_is_read(tmp_path_factory, rows, group):
    place = tmp_path_factory.mktemp("parquet") / "0.parquet"
    fields = [
        {
            "key": f"{i}",
            "caption": text,
            "status": "success" if ok else "failed",
            "jpg": b,
        }
        for i, (text, b, ok) in enumerate(rows)
    ]
    write(place, fields, row_group_size=group)
    kept = [(f, r) for f, r in zip(fields, rows, strict=True) if r[2]]
    if not kept:
        with pytest.raises(UserError, match="hold no images"):
            img2dataset.make("all", path=str(place.parent))
        return
    source = img2dataset.make("all", path=str(place.parent))
    assert len(source) == len(kept)
    for i, (field, (text, image, _)) in enumerate(kept):
        if image is None:
            with pytest.raises(BadExample, match=f":{field['key']}: it has no image"):
                source[i]
            continue
        expected = [text.strip()] if text and text.strip("\ufeff \n").strip() else []
        if text and text.startswith("\ufeff"):
            continue  # a byte order mark, which is no part of a caption
        assert source[i].image == image and source[i].captions == expected
        assert source.caption_counts[i] == len(expected)


def test_rows_that_are_no_utf8_break_alone(tmp_path):
    rows = [
        {"key": key, "caption": text, "jpg": jpeg(i)}
        for i, (key, text) in enumerate([("a", b"fine"), ("b", b"caf\xe9"), ("c", b"")])
    ]
    write(tmp_path / "0.parquet", rows, {"caption": pyarrow.binary()})
    source = img2dataset.make("all", path=str(tmp_path))
    assert source[0].captions == ["fine"] and source[2].captions == []
    with pytest.raises(BadExample, match="^0.parquet:b: .*not UTF-8"):
        source[1]


@pytest.mark.parametrize(
    ("types", "row", "words"),
    [
        (
            {"caption": pyarrow.list_(pyarrow.int32())},
            {"caption": [1], "jpg": b""},
            "the column caption holds list<.*>, not text",
        ),
        ({"jpg": pyarrow.int32()}, {"jpg": 3}, "column jpg holds int32, not encoded"),
        ({}, {"caption": "x"}, "no column of images, but caption"),
    ],
)
def test_columns_of_another_kind(types, row, words, tmp_path):
    write(tmp_path / "0.parquet", [row], types)
    with pytest.raises(UserError, match=words) as caught:
        img2dataset.make("all", path=str(tmp_path))
    assert str(tmp_path / "0.parquet") in str(caught.value)


def test_columns_can_be_named(tmp_path):
    write(
        tmp_path / "0.parquet",
        [{"alt": "mine", "caption": "usual", "jpg": b"usual", "photo": b"mine"}],
        {"photo": pyarrow.large_binary(), "alt": pyarrow.large_string()},
    )
    path = str(tmp_path)
    plain = img2dataset.make("all", path=path)[0]
    assert (plain.image, plain.captions) == (b"usual", ["usual"])
    assert plain.key == "0.parquet:0/0"
    named = img2dataset.make(
        "all", path=path, image_column="photo", caption_column="alt"
    )
    assert (named[0].image, named[0].captions) == (b"mine", ["mine"])
    with pytest.raises(UserError, match="no column caption_column=x. It has alt, cap"):
        img2dataset.make("all", path=path, caption_column="x")


def test_a_parquet_file_that_is_cut_or_changes(tmp_path):
    dataset_tools.img2dataset(tmp_path, "parquet")
    path = str(tmp_path)
    source = img2dataset.make("all", path=path)
    first = source[0]
    place = tmp_path / "00000.parquet"
    raw = place.read_bytes()
    place.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(BadExample, match="00000.parquet:1/0: .*has changed since"):
        source[1]
    assert source[0] == first and read(
        img2dataset.make("all", path=path, shards="00001")
    )
    with pytest.raises(
        UserError, match="00000.parquet is not a parquet file, or truncated"
    ):
        img2dataset.make("all", path=path)
    place.unlink()
    with pytest.raises(BadExample, match="cannot read .*00000.parquet: No such file"):
        source[2]
    assert source[len(source) - 1].image  # the other shard is as it was


def test_every_flipped_byte_of_a_parquet_file_is_met_or_harmless(tmp_path):
    dataset_tools.img2dataset(tmp_path, "parquet")
    place = tmp_path / "00000.parquet"
    raw = place.read_bytes()
    for at in range(0, len(raw), 97):
        place.write_bytes(raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1 :])
        try:
            source = img2dataset.make("all", path=str(tmp_path))
        except UserError as error:
            assert str(place) in str(error) and "\n" not in str(error)
            continue
        for i in range(len(source)):
            try:
                source[i]
            except BadExample as error:
                assert "\n" not in str(error)


def test_memory_and_open_files_are_bounded(tmp_path):
    rng = np.random.default_rng(0)
    for shard in range(40):
        rows = [
            {"key": f"{shard}-{i}", "caption": "x", "jpg": rng.bytes(10_000)}
            for i in range(20)
        ]
        write(tmp_path / f"{shard:03}.parquet", rows, row_group_size=5)
    source = img2dataset.make("all", path=str(tmp_path))
    source._groups = parquet_rows.RowGroups(memory=300_000)
    order = rng.permutation(len(source))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: source[int(i)], order))
    assert [e.key for e in found] == [
        f"{i // 20:03}.parquet:{i // 20}-{i % 20}" for i in order
    ]
    assert 250_000 < source._groups.cached_bytes <= 300_000
    assert len(source._groups._files) == parquet_rows.FILES
    assert len(pickle.dumps(source)) < 60_000
    copy = pickle.loads(pickle.dumps(source))
    assert copy._groups.cached_bytes == 0 and copy[int(order[0])] == found[0]
    tight = img2dataset.make("all", path=str(tmp_path))
    tight._groups = parquet_rows.RowGroups(memory=1)
    assert tight[7].key == "000.parquet:0-7" and len(tight._groups._tables) == 1


def test_pyarrow_is_imported_for_parquet_alone(tmp_path):
    dataset_tools.img2dataset(tmp_path, "files")
    code = (
        "import sys; from clipjax.data.sources import img2dataset; "
        f"img2dataset.make('all', path={str(tmp_path)!r})[0]; "
        "print('pyarrow' in sys.modules)"
    )
    root = pathlib.Path(img2dataset.__file__).parents[3]
    printed = subprocess.run(
        [sys.executable, "-c", code],
        **dict(capture_output=True, text=True, check=True),
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert printed.stdout.strip() == "False"


def test_the_json_beside_an_image_is_as_img2dataset_writes_it(tmp_path):
    dataset_tools.img2dataset(tmp_path, "files")
    fields = json.loads((tmp_path / "00000" / "000000000.json").read_text())
    assert list(fields)[:4] == ["url", "caption", "key", "status"]
    assert not (tmp_path / "00000" / "000000001.jpg").exists()
