"""Class lists of public data sets, compared with what tensorflow-datasets says."""

import pytest

from clipjax.data.annotations import known_classes
from clipjax.types import UserError

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.mark.parametrize(
    "name",
    ["food101", "oxford_iiit_pet", "oxford_flowers102", "resisc45", "fashion_mnist"]
    + ["sun397", "imagenet_r", "quickdraw_bitmap", "cars196", "tf_flowers", "dtd"],
)
def test_labels_are_those_of_the_builder(name, tmp_path):
    builder = tfds.builder(name, data_dir=tmp_path)
    assert list(known_classes.find(name).labels) == builder.info.features["label"].names


def test_names_are_words():
    def named(dataset):
        classes = known_classes.find(dataset)
        return dict(zip(classes.labels, classes.names, strict=True))

    assert named("food101")["baby_back_ribs"] == "baby back ribs"
    assert named("sun397")["/a/apartment_building/outdoor"] == (
        "apartment building outdoor"
    )
    assert named("eurosat")["HerbaceousVegetation"] == "Herbaceous Vegetation"
    assert named("oxford_flowers102")["hard-leaved pocket orchid"] == (
        "hard-leaved pocket orchid"
    )
    assert named("cifar100")["aquarium_fish"] == "aquarium fish"


def test_imagenet_has_a_name_of_its_own_for_each_class():
    classes = known_classes.find("imagenet")
    assert classes.labels[0] == "n01440764" and classes.names[0] == "tench"
    assert classes.names[281] == "tabby" and classes.names[999] == "toilet tissue"
    assert len(set(classes.names)) == 1000
    # In imagenette's order, which is not ImageNet's.
    assert known_classes.find("imagenette").names[:2] == ("tench", "English springer")


@pytest.mark.parametrize(
    "name", ["food-101", "FOOD101", "food101/1.0", "food101:2.0.0"]
)
def test_a_data_sets_name_may_be_written_differently(name):
    assert len(known_classes.find(name)) == 101


def test_our_lists_have_the_data_sets_sizes():
    sizes = {"cifar10": 10, "cifar100": 100, "stl10": 10}
    for name, size in sizes.items():
        features = tfds.builder(name, data_dir="/nowhere").info.features
        assert len(known_classes.find(name)) == features["label"].num_classes == size
    assert sorted(known_classes.find("cifar100").labels) == list(
        known_classes.find("cifar100").labels
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fod101", "no data set of this name. Did you mean 'food101'"),
        ("", "class_names=: tensorflow-datasets has no data set"),
        ("stanford_dogs", "ships no class names of stanford_dogs"),
    ],
)
def test_unknown_data_sets_are_refused(name, words):
    with pytest.raises(UserError, match=words):
        known_classes.find(name)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("apple_pie", "apple pie"),
        ("T-shirt", "T shirt"),
        ("_hidden__gem_", "hidden gem"),
        ("forget-me-not garden", "forget-me-not garden"),
        ("__", "__"),
        ("a/b", "a/b"),
    ],
)
def test_in_words(label, words):
    assert known_classes.in_words(label) == words
