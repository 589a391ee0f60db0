"""Captions and image folders: the public formats, their faults, what is read."""

import concurrent.futures
import csv
import io
import os
import pathlib
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tools import check_contract, count_open, jpeg

from clipjax import registry
from clipjax.data.annotations import caption_tables
from clipjax.data.sources import captions, imagefolder
from clipjax.data.storage import local
from clipjax.types import BadExample, UserError

# Files


def test_a_pool_reads_parts_of_many_files_with_few_handles(tmp_path):
    paths = []
    for i in range(20):
        paths.append(str(tmp_path / f"{i}"))
        pathlib.Path(paths[-1]).write_bytes(bytes([i]) * 50 + bytes(range(100)))
    pool = local.FilePool(3)

    def read(n):
        return pool.read(paths[n % 20], 48, 4) == bytes([n % 20] * 2 + [0, 1])

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(2000)))
    assert len(pool) == 3
    assert pool.read(paths[0], 148, 10) == bytes([98, 99])
    assert len(pickle.loads(pickle.dumps(pool))) == 0
    if os.path.isdir("/proc/self/fd"):
        assert count_open(tmp_path) == 3
        del pool
        assert count_open(tmp_path) == 0
    with pytest.raises(OSError):
        local.FilePool().read(str(tmp_path / "none"), 0, 1)


@pytest.mark.parametrize(
    "name",
    [
        *("webdataset", "captions", "imagefolder", "coco", "karpathy"),
        *("img2dataset", "parquet"),
    ],
)
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
    entries, _ = caption_tables.read(tmp_path / "results.csv", "", "")
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
        "1 empty captions, left out",
        "2 images with a caption that cannot be read",
        "2 rows that name no image, left out",
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
    with pytest.raises(UserError, match="none of the 1 names of .*dev.txt"):
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
        entries, problems = caption_tables.read(folder / name, "", "")
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


def test_imagefolder_captions(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.jpg").write_bytes(b"x")
    templates = ("a photo of a {}.", "{}")
    source = imagefolder.make("train", path=str(tmp_path), caption_templates=templates)
    assert source.max_captions == 2 and source.caption_counts.tolist() == [2, 2]
    assert source[1].captions == ["a photo of a dog.", "dog"]
    with pytest.raises(UserError, match="needs one {} for the class name"):
        imagefolder.make("train", path=str(tmp_path), caption_templates=("a photo",))


def test_imagefolder(tmp_path):
    make_classes(tmp_path, {"train/snow_leopard": 2, "train/cat": 3, "val/cat": 1})
    (tmp_path / "train/cat/deep").mkdir()
    (tmp_path / "train/cat/deep/x.PNG").write_bytes(jpeg())
    for ignored in ("train/cat/.hidden.jpg", "train/cat/notes.txt", "train/top.jpg"):
        (tmp_path / ignored).write_bytes(b"")
    (tmp_path / "train/.git").mkdir()
    source = imagefolder.make("train", path=str(tmp_path))
    check_contract(source)
    assert source.class_names == {"class": ["cat", "snow leopard"]}
    assert source.class_ids == {"class": ["cat", "snow_leopard"]}
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
    names.write_text("n01\tx\nn02\n")
    with pytest.raises(UserError, match="names.tsv, line 2: write FOLDER<TAB>NAME"):
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
    with pytest.raises(UserError, match=r"b falls into the split 'val' .*\(1 images"):
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
