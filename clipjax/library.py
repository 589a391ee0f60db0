"""The library: `clipjax.load("runs/x")`, then encode images and texts."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from clipjax import atomic_files, paths
from clipjax.config import create
from clipjax.encoder import Encoder
from clipjax.engine import assemble, classes, resume
from clipjax.given_images import ImageLike, one_by_one
from clipjax.types import BadExample, Config, Model, Tokenizer, UserError, Variables
from clipjax.weights import model_description, read_model


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A trained model with everything it needs to be used.

    config: its run's; a released model has one to fine-tune it, whose data and length
    are not yet set.
    variables: as `model.apply` takes them.
    step: the checkpoint's, 0 for a released model.
    tokenizer: texts -> (ids, mask); None for a classifier.
    preprocess: image (PIL, encoded bytes or uint8 [h w 3]) -> uint8 [s s 3].

    >>> ids, mask = clip.tokenizer(["a dog"])
    >>> clip.preprocess(image).shape, clip.step
    ((16, 16, 3), 2)
    """

    config: Config
    model: Model
    variables: Variables
    tokenizer: Tokenizer | None
    preprocess: Callable[[Any], np.ndarray]
    encoder: Encoder
    step: int

    def encode_image(self, images: Iterable[ImageLike]) -> np.ndarray:
        """Unit-norm float32 [n e].

        images: PIL images, encoded bytes, uint8 [h w 3], paths and open files. Only a
        few are taken ahead, so that a generator may yield more than fit into memory.

        Raises UserError for a classifier, and for the first image that cannot be read,
        naming it.

        >>> images, texts = clip.encode_image([image]), clip.encode_text(["a dog"])
        >>> (images @ texts.T).shape  # cosines
        (1, 1)
        """
        if self.model.image_output == "logits":
            raise UserError("this model is a classifier: use classify(images)")
        return self._images(images)

    def classify(self, images: Iterable[ImageLike]) -> np.ndarray:
        """Probabilities of a classifier's `class_names`, float32 [n classes].

        images: as in `encode_image`. Raises UserError for another kind of model, and as
        `encode_image` does.

        >>> classifier.class_names, classifier.classify([image])
        (('dog', 'cat'), array([[0.75, 0.25]], dtype=float32))
        """
        if self.model.image_output != "logits":
            raise UserError("this model is not a classifier: use encode_image(images)")
        logits = self._images(images)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    @property
    def class_names(self) -> tuple[str, ...]:
        """A classifier's classes in the order of `classify`; else ().

        >>> classifier.class_names
        ('dog', 'cat')
        """
        return self.encoder.classes.names

    def _images(self, images: Iterable[ImageLike]) -> np.ndarray:
        examples = one_by_one(images)
        try:
            encoded = self.encoder.images(self.variables, examples, skip_broken=False)
        except BadExample as error:
            raise UserError(str(error)) from error
        return encoded.embed

    def encode_text(self, texts: Iterable[str]) -> np.ndarray:
        """Unit-norm float32 [n e].

        Raises UserError for a model without text, and for the first that is not a str.

        >>> clip.encode_text(["a dog", "a cat"]).shape
        (2, 16)
        """
        is_listing = isinstance(texts, Iterable) or hasattr(texts, "__getitem__")
        if isinstance(texts, (str, bytes, Mapping)) or not is_listing:
            raise UserError(
                'encode_text takes a list of strings, such as ["a dog"], not '
                f"{type(texts).__name__}"
            )
        try:
            return self.encoder.texts(self.variables, list(texts))
        except BadExample as error:
            raise UserError(str(error)) from error

    @property
    def logit_scale(self) -> float:
        """The inverse temperature: logits are logit_scale * image @ text.T.

        >>> clip.logit_scale > 1
        True
        """
        side = self.config.data.image_size
        blank = np.zeros((1, side, side, 3), np.uint8)
        # Compiled, so that the tower, on which it does not depend, is left out.
        scale = jax.jit(lambda v: self.model.encode_image(v, blank)["logit_scale"])
        return float(scale(self.variables))


def load(
    name: str | pathlib.Path, *, checkpoint: str | int = "best", ema: bool = True
) -> Loaded:
    """Loads a run directory, or a released two-tower model.

    Args:
      name: a run; a folder of Hugging Face's CLIPModel or SiglipModel or of open_clip;
        a file of OpenAI's CLIP; or "hf-hub:ORG/NAME" for such a folder on the Hugging
        Face hub.
      checkpoint: a run's: "best" (the latest if none is best), "latest" or a step.
      ema: whether to load a run's moving average of the parameters, if it has one.

    Raises:
      UserError: if there is no such model, its checkpoint or weights cannot be read,
        or clipjax has no such towers.

    >>> clip = clipjax.load("runs/quickstart", checkpoint="latest")
    >>> clip.step
    2
    """
    try:
        return _load(str(name), str(checkpoint), ema)
    except OSError as error:
        raise UserError(atomic_files.told(error)) from error


def _load(name: str, checkpoint: str, ema: bool) -> Loaded:
    if read_model.is_foreign(name):
        return _load_released(name)
    folder = paths.local(name, "a model")
    config = resume.load_config(folder)
    tokenizer = assemble.saved_tokenizer(config, folder)
    model = assemble.model(config, tokenizer)
    variables, step = assemble.load_variables(folder, checkpoint, ema)
    variables = jax.device_put(variables)  # once, not with every batch
    preprocess = assemble.preprocess(config)
    class_list = classes.saved(config, folder)
    encoder = Encoder(model, tokenizer, preprocess, classes=class_list)
    return Loaded(config, model, variables, tokenizer, preprocess, encoder, step)


def _load_released(name: str) -> Loaded:
    settings, variables = read_model.read_model(name)
    config = model_description.to_config(settings, name)
    tokenizer = create("tokenizer", config.data.tokenizer, None, None)
    model_description.check_tokenizer(settings, tokenizer, name)
    model = model_description.build(settings)
    variables = jax.device_put(variables)
    preprocess = assemble.preprocess(config)
    encoder = Encoder(model, tokenizer, preprocess)
    return Loaded(config, model, variables, tokenizer, preprocess, encoder, 0)
