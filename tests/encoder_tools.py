"""A linear model and tokenizer whose embeddings a test computes itself."""

import io

import jax.numpy as jnp
import numpy as np
from PIL import Image

from clipjax.data.images import preprocess
from clipjax.encoder import Encoder
from clipjax.types import BadExample

WIDTH = 5


LENGTH = 6


class Letters:
    """A tokenizer of one token a letter, begun by token 1."""

    vocab_size, context_length, pad_id = 256, LENGTH, 0

    def __call__(self, texts):
        ids = np.zeros((len(texts), LENGTH), np.int32)
        for row, text in zip(ids, texts, strict=True):
            if not isinstance(text, str):
                raise BadExample("not a text")
            codes = [1, *text.encode()][:LENGTH]
            row[: len(codes)] = codes
        return ids, ids > 0


class Sums:
    """A model that is linear in pixels and in token counts; counts its traces."""

    image_output = "image_embed"

    def __init__(self):
        self.traces = []

    def encode_image(self, variables, image):
        self.traces.append(("image", image.shape))
        assert image.dtype == jnp.uint8
        flat = image.astype(jnp.float32).reshape(len(image), -1) / 255 + 0.01
        return {"image_embed": unit(flat @ variables["params"]["image"])}

    def encode_text(self, variables, text, mask):
        self.traces.append(("text", text.shape))
        table = variables["params"]["text"][text]
        total = jnp.where(mask[..., None], table, 0).sum(1)
        return {"text_embed": unit(total / mask.sum(1)[:, None])}


class Pooling(Sums):
    """And gives what it projects: pixels, and of a text how many tokens it has."""

    pooled_outputs = {"image": "pixels", "text": "counts"}

    def encode_image(self, variables, image):
        flat = image.astype(jnp.float32).reshape(len(image), -1) / 255 + 0.01
        return {**super().encode_image(variables, image), "pixels": flat}

    def encode_text(self, variables, text, mask):
        counts = mask.sum(1, keepdims=True).astype(jnp.float32)
        return {**super().encode_text(variables, text, mask), "counts": counts}


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def make_variables():
    rng = np.random.default_rng(0)
    return {
        "params": {
            "image": rng.standard_normal((4 * 4 * 3, WIDTH)).astype(np.float32),
            "text": rng.standard_normal((256, WIDTH)).astype(np.float32),
        }
    }


def make_pictures(count):
    return list(np.random.default_rng(1).integers(0, 256, (count, 4, 4, 3), np.uint8))


class Counted:
    """Yields arrays; `most`: how many of them were alive at once."""

    def __init__(self, arrays):
        self._arrays, self._alive, self.most = arrays, 0, 0

    def __iter__(self):
        counted = self

        class Large(np.ndarray):
            def __del__(self):
                counted._alive -= 1

        for array in self._arrays:
            self._alive += 1
            self.most = max(self.most, self._alive)
            yield array.view(Large)


def make_encoder(model=None, **options):
    return Encoder(model or Sums(), Letters(), preprocess.clip(4), **options)


def expected_embed(pictures):
    flat = np.stack(pictures).reshape(len(pictures), -1) / 255 + 0.01
    embed = flat @ make_variables()["params"]["image"]
    return embed / np.linalg.norm(embed, axis=1, keepdims=True)


def png_bytes(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
