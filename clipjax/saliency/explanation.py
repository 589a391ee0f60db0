"""`clipjax.explain`: what a model looks at, in images and in texts."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from clipjax import image_inputs
from clipjax.image_inputs import ImageLike
from clipjax.item_errors import BadItem
from clipjax.loaded import Loaded
from clipjax.saliency import overlays
from clipjax.saliency.image_maps import ImageMaps
from clipjax.saliency.word_relevance import METHODS, TextRelevance
from clipjax.types import BadExample, UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """What `explain` finds, of n images and m texts.

    maps: float32 [n m rows columns], the relevance of each place, the same scale for
      all texts of an image: 0 or above, or cosines if the method is "maskclip".
    pixels: uint8 [n s s 3], the images as the model sees them, which the maps cover.
    similarity: float32 [n m], cosines.
    texts, method: as given, and as chosen.
    words: per text, its words and float32 [n words], their shares of the relevance.

    >>> found = clipjax.explain(clip, [image], "a dog")
    >>> found.overlay(image=0, text=0).size
    (256, 256)
    >>> words, shares = found.words[0]
    >>> words, shares.shape
    (['a', 'dog'], (1, 2))
    """

    maps: np.ndarray
    pixels: np.ndarray
    similarity: np.ndarray
    texts: list[str]
    method: str
    words: list[tuple[list[str], np.ndarray]]

    def overlay(self, image: int, text: int, size: int = 256) -> Image.Image:
        """One map over its image, size x size pixels, on the scale of all texts of the
        image.
        """
        scale = overlays.scale_of(self.maps[image])
        return overlays.overlay(self.pixels[image], self.maps[image, text], scale, size)

    def sheet(self, image: int, size: int = 256, wrong: int = -1) -> Image.Image:
        """The image, a map per text with its words shaded, and the scale.

        wrong: the number of a wrong text, which is marked as such; -1 for none.
        """
        rows = overlays.rows(self.method, self.tiles(image, wrong))
        return overlays.sheet(self.pixels[image], rows, size)

    def tiles(self, image: int, wrong: int = -1) -> list[overlays.Tile]:
        """What `sheet` draws of an image, a tile per text."""
        return [
            overlays.Tile(
                self.maps[image, number],
                words,
                shares[image],
                f"cosine {self.similarity[image, number]:.3f}",
                number == wrong,
            )
            for number, (words, shares) in enumerate(self.words)
        ]


def explain(
    clip: Loaded,
    images: ImageLike | Iterable[ImageLike],
    texts: str | Iterable[str],
    *,
    method: str = "",
) -> Explanation:
    """Maps of where a model sees what texts say, and the words that it goes by.

    What is compiled is kept as long as `clip` is.

    Args:
      clip: of two towers, as `clipjax.load` gives it.
      images: as `Loaded.encode_image` takes them; all are kept in memory.
      texts: one, or several, which are compared with every image.
      method: one of `methods(clip)`; "" for the first, the default.

    Raises UserError for a model or method without maps, and if there is no image or no
    text; BadItem for an image or text that cannot be used.

    >>> found = clipjax.explain(clip, [image], ["a dog", "a cat"])
    >>> found.maps.shape, found.method
    ((1, 2, 2, 2), 'chefer')
    >>> found.sheet(0, size=64).save("sheet.png")
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    return by_methods(clip, images, texts, [method or methods(clip)[0]])[0]


def by_methods(
    clip: Loaded,
    images: ImageLike | Iterable[ImageLike],
    texts: list[str],
    methods: Sequence[str],
) -> list[Explanation]:
    """What `explain` returns for each method; reads and encodes everything once."""
    maps, relevance = _of(clip)
    if not texts:
        raise UserError("explain got no texts")
    embed = clip.encode_text(texts)
    pixels = _pixels(clip, images)
    made = [maps(pixels, embed, method) for method in methods]
    seen = maps.embed(pixels)
    of_words = {name: name if name in METHODS else METHODS[0] for name in methods}
    words = {
        name: relevance.words(texts, seen, name)
        for name in dict.fromkeys(of_words.values())
    }
    return [
        Explanation(found, pixels, similarity, texts, name, words[of_words[name]])
        for name, (found, similarity) in zip(methods, made, strict=True)
    ]


def methods(clip: Loaded) -> tuple[str, ...]:
    """The methods that `explain` has for this model, the default first."""
    return _of(clip)[0].methods


def attention_heads(
    clip: Loaded, images: ImageLike | Iterable[ImageLike]
) -> np.ndarray:
    """The raw attention of each head of the image tower's last attention, float32
    [n heads rows columns]: from what the embedding is made of (a class token, a pool,
    or the mean of the patches) to each patch. Over all tokens the sum is 1.

    Raises as `explain` does.

    >>> clipjax.attention_heads(clip, [image]).shape
    (1, 2, 2, 2)
    """
    maps, _ = _of(clip)
    return maps.heads(_pixels(clip, images))


def heads_of_pixels(clip: Loaded, pixels: np.ndarray) -> np.ndarray:
    """`attention_heads` of preprocessed images, `Explanation.pixels`."""
    return _of(clip)[0].heads(pixels)


def _pixels(clip: Loaded, images: ImageLike | Iterable[ImageLike]) -> np.ndarray:
    made = []
    for number, example in enumerate(image_inputs.Images(images)):
        try:
            if isinstance(example, BadExample):
                raise example
            made.append(clip.preprocess(example.image))
        except BadExample as error:
            key = example.key
            raise BadItem(f"{key}: {error.reason}", number, np.zeros(0)) from error
    if not made:
        raise UserError("explain got no images")
    return np.stack(made)


# What is compiled for a model; neither value refers to its key.
_made: weakref.WeakKeyDictionary[Loaded, tuple[ImageMaps, TextRelevance]] = (
    weakref.WeakKeyDictionary()
)


def _of(clip: Loaded) -> tuple[ImageMaps, TextRelevance]:
    if clip not in _made:
        maps = ImageMaps(clip.model, clip.variables)
        assert clip.tokenizer is not None  # two towers have one
        words = TextRelevance(clip.model, clip.variables, clip.tokenizer)
        _made[clip] = maps, words
    return _made[clip]
