"""A model's identity: what changes embeddings changes it, and nothing else does."""

import copy

import ml_collections
import numpy as np
import pytest

import tiny
from clipjax import identity, registry
from clipjax.models.common import frozen, lora
from clipjax.types import UserError

VARIABLES = {"params": {"a": np.ones((2, 3), np.float32), "b": {"c": np.float32(1)}}}


def config(**data):
    chosen = {
        "preprocess": {"name": "clip"},
        "image_size": 16,
        "tokenizer": {"name": "char", "context_length": 8, "path": "here"},
    }
    return ml_collections.ConfigDict({"data": {**chosen, **data}})


def tokenizer(**options):
    return registry.load("tokenizer", "char")(None, None, **options)


def of(chosen=None, model=None, variables=None, tokens=None):
    return identity.identity(
        chosen or config(),
        model or tiny.model(),
        variables or VARIABLES,
        tokens or tokenizer(context_length=8),
    )


def changed(path, value):
    variables = copy.deepcopy(VARIABLES)
    (variables["params"] if path == "a" else variables["params"]["b"])[path] = value
    return variables


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variables": changed("a", np.full((2, 3), 1.0001, np.float32))}, "weights"),
        ({"variables": changed("a", np.ones((3, 2), np.float32))}, "weights"),
        ({"variables": changed("a", np.ones((2, 3), np.float64))}, "weights"),
        ({"variables": changed("d", np.float32(1))}, "weights"),
        ({"model": tiny.model(mean=(0.5, 0.5, 0.5))}, "preprocessing"),
        ({"chosen": config(preprocess={"name": "openai"})}, "preprocessing"),
        ({"chosen": config(image_size=32)}, "preprocessing"),
        ({"tokens": tokenizer(context_length=9)}, "tokenizer"),
        ({"tokens": tokenizer(context_length=8, special=False)}, "tokenizer"),
        ({"model": lora.LoraModel(tiny.model(), 2, 1.0, "qkv")}, "model settings"),
    ],
)
def test_what_it_depends_on(changes, words):
    now = of(**changes)
    assert identity.differences(of(), now) == words
    with pytest.raises(UserError) as found:
        identity.check({**of(), "name": "vit", "step": 3}, now, "emb")
    told = f"emb is of a model with other {words} (vit, step 3): give that model, "
    assert str(found.value).startswith(told)


def test_what_it_does_not_depend_on():
    moved = config(tokenizer={"name": "char", "context_length": 8, "path": "there"})
    order = {"params": dict(reversed(VARIABLES["params"].items()))}
    fortran = changed("a", np.asfortranarray(VARIABLES["params"]["a"]))
    still = frozen.freeze(tiny.model(), frozenset({"a"}))
    for same in (
        of(moved),
        of(variables=order),
        of(variables=fortran),
        of(model=still),
        of(model=tiny.model(dropout=0.5)),
    ):
        assert identity.differences(of(), same) == ""
    identity.check(of(), of(moved), "emb")


def test_settings_of_a_tower():
    image = registry.load("image", "vit")(
        16, variant="Ti/8", width=32, depth=1, heads=4
    )
    text = registry.load("text", "transformer")(50, 8, width=32, depth=1, heads=2)
    other = registry.load("model", "two_tower")(image, text, embed_dim=16)
    assert identity.differences(of(), of(model=other)) == "model settings"
