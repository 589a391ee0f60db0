"""data=tfds, on small data sets that TFDS itself prepares as ArrayRecord."""

import io
import os
import pickle
import shutil

import numpy as np
import pytest
from source_tools import check_contract, jpeg
from tfds_tools import prepare

from clipjax.data.sources import tfds as source
from clipjax.types import BadExample, UserError


def stream(seed):
    return io.BytesIO(jpeg(seed))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare(
        folder,
        "Pets",
        lambda f: {
            "image": f.Image(encoding_format="jpeg"),
            "captions": f.Sequence(
                {"id": f.Tensor(shape=(), dtype=np.int64), "text": f.Text()}
            ),
            "label": f.ClassLabel(names=["cat", "dog"]),
            "breed": f.ClassLabel(names=["a", "b", "c"]),
            "file_name": f.Text(),
        },
        {
            "train": [
                {
                    "image": stream(i),
                    "captions": [
                        {"id": c, "text": f"{i} größer {c}"} for c in range(i % 3)
                    ],
                    "label": i % 2 if i else -1,
                    "breed": i % 3,
                    "file_name": f"{i}.jpg",
                }
                for i in range(7)
            ],
            "validation": [
                {
                    "image": stream(9),
                    "captions": [],
                    "label": 1,
                    "breed": 2,
                    "file_name": "x",
                }
            ],
        },
    )
    prepare(
        folder,
        "Plain",
        lambda f: {"picture": f.Image(encoding_format="png"), "text": f.Text()},
        {"train": [{"picture": stream(i), "text": f"number {i}"} for i in range(3)]},
    )
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_images_captions_and_labels(base):
    found = source.make("train", dataset="pets", data_dir=str(base))
    check_contract(found)
    assert len(found) == 7 and found.class_names == {"label": ["cat", "dog"]}
    by_file = {}
    for i in range(7):
        captions = list(found[i].captions)
        assert found.caption_counts[i] == len(captions) and found[i].key == f"train:{i}"
        by_file[found[i].image] = (captions, found[i].labels)
    for i in range(7):  # TFDS shuffles, and keeps the bytes as they were
        captions = [f"{i} größer {c}" for c in range(i % 3)]
        assert by_file[jpeg(i)] == (captions, {"label": i % 2} if i else {})


def test_features_are_found_or_chosen(base):
    plain = source.make("train", dataset="plain:1.0.0", data_dir=str(base))
    check_contract(plain)
    assert plain.max_captions == 1 and plain.class_names == {}
    assert sorted(plain[i].captions[0] for i in range(3)) == [
        f"number {i}" for i in range(3)
    ]
    chosen = source.make(
        "train",
        data_dir=str(base / "pets" / "1.0.0"),
        captions="file_name",
        labels=("breed", "label"),
        max_samples=2,
    )
    check_contract(chosen)
    assert len(chosen) == 2 and chosen.max_captions == 1
    assert list(chosen.class_names) == ["breed", "label"]
    assert chosen[0].captions[0].endswith(".jpg")
    none = source.make("train", dataset="pets", data_dir=str(base), captions="none")
    assert none.max_captions == 0 and not none[3].captions


def test_val_is_validation_and_slices_are_splits(base):
    options = dict(dataset="pets", data_dir=str(base))
    assert source.make("val", **options)[0].image == jpeg(9)
    part = source.make("train[2:5]", **options)
    whole = source.make("train", **options)
    assert [part[i].image for i in range(3)] == [whole[i].image for i in range(2, 5)]


def test_caption_counts_are_kept(base, cache):
    options = dict(dataset="pets", data_dir=str(base))
    first = source.make("train", **options).caption_counts.tolist()
    (kept,) = (cache / "tfds").iterdir()
    before = kept.stat().st_mtime_ns
    assert source.make("train", **options).caption_counts.tolist() == first
    assert kept.stat().st_mtime_ns == before
    kept.write_bytes(b"damaged")
    assert source.make("train", **options).caption_counts.tolist() == first


def refused(split="train", **options):
    with pytest.raises(UserError) as caught:
        source.make(split, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes(base, tmp_path, monkeypatch):
    here = dict(data_dir=str(base))
    told = refused(dataset="coco_captions", **here)
    assert "holds no prepared TFDS data set" in told
    assert "tfds build coco_captions --file_format=array_record" in told
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert f"{tmp_path} holds no dataset_info.json" in refused()
    assert "versions in" in refused(dataset="pets:2.0.0", **here)
    assert "no split 'trian'. Did you mean 'train'?" in refused(
        "trian", dataset="pets", **here
    )
    assert "captions=captoins: " in refused(dataset="pets", captions="captoins", **here)
    assert "no label feature" in refused(dataset="pets", labels=("file_name",), **here)
    assert "image=label" in refused(dataset="pets", image="label", **here)
    assert "max_samples=-1" in refused(dataset="pets", max_samples=-1, **here)
    config = tmp_path / "many"
    for name in ("one", "two"):
        shutil.copytree(base / "plain", config / "set" / name)
    told = refused(dataset="set", data_dir=str(config))
    assert "has several configs: use set/one, set/two" in told
    assert len(source.make("train", dataset="set/two", data_dir=str(config))) == 3


def test_another_format_and_damage(base, tmp_path):
    place = tmp_path / "plain" / "1.0.0"
    shutil.copytree(base / "plain" / "1.0.0", place)
    here = dict(dataset="plain", data_dir=str(tmp_path))
    found = source.make("train", **here)
    (shard,) = place.glob("*array_record-*")
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    copy = pickle.loads(pickle.dumps(found))
    with pytest.raises(BadExample, match="^train:1: .*shard"):
        copy[1]
    shard.unlink()
    assert "does not exist. It is a shard of the split 'train'" in refused(**here)
    info = place / "dataset_info.json"
    text = info.read_text()
    info.write_text(text.replace("array_record", "tfrecord"))
    os.rename(place / "features.json", place / "f")
    assert str(place) in refused(**here)
    os.rename(place / "f", place / "features.json")
    (place / "plain-train.tfrecord-00000-of-00001").touch()
    assert "is prepared as tfrecord, which has no random access" in refused(**here)
    info.write_text("{")
    assert "cannot be read by TensorFlow Datasets" in refused(**here)


def test_labels_become_words(tmp_path):
    prepare(
        tmp_path,
        "Dishes",
        lambda f: {
            "image": f.Image(encoding_format="jpeg"),
            "label": f.ClassLabel(names=["apple_pie", "n01440764"]),
        },
        {"train": [{"image": stream(i), "label": i} for i in range(2)]},
    )
    options = {"dataset": "dishes", "data_dir": str(tmp_path)}
    found = source.make("train", **options)
    assert found.class_names == {"label": ["apple pie", "tench"]}
    assert found.class_ids == {"label": ["apple_pie", "n01440764"]}
    raw = source.make("train", **options, class_names="raw")
    assert raw.class_names == found.class_ids
    with pytest.raises(UserError, match="is none of its 5 classes"):
        source.make("train", **options, class_names="tf_flowers")
