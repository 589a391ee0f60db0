"""Class folders without split folders: when they count as such, and how they split."""

import pytest
from source_tools import check_contract, jpeg

from clipjax.data.images import class_folders
from clipjax.data.sources import imagefolder
from clipjax.types import UserError


def put(base, sizes):
    for folder, count in sizes.items():
        (base / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (base / folder / f"{i:03}.jpg").write_bytes(jpeg(i))
    return str(base)


def keys(source):
    return {source.key_of(i) for i in range(len(source))}


def test_each_class_is_split_by_itself(tmp_path, caplog):
    path = put(tmp_path, {"cat": 20, "big_dog": 9, "owl": 2, "yak": 1})
    options = {"path": path, "val_fraction": 0.25}
    train, val = (imagefolder.make(split, **options) for split in ("train", "val"))
    check_contract(train), check_contract(val)
    assert not keys(train) & keys(val)
    assert keys(train) | keys(val) == keys(imagefolder.make("all", path=path))
    per_class = [
        sum(key.startswith(f"{name}/") for key in keys(val))
        for name in ("cat", "big_dog", "owl", "yak")
    ]
    assert per_class == [5, 2, 1, 0]  # of 20, 9, 2, 1
    assert train.class_names == val.class_names
    assert train.class_names["class"] == ["big dog", "cat", "owl", "yak"]
    assert any("no image in val, such as yak with 1" in p for p in val.problems)
    assert "no split folders: 'val' has 8 of 32 images by val_frac" in caplog.text


def test_the_split_is_seeded_and_hardly_moves(tmp_path):
    path = put(tmp_path, {"cat": 40, "dog": 40})
    val = keys(imagefolder.make("val", path=path))
    assert keys(imagefolder.make("val", path=path)) == val and len(val) == 8
    assert keys(imagefolder.make("val", path=path, split_seed=1)) != val
    put(tmp_path, {"cat": 41})  # one more image moves at most one
    assert len(val - keys(imagefolder.make("val", path=path))) <= 1


def test_split_folders_win(tmp_path):
    path = put(tmp_path, {"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    assert len(imagefolder.make("val", path=path, val_fraction=0.5)) == 2
    with pytest.raises(UserError, match="no split 'test'; its splits: train, val"):
        imagefolder.make("test", path=path)


def test_a_class_may_be_called_train(tmp_path):
    path = put(tmp_path, {"bus": 2, "car": 2, "train": 2})
    source = imagefolder.make("train", path=path, val_fraction=0.5)
    assert source.class_names["class"] == ["bus", "car", "train"] and len(source) == 3


def test_flat_splits_are_not_classes(tmp_path):
    put(tmp_path, {"train": 2, "val": 2})
    assert not class_folders.is_plain(tmp_path, "train")
    with pytest.raises(UserError, match="option labels_file"):
        imagefolder.make("train", path=str(tmp_path))
    put(tmp_path, {"train/cat": 1})  # as ImageNet, whose val is flat
    assert not class_folders.is_plain(tmp_path, "test")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "test"}, "split 'test': a folder of classes without split folders"),
        ({"val_fraction": 0}, "no image of .* split 'val' with val_fraction=0 .4 im"),
        ({"val_fraction": 1.5}, "val_fraction=1.5"),
        ({"split_seed": -1}, "split_seed=-1"),
        ({"class_names_file": "n.txt"}, "names 1 classes, and there are 2"),
        ({"class_names_file": "cat"}, "cat does not exist|not a file"),
        ({"class_names": "tf_flowers"}, "'cat' is none of its 5 classes"),
        ({"class_names": "raw", "class_names_file": "n.txt"}, "both name the classes"),
        ({"caption_templates": ("a photo",)}, "'a photo' needs one {}"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, words):
    path = put(tmp_path, {"cat": 2, "dog": 2})
    (tmp_path / "n.txt").write_text("cat\n")
    with pytest.raises(UserError, match=words):
        imagefolder.make(**({"split": "val", "path": path} | options))


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="has no SPLIT/CLASS/.*or CLASS/"):
        imagefolder.make("val", path=str(tmp_path))
    put(tmp_path, {"cat": 0, "dog": 0})
    with pytest.raises(UserError, match="has no SPLIT/CLASS/.*or CLASS/"):
        imagefolder.make("val", path=str(tmp_path))
    (tmp_path / "cat" / "x.jpg").mkdir()  # a folder in place of an image
    with pytest.raises(UserError, match="has no split 'val'; its splits: cat"):
        imagefolder.make("val", path=str(tmp_path))
