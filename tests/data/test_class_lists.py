"""Classes of one name, as ImageNet's two "crane": apart, merged or refused."""

import json

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from source_tools import jpeg

from clipjax import registry
from clipjax.data import class_lists
from clipjax.data.class_lists import Classes
from clipjax.data.sources import imagefolder, mixture
from clipjax.encoder import Encoder
from clipjax.engine import classes
from clipjax.evals import classification, zeroshot
from clipjax.evals.common.inputs import Inputs
from clipjax.types import Example, UserError

BIRD, MACHINE, DOG = 0, 1, 2
NAMES, IDS = ("crane", "crane", "dog"), ("n2", "n3", "n1")


class Channels:
    """A model whose logits are the means of the image's channels."""

    image_output = "logits"

    def encode_image(self, variables, image):
        return {"logits": image.astype("float32").mean(axis=(1, 2))}


class Coloured:
    """Images of one channel each, which is the model's class; with any labels."""

    max_captions = 0
    templates = {"kind": ("{}",)}

    def __init__(self, channels, numbers, names, ids=()):
        self.channels, self.numbers = channels, numbers
        self.class_names, self.class_ids = {"kind": names}, {"kind": ids}
        self.caption_counts = np.zeros(len(channels), np.int32)

    def __len__(self):
        return len(self.channels)

    def __getitem__(self, index):
        image = np.zeros((8, 8, 3), np.uint8)
        image[..., self.channels[index]] = 200
        return Example(image, (), {"kind": self.numbers[index]})


def evaluate(source, known, **options):
    crop = registry.load("preprocess", "clip")(8)
    encoder = Encoder(Channels(), None, crop, classes=known)
    return classification.make(Inputs(encoder, source), **options).run({})


def test_a_perfect_classifier_gets_everything_by_position_or_by_folder():
    every = [BIRD, MACHINE, DOG, MACHINE]
    found = evaluate(Coloured(every, every, NAMES), Classes(NAMES, IDS))
    assert found.metrics["top1"].value == found.metrics["mean_class_recall"].value == 1
    assert "2 classes called 'crane', by their position" in found.size
    # Another order, and a part of the classes: the folders tell.
    known, other = Classes(NAMES, IDS), ("dog", "crane", "crane")
    source = Coloured(every, [2, 1, 0, 1], other, ("n1", "n3", "n2"))
    found = evaluate(source, known)
    assert found.metrics["top1"].value == 1 and "by their folders" in found.size


def test_which_is_which():
    known = Classes(NAMES, IDS)
    assert class_lists.places(known, Classes(("dog", "crane"), ("n1", "n3"))) == (
        (DOG, MACHINE),
        "by their folders",
    )
    again = Classes(("crane", "dog", "crane"), ("n3", "n1", "n2"))
    assert class_lists.places(known, again)[0] == (MACHINE, DOG, BIRD)
    assert class_lists.places(known, Classes(("dog",))) == ((DOG,), "")
    assert class_lists.places(Classes(NAMES), Classes(NAMES, IDS))[0] == (0, 1, 2)
    for given, why in (
        (Classes(("dog", "crane")), "the two lists of classes differ"),
        (Classes(("dog", "crane", "crane")), "the two lists of classes differ"),
        (Classes(NAMES, ("x", "y", "z")), "no folder 'x'"),
        (Classes(("crane", "dog"), ("n1", "n2")), "no folder 'n1'"),
        (Classes(("cow",)), "no class of the model is called 'cow'"),
    ):
        with pytest.raises(UserError, match=why):
            class_lists.places(known, given)
    # One class of the model, two of the data: nothing says which is meant.
    with pytest.raises(UserError, match="2 classes called 'crane'"):
        class_lists.places(Classes(("crane", "dog")), Classes(NAMES))


def test_what_cannot_be_told_is_refused_or_merged_as_asked():
    every = [BIRD, MACHINE, DOG]
    source = Coloured(every, [1, 1, 0], ("dog", "crane"))
    with pytest.raises(UserError, match="2 classes called 'crane'.* same_name=merge"):
        evaluate(source, Classes(NAMES, IDS))
    found = evaluate(source, Classes(NAMES, IDS), same_name="merge")
    assert found.metrics["top1"].value == 1 and found.metrics["top1"].chance == 1 / 2
    assert found.size.startswith("3 images, 2 classes")
    assert found.metrics["majority_share"].value == 2 / 3
    with pytest.raises(UserError, match="2 classes called 'crane', and same_name=err"):
        evaluate(source, Classes(NAMES, IDS), same_name="error")
    with pytest.raises(UserError, match="same_name='join': use apart, merge or error"):
        evaluate(source, Classes(NAMES), same_name="join")


class Texts:
    """A model of two towers: an image's channel; a text's channel, by its length."""

    image_output = "image_embed"

    def encode_image(self, variables, image):
        mean = image.astype("float32").mean(axis=(1, 2))
        return {"image_embed": mean / jnp.linalg.norm(mean, axis=1, keepdims=True)}

    def encode_text(self, variables, text, mask):
        return {"text_embed": jnp.eye(3)[text[:, 0]]}


class Words:
    def __call__(self, texts):
        ids = np.array(
            [[{"": 0, "crane": 0, "dog": 2}[text]] for text in texts], np.int32
        )
        return ids, np.ones_like(ids, bool)


def test_zeroshot_says_what_no_text_can_tell_apart(caplog):
    crop = registry.load("preprocess", "clip")(8)
    encoder = Encoder(Texts(), Words(), crop)
    source = Coloured([BIRD, BIRD, DOG], [BIRD, MACHINE, DOG], NAMES)
    found = zeroshot.make(Inputs(encoder, source)).run({})
    # Both cranes' texts are one: each of their images is right with probability 1/2.
    assert found.metrics["kind/top1"].value == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert "2 classes called 'crane', which no text can tell apart" in found.size
    assert "2 classes called 'crane'" in caplog.text
    merged = zeroshot.make(Inputs(encoder, source), same_name="merge").run({})
    assert (
        merged.metrics["kind/top1"].value == 1
        and merged.metrics["kind/top1"].chance == 1 / 2
    )
    assert "3 images, 2 classes, 2 classes called 'crane', merged" in merged.size
    alike = Coloured([BIRD], [BIRD], ("crane", "crane"))
    with pytest.raises(UserError, match="fewer than two"):
        zeroshot.make(Inputs(encoder, alike), same_name="merge")


def folders(base, split="train", named="n1\tdog\nn2\tcrane\nn3\tcrane\n"):
    for i, folder in enumerate(("n1", "n2", "n3")):
        place = base / split / folder
        place.mkdir(parents=True)
        (place / "a.jpg").write_bytes(jpeg(i))
    (base / "names.tsv").write_text(named)
    return imagefolder.make(split, path=str(base), class_names_file="names.tsv")


def test_folders_tell_classes_apart(tmp_path):
    source = folders(tmp_path / "a")
    found = class_lists.classes_of(source, "class")
    assert found == Classes(("dog", "crane", "crane"), ("n1", "n2", "n3"))
    assert imagefolder.make(
        "train",
        path=str(tmp_path / "a"),
        class_names_file="names.tsv",
        caption_templates=("a {}",),
    ).problems == ["2 classes called 'crane' have the same captions"]
    both = mixture.Mixture({"a": source, "b": source})
    assert class_lists.classes_of(both, "class") == found
    other = folders(tmp_path / "b", named="n1\tcrane\nn2\tdog\nn3\tcrane\n")
    apart = mixture.Mixture({"a": source, "b": other})
    assert set(apart.class_names) == {"class", "b.class"}


def test_a_run_keeps_its_classes_and_their_folders(tmp_path, caplog):
    config = ml_collections.ConfigDict(
        {"model": {"name": "classifier", "num_classes": 3}, "data": {"label_set": ""}}
    )
    source = folders(tmp_path / "data")
    learnt = classes.of_data(config, source)
    assert "the training data have 2 classes called 'crane'" in caplog.text
    classes.save(learnt, tmp_path)
    assert classes.read_saved(config, tmp_path) == learnt
    classes.check_kept(config, learnt, tmp_path)
    classes.check_validation(config, learnt, source)
    turned = Coloured([0], [0], learnt.names, ("n1", "n3", "n2"))
    with pytest.raises(UserError, match="data.eval has other classes"):
        classes.check_validation(config, learnt, turned)
    for names, ids in ((learnt.names, ("n1", "n3", "n2")), (NAMES, ())):
        with pytest.raises(UserError, match="has learnt other classes"):
            classes.check_kept(config, Classes(names, ids), tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps({"names": learnt.names}))
    assert classes.read_saved(config, tmp_path) == Classes(
        learnt.names
    )  # of an older run
    classes.check_kept(config, learnt, tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps({"names": [], "ids": []}))
    with pytest.raises(UserError, match="is damaged"):
        classes.read_saved(config, tmp_path)
