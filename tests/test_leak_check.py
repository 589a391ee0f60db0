"""prepare verify --against: which copies are found and how, and what is told."""

import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from command_tools import failure
from image_tools import encoded, motif
from PIL import Image

from clipjax import leak_check, prepare
from clipjax.data.images import decoding, perceptual_hash
from clipjax.data.prepare import copies
from clipjax.types import BadExample, Example


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))


def jpeg(made, quality=90):
    return encoded(made, "JPEG", quality=quality)


def write(split, images):
    """An ImageFolder's split of one class; images: name -> bytes."""
    folder = pathlib.Path("data") / split / "thing"
    folder.mkdir(parents=True)
    for name, data in images.items():
        (folder / name).write_bytes(data)


HALF = (60, 45)
FLAT = {colour: Image.new("RGB", (64, 64), colour) for colour in ("red", "green")}
TRAINING = {
    "a.jpg": jpeg(motif(0)),
    "b.jpg": jpeg(motif(1)),
    "c.jpg": jpeg(motif(2)),
    "d.jpg": jpeg(motif(3)),
    "e.jpg": jpeg(motif(4)),
    "flat.jpg": jpeg(FLAT["red"]),
    "other.jpg": jpeg(motif(5)),
}
CHECKED = {
    "bytes.jpg": TRAINING["a.jpg"],
    "pixels.png": encoded(decoding.decode(TRAINING["b.jpg"]), "PNG"),
    "again.jpg": jpeg(decoding.decode(TRAINING["c.jpg"]), 50),
    "half.jpg": jpeg(motif(3).resize(HALF, Image.Resampling.BICUBIC)),
    "mirrored.jpg": jpeg(motif(4).transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "flat.jpg": jpeg(FLAT["green"]),
    "new.jpg": jpeg(motif(6)),
    "broken.jpg": jpeg(motif(7))[:900],
}
FOUND = {
    "bytes.jpg": ("a.jpg", "same bytes"),
    "pixels.png": ("b.jpg", "same pixels"),
    "again.jpg": ("c.jpg", "nearly the same"),
    "half.jpg": ("d.jpg", "nearly the same"),
}


def verify(*words, status):
    argv = ["prepare", "verify", "--data=imagefolder", "--data.path=data", *words]
    assert prepare.main(argv) == status


VAL = "--data.split=val"


def test_copies_are_found_by_what_they_share(capsys):
    write("train", TRAINING)
    write("val", CHECKED)
    verify(VAL, "--against", "--out=new/leaks.json", "--threads=2", status=1)
    told = json.loads(pathlib.Path("new/leaks.json").read_text())
    pairs = {
        pair["key"].split("/")[-1]: (pair["against"].split("/")[-1], pair["level"])
        for pair in told["pairs"]
    }
    assert pairs == FOUND and len(told["pairs"]) == 4
    distances = [pair["distance"] for pair in told["pairs"]]
    assert sorted(distances)[:2] == [0, 0] and max(distances) <= perceptual_hash.NEAR
    counts = {"same bytes": 1, "same pixels": 1, "nearly the same": 2}
    assert told["images"] == counts
    checked, against = told["checked"], told["against"]
    assert (checked["split"], checked["examples"], checked["plain"]) == ("val", 8, 1)
    assert [bad["key"].split("/")[-1] for bad in checked["broken"]] == ["broken.jpg"]
    assert (against["split"], against["examples"], against["plain"]) == ("train", 7, 1)

    printed = capsys.readouterr().out
    lines = printed.splitlines()
    listed = [line.split("\t") for line in lines if line.count("\t") == 2]
    assert {key.split("/")[-1]: words.split(",")[0] for key, _, words in listed} == {
        key: level for key, (_, level) in FOUND.items()
    }
    assert (
        "7 images, 0 captions; 1 broken, not compared: val/thing/broken.jpg" in printed
    )
    assert "1 too plain for a hash" in printed
    assert "same bytes: 1 of 7 images (14.3 %)" in lines
    assert "nearly the same: 2 of 7 images (28.6 %)" in lines
    assert lines[-1].startswith("in the other data too: 4 of 7 images (57.1 %)")


def test_data_without_copies_pass(capsys):
    write("train", TRAINING)
    write("val", {"new.jpg": CHECKED["new.jpg"], "flat.jpg": CHECKED["flat.jpg"]})
    verify(VAL, "--against.split=train", status=0)
    assert "in the other data too: 0 of 2 images (0 %)" in capsys.readouterr().out


def test_fewer_bits_find_less():
    write("train", {"a.jpg": jpeg(motif(0))})
    write("val", {"a.jpg": jpeg(motif(0).crop((6, 6, 114, 84)))})
    verify(VAL, "--against", status=0)
    verify(VAL, "--against", "--near=12", status=1)


def test_captions_are_compared_by_their_words(capsys):
    for name, seed, captions in (
        ("held_out", 0, ["A  dog runs", "a red boat", "a cat"]),
        ("training", 1, ["a DOG runs", "two boats"]),
    ):
        pathlib.Path(name).mkdir()
        pathlib.Path(name, "1.jpg").write_bytes(jpeg(motif(seed)))
        rows = "".join(f"1.jpg,{caption}\n" for caption in captions)
        pathlib.Path(name, "captions.csv").write_text(f"image,caption\n{rows}")
    argv = ["prepare", "verify", "--data=captions", "--data.path=held_out"]
    other = ["--against=captions", "--against.path=training", "--against.split=all"]
    assert prepare.main([*argv, "--data.split=all", *other]) == 0
    printed = capsys.readouterr().out
    assert "caption in the other data: 1 of 3 captions (33.3 %)" in printed
    assert "training, split all: 1 images, 2 captions" in printed


class Listed:
    """A source of these images; None is one that cannot be read."""

    max_captions = 0
    class_names: Mapping[str, Sequence[str]] = {}
    templates: Mapping[str, Sequence[str]] = {}

    def __init__(self, images):
        self._images = list(images)
        self.caption_counts = np.zeros(len(self._images), np.int32)

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        if self._images[index] is None:
            raise BadExample("gone", f"k{index}")
        return Example(self._images[index])


def find(images, others, near=4):
    return copies.find(Listed(images), Listed(others), near=near, threads=1)


def levels(found):
    return [(pair.key, pair.level, pair.other_key) for pair in found.pairs]


def test_pixels_of_arrays_are_those_of_files():
    array = np.asarray(motif(0))
    found = find([array, encoded(motif(0))], [encoded(motif(0)), array.copy()])
    assert levels(found) == [
        ("example 0", copies.SAME_BYTES, "example 1"),
        ("example 0", copies.SAME_PIXELS, "example 0"),
        ("example 1", copies.SAME_BYTES, "example 0"),
        ("example 1", copies.SAME_PIXELS, "example 1"),
    ]
    assert found.counts() == [2, 0, 0]
    turned = np.zeros((20, 40, 3), np.uint8)
    assert not find([turned], [turned.reshape(40, 20, 3)]).pairs


def test_pictures_of_one_colour_have_only_exact_copies():
    red, green = FLAT["red"], FLAT["green"]
    found = find([encoded(red)], [encoded(green), encoded(red.resize((70, 70)))], 16)
    assert not found.pairs and (found.images.plain, found.others.plain) == (1, 2)
    assert find([encoded(red)], [encoded(red)]).counts() == [1, 0, 0]


def test_blocks_change_nothing(monkeypatch):
    images = [jpeg(motif(seed), 90) for seed in range(5)]
    others = [None] + [jpeg(motif(seed % 7), 50) for seed in range(13)] + images[:2]
    whole = find(images, others)
    monkeypatch.setattr(copies, "_BLOCK", 3)
    assert find(images, others) == whole
    assert len(whole.pairs) == 12 and whole.others.usable == 15
    assert whole.pairs == sorted(whole.pairs)


def test_the_closest_pairs_of_an_image_are_kept(monkeypatch):
    monkeypatch.setattr(copies, "MOST_EACH", 3)
    copy = jpeg(motif(0))
    others = [jpeg(motif(0), 60) for _ in range(11)] + [copy, copy]
    found = find([copy, jpeg(motif(1))], others)
    assert found.left_out == 10 and found.counts() == [1, 0, 0]
    places = [(pair.level, pair.other_place) for pair in found.pairs]
    assert places == [(0, 11), (0, 12), (2, 0)]


def test_many_pairs_are_counted(capsys, monkeypatch):
    monkeypatch.setattr(leak_check, "SHOWN", 2)
    write("train", {f"{i}.jpg": jpeg(motif(0)) for i in range(4)})
    write("val", {"a.jpg": jpeg(motif(0))})
    verify(VAL, "--against", status=1)
    printed = capsys.readouterr().out
    assert printed.count("same bytes\n") == 2
    assert "and 2 more pairs, which are listed by --out=FILE.json" in printed


def test_what_cannot_be_compared_is_refused(capsys):
    write("train", {"a.jpg": jpeg(motif(0))})
    write("val", {"a.jpg": b"no image", "b.jpg": b""})
    base = ["verify", "--data=imagefolder", "--data.path=data"]

    def line(*words):
        return failure(capsys, prepare.main, *base, *words)

    assert "Did you mean 'imagefolder'" in line(VAL, "--against=imagefoldr")
    assert "no option --against.pth" in line(VAL, "--against", "--against.pth=x")
    assert "the checked data itself, split train" in line("--against")
    assert "the checked data itself" in line("--against.path=./data/")
    assert "the checked data itself" in line("--against.max_samples=0")
    assert "no --against.path given" in line(VAL, "--against=captions")
    assert "set it with --against.path" in line(VAL, "--against.path=gone")
    assert "--against is given twice" in line(VAL, "--against", "--against")
    assert "--near=65: use 0 to 16" in line(VAL, "--against", "--near=65")
    assert "--out needs --against" in line(VAL, "--out=x.json")
    assert "--near needs --against" in line("--near=3")
    assert "is a folder: name a file" in line(VAL, "--against", "--out=data")
    pathlib.Path("file").write_text("")
    assert "choose another --out" in line(VAL, "--against", "--out=file/x.json")
    assert "no image can be compared; the first: val/thing/" in line(VAL, "--against")
    convert = [*base[1:], "--out=o", "--against"]
    assert "unknown flag '--against'" in failure(
        capsys, prepare.main, "convert", *convert
    )
