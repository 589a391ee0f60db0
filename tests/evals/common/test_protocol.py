"""Results say what others must share to be comparable with them."""

import numpy as np
import pytest
from evals_tools import Data, pixels, table_encoder

from clipjax.data.class_lists import Classes
from clipjax.evals import classification, retrieval, zeroshot
from clipjax.evals.common import protocol
from clipjax.evals.common.inputs import Inputs
from clipjax.types import Example


def images(names, labels):
    examples = [
        Example(pixels(i), [f"caption {i}"], {"class": label})
        for i, label in enumerate(labels)
    ]
    return Data(examples, {"class": names})


def zero_shot(names=("cat", "dog", "owl"), **options):
    options = {"templates": ("a {}.", "{}")} | options
    source = images(names, [0, 1, 1])
    return zeroshot.make(Inputs(table_encoder([]), source), **options).protocol


def test_digests_tell_lists_apart():
    """By SHA-256 of `["a", "b"]`."""
    assert protocol.digest(["a", "b"]) == "3554d2b8"
    lists = (["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""], ["a, b"], [])
    assert len({protocol.digest(texts) for texts in lists}) == len(lists)


def test_zeroshot_names_its_classes_and_templates():
    usual = zero_shot()
    assert usual.startswith("class: 3 classes ") and ", 2 templates " in usual
    assert "\n" not in usual and len(usual) < 80
    assert zero_shot() == usual
    # What has no effect makes no other protocol; what has, does.
    assert zero_shot(same_name="merge") == usual
    assert zero_shot(ks=(1, 2)) == usual
    others = [
        zero_shot(("cat", "owl", "dog")),
        zero_shot(("cat", "dog", "cow")),
        zero_shot(("cat", "dog")),
        zero_shot(("cat", "dog", "dog")),
        zero_shot(("cat", "dog", "dog"), same_name="merge"),
        zero_shot(templates=("a {}.",)),
        zero_shot(templates=("a {}.", "the {}")),
        zero_shot(max_samples=2),
    ]
    assert len({usual, *others}) == 1 + len(others)
    assert others[3].endswith("same_name=apart")
    assert others[-1] == usual + "; at most 2 images, evenly spread"


def test_each_label_set_is_named():
    examples = [Example(pixels(0), labels={"hue": 0, "shape": 0})]
    source = Data(examples, {"hue": ["red", "blue"], "shape": ["disc", "star"]})
    inputs = Inputs(table_encoder([]), source)
    both = zeroshot.make(inputs).protocol
    assert both.startswith("hue: 2 classes ") and "; shape: 2 classes " in both
    assert zeroshot.make(inputs, label_sets=("shape",)).protocol in both


def test_classification_names_its_classes():
    def of(names, known=("cat", "dog", "owl"), **options):
        encoder = table_encoder([], classes=Classes(known))
        inputs = Inputs(encoder, images(names, [0, 1]))
        return classification.make(inputs, **options).protocol

    usual = of(("cat", "dog"))
    assert usual == f"class: 3 classes {protocol.digest(['cat', 'dog', 'owl'])}"
    assert of(("cat", "dog"), ("cat", "dog")) != usual
    assert of(("cat", "dog"), max_samples=1) != usual
    assert of(("cat", "dog"), same_name="merge") == usual


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "standard, all captions"),
        ({"ks": (1, 2), "block": 2}, "standard, all captions"),
        ({"protocols": ("pair_diagonal",)}, "pair_diagonal, all captions"),
        (
            {"max_samples": 2},
            "standard, all captions; at most 2 images, evenly spread",
        ),
        (
            {"protocols": ("standard", "pair_diagonal")},
            "standard, all captions; pair_diagonal, all captions",
        ),
    ],
)
def test_retrieval_names_its_protocols(options, expected):
    texts = [f"caption {i}" for i in range(3)]
    inputs = Inputs(table_encoder(texts), images(["a", "b"], [0, 1, 1]))
    eye = np.eye(4, dtype=np.float32)
    variables = {"params": {"image": eye, "text": eye}}
    assert retrieval.make(inputs, **options).run(variables).protocol == expected
