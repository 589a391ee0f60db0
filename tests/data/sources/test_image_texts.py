"""A flat folder of pictures, each with its captions in a file of its name."""

import pytest
from source_tools import check_contract, jpeg

from clipjax.data.sources import captions, img2dataset
from clipjax.types import UserError


def put(base, texts):
    base.mkdir(exist_ok=True)
    for i, (name, text) in enumerate(texts.items()):
        (base / name).write_bytes(jpeg(i))
        if text is not None:
            (base / name).with_suffix(".txt").write_text(text)
    return str(base)


@pytest.fixture
def folder(tmp_path):
    return put(tmp_path, {f"{i}.jpg": f"picture {i}\n" for i in range(40)})


def keys(source):
    return [source.key_of(i) for i in range(len(source))]


def test_each_picture_has_its_text(tmp_path):
    path = put(
        tmp_path / "x",
        {
            "a.jpg": "a cat",
            "b.PNG": "two\nlines\n",
            "v1.0.jpg": "old",
            "none.jpg": None,
        },
    )
    (tmp_path / "x" / "j.webp").write_bytes(jpeg())
    (tmp_path / "x" / "j.json").write_text('{"captions": ["one", "another"]}')
    source = captions.make("all", path=path)
    check_contract(source)
    found = {source.key_of(i): list(source.captions_of(i)) for i in range(len(source))}
    assert found == {
        "a.jpg": ["a cat"],
        "b.PNG": ["two", "lines"],
        "j.webp": ["one", "another"],
        "none.jpg": [],
        "v1.0.jpg": ["old"],
    }
    assert keys(img2dataset.make("all", path=path)) == keys(source)


def test_a_share_is_held_out(folder):
    train, val = (captions.make(s, path=folder) for s in ("train", "val"))
    assert len(train) + len(val) == 40 and 0 < len(val) < 12
    assert sorted(keys(train) + keys(val)) == keys(captions.make("all", path=folder))
    assert keys(captions.make("val", path=folder, val_fraction=1)) == sorted(
        keys(train) + keys(val)
    )


def test_pictures_may_lie_in_images(tmp_path):
    put(tmp_path / "images", {"a.jpg": "a cat"})
    assert keys(captions.make("all", path=str(tmp_path))) == ["a.jpg"]
    put(tmp_path / "more", {"b.jpg": "a dog"})
    source = captions.make("all", path=str(tmp_path), images="more")
    assert keys(source) == ["b.jpg"]


def test_a_table_comes_first(folder, tmp_path):
    (tmp_path / "captions.csv").write_text("image,caption\n0.jpg,from the table\n")
    source = captions.make("all", path=folder)
    assert source[0].captions == ("from the table",) and len(source) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "test"}, "split 'test': a folder of images with texts beside"),
        ({"val_fraction": 0}, "none of the 40 images .* falls into the split 'val'"),
        ({"val_fraction": 2}, "val_fraction=2"),
        ({"split_file": "x.txt"}, "texts beside its images and no table"),
        ({"caption_column": "text"}, "texts beside its images and no table"),
        ({"table": "gone.csv"}, "gone.csv does not exist"),
        ({"images": "gone"}, "gone does not exist"),
    ],
)
def test_wrong_options_are_refused(folder, options, words):
    with pytest.raises(UserError, match=words):
        captions.make(**({"split": "val", "path": folder} | options))


def test_pictures_without_texts_are_refused(tmp_path):
    path = put(tmp_path / "x", {"a.jpg": None, "b.jpg": None})
    with pytest.raises(UserError, match="no captions.txt.*option table"):
        captions.make("all", path=path)
    (tmp_path / "x" / "c.txt").write_text("a text of no picture")
    with pytest.raises(UserError, match="no captions.txt.*option table"):
        captions.make("all", path=path)
