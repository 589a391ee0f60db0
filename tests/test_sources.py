"""File-based sources: the public formats, their faults, and what is read back."""

import concurrent.futures
import csv
import io
import json
import logging
import os
import pathlib
import pickle
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipjax import registry
from clipjax.data import files, images, tables, tar_index
from clipjax.data.sources import captions, imagefolder, webdataset
from clipjax.types import BadExample, Source, UserError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Keeps every index of a test in a folder of its own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CLIPJAX_CACHE", str(folder))
    return folder / "index"


def jpeg(seed=0):
    color = tuple(np.random.default_rng(seed).integers(0, 255, 3).tolist())
    stream = io.BytesIO()
    Image.new("RGB", (12, 8), color).save(stream, "JPEG")
    return stream.getvalue()


def write_tar(path, members):
    """members: (name, bytes) pairs, or TarInfo for a member without content."""
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return path


def pair(key, *texts, seed=0):
    fields = {"captions": list(texts), "width": 12}
    return [(f"{key}.jpg", jpeg(seed)), (f"{key}.json", json.dumps(fields).encode())]


def check_contract(source):
    """What types.Source promises of every source."""
    assert isinstance(source, Source)
    assert source.caption_counts.dtype == np.int32
    assert source.caption_counts.shape == (len(source),)
    assert source.max_captions == source.caption_counts.max()
    assert isinstance(source.problems, list)
    for index in (0, len(source) - 1):
        example = source[index]
        assert images.decode(example.image).mode == "RGB" and example.key
        assert len(example.captions) == source.caption_counts[index]
        assert example.labels.keys() <= source.class_names.keys()
    copy = pickle.loads(pickle.dumps(source))
    assert copy[0] == source[0] and len(copy) == len(source)
    for index in (len(source), -1):
        with pytest.raises(IndexError):
            source[index]


# Files


def test_a_pool_reads_parts_of_many_files_with_few_handles(tmp_path):
    paths = []
    for i in range(20):
        paths.append(str(tmp_path / f"{i}"))
        pathlib.Path(paths[-1]).write_bytes(bytes([i]) * 50 + bytes(range(100)))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else None
    pool = files.FilePool(3)

    def read(n):
        return pool.read(paths[n % 20], 48, 4) == bytes([n % 20] * 2 + [0, 1])

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(2000)))
    assert len(pool) == 3
    assert pool.read(paths[0], 148, 10) == bytes([98, 99])
    assert len(pickle.loads(pickle.dumps(pool))) == 0
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before + 3
        del pool
        assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(OSError):
        files.FilePool().read(str(tmp_path / "none"), 0, 1)


@pytest.mark.parametrize("name", ["webdataset", "captions", "imagefolder"])
def test_missing_data_name_the_path_and_the_flag(name, tmp_path):
    make = registry.load("data", name)
    assert all(o.default is not None for o in registry.options(make).values())
    flag = "--config.data.train.path=FOLDER"
    with pytest.raises(UserError, match=f"no folder of .*{flag}"):
        make("train")
    gone = tmp_path / "gone"
    with pytest.raises(UserError, match=f"^{gone} does not exist. .*{flag}"):
        make("train", path=str(gone))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a folder"):
        make("train", path=str(tmp_path / "file"))
    (tmp_path / "file").unlink()
    with pytest.raises(UserError, match=str(tmp_path)) as caught:
        make("train", path=str(tmp_path))
    assert "\n" not in str(caught.value)


# webdataset


def test_webdataset_reads_every_form_of_caption(tmp_path):
    write_tar(
        tmp_path / "x-train-0.tar",
        [
            *pair("a", "one", " two ", ""),
            ("dir/b.JPEG", jpeg(1)),
            ("dir/b.txt", "  größer\n".encode()),
            ("c.seg.png", b"not the image"),
            ("c.png", jpeg(2)),
            ("c.json", b'{"caption": "see", "other": null}'),
            ("./d.webp", jpeg(3)),
            ("e.jpg", jpeg(4)),
            ("e.json", b'{"caption": "from json", "key": "e"}'),
            ("e.txt", b"from txt"),
            ("f.jpg", jpeg(5)),
            ("f.txt", b"short"),
            ("f.json", b'{"captions": ["long", "longer"]}'),
            ("g.jpg", jpeg(6)),
            ("g.json", b'{"caption": null}'),
        ],
    )
    source = webdataset.make("train", path=str(tmp_path))
    check_contract(source)
    found = {
        e.key.split(":")[1]: list(e.captions) for e in map(source.__getitem__, range(7))
    }
    assert found == {
        "a": ["one", "two"],
        "dir/b": ["größer"],
        "c": ["see"],
        "d": [],
        "e": ["from txt"],
        "f": ["long", "longer"],
        "g": [],
    }
    assert source.caption_counts.tolist() == [2, 1, 1, 0, 1, 2, 0]
    assert source.max_captions == 2 and source.problems == []
    assert source[1].image == jpeg(1) and source[1].key == "x-train-0.tar:dir/b"
    assert source[0].labels == {} and source.class_names == {}


def test_webdataset_shards_follow_one_another_in_order(tmp_path):
    for i in (2, 0, 1):
        keys = [f"k{i}{j}" for j in range(i + 1)]
        write_tar(tmp_path / f"train-{i}.tar", [m for k in keys for m in pair(k, k)])
    write_tar(tmp_path / "val-0.tar", pair("v", "v"))
    source = webdataset.make("train", path=str(tmp_path))
    keys = [source[i].captions[0] for i in range(len(source))]
    assert keys == ["k00", "k10", "k11", "k20", "k21", "k22"]
    assert len(webdataset.make("val", path=str(tmp_path))) == 1
    few = webdataset.make("train", path=str(tmp_path), max_samples=2)
    assert len(few) == 2 and few[1].key == source[1].key
    check_contract(few)
    with pytest.raises(UserError, match="max_samples=-1"):
        webdataset.make("train", path=str(tmp_path), max_samples=-1)


def test_webdataset_patterns_and_ranges(tmp_path):
    (tmp_path / "train").mkdir()
    for i in range(8, 12):
        write_tar(tmp_path / "train" / f"{i:03}.tar", pair(f"{i}", "x"))
    path = str(tmp_path)
    assert len(webdataset.make("train", path=path, shards="{split}/*.tar")) == 4
    some = webdataset.make("train", path=path, shards="train/{009..011}.tar")
    assert [some[i].key for i in range(3)] == [
        f"train/{i:03}.tar:{i}" for i in (9, 10, 11)
    ]
    for pattern, complaint in {
        "train/{009..013}.tar": r"train/012.tar does not exist. shards=train/\{009",
        "train/{011..009}.tar": "runs backwards",
        "other/*.tar": "no shard of .* matches other/.*: it holds train/008.tar, ",
        "/abs/*.tar": "relative to path",
        "": "relative to path",
    }.items():
        with pytest.raises(UserError, match=complaint):
            webdataset.make("train", path=path, shards=pattern)


def test_webdataset_without_images_is_an_error(tmp_path):
    write_tar(tmp_path / "train-0.tar", [("a.txt", b"text alone"), ("b.mp3", b"")])
    with pytest.raises(UserError, match="no images .*2 keys without an image"):
        webdataset.make("train", path=str(tmp_path))
    (tmp_path / "train-0.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"no images .*empty \(0 bytes\)"):
        webdataset.make("train", path=str(tmp_path))
    (tmp_path / "train-0.tar").write_bytes(b"<html>" * 400)
    with pytest.raises(UserError, match="train-0.tar is not a tar file"):
        webdataset.make("train", path=str(tmp_path))
    (tmp_path / "train-0.tar").write_bytes(b"\x1f\x8b" + bytes(1000))
    with pytest.raises(UserError, match="compressed: unpack"):
        webdataset.make("train", path=str(tmp_path))


def test_webdataset_classes(tmp_path):
    write_tar(
        tmp_path / "val-0.tar",
        [
            *((f"{i}.jpg", jpeg(i)) for i in range(5)),
            ("0.cls", b"1"),
            ("1.cls", b" 0\n"),
            ("2.cls", b"2"),
            ("3.cls", b"cat"),
        ],
    )
    (tmp_path / "names.txt").write_text("cat\nsnow leopard\n", encoding="utf-8")
    path = str(tmp_path)
    source = webdataset.make("val", path=path, classes="names.txt")
    assert source.class_names == {"class": ["cat", "snow leopard"]}
    assert source[0].labels == {"class": 1} and source[1].labels == {"class": 0}
    assert source[4].labels == {}
    with pytest.raises(BadExample, match="val-0.tar:2: class 2, but there are 2"):
        source[2]
    with pytest.raises(BadExample, match="val-0.tar:3: its .cls file"):
        source[3]
    plain = webdataset.make("val", path=path)
    assert plain.class_names == {} and plain[3].labels == {}
    with pytest.raises(UserError, match="nowhere.txt does not exist.*classes=nowhere"):
        webdataset.make("val", path=path, classes="nowhere.txt")
    write_tar(tmp_path / "train-0.tar", pair("a", "x"))
    with pytest.raises(UserError, match="hold no .cls files"):
        webdataset.make("train", path=path, classes="names.txt")


def test_webdataset_broken_captions_break_their_example_alone(tmp_path):
    write_tar(
        tmp_path / "train-0.tar",
        [
            *pair("good", "x"),
            *(("latin.jpg", jpeg()), ("latin.txt", "café".encode("latin-1"))),
            *(("json.jpg", jpeg()), ("json.json", b'{"captions": ["x"')),
            *(("list.jpg", jpeg()), ("list.json", b'["x"]')),
            *(("number.jpg", jpeg()), ("number.json", b'{"captions": [3]}')),
            *(("text.jpg", jpeg()), ("text.json", b'{"captions": "x"}')),
            *(("deep.jpg", jpeg()), ("deep.json", b"[" * 99999)),
        ],
    )
    source = webdataset.make("train", path=str(tmp_path))
    assert source.caption_counts.tolist() == [1] * 7
    assert source[0].captions == ["x"]
    for i, words in enumerate(
        ["UTF-8", "broken JSON", "not an object", "strings", "strings", "broken JSON"],
        1,
    ):
        with pytest.raises(BadExample, match=f"^train-0.tar:.*{words}"):
            source[i]
    assert source.problems == ["train-0.tar: 6 caption files that cannot be read"]


def test_webdataset_ignores_and_counts_what_is_unsafe(tmp_path, caplog):
    link = tarfile.TarInfo("link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    write_tar(
        tmp_path / "train-0.tar",
        [
            *(link, folder),
            *(("../up.jpg", jpeg()), ("/abs.jpg", jpeg()), ("._hidden.jpg", b"")),
            *pair("a", "first"),
            *pair("a", "second"),
        ],
    )
    write_tar(tmp_path / "train-1.tar", pair("a", "third"))
    with caplog.at_level(logging.WARNING):
        source = webdataset.make("train", path=str(tmp_path))
    assert [source[i].captions for i in range(2)] == [["first"], ["third"]]
    assert source.problems == [
        "train-0.tar: 2 files of a key that has such a file already, left out",
        "train-0.tar: 1 members that are links or special files, left out",
        "train-0.tar: 2 members with an unsafe name, left out",
    ]
    assert len(caplog.records) == 1 and "(and 2 more)" in caplog.text


def test_every_cut_of_a_tar_keeps_its_whole_members(tmp_path):
    names = ["a" * 120, "b", "c"]  # the long name takes a header of its own
    whole = write_tar(
        tmp_path / "whole.tar", [m for k in names for m in pair(k, k, k)]
    ).read_bytes()
    full = tar_index.build(tmp_path / "whole.tar")
    end = int(full.text_start[-1] + full.text_size[-1])
    assert full.problems == ()
    cuts = {
        *range(0, end + 512, 256),
        end - 1,
        end,
        *(int(s) for s in full.image_start),
    }
    for cut in sorted(cuts):
        (tmp_path / "train-0.tar").write_bytes(whole[:cut])
        try:
            source = webdataset.make("train", path=str(tmp_path))
        except UserError as error:
            assert cut < full.image_start[0], error
            continue
        assert source.problems[0].startswith("train-0.tar:")
        for i in range(len(source)):
            image_whole = full.image_start[i] + full.image_size[i] <= cut
            text_known = full.text_start[i] <= cut
            text_whole = full.text_start[i] + full.text_size[i] <= cut
            if image_whole and (text_whole or source.caption_counts[i] == 0):
                assert source[i].image == jpeg()
                assert source[i].captions == [names[i]] * 2 or not text_known
            else:
                with pytest.raises(BadExample, match=f"train-0.tar:{names[i]}: .*cut"):
                    source[i]
        for i in range(3):
            if full.text_start[i] + full.text_size[i] <= cut:
                assert i < len(source) and source.caption_counts[i] == 2


def test_garbage_in_the_middle_of_a_tar_is_reported(tmp_path):
    path = write_tar(tmp_path / "train-0.tar", [*pair("a", "x"), *pair("b", "y")])
    raw = bytearray(path.read_bytes())
    at = int(tar_index.build(path).image_start[1]) - 512
    raw[at : at + 512] = b"\xff" * 512
    path.write_bytes(raw)
    source = webdataset.make("train", path=str(tmp_path))
    assert len(source) == 1 and source[0].captions == ["x"]
    assert source.problems == [
        f"train-0.tar: bad header at byte {at}; the rest is lost"
    ]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_tars_are_user_errors_or_indexes(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("tar") / "t.tar"
    write_tar(path, [*pair("a", "x"), *pair("b" * 110, "y")])
    raw = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=8)):
        raw[at] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        found = tar_index.build(path)
    except UserError:
        return
    assert len(found) <= 4
    assert [found.key(i) for i in range(len(found))]


def arrays_of(rows):
    columns = list(zip(*rows, strict=True)) or [[]] * 8
    lengths = np.cumsum([len(c.encode()) for c in columns[0]], dtype=np.int64)
    blob = "".join(columns[0]).encode()
    types = [np.int64] * 4 + [np.uint8, np.int32, np.int32]
    return tar_index.ShardIndex(
        np.frombuffer(blob, np.uint8),
        lengths,
        *(np.array(c, t) for c, t in zip(columns[1:], types, strict=True)),
    )


POSITION = st.integers(0, 2**62)
ROW = st.tuples(
    st.text(min_size=1, max_size=20).filter(lambda s: s.isprintable()),
    *(POSITION, POSITION, POSITION, POSITION),
    *(st.integers(0, 2), st.integers(0, 2**31 - 1), st.integers(-2, 2**31 - 1)),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(ROW, max_size=8), st.lists(st.text(), max_size=3), st.text())
def test_an_index_round_trips_through_its_file(tmp_path_factory, rows, problems, stamp):
    stamp = stamp.rstrip("\0")  # NumPy strings cannot end in NUL; a stamp is JSON
    place = tmp_path_factory.mktemp("index") / "i.npz"
    made = arrays_of(rows)
    made = tar_index.ShardIndex(
        *(getattr(made, name) for name in tar_index.ARRAYS), tuple(problems)
    )
    tar_index.save(place, stamp, made)
    read = tar_index.load(place, stamp)
    assert [read.key(i) for i in range(len(read))] == [row[0] for row in rows]
    for name in tar_index.ARRAYS:
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
        assert getattr(read, name).dtype == getattr(made, name).dtype
    assert read.problems == made.problems
    assert tar_index.load(place, stamp + "x") is None


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text("abcü/ ", min_size=1, max_size=130).filter(
            lambda k: not k.startswith("/") and k.rpartition("/")[2].strip()
        ),
        st.lists(st.text(max_size=9), max_size=4),
        min_size=1,
        max_size=6,
    )
)
def test_what_a_tar_holds_is_what_is_read(tmp_path_factory, wanted):
    folder = tmp_path_factory.mktemp("shards")
    members = [m for k, texts in wanted.items() for m in pair(k, *texts, seed=len(k))]
    write_tar(folder / "train.tar", members)
    source = webdataset.make("train", path=str(folder))
    assert len(source) == len(wanted)
    for i, (key, texts) in enumerate(wanted.items()):
        example = source[i]
        assert example.key == f"train.tar:{key}" and example.image == jpeg(len(key))
        assert example.captions == [t.strip() for t in texts if t.strip()]
        assert len(example.captions) == source.caption_counts[i]


def test_the_index_is_kept_and_made_anew_when_the_shard_changes(
    tmp_path, cache, monkeypatch
):
    shard = write_tar(tmp_path / "train-0.tar", pair("a", "x"))
    built = []
    build = tar_index.build
    monkeypatch.setattr(tar_index, "build", lambda p: built.append(p) or build(p))

    def open_again():
        return webdataset.make("train", path=str(tmp_path))

    open_again(), open_again()
    assert len(built) == 1 and len(list(cache.iterdir())) == 1
    write_tar(shard, [*pair("b", "y", "z"), *pair("c", "w")])
    assert len(open_again()) == 2 and len(built) == 2
    os.utime(shard, ns=(1, 1))
    open_again(), open_again()
    assert len(built) == 3
    kept = next(cache.iterdir())
    raw = kept.read_bytes()
    for damaged in (b"", b"PK\3\4 nonsense", raw[: len(raw) // 2], b"\x80\4]q\0."):
        kept.write_bytes(damaged)
        assert open_again().caption_counts.tolist() == [2, 1]
    assert len(built) == 7 and list(cache.iterdir()) == [kept]


def test_a_cache_that_cannot_be_written_is_only_a_warning(
    tmp_path, monkeypatch, caplog
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "file"))
    write_tar(tmp_path / "train-0.tar", pair("a", "x"))
    assert len(webdataset.make("train", path=str(tmp_path))) == 1
    assert "cannot keep a shard's index" in caplog.text


def test_a_shard_that_vanishes_later_breaks_its_examples(tmp_path):
    write_tar(tmp_path / "train-0.tar", pair("a", "x"))
    source = webdataset.make("train", path=str(tmp_path))
    (tmp_path / "train-0.tar").unlink()
    with pytest.raises(BadExample, match="train-0.tar:a: cannot read the shard"):
        source[0]


def test_webdataset_reads_the_same_from_many_threads(tmp_path):
    for i in range(4):
        members = [m for j in range(25) for m in pair(f"{i}-{j}", f"{i}-{j}", seed=j)]
        write_tar(tmp_path / f"train-{i}.tar", members)
    source = webdataset.make("train", path=str(tmp_path))
    source._pool = files.FilePool(2)
    alone = [source[i] for i in range(100)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.__getitem__, range(100))) == alone


def test_webdataset_on_flickr8k(shared_data):
    path = str(shared_data / "flickr8k")
    train = webdataset.make("train", path=path)
    val = webdataset.make("val", path=path)
    assert (len(train), len(val), val.max_captions) == (6000, 1000, 5)
    assert (train.caption_counts == 5).all() and train.problems == []
    check_contract(train), check_contract(val)
    with tarfile.open(shared_data / "flickr8k" / "flickr8k-val-00000.tar") as tar:
        names = [n for n in tar.getnames() if n.endswith(".jpg")]
        for i in (0, 499, 999):
            assert val[i].image == tar.extractfile(names[i]).read()
            text = tar.extractfile(names[i].replace(".jpg", ".json")).read()
            assert val[i].captions == [c.strip() for c in json.loads(text)["captions"]]


# captions


ROWS = {
    "b.jpg": ["A dog, running", 'He said "no"', "größer"],
    "a.jpg": ["one", "two"],
    "c.jpg": ["a | bar and a # sign"],
}
TOKEN = "".join(
    f"{name}#{i}\t{text}\n"
    for name, texts in ROWS.items()
    for i, text in enumerate(texts)
)
TSV = "".join(f"{name}\t{text}\r\n" for name, texts in ROWS.items() for text in texts)
BARS = "image_name| comment_number| comment\n" + "".join(
    f"{name}| {i}| {text}\n"
    for name, texts in ROWS.items()
    for i, text in enumerate(texts)
)


def as_csv(header, extra=False):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    if header:
        writer.writerow((["number"] if extra else []) + list(header))
    for name, texts in ROWS.items():
        for i, text in enumerate(texts):
            writer.writerow(([i] if extra else []) + [name, text])
    return stream.getvalue()


FORMS = {
    "captions.txt": as_csv(("image", "caption")),
    "captions.csv": "\ufeff" + as_csv(("File_Name", "Title"), extra=True),
    "captions.tsv": "filepath\ttitle\n" + TSV,
    "results.csv": BARS,
    "results_20130124.token": TOKEN,
    "Flickr8k.token.txt": TOKEN,
    "flickr30k_images/results.csv": BARS,
    "other.tsv": TSV,
    "plain.csv": as_csv(None),
}


def make_images(folder, names=tuple(ROWS)):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        (folder / name).write_bytes(jpeg(i))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "folder", ["Images", "images", "flickr30k_images/flickr30k_images", "."]
)
def test_captions_finds_and_reads_every_form(form, folder, tmp_path):
    make_images(tmp_path / folder)
    (tmp_path / form).parent.mkdir(exist_ok=True)
    (tmp_path / form).write_text(FORMS[form], encoding="utf-8", newline="")
    source = captions.make("all", path=str(tmp_path))
    check_contract(source)
    got = {source[i].key: list(source[i].captions) for i in range(len(source))}
    assert got == ROWS and list(got) == list(ROWS)
    assert source.max_captions == 3 and source.class_names == {}
    assert source[1].image == jpeg(1) and source.problems == []


def write_table(folder, text, name="captions.txt", names=("a.jpg", "b.jpg", "c.jpg")):
    make_images(folder / "Images", names)
    raw = text if isinstance(text, bytes) else text.encode()
    (folder / name).write_bytes(raw)
    return str(folder)


def test_columns_tables_and_folders_can_be_named(tmp_path):
    make_images(tmp_path / "pics", ["a.jpg"])
    table = "id,picture,text,alt\n1,a.jpg,wrong,right\n"
    (tmp_path / "t.csv").write_text(table)
    (tmp_path / "u.csv").write_text("nothing")
    path = str(tmp_path)
    with pytest.raises(UserError, match="it holds t.csv, u.csv.*option table"):
        captions.make("all", path=path)
    with pytest.raises(UserError, match="set the options image_column and"):
        captions.make("all", path=path, table="t.csv")
    named = dict(table="t.csv", image_column="picture", caption_column="alt")
    with pytest.raises(UserError, match="no image of .*'a.jpg'.*option images"):
        captions.make("all", path=path, **named)
    with pytest.raises(UserError, match="gone does not exist.*images=gone"):
        captions.make("all", path=path, **named, images="gone")
    source = captions.make("all", path=path, **named, images=str(tmp_path / "pics"))
    assert source[0].captions == ("right",)
    with pytest.raises(UserError, match="none.csv does not exist.*table=none.csv"):
        captions.make("all", path=path, table="none.csv")


def test_a_row_of_flickr30k_without_its_second_bar_is_read(tmp_path):
    text = BARS + "d.jpg| 4   A dog runs across the grass .\nd.jpg| nothing\n"
    make_images(tmp_path, [*ROWS, "d.jpg"])
    (tmp_path / "results.csv").write_text(text, encoding="utf-8")
    entries, _ = tables.read(tmp_path / "results.csv", "", "")
    assert entries["d.jpg"].captions == ["A dog runs across the grass ."]
    assert entries["d.jpg"].fault and entries["d.jpg"].rows == 2


def test_broken_rows_break_their_image_alone(tmp_path):
    text = "image,caption\na.jpg,fine\nb.jpg,café\nb.jpg,fine\nc.jpg\n,lost\nx y\n"
    path = write_table(tmp_path, text.encode("latin-1") + b"a.jpg,\n")
    source = captions.make("all", path=path)
    assert source[0].captions == ("fine",)
    assert source.caption_counts.tolist() == [1, 2, 1]
    with pytest.raises(BadExample, match="^b.jpg: a caption is not UTF-8"):
        source[1]
    with pytest.raises(BadExample, match="^c.jpg: .*no caption field"):
        source[2]
    assert source.problems == [
        "2 rows that name no image, left out",
        "1 empty captions, left out",
        "2 images with a caption that cannot be read",
    ]


def test_a_listed_image_that_is_missing_is_a_bad_example(tmp_path):
    path = write_table(tmp_path, "image,caption\ngone.jpg,x\na.jpg,y\n")
    source = captions.make("all", path=path)
    with pytest.raises(BadExample, match="^gone.jpg: the file .*gone.jpg is missing"):
        source[0]
    assert source[1].captions == ("y",)


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "is empty"),
        (b"\n  \n", "is empty"),
        (b"image,caption\n", "names no images"),
        ("image,caption\na.jpg,x\n".encode("utf-16"), "UTF-16"),
        (b"a\xff\xfe,b\n1,2\n", "cannot tell the image and caption columns"),
        (b'image,caption\na.jpg,"open\nb.jpg,x\nc.jpg,y\n', "line 2: a quote is never"),
        (b'image,caption\na.jpg,"' + b"x" * 200_000, "line 2: not a CSV row"),
    ],
)
def test_tables_that_cannot_be_used(raw, complaint, tmp_path):
    with pytest.raises(UserError, match=complaint) as caught:
        captions.make("all", path=write_table(tmp_path, raw))
    assert "captions.txt" in str(caught.value) and "\n" not in str(caught.value)


def test_captions_split_by_a_stable_hash(tmp_path):
    names = [f"{i}.jpg" for i in range(300)]
    rows = "".join(f"{name},caption\n" for name in names)
    path = write_table(tmp_path, "image,caption\n" + rows, names=names[:1])
    for name in names[1:]:
        os.link(tmp_path / "Images" / names[0], tmp_path / "Images" / name)

    def keys(split, **options):
        source = captions.make(split, path=path, **options)
        return [source[i].key for i in range(len(source))]

    train, val = keys("train"), keys("val")
    assert sorted(train + val) == sorted(names) and keys("all") == names
    assert 15 < len(val) < 48
    assert val[:3] == ["26.jpg", "34.jpg", "36.jpg"]  # golden: never changes
    assert set(val) < set(keys("val", val_fraction=0.5))
    assert keys("train", val_fraction=0.0) == names
    assert keys("val", val_fraction=1.0, max_samples=7) == names[:7]
    with pytest.raises(UserError, match="no image of .*'val' with val_fraction=0.0"):
        keys("val", val_fraction=0.0)
    with pytest.raises(UserError, match="val_fraction=1.5"):
        keys("val", val_fraction=1.5)
    with pytest.raises(UserError, match="splits train, val and all"):
        keys("test")
    (tmp_path / "dev.txt").write_text("5.jpg\n3.jpg\nabsent.jpg\n\n")
    assert keys("test", split_file="dev.txt") == ["3.jpg", "5.jpg"]
    source = captions.make("test", path=path, split_file="dev.txt")
    assert source.problems == ["1 names of dev.txt are not in the table"]
    (tmp_path / "dev.txt").write_text("absent.jpg\n")
    with pytest.raises(UserError, match="none of the 1 names of dev.txt"):
        keys("test", split_file="dev.txt")


TEXT = st.text(
    st.characters(
        codec="utf-8", exclude_characters="\r\n\0", exclude_categories=["Cs"]
    ),
    max_size=12,
).filter(lambda text: text.strip() == text != "")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["a.jpg", "b.jpg", "ü.jpg"]), TEXT), min_size=1)
)
def test_csv_and_token_tables_round_trip(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("table")
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([("image", "caption"), *rows])
    (folder / "t.csv").write_text(stream.getvalue(), encoding="utf-8", newline="")
    token = "".join(f"{name}#{i}\t{text}\n" for i, (name, text) in enumerate(rows))
    (folder / "t.token").write_text(token, encoding="utf-8", newline="")
    expected = {}
    for name, text in rows:
        expected.setdefault(name, []).append(text)
    for name in ("t.csv", "t.token"):
        entries, problems = tables.read(folder / name, "", "")
        assert {k: entry.captions for k, entry in entries.items()} == expected
        assert list(entries) == list(expected) and problems == []


def test_captions_on_flickr8k(shared_data):
    path = str(shared_data / "flickr8k_original_200")
    source = captions.make("all", path=path)
    assert len(source) == 200 and (source.caption_counts == 5).all()
    assert source.problems == []
    check_contract(source)
    assert source[0].captions[0].startswith("A little girl covered in paint sits")


# imagefolder


def make_classes(base, layout):
    for place, count in layout.items():
        (base / place).mkdir(parents=True)
        for i in range(count):
            (base / place / f"{i}.jpg").write_bytes(jpeg(i))


def test_imagefolder(tmp_path):
    make_classes(tmp_path, {"train/snow_leopard": 2, "train/cat": 3, "val/cat": 1})
    (tmp_path / "train/cat/deep").mkdir()
    (tmp_path / "train/cat/deep/x.PNG").write_bytes(jpeg())
    for ignored in ("train/cat/.hidden.jpg", "train/cat/notes.txt", "train/top.jpg"):
        (tmp_path / ignored).write_bytes(b"")
    (tmp_path / "train/.git").mkdir()
    source = imagefolder.make("train", path=str(tmp_path))
    check_contract(source)
    assert source.class_names == {"class": ["cat", "snow_leopard"]}
    assert source.templates["class"][0].format("cat") == "a photo of a cat."
    assert [(source[i].key, source[i].labels["class"]) for i in range(6)] == [
        ("train/cat/0.jpg", 0),
        ("train/cat/1.jpg", 0),
        ("train/cat/2.jpg", 0),
        ("train/cat/deep/x.PNG", 0),
        ("train/snow_leopard/0.jpg", 1),
        ("train/snow_leopard/1.jpg", 1),
    ]
    assert source.max_captions == 0 and not source.caption_counts.any()
    few = imagefolder.make("train", path=str(tmp_path), max_samples_per_class=1)
    assert [few[i].key for i in range(len(few))] == [
        "train/cat/0.jpg",
        "train/snow_leopard/0.jpg",
    ]
    (tmp_path / "train/cat/1.jpg").unlink()
    with pytest.raises(BadExample, match="^train/cat/1.jpg: .* is missing"):
        source[1]


def test_a_split_without_some_class_keeps_the_numbers_of_train(tmp_path):
    make_classes(tmp_path, {f"train/{name}": 1 for name in "abc"})
    make_classes(tmp_path, {"val/c": 1, "val/a": 0, "other/b": 1, "other/d": 1})
    val = imagefolder.make("val", path=str(tmp_path))
    assert val[0].labels == {"class": 2} and val.class_names["class"] == list("abc")
    assert val.problems == ["the class a has no images", "the class b has no images"]
    other = imagefolder.make("other", path=str(tmp_path))
    assert other[0].labels == {"class": 0} and other.class_names["class"] == ["b", "d"]
    assert other.problems == [
        "its classes are not among those of train: numbered apart"
    ]


def test_imagefolder_names_from_a_file(tmp_path):
    make_classes(tmp_path, {"val/n01": 1, "val/n02": 1})
    names = tmp_path / "names.tsv"
    names.write_text("n02\tgoldfish\nn01\ttench\nn03\tunused\n")
    options = dict(path=str(tmp_path), class_names_file="names.tsv")
    assert imagefolder.make("val", **options).class_names["class"] == [
        "tench",
        "goldfish",
    ]
    names.write_text("n01\ttench\n")
    with pytest.raises(UserError, match="names.tsv does not name .*'n02'"):
        imagefolder.make("val", **options)
    names.write_text("n01 tench\n")
    with pytest.raises(UserError, match="names.tsv, line 1: write FOLDER<TAB>NAME"):
        imagefolder.make("val", **options)
    names.write_bytes("n01\tcafé".encode("latin-1"))
    with pytest.raises(UserError, match="names.tsv is not UTF-8"):
        imagefolder.make("val", **options)


def test_imagefolder_says_which_splits_there_are(tmp_path):
    make_classes(
        tmp_path, {"a/train/cat": 1, "a/test/cat": 1, "b/cat": 1, "c/val/cat": 0}
    )
    with pytest.raises(UserError, match="no split 'val'; its splits: test, train"):
        imagefolder.make("val", path=str(tmp_path / "a"))
    with pytest.raises(UserError, match=r"class folders \(cat, ...\) but no split"):
        imagefolder.make("val", path=str(tmp_path / "b"))
    with pytest.raises(UserError, match="c/val holds no images in class folders"):
        imagefolder.make("val", path=str(tmp_path / "c"))
    with pytest.raises(UserError, match="max_samples_per_class=-2"):
        imagefolder.make("train", path=str(tmp_path / "a"), max_samples_per_class=-2)


def test_imagefolder_on_flowers(shared_data):
    path = str(shared_data / "flowers5")
    train = imagefolder.make("train", path=path)
    test = imagefolder.make("test", path=path)
    assert (len(train), len(test)) == (2670, 1000)
    names = ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
    assert train.class_names == test.class_names == {"class": names}
    check_contract(train), check_contract(test)
    assert train[0].key.startswith("train/daisy/")
