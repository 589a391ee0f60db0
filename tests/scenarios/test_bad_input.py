"""Faults in small data sets of three forms, from their files to what is trained on.

Each fault breaks its example alone: in training that is replaced, named and counted, or
ends the run; in evaluation it is masked and named; all others stay bit by bit the same.
"""

import functools
import json
import os
import pathlib
import struct
import tarfile
import tempfile
import zlib

import numpy as np
import pytest
from encoder_tools import Letters, Sums, make_variables
from hypothesis import given, settings
from hypothesis import strategies as st
from image_tools import encoded, picture
from PIL import Image
from source_tools import jpeg, write_tar

from clipjax.data.batching import pipeline
from clipjax.data.images import augment, preprocess
from clipjax.data.sources import captions, imagefolder, webdataset
from clipjax.encoder import Encoder
from clipjax.types import UserError

SIZE = 12
BAD = 4
WHOLE = [encoded(picture(18, 24, i), "JPEG") for i in range(SIZE)]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def bomb(side):
    """A PNG that claims to have side x side pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 9) + b"IDAT" + bytes(9)


# Images in the place of another -> what is said of them, "" where they are no fault.
IMAGES = {
    "cut": (encoded(picture(), "JPEG")[:700], "cannot be decoded"),
    "zero bytes": (b"", "0 bytes"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "not an image"),
    "other file": (b"PK\3\4" + bytes(99), "not an image"),
    "30,000 px": (bomb(30_000), "too large"),
    "PNG in name of JPEG": (encoded(picture(), "PNG"), ""),
    "1 x 1": (encoded(Image.new("RGB", (1, 1))), ""),
}
# Captions in the place of another, as JSON: of the table's line, of the shard's member.
TEXTS = {
    "list": ('{"image": "04.jpg", "captions": [["x"]]}', "not text"),
    "number": ('{"image": "04.jpg", "caption": 7}', "not text"),
    "no field": ('{"image": "04.jpg"}', "no caption field"),
    "latin": ('{"image": "04.jpg", "caption": "caf\udce9"}', "not UTF-8"),
}
MEMBERS = {
    "list": ('{"captions": [["x"]]}', "must be strings"),
    "number": ('{"caption": 7}', "must be strings"),
    "cut": ('{"caption": "x', "broken JSON"),
    "latin": ('{"caption": "caf\udce9"}', "not UTF-8"),
}


def as_bytes(text):
    return text.encode("utf-8", "surrogateescape")


def write_folder(base, images, texts):
    place = base / "train" / "kind"
    place.mkdir(parents=True)
    for i, image in enumerate(images):
        (place / f"{i:02}.jpg").write_bytes(image)


def write_table(base, images, texts):
    (base / "images").mkdir()
    lines = []
    for i, image in enumerate(images):
        (base / "images" / f"{i:02}.jpg").write_bytes(image)
        line = json.dumps({"image": f"{i:02}.jpg", "caption": f"number {i}"})
        lines.append(texts.get(i, line).replace("04.jpg", f"{i:02}.jpg"))
    (base / "captions.jsonl").write_bytes(as_bytes("\n".join(lines)))


def write_shards(base, images, texts, strays=()):
    for shard in range(2):
        members = []
        for i in range(shard * SIZE // 2, (shard + 1) * SIZE // 2):
            text = as_bytes(texts.get(i, json.dumps({"caption": f"number {i}"})))
            members += [(f"{i:02}.json", text), (f"{i:02}.jpg", images[i])]
        write_tar(base / f"train-{shard}.tar", members + list(strays))
        strays = ()  # of the first shard alone


FORMS = {
    "imagefolder": (
        write_folder,
        lambda base: imagefolder.make(
            "train", path=str(base), caption_templates=("a {}",)
        ),
        "train/kind/{:02}.jpg",
        {},
    ),
    "captions": (
        write_table,
        lambda base: captions.make("all", path=str(base)),
        "{:02}.jpg",
        TEXTS,
    ),
    "webdataset": (
        write_shards,
        lambda base: webdataset.make("train", path=str(base)),
        "train-{shard}.tar:{:02}",
        MEMBERS,
    ),
}


def key_of(form, index):
    return FORMS[form][2].format(index, shard=index * 2 // SIZE)


def batches(source, on_broken="replace", count=6):
    """(batches of two epochs, what was named)."""
    made = pipeline.train_batches(
        source,
        Letters(),
        augment.crop(6),
        seed=1,
        global_batch=4,
        start_step=0,
        threads=0,
        on_broken=on_broken,
    )
    try:
        return [next(made) for _ in range(count)], made.take_broken()
    finally:
        made.close()


@functools.cache
def encoder():
    return Encoder(Sums(), Letters(), preprocess.clip(4), batch_size=4)


@functools.cache
def healthy(form):
    """The batches and embeddings of a data set without a fault."""
    with tempfile.TemporaryDirectory() as base:
        return results(form, opened(form, pathlib.Path(base), {}))


def opened(form, base, faults):
    write, make, _, texts = FORMS[form]
    images = list(WHOLE)
    lines = {}
    for index, fault in faults.items():
        if fault in IMAGES:
            images[index] = IMAGES[fault][0]
        else:
            lines[index] = texts[fault.removeprefix("text: ")][0]
    write(base, images, lines)
    return make(base)


def results(form, source):
    found, named = batches(source)
    assert named == [] and not any(batch["replaced"].any() for batch in found)
    return found, encoder().images(make_variables(), source)


def reason_of(form, fault):
    if fault in IMAGES:
        return IMAGES[fault][1]
    return FORMS[form][3][fault.removeprefix("text: ")][1]


def check(form, source, broken, changed=()):
    """The whole promise.

    broken: index -> what is said of it. changed: others whose pixels are new.
    """
    good, embedded = healthy(form)
    # Training: replaced, named once, counted; the others' rows are the same.
    found, named = batches(source)
    for one, other in zip(good, found, strict=True):
        ids = one["image_id"]
        np.testing.assert_array_equal(other["replaced"], np.isin(ids, list(broken)))
        same = ~np.isin(ids, [*broken, *changed])
        for name in one:
            if name != "replaced":
                np.testing.assert_array_equal(one[name][same], other[name][same])
        assert not np.isin(other["image_id"], list(broken)).any()
        assert other["valid"].all()
    named = dict(named)
    assert named.keys() == {key_of(form, i) for i in broken}
    for index, reason in broken.items():
        assert reason in named[key_of(form, index)]
    # Training that is to stop, at the first that comes.
    if broken:
        with pytest.raises(UserError, match="is broken: .*on_broken=replace") as caught:
            batches(source, on_broken="raise")
        assert any(f"{key_of(form, i)} is broken" in str(caught.value) for i in broken)
    # Evaluation: masked and named.
    images = encoder().images(make_variables(), source)
    assert np.flatnonzero(~images.valid).tolist() == sorted(broken)
    assert [key for key, _ in images.broken] == [
        key_of(form, i) for i in sorted(broken)
    ]
    same = [i for i in range(SIZE) if i not in broken and i not in changed]
    np.testing.assert_array_equal(images.embed[same], embedded.embed[same])


def faults_of(form):
    return [*IMAGES, *(f"text: {name}" for name in FORMS[form][3])]


CASES = [(form, fault) for form in FORMS for fault in faults_of(form)]


@pytest.mark.parametrize(("form", "fault"), CASES)
def test_a_fault_breaks_its_example_alone(tmp_path, form, fault):
    source = opened(form, tmp_path, {BAD: fault})
    reason = reason_of(form, fault)
    check(form, source, {BAD: reason} if reason else {}, [] if reason else [BAD])


@pytest.mark.thorough
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_faults_do_not_meet(tmp_path_factory, data):
    form = data.draw(st.sampled_from(list(FORMS)))
    faults = data.draw(
        st.dictionaries(
            st.integers(0, SIZE - 1), st.sampled_from(faults_of(form)), max_size=6
        )
    )
    source = opened(form, tmp_path_factory.mktemp("data"), faults)
    broken = {i: reason_of(form, fault) for i, fault in faults.items()}
    check(
        form,
        source,
        {i: reason for i, reason in broken.items() if reason},
        [i for i, reason in broken.items() if not reason],
    )


# Files


@pytest.mark.parametrize("form", ["imagefolder", "captions"])
@pytest.mark.parametrize("how", ["gone", "dangling link", "link", "folder"])
def test_files_that_are_no_files(tmp_path, form, how):
    source = opened(form, tmp_path, {})
    place = next(tmp_path.rglob(f"{BAD:02}.jpg"))
    place.unlink()
    broken = {BAD: "is missing"}
    if how == "dangling link":
        place.symlink_to(tmp_path / "nowhere")
    elif how == "link":
        (tmp_path / "elsewhere").write_bytes(WHOLE[BAD])
        place.symlink_to(tmp_path / "elsewhere")
        broken = {}
    elif how == "folder":
        place.mkdir()
        broken = {BAD: "Is a directory"}
    check(form, source, broken)


@pytest.mark.parametrize("how", ["touched", "replaced", "gone"])
def test_a_shard_that_changes_in_use(tmp_path, how):
    source = opened("webdataset", tmp_path, {})
    place = tmp_path / "train-0.tar"
    if how != "touched":
        place.unlink()
    if how == "replaced":
        write_tar(place, [("new.jpg", jpeg())])
    if how != "gone":
        os.utime(place, ns=(1, 1))
    reason = "No such file" if how == "gone" else "has changed since"
    check("webdataset", source, dict.fromkeys(range(SIZE // 2), reason))


def test_a_shard_that_is_cut(tmp_path):
    opened("webdataset", tmp_path, {})
    place = tmp_path / "train-1.tar"
    raw = place.read_bytes()
    place.write_bytes(raw[: raw.rindex(WHOLE[-1]) + 200])
    source = webdataset.make("train", path=str(tmp_path))
    assert "train-1.tar: truncated inside '11.jpg'" in source.problems[0]
    check("webdataset", source, {SIZE - 1: "truncated"})


LINK = tarfile.TarInfo("04.jpg")
LINK.type, LINK.linkname = tarfile.SYMTYPE, "00.jpg"


@pytest.mark.parametrize(
    ("stray", "said"),
    [
        (("../04.jpg", jpeg()), "unsafe name"),
        (("/04.jpg", jpeg()), "unsafe name"),
        (("04.jpg", jpeg()), "has such a file already"),
        (("04.json", b'{"caption": "another"}'), "has such a file already"),
        (LINK, "links or special"),
    ],
)
def test_members_that_are_left_out(tmp_path, stray, said):
    write_shards(tmp_path, WHOLE, {}, [stray])
    source = webdataset.make("train", path=str(tmp_path))
    assert len(source.problems) == 1 and said in source.problems[0]
    check("webdataset", source, {})


@pytest.mark.parametrize(("form", "text"), [("captions", "04"), ("webdataset", "{}")])
def test_an_example_without_a_caption_is_left_out_and_counted(tmp_path, form, text):
    line = '{"image": "04.jpg", "caption": null}' if form == "captions" else text
    FORMS[form][0](tmp_path, WHOLE, {BAD: line})
    made = pipeline.train_batches(
        FORMS[form][1](tmp_path),
        Letters(),
        augment.crop(6),
        seed=1,
        global_batch=SIZE - 1,
        start_step=0,
    )
    batch = next(made)
    made.close()
    assert made.left_out == 1 and made.take_broken() == []
    assert sorted(batch["image_id"]) == [i for i in range(SIZE) if i != BAD]


def test_a_missing_shard_is_an_error_at_once(tmp_path):
    opened("webdataset", tmp_path, {})
    with pytest.raises(UserError, match=r"train-2.tar does not exist. shards=train-"):
        webdataset.make("train", path=str(tmp_path), shards="train-{0..2}.tar")
