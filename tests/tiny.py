"""A tiny model, loss and batch for tests of the engine."""

import jax
import jax.numpy as jnp
import numpy as np

from clipjax import registry
from clipjax.optim import factory
from clipjax.types import LossSpec

IMAGE, VOCAB, LENGTH = 16, 50, 8


def model(dropout=0.0, patch_dropout=0.0, **options):
    image = registry.load("image", "vit")(
        IMAGE,
        variant="Ti/8",
        width=32,
        depth=1,
        heads=2,
        dropout=dropout,
        patch_dropout=patch_dropout,
    )
    text = registry.load("text", "transformer")(
        VOCAB, LENGTH, width=32, depth=1, heads=2, dropout=dropout
    )
    return registry.load("model", "two_tower")(image, text, embed_dim=16, **options)


def spec(batch=16, mesh=None):
    return LossSpec(64, 64, 16, batch, 4, 40, mesh)


def loss(batch=16, name="clip", mesh=None, **options):
    return registry.load("loss", name)(spec(batch, mesh), **options)


def batch(size=16, seed=0):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(2, LENGTH + 1, (size, 1))
    mask = np.arange(LENGTH)[None] < lengths
    return {
        "image": draw.integers(0, 256, (size, IMAGE, IMAGE, 3), np.uint8),
        "text": np.where(mask, draw.integers(1, VOCAB, (size, LENGTH)), 0).astype("i4"),
        "text_mask": mask,
        "image_id": np.arange(size, dtype=np.int32),
        "text_id": np.arange(size, dtype=np.int32),
        "valid": np.ones(size, bool),
        "replaced": np.zeros(size, bool),
        "label": np.full(size, -1, np.int32),
    }


def optim(made, config, steps=40):
    params = jax.eval_shape(lambda: made.init(jax.random.key(0)))["params"]
    return factory.make(config, steps, 4, params)


# Every contrastive loss with what it needs of its options and of the model's.
LOSSES = {
    "clip": ({"label_smoothing": 0.1}, {}),
    "cyclip": ({}, {}),
    "dcl": ({"sigma": 0.5}, {}),
    "fastclip": ({}, {}),
    "fastclip v0": ({"variant": "v0"}, {}),
    "fastclip v1": ({"variant": "v1"}, {}),
    "fastclip v2": ({"variant": "v2"}, {}),
    "hcl": ({}, {}),
    "hn_nce": ({}, {}),
    "isogclr": ({}, {}),
    "onlineclr": ({}, {}),
    "siglip": ({}, {"logit_scale_init": 10.0, "logit_bias_init": -2.0}),
    "sogclr": ({}, {}),
    "sogclr hinge": ({"surrogate": "squared_hinge"}, {}),
    "vicreg": ({}, {}),
    "xbm": ({"size": 32, "start_step": 0}, {}),
}


def any_loss(case, batch=16, mesh=None, **more):
    """The loss of a case of LOSSES."""
    return loss(batch, case.split()[0], mesh, **{**LOSSES[case][0], **more})


def to_float64(tree):
    return jax.tree.map(
        lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree
    )
