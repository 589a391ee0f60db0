"""The networks of big_vision's checkpoints, of Flax's own layers, as .npz files.

Flax numbers layers without a name, which gives the files' names: LayerNorm_0 and so on.
"""

from __future__ import annotations

import re

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

HEADS, HIDDEN, DEPTH, WIDTH = 3, 20, 2, 12


class MlpBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.Dense(HIDDEN)(x))
        return nn.Dense(WIDTH)(x)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(HEADS)(y, y)
        return x + MlpBlock()(nn.LayerNorm()(x))


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        for layer in range(DEPTH):
            x = Block(name=f"encoderblock_{layer}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class MAPHead(nn.Module):
    @nn.compact
    def __call__(self, x):
        probe = self.param("probe", nn.initializers.normal(), (1, 1, WIDTH))
        probe = jnp.tile(probe, (len(x), 1, 1))
        x = nn.MultiHeadDotProductAttention(HEADS)(probe, x)
        return (x + MlpBlock()(nn.LayerNorm()(x)))[:, 0]


class Image(nn.Module):
    """pool: "map", "gap", "tok" (a class token without a position), or "old", with the
    class token's position, as vision_transformer has it.
    """

    pool: str
    patch: int = 4
    learned: bool = True
    classes: int = 0

    @nn.compact
    def __call__(self, image):
        size = (self.patch, self.patch)
        x = nn.Conv(WIDTH, size, size, "VALID", name="embedding")(image)
        x = x.reshape(len(x), -1, WIDTH)
        start = nn.initializers.normal()
        if self.pool == "old":
            x = self._with_token(x)
        if self.learned:
            x = x + self.param("pos_embedding", start, (1, *x.shape[1:]))
        else:
            x = x + _fixed(x.shape[1])
        if self.pool == "tok":
            x = self._with_token(x)
        tokens = x = Encoder(name="Transformer")(x)
        if self.pool == "map":
            x = MAPHead()(x)
        elif self.pool == "gap":
            x = x.mean(axis=1)
        else:
            tokens, x = x[:, 1:], x[:, 0]
        found = {"pooled": x, "tokens": tokens}
        if self.classes:
            found["logits"] = nn.Dense(self.classes, name="head")(x)
        return found

    def _with_token(self, x):
        token = self.param("cls", nn.initializers.normal(), (1, 1, WIDTH))
        return jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], axis=1)


class Text(nn.Module):
    """Sees padding, pools at the last position, and then has a dense layer."""

    vocab_size: int
    classes: int = WIDTH

    @nn.compact
    def __call__(self, text):
        x = nn.Embed(self.vocab_size, WIDTH)(text)
        start = nn.initializers.normal()
        x = x + self.param("pos_embedding", start, (1, *x.shape[1:]))
        tokens = Encoder(name="Encoder_0")(x)
        logits = nn.Dense(self.classes, name="head")(tokens[:, -1])
        return {"pooled": tokens[:, -1], "tokens": tokens, "logits": logits}


def _fixed(count):
    """Sine and cosine of column and row, arXiv 2104.02057."""
    side = int(count**0.5)
    at = np.stack(np.divmod(np.arange(count), side))[::-1]  # columns, rows
    waves = at[:, :, None] / 10_000 ** (np.arange(WIDTH // 4) / (WIDTH // 4 - 1))
    waves = np.stack([np.sin(waves), np.cos(waves)], axis=1)  # [2 2 n w]
    return waves.transpose(2, 0, 1, 3).reshape(1, count, WIDTH).astype("f4")


def noisy(module, given, seed=0):
    """Parameters of noise, small before the first normalisation to show its epsilon."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), given)
    draw = np.random.default_rng(seed)

    def noise(path, leaf):
        name = jax.tree_util.keystr(path)
        first = re.search(r"embedding|cls|Embed", name)
        values = draw.standard_normal(leaf.shape) * (3e-3 if first else 0.3)
        return (("scale" in name) + values).astype("f4")

    return jax.tree_util.tree_map_with_path(noise, shapes)["params"]


def named(params, prefix=""):
    """Names in a file -> arrays."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return {prefix + name: np.asarray(array) for name, array in flat.items()}


def stacked(arrays):
    """All layers of an encoder in one array, as files of scanned models have them."""
    found, layers = {}, {}
    for name, array in arrays.items():
        match = re.fullmatch(r"(.*encoderblock)_(\d+)(/.*)", name)
        if match:
            layers.setdefault(match[1] + match[3], {})[int(match[2])] = array
        else:
            found[name] = array
    return found | {
        name: np.stack([parts[i] for i in range(DEPTH)])
        for name, parts in layers.items()
    }


def numbered(arrays):
    """google-research/vision_transformer's names: it numbers a block through."""
    words = {
        "LayerNorm_1": "LayerNorm_2",
        "MlpBlock_0": "MlpBlock_3",
        "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
        "pos_embedding": "Transformer/posembed_input/pos_embedding",
    }
    pattern = re.compile("|".join(words))
    return {
        pattern.sub(lambda match: words[match[0]], name): array
        for name, array in arrays.items()
    }


def as_bfloat16(arrays):
    """The numbers of bfloat16 as float32, and as big_vision's files hold them."""
    import ml_dtypes

    short = {name: x.astype(ml_dtypes.bfloat16) for name, x in arrays.items()}
    return short, {name: x.view("V2") for name, x in short.items()}
