"""A CLIP of ViT-B/32's shape with random weights, and pictures, for benchmarks."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterator


def write_model(folder: pathlib.Path, form: str, tiny: bool = False) -> None:
    """Writes the model as a form's library saves it: "hf" or "open_clip".

    tiny: towers of one small block.
    """
    import jax

    from clipjax import config, registry
    from clipjax.models import two_tower
    from clipjax.weights import write_model

    chosen = config.base(None, image="vit", tokenizer="clip_bpe", preprocess="openai")
    tokenizer = config.create("tokenizer", chosen.data.tokenizer, None, None)
    small = {"width": 64, "depth": 1, "heads": 1} if tiny else {}
    options = {"activation": "quick_gelu", **small}
    image = registry.load("image", "vit")(224, variant="B/32", **options)
    sizes = tokenizer.vocab_size, tokenizer.context_length
    text = registry.load("text", "transformer")(*sizes, **options)
    model = two_tower.make(image, text)
    variables = jax.jit(model.init)(jax.random.key(0))
    write_model.write(folder, form, chosen, model, variables, tokenizer)


def pictures(count: int) -> Iterator[bytes]:
    """Yields JPEGs of 640 x 480 pixels."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for _ in range(count):
        colors = draw.integers(0, 256, (24, 32, 3), np.uint8)
        picture = Image.fromarray(colors).resize((640, 480), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=90)
        yield stream.getvalue()
