"""Folders in the form in which CLIP_benchmark publishes its data sets.

root/SPLIT/0.tar with KEY.webp or .jpg and KEY.cls or KEY.txt, SPLIT/nshards.txt, and
classnames.txt, zeroshot_classification_templates.txt and dataset_type.txt in the root.
"""

import io

import pytest
from PIL import Image
from source_tools import check_contract, write_tar

from clipjax.data.sources import webdataset
from clipjax.types import UserError


def webp(level):
    stream = io.BytesIO()
    Image.new("RGB", (12, 8), (level, 0, 0)).save(stream, "WEBP")
    return stream.getvalue()


def put(base, split, shards):
    """shards: per shard the labels of its images."""
    (base / split).mkdir()
    number = 0
    for i, labels in enumerate(shards):
        members = []
        for label in labels:
            members.append((f"s{number:07}.webp", webp(number)))
            members.append((f"s{number:07}.cls", str(label).encode()))
            number += 1
        write_tar(base / split / f"{i}.tar", members)
    (base / split / "nshards.txt").write_text(f"{len(shards)}\n")


@pytest.fixture
def root(tmp_path):
    put(tmp_path, "train", [[0, 1], [2]])
    put(tmp_path, "test", [[i % 3] for i in range(11)])
    (tmp_path / "classnames.txt").write_text("cat\nhot dog\nowl\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text(
        "a photo of a {c}.\nart of the {c}.\n"
    )
    return tmp_path


def test_a_classification_set_is_read_as_published(root):
    test = webdataset.make("test", path=str(root))
    check_contract(test)
    assert test.class_names == {"class": ["cat", "hot dog", "owl"]}
    assert test.templates == {"class": ("a photo of a {}.", "art of the {}.")}
    # In the shards' own order: 10.tar comes last.
    assert [test[i].labels["class"] for i in range(11)] == [i % 3 for i in range(11)]
    assert test[10].key == "test/10.tar:s0000010" and test.problems == []
    assert len(webdataset.make("train", path=str(root))) == 3


def test_names_of_a_public_data_set(root):
    (root / "classnames.txt").unlink()
    assert webdataset.make("test", path=str(root)).class_names == {}
    source = webdataset.make("test", path=str(root), class_names="tf_flowers")
    assert source.class_names["class"][:2] == ["dandelion", "daisy"]


def test_a_retrieval_set_is_read_as_published(tmp_path):
    (tmp_path / "test").mkdir()
    write_tar(
        tmp_path / "test" / "0.tar",
        [
            *(("s0000000.jpg", webp(0)), ("s0000000.txt", b"a cat\none cat\n")),
            *(("s0000001.jpg", webp(1)), ("s0000001.txt", b"a dog\nthe dog\na pet")),
        ],
    )
    (tmp_path / "test" / "nshards.txt").write_text("1")
    (tmp_path / "dataset_type.txt").write_text("retrieval")
    source = webdataset.make("test", path=str(tmp_path))
    assert source.caption_counts.tolist() == [2, 3] and source.class_names == {}
    assert source[1].captions == ["a dog", "the dog", "a pet"]


def test_split_folders_without_a_count(root):
    (root / "test" / "nshards.txt").unlink()
    assert len(webdataset.make("test", path=str(root))) == 11
    write_tar(root / "test-extra.tar", [("a.jpg", webp(1))])  # *SPLIT*.tar comes first
    assert len(webdataset.make("test", path=str(root))) == 1


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("test/nshards.txt", "12", "test/11.tar does not exist"),
        (
            "test/nshards.txt",
            "two",
            "should hold the number of shards, and holds 'two'",
        ),
        ("test/nshards.txt", "0", "should hold the number of shards"),
        ("classnames.txt", "cat\nowl\n", "names 2 classes, .* number 2: name 3"),
        ("classnames.txt", "cat\n\nowl\n", "line 2: the class has no name"),
        (
            "zeroshot_classification_templates.txt",
            "a photo\n",
            "'a photo' needs one {}",
        ),
        ("zeroshot_classification_templates.txt", "\n", "holds no templates"),
    ],
)
def test_wrong_files_are_refused(root, file, text, words):
    (root / file).write_text(text)
    with pytest.raises(UserError, match=words):
        webdataset.make("test", path=str(root))


@pytest.mark.parametrize(
    ("split", "options", "words"),
    [
        ("val", {}, "no shards of the split 'val'; there are shards in test, train"),
        ("test", {"class_names": "fod101"}, "Did you mean 'food101'"),
        ("test", {"class_names": "cifar10", "classes": "x"}, "both name the classes"),
    ],
)
def test_wrong_options_are_refused(root, split, options, words):
    with pytest.raises(UserError, match=words):
        webdataset.make(split, path=str(root), **options)
