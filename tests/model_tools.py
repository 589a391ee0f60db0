"""A small model, its variables and a batch for tests of the models."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.models import two_tower
from clipjax.models.image import vit
from clipjax.models.text import transformer

VOCAB, LENGTH, SIZE = 31, 9, 16

# Compiling takes most of the time here, and a third of it this way.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def make_model(image=None, text=None, vocab=VOCAB, length=LENGTH, **options):
    image = {"variant": "B/4", "width": 16, "depth": 1, "heads": 2} | (image or {})
    text = {"width": 12, "depth": 1, "heads": 3} | (text or {})
    return two_tower.make(
        vit.make(SIZE, **image),
        transformer.make(vocab, length, **text),
        embed_dim=8,
        **options,
    )


def make_batch(b=4, length=LENGTH, seed=0):
    draw = np.random.default_rng(seed)
    mask = np.arange(length)[None] < draw.integers(2, 6, (b, 1))
    return {
        "image": draw.integers(0, 256, (b, SIZE, SIZE, 3), np.uint8),
        "text": np.where(mask, draw.integers(1, VOCAB, (b, length)), 0).astype("i4"),
        "text_mask": mask,
    }


@functools.cache
def init(model, dtype="float32"):
    """Noise of fresh parameters' size; fresh biases of zero would hide errors."""
    draw = np.random.default_rng(1)

    def noise(path, leaf):
        one = "scale" in str(path[-1])
        values = draw.standard_normal(leaf.shape) * 0.3
        return np.asarray(one + values, dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(noise, shapes)


@functools.partial(jit, static_argnums=(0, 3))
def run(model, variables, batch, train=False, key=None):
    """The outputs of both sides."""
    return model.apply(variables, batch, train, key)[0]


@functools.partial(jit, static_argnums=0)
def encode_text(model, variables, text, mask):
    return model.encode_text(variables, text, mask)


def clip_loss(model, variables, batch, train=False, key=None):
    outputs, _ = model.apply(variables, batch, train, key)
    logits = outputs["image_embed"] @ outputs["text_embed"].T * outputs["logit_scale"]
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits)))


@functools.partial(jit, static_argnums=(0, 3))
def gradient(model, variables, batch, train=False, key=None):
    return jax.grad(lambda v: clip_loss(model, v, batch, train, key))(variables)


def assert_close(ours, theirs, tolerance):
    """Equal to `tolerance` of the global norm."""

    def flat(tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    ours, theirs = flat(ours), flat(theirs)
    gap = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert gap <= tolerance
