"""Made embeddings of images and captions without ties, and our metrics of them."""

from typing import NamedTuple

import numpy as np
from evals_tools import Data, captioned, table_encoder, values, variables

from clipjax.evals import retrieval
from clipjax.evals.common.inputs import Inputs

# name -> seed, images, captions of an image at most, width
GALLERIES = {
    "five captions": (0, 61, 5, 16),
    "one caption": (1, 45, 1, 8),
    "hard": (2, 133, 5, 3),
}


class Gallery(NamedTuple):
    """images: float32 [n e], texts: float32 [m e], of unit norm. owner: int [m], each
    caption's image, in order."""

    images: np.ndarray
    texts: np.ndarray
    owner: np.ndarray


def make(name: str) -> Gallery:
    """Captions lie near their image, some nearer to others."""
    seed, count, most, width = GALLERIES[name]
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(count), rng.integers(1, most + 1, count))
    images = rng.standard_normal((count, width))
    texts = images[owner] + 1.5 * rng.standard_normal((len(owner), width))
    made = (
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        for x in (images, texts)
    )
    return Gallery(*made, owner)


def ours(gallery: Gallery) -> dict[str, float]:
    """What evals=retrieval measures, by name."""
    names = [f"caption {j}" for j in range(len(gallery.owner))]
    data = Data(captioned(range(len(gallery.images)), gallery.owner, names))
    inputs = Inputs(table_encoder(names, batch_size=64), data)
    table = variables(gallery.images, gallery.texts)
    return values(retrieval.make(inputs).run(table))
