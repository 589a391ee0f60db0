"""Tar shards: their forms and faults, the index and its cache, what is read."""

import concurrent.futures
import json
import logging
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tools import check_contract, jpeg, write_tar

from clipjax.data.containers import tar_index
from clipjax.data.sources import webdataset
from clipjax.data.storage import local, shard_files
from clipjax.types import BadExample, UserError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Keeps every index of a test in a folder of its own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CLIPJAX_CACHE", str(folder))
    return folder / "index"


def shard(path):
    return shard_files.LocalFolder(path.parent).shard(path.name)


def pair(key, *texts, seed=0):
    fields = {"captions": list(texts), "width": 12}
    return [(f"{key}.jpg", jpeg(seed)), (f"{key}.json", json.dumps(fields).encode())]


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
    assert source.max_captions == 2 and source.problems == [
        "x-train-0.tar: 1 images with a further dot in their names, left out: keys end "
        "at the first dot, so that 'c.seg.png' is read as the file 'seg.png' of the "
        "key 'c'",
        "x-train-0.tar: 1 empty captions, left out",
    ]
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
        "other/*.tar": "no shard of .* matches other/.*: it holds 4 files train/.*.tar",
        "/abs/*.tar": "relative to path",
        "::": "relative to path",
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
    (tmp_path / "train-0.tar").write_bytes(b"no shard" * 400)
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
    (tmp_path / "few.txt").write_text("cat\nsnow leopard\n", encoding="utf-8")
    (tmp_path / "names.txt").write_text("cat\nsnow leopard\nfox\n", encoding="utf-8")
    path = str(tmp_path)
    source = webdataset.make("val", path=path, classes="names.txt")
    assert source.class_names == {"class": ["cat", "snow leopard", "fox"]}
    assert source[0].labels == {"class": 1} and source[1].labels == {"class": 0}
    assert source[4].labels == {}
    with pytest.raises(UserError, match="few.txt names 2 classes, .* up to the number"):
        webdataset.make("val", path=path, classes="few.txt")
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
            *(("text.jpg", jpeg()), ("text.json", b'{"captions": {"x": 1}}')),
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


LINK = tarfile.TarInfo("link.jpg")
LINK.type, LINK.linkname = tarfile.SYMTYPE, "k0.jpg"
# Members that take the place of an example's text -> its captions, or what is said of
# it; and members beside it -> what is said of the shard, the examples being as before.
BROKEN_TEXTS = {
    None: [],
    b'{"other": 1}': [],
    b'{"caption": null}': [],
    b'{"captions": {"en": "x"}}': "captions must be strings",
    b'{"caption": [["x"]]}': "captions must be strings",
    b'{"captions": ["x", 3]}': "captions must be strings",
    b'{"captions": 3}': "captions must be strings",
    b'{"caption": "x"': "broken JSON",
    b"<html>": "broken JSON",
    b"": "broken JSON",
    b'{"caption": "caf\xe9"}': "not UTF-8",
}
STRAY = {
    ("../k0.jpg", b"x"): "unsafe name",
    ("a/../../k0.jpg", b"x"): "unsafe name",
    ("/k0.jpg", b"x"): "unsafe name",
    LINK: "links or special files",
    ("k0.jpg", b"x"): "a key that has such a file",
    ("k0.json", b'{"caption": "another"}'): "a key that has such a file",
    ("lone.json", b'{"caption": "x"}'): "keys without an image",
}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(list(BROKEN_TEXTS)) | st.just("good"), min_size=1),
    st.lists(st.sampled_from(list(STRAY)), max_size=4, unique=True),
    st.randoms(use_true_random=False),
)
def test_a_fault_changes_nothing_else(tmp_path_factory, texts, strays, random):
    folder = tmp_path_factory.mktemp("shards")
    members = []
    for i, text in enumerate(texts):
        data = b'{"captions": ["one", "two"]}' if text == "good" else text
        members += [(f"k{i}.jpg", jpeg(i))]
        members += [] if data is None else [(f"k{i}.json", data)]
    first, rest = members[:2], members[2:]  # k0 is there before its duplicates
    for stray in strays:
        rest.insert(random.randrange(len(rest) + 1), stray)
    if texts[0] is None and ("k0.json", b'{"caption": "another"}') in strays:
        return  # then it is no duplicate
    write_tar(folder / "train-0.tar", first + rest)
    write_tar(folder / "train-1.tar", pair("other", "fine"))
    source = webdataset.make("train", path=str(folder))
    assert len(source) == len(texts) + 1
    assert source[len(texts)].captions == ["fine"]
    for i, text in enumerate(texts):
        expected = ["one", "two"] if text == "good" else BROKEN_TEXTS[text]
        if isinstance(expected, str):
            with pytest.raises(BadExample, match=f"^train-0.tar:k{i}: .*{expected}"):
                source[i]
        else:
            assert source[i].image == jpeg(i) and source[i].captions == expected
    said = "; ".join(source.problems)
    assert all(STRAY[stray] in said for stray in strays)
    assert (said == "") == (
        not strays and not any(isinstance(BROKEN_TEXTS.get(t), str) for t in texts)
    )


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("how", ["rewritten", "replaced", "touched", "cut"])
def test_a_shard_that_changes_under_its_index_is_told(tmp_path, how, opened):
    place = write_tar(tmp_path / "train-0.tar", [*pair("a", "x"), *pair("b", "y")])
    write_tar(tmp_path / "train-1.tar", pair("c", "z"))
    source = webdataset.make("train", path=str(tmp_path))
    expected = source[0] if opened else None
    raw = place.read_bytes()
    if how == "replaced":
        place.unlink()
        write_tar(place, [*pair("d", "v"), *pair("e", "w")])
        os.utime(place, ns=(1, 1))
    elif how == "touched":
        os.utime(place, ns=(1, 1))
    else:
        place.write_bytes(raw[:600] if how == "cut" else raw[::-1])
        os.utime(place, ns=(1, 1))
    if how == "replaced" and opened:  # the file that was indexed is still open
        assert source[0] == expected
    else:
        with pytest.raises(BadExample, match="train-0.tar:a: .*changed since it was"):
            source[0]
    assert source[2].captions == ["z"]


def test_patterns_are_joined(tmp_path):
    for name in ("a-0", "a-1", "b-7", "c-0"):
        write_tar(tmp_path / f"{name}.tar", pair(name, name))
    path = str(tmp_path)
    source = webdataset.make("b", path=path, shards="{split}-*.tar::a-{0..1}.tar::a*")
    assert [source[i].captions[0] for i in range(len(source))] == ["b-7", "a-0", "a-1"]
    with pytest.raises(UserError, match=r"a-2.tar does not exist. shards=c-0.tar::a-"):
        webdataset.make("b", path=path, shards="c-0.tar::a-{0..2}.tar")
    with pytest.raises(
        UserError, match=r"no shard of .* matches d\*: it holds 2 files a-\*.tar, b"
    ):
        webdataset.make("b", path=path, shards="c-0.tar::d*")


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
    assert len(caplog.records) == 1
    assert all(problem in caplog.text for problem in source.problems)
    local.report("x", [f"problem {i}" for i in range(6)])
    assert "x: problem 0; problem 1; problem 2; problem 3 (and 2 more)" in caplog.text


def test_every_cut_of_a_tar_keeps_its_whole_members(tmp_path):
    names = ["a" * 120, "b", "c"]  # the long name takes a header of its own
    whole = write_tar(
        tmp_path / "whole.tar", [m for k in names for m in pair(k, k, k)]
    ).read_bytes()
    full = tar_index.build(shard(tmp_path / "whole.tar"))
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
                with pytest.raises(
                    BadExample, match=f"train-0.tar:{names[i]}: .*trunc"
                ):
                    source[i]
        for i in range(3):
            if full.text_start[i] + full.text_size[i] <= cut:
                assert i < len(source) and source.caption_counts[i] == 2


def test_garbage_in_the_middle_of_a_tar_is_reported(tmp_path):
    path = write_tar(tmp_path / "train-0.tar", [*pair("a", "x"), *pair("b", "y")])
    raw = bytearray(path.read_bytes())
    at = int(tar_index.build(shard(path)).image_start[1]) - 512
    raw[at : at + 512] = b"\xff" * 512
    path.write_bytes(raw)
    source = webdataset.make("train", path=str(tmp_path))
    assert len(source) == 1 and source[0].captions == ["x"]
    assert source.problems == [
        f"train-0.tar: bad header at byte {at}; the rest is lost"
    ]


def test_a_negative_size_does_not_read_a_tar_for_ever(tmp_path):
    back = tarfile.TarInfo("b.jpg")
    back.size = -2048  # back over this header and the member before it
    block = back.tobuf(tarfile.GNU_FORMAT)
    whole = write_tar(tmp_path / "train-0.tar", [("a.jpg", jpeg())]).read_bytes()
    at = int(tar_index.build(shard(tmp_path / "train-0.tar")).image_start[0]) + 1024
    (tmp_path / "train-0.tar").write_bytes(whole[:at] + block + bytes(1024))
    source = webdataset.make("train", path=str(tmp_path))
    assert len(source) == 1 and source[0].image == jpeg()
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
        found = tar_index.build(shard(path))
    except UserError:
        return
    assert len(found) <= 4
    assert [found.key(i) for i in range(len(found))]


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
    place = write_tar(tmp_path / "train-0.tar", pair("a", "x"))
    built = []
    build = tar_index.build
    monkeypatch.setattr(tar_index, "build", lambda p: built.append(p) or build(p))

    def open_again():
        return webdataset.make("train", path=str(tmp_path))

    open_again(), open_again()
    assert len(built) == 1 and len(list(cache.iterdir())) == 1
    write_tar(place, [*pair("b", "y", "z"), *pair("c", "w")])
    assert len(open_again()) == 2 and len(built) == 2
    os.utime(place, ns=(1, 1))
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
    source._folder._pool = local.FilePool(2)
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
