"""`data=multimodal`: generated images, captions and spectrograms of ten classes.

All three modalities share the class c only; the rest is noise:

- caption: 16 words, drawn once per class from its ten words w(10c) ... w(10c+9); a
  fifth of each caption's words is replaced by any of w0 ... w999.
- image: channel c % 3 is bright, under waves of c + 1 periods in both directions.
- audio, in `others`: waves whose frequency grows with c along both axes.

So examples of one class cannot be told apart: with N examples a perfect model finds the
partner with probability 10 / N. Splits train and val have the same classes.
After github.com/intrinsicD/DeepLearning2.
"""

from __future__ import annotations

import numpy as np

from clipjax.data.synthetic.scene_drawing import MOST
from clipjax.types import Example, UserError

SPLITS = ("train", "val")
CLASSES = 10
WORDS = 1000
WORDS_OF_CLASS = 10
CAPTION_WORDS = 16
REPLACED = 0.2  # share of a caption's words
NOISE = 0.1  # standard deviation, of images and audio in [0, 1]
AUDIO_SIZE = 64
_PROTOTYPES = 2**63  # the classes' random stream, beyond those of all examples


class Multimodal:
    """The Source that the module describes."""

    max_captions = 1
    templates = {"class": ("{}",)}

    def __init__(self, split: str, seed: int, size: int, resolution: int):
        self.split = split
        self.seed = seed
        self.resolution = resolution
        self.caption_counts = np.ones(size, np.int32)
        self._words = _class_words(_rng(seed, _PROTOTYPES))
        self._images = np.stack([_image(c, resolution) for c in range(CLASSES)])
        self._audio = np.stack([_audio(c) for c in range(CLASSES)])
        # A class's name is its caption without replaced words.
        self.class_names = {"class": tuple(_spell(words) for words in self._words)}

    def __len__(self) -> int:
        return len(self.caption_counts)

    def __getitem__(self, index: int) -> Example:
        """Returns an example with image uint8 [resolution resolution 3] and, in others,
        "audio" float32 [64 64]. Raises IndexError out of range.
        """
        rng = self._example_rng(index)
        label, caption = self._describe(rng)
        image = _noisy(self._images[label], rng)
        return Example(
            image=np.rint(image * 255).astype(np.uint8),
            captions=(caption,),
            labels={"class": label},
            key=self.key_of(index),
            others={"audio": _noisy(self._audio[label], rng)},
        )

    def key_of(self, index: int) -> str:
        """Returns an example's key without drawing it."""
        return f"multimodal/{self.split}/{index}"

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Returns an example's caption without drawing its image."""
        return (self._describe(self._example_rng(index))[1],)

    def _describe(self, rng: np.random.Generator) -> tuple[int, str]:
        """Returns an example's class and caption."""
        label = int(rng.random() * CLASSES)
        replace = rng.random(CAPTION_WORDS) < REPLACED
        noise_words = (rng.random(CAPTION_WORDS) * WORDS).astype(int)
        return label, _spell(np.where(replace, noise_words, self._words[label]))

    def _example_rng(self, index: int) -> np.random.Generator:
        if not 0 <= index < len(self):
            raise IndexError(f"multimodal/{self.split} has no example {index}")
        return _rng(self.seed, SPLITS.index(self.split) * 2**48 + int(index))


def make(
    split: str,
    *,
    seed: int = 0,
    size: int = 2000,
    eval_size: int = 500,
    resolution: int = 64,
) -> Multimodal:
    """Makes the split "train" or "val".

    Args:
      seed: determines the classes' captions and the noise.
      size: number of examples in "train".
      eval_size: number of examples in "val".
      resolution: side of the images in pixels.

    Raises:
      UserError: for an unknown split or a number out of range.
    """
    if split not in SPLITS:
        raise UserError(
            f"data=multimodal has no split {split!r}; use {', '.join(SPLITS)}"
        )
    for name, value, low, high in (
        ("seed", seed, 0, 2**63 - 1),
        ("size", size, 1, MOST),
        ("eval_size", eval_size, 1, MOST),
        ("resolution", resolution, 1, 1024),
    ):
        if not low <= value <= high:
            raise UserError(
                f"data=multimodal: {name}={value} is out of range; use {low} to {high}"
            )
    return Multimodal(split, seed, size if split == "train" else eval_size, resolution)


def _class_words(rng: np.random.Generator) -> np.ndarray:
    """Draws the classes' words, int [CLASSES CAPTION_WORDS]."""
    draws = (rng.random((CLASSES, CAPTION_WORDS)) * WORDS_OF_CLASS).astype(int)
    return draws + WORDS_OF_CLASS * np.arange(CLASSES)[:, None]


def _spell(words: np.ndarray) -> str:
    return " ".join(f"w{word}" for word in words)


def _image(c: int, resolution: int) -> np.ndarray:
    """Draws class c's image, float32 [resolution resolution 3] in [0, 1]."""
    phase = np.linspace(0, 2 * np.pi * (c + 1), resolution)
    waves = 0.3 * np.cos(phase)[:, None] * np.sin(phase)[None]
    colour = np.where(np.arange(3) == c % 3, 0.8, 0.0)
    return np.clip(waves[:, :, None] + colour, 0, 1).astype(np.float32)


def _audio(c: int) -> np.ndarray:
    """Draws class c's audio, float32 [AUDIO_SIZE AUDIO_SIZE] in [0, 1]."""
    phase = 3 * (c + 1) * np.arange(AUDIO_SIZE)
    waves = np.sin(phase / 10)[:, None] + np.cos(phase / 15)[None]
    return ((waves - waves.min()) / np.ptp(waves)).astype(np.float32)


def _noisy(clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(clean.shape, np.float32)
    return np.clip(clean + NOISE * noise, 0, 1, dtype=np.float32)


def _rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream]))
