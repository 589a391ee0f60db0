"""Which files are images, what else lies there, and shards joined by `cat`."""

import contextlib
import io
import os
import socket
import tarfile

import pytest
from image_tools import encoded, picture
from PIL import Image
from source_tools import jpeg, write_tar

from clipjax.data.containers import tar_index
from clipjax.data.images import decoding, image_files
from clipjax.data.sources import imagefolder, img2dataset, webdataset
from clipjax.data.storage import local, shard_files
from clipjax.types import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path_factory.mktemp("cache")))


def put(place, *names, data=None):
    place.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        (place / name).write_bytes(jpeg(i) if data is None else data)


def test_the_list_of_suffixes_is_the_decoders():
    Image.init()
    known = {s for s, kind in Image.registered_extensions().items()}
    ours = {
        s for s, k in Image.registered_extensions().items() if k in decoding.FORMATS
    }
    assert ours <= set(local.IMAGE_SUFFIXES)
    # No others, but for those of files that start like one of these.
    strange = set(local.IMAGE_SUFFIXES) & known - ours
    assert strange <= {".dib", ".mpo", ".avif", ".avifs"}


@pytest.mark.parametrize("format", ["JPEG2000", "AVIF", "PPM"])
def test_every_format_of_the_list_is_decoded(format):
    if format not in decoding.FORMATS:
        pytest.skip("this Pillow has none")
    assert decoding.decode(encoded(picture(), format)).size == (60, 40)


def test_a_class_folder_takes_what_can_be_decoded_and_counts_the_rest(tmp_path):
    place = tmp_path / "train"
    put(place / "a", "0.jpg", "1.jfif", "2.JPE", "3", "4.jpg_large", "photo.5")
    put(place / "a", "g.pgm", data=b"P5 2 2 255 abcd")
    put(place / "a", "notes.txt", "Thumbs.db", "c.heic", "d.heic", data=b"none")
    put(place / "b", "only.heic", data=b"....ftypheic")
    put(place, "loose.png")
    source = imagefolder.make("train", path=str(tmp_path))
    assert [source.key_of(i) for i in range(len(source))] == [
        f"train/a/{name}"
        for name in ("0.jpg", "1.jfif", "2.JPE", "3", "4.jpg_large", "g.pgm", "photo.5")
    ]
    for i in range(len(source)):
        decoding.decode(source[i].image)
    assert source.problems == [
        "the class b has no images (.heic 1)",
        "1 images outside the class folders, left out",
        "5 files that are no images, left out (.heic 3, .db 1, .txt 1)",
    ]


def test_a_flat_split_is_chosen_alike(tmp_path):
    put(tmp_path / "val", "v1.jfif", "v2", "v3.JPEG")
    put(tmp_path / "val", "readme.md", data=b"words")
    (tmp_path / "val.csv").write_text("v1,n1\nv2,n2\nv3,n1\n")
    source = imagefolder.make("val", path=str(tmp_path), labels_file="val.csv")
    assert len(source) == 3
    assert source.problems == ["1 files that are no images, left out (.md 1)"]


def test_a_file_is_not_opened_because_of_what_lies_beside_it(tmp_path, monkeypatch):
    put(tmp_path / "a", "0.jpg", "0.txt", "0.json", "0.npy", "x.bin")
    read = []
    monkeypatch.setattr(decoding, "is_known", lambda file: read.append(file.name))
    others = image_files.Suffixes()
    assert len(image_files.find(tmp_path, others)) == 1
    assert [name.rpartition("/")[2] for name in read] == ["x.bin"]
    assert others == {".txt": 1, ".json": 1, ".npy": 1, ".bin": 1}


def test_img2dataset_files_have_their_suffix_after_the_last_dot(tmp_path):
    place = tmp_path / "00000"
    put(place, "photo.1.jpg", "photo.2.jpg", "v1.0.avif", "old.jfif", "bare")
    for stem in ("photo.1", "photo.2", "v1.0", "old", "bare", "gone"):
        (place / f"{stem}.txt").write_text(f"text of {stem}")
    put(place, "photo.1.png", "clip.mp4")
    (place / "clip.mp4").write_bytes(b"no image")
    source = img2dataset.make("all", path=str(tmp_path))
    found = {source[i].key: source[i].captions for i in range(len(source))}
    assert found == {
        "00000/bare": ["text of bare"],
        "00000/old.jfif": ["text of old"],
        "00000/photo.1.jpg": ["text of photo.1"],
        "00000/photo.2.jpg": ["text of photo.2"],
        "00000/v1.0.avif": ["text of v1.0"],
    }
    assert source.problems == [
        "1 files that are no images, left out (.mp4 1)",
        "1 further images of a key, left out",
        "1 texts without an image, left out",
    ]


def members(*names):
    return [(n, jpeg(i) if "jpg" in n else b"words") for i, n in enumerate(names)]


def shard_problems(tmp_path, *names):
    write_tar(tmp_path / "train-0.tar", members("ok.jpg", *names))
    return webdataset.make("train", path=str(tmp_path)).problems


def test_a_shard_takes_every_suffix_of_the_decoder(tmp_path):
    names = [f"k{i}{suffix}" for i, suffix in enumerate(local.IMAGE_SUFFIXES)]
    write_tar(tmp_path / "train-0.tar", [(name, jpeg()) for name in names])
    source = webdataset.make("train", path=str(tmp_path))
    assert len(source) == len(names) and source.problems == []


def test_what_a_shard_leaves_out_is_said(tmp_path):
    assert shard_problems(tmp_path, "a.heic", "b.heic", "b.txt", "c") == [
        "train-0.tar: 3 keys without an image, left out (.heic 2, .txt 1, "
        "without a suffix 1)"
    ]
    dotted, lone = shard_problems(tmp_path, "x/photo.1.jpg", "x/photo.1.txt")
    assert dotted.endswith(
        "'x/photo.1.jpg' is read as the file '1.jpg' of the key 'photo'"
    )
    assert lone.endswith("1 keys without an image, left out (.1.jpg 1, .1.txt 1)")
    write_tar(tmp_path / "train-0.tar", members("s0.input.jpg", "s0.outputs.txt"))
    with pytest.raises(
        UserError, match=r"'s0.input.jpg' is read as the file 'input.jpg"
    ):
        webdataset.make("train", path=str(tmp_path))


def tar(*names, end=True):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        for name, data in members(*names):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
        length = made.offset
    return stream.getvalue() if end else stream.getvalue()[:length]


JOINED = {
    "two": (tar("a.jpg", "a.txt") + tar("b.jpg", "b.txt"), ["a", "b"], []),
    "three, one of them empty": (tar("a.jpg") + tar() + tar("c.jpg"), ["a", "c"], []),
    "keys that come again": (tar("a.jpg", "b.txt") + tar("a.jpg", "b.jpg"),
                             ["a", "a", "b"], ["1 keys without an image"]),
    "no end mark between": (tar("a.jpg", end=False) + tar("b.jpg"), ["a", "b"], []),
    "long zeros between": (tar("a.jpg") + bytes(2**17) + tar("b.jpg"), ["a", "b"], []),
    "something else behind": (tar("a.jpg") + b"x" * 700, ["a"],
                              ["700 bytes after the end mark, from byte 10240 on"]),
    "the second is cut": (tar("a.jpg") + tar("b.jpg")[:700], ["a", "b"], ["truncated"]),
    "the first is damaged": (tar("a.jpg", end=False) + b"x" * 512 + tar("b.jpg"), ["a"],
                             ["bad header"]),
}  # fmt: skip


@pytest.mark.parametrize("name", JOINED)
def test_joined_shards_are_read_to_their_end(name, tmp_path):
    data, keys, problems = JOINED[name]
    (tmp_path / "train-0.tar").write_bytes(data)
    found = tar_index.build(shard_files.LocalFolder(tmp_path).shard("train-0.tar"))
    assert [found.key(i) for i in range(len(found))] == keys
    assert len(found.problems) == len(problems)
    for there, wanted in zip(found.problems, problems, strict=True):
        assert wanted in there
    if not problems:  # GNU tar's rule, by Python's own reader
        with tarfile.open(fileobj=io.BytesIO(data), ignore_zeros=True) as made:
            names = [m.name for m in made if m.name.endswith("jpg")]
        assert [name.partition(".")[0] for name in names] == keys
        source = webdataset.make("train", path=str(tmp_path))
        for i in range(len(source)):
            decoding.decode(source[i].image)


def test_only_files_are_opened(tmp_path):
    """A pipe would be read for ever, and so would a device."""
    put(tmp_path, "0.jpg", "other")
    for name in ("pipe.jpg", "pipe"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "link.jpg").symlink_to("0.jpg")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tmp_path):
        server.bind("door.jpg")
        others = image_files.Suffixes()
        found = image_files.find(tmp_path, others)
    assert [os.path.basename(name) for name in found] == ["0.jpg", "link.jpg", "other"]
    assert others == {".jpg": 2, " without a suffix": 1, ".png": 1}


def test_links_that_lead_nowhere_are_left_to_who_reads_them(tmp_path):
    """Unless somebody asks for what cannot be looked at."""
    put(tmp_path, "0.jpg")
    (tmp_path / "lost.jpg").symlink_to("gone.jpg")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    (tmp_path / "drive").symlink_to("/gone")
    others, errors = image_files.Suffixes(), []
    found = image_files.find(tmp_path, others)
    names = [os.path.basename(name) for name in found]
    assert names == ["0.jpg", "circle.jpg", "lost.jpg"]
    assert others == {" without a suffix": 1}
    found = image_files.find(tmp_path, others, unreadable=errors.append)
    assert [os.path.basename(name) for name in found] == ["0.jpg"]
    names = [os.path.basename(error.filename) for error in errors]
    assert names == ["circle.jpg", "drive", "lost.jpg"]
