"""Small pictures for the tests of images, and their encoding."""

import io

import numpy as np
from PIL import Image


def pixels(height, width, seed=0, channels=3):
    """Smooth colour with some noise, so that resampling and JPEG have work to do."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [127 + 90 * np.sin(x / (3 + c) + y / 5) for c in range(channels)]
    noisy = np.stack(waves, -1) + rng.normal(0, 12, (height, width, channels))
    return noisy.clip(0, 255).astype(np.uint8)


def encoded(picture, format="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def picture(height=40, width=60, seed=0):
    return Image.fromarray(pixels(height, width, seed))
