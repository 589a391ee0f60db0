"""Tiny models for tests of maps."""

import jax
import numpy as np

from clipjax import registry

SIDE, VOCAB, LENGTH = 16, 20, 6


def model(image="vit", side=SIDE, text=None, **options):
    """A two-tower model; options of its image tower."""
    sizes = {
        "vit": {"variant": "Ti/8", "width": 16, "depth": 2, "heads": 2},
        "eva": {"variant": "B/8", "width": 16, "depth": 2, "heads": 2},
        "resnet": {"variant": "18", "width": 4, "depths": (1, 1, 1, 1)},
        "convnext": {"width": 4, "depths": (1, 1, 1, 1)},
        "modified_resnet": {"width": 4, "depths": (1,) * 4, "heads": 2},
    }[image]
    tower = registry.load("image", image)(side, **{**sizes, **options})
    words = {"width": 16, "depth": 1, "heads": 2, **(text or {})}
    texts = registry.load("text", "transformer")(VOCAB, LENGTH, **words)
    return registry.load("model", "two_tower")(tower, texts, embed_dim=8)


def variables(made, seed=0, size=0.5):
    """Random variables, biases and scales too, so that nothing vanishes."""
    fresh = jax.jit(made.init)(jax.random.key(seed))
    draw = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: x + size * draw.standard_normal(x.shape).astype("f4") * (x.ndim < 2),
        fresh["params"],
    )
    return {**fresh, "params": params}


def pixels(count=2, side=SIDE, seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, side, side, 3), np.uint8)


def directions(count=3, dim=8, seed=1):
    found = np.random.default_rng(seed).standard_normal((count, dim)).astype("f4")
    return found / np.linalg.norm(found, axis=1, keepdims=True)
