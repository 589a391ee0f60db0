"""A loaded model: encodes, compares and classifies what users give it."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax import image_inputs, text_inputs
from clipjax.encoder import Encoder, Progress, Stopped
from clipjax.image_inputs import ImageLike
from clipjax.item_errors import BadItem, ItemError
from clipjax.match_cutoff import Cutoff
from clipjax.probabilities import sigmoid, softmax
from clipjax.types import Config, Model, Tokenizer, UserError, Variables

ON_ERROR = "raise", "nan"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Loaded:
    """A trained model with everything it needs to be used.

    It can be pickled, and threads may share it.

    config: its run's; a released model has one to fine-tune it, whose data and length
    are not yet set.
    variables: as `model.apply` takes them.
    step: the checkpoint's, 0 for a released model.
    tokenizer: texts -> (ids, mask); None for a classifier.
    preprocess: image (PIL, encoded bytes or uint8 [h w 3]) -> uint8 [s s 3].
    cutoff: of `match_probability`.

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
    cutoff: Cutoff = Cutoff()
    _of_thread: threading.local = dataclasses.field(
        init=False, default_factory=threading.local
    )

    def __getstate__(self) -> dict[str, Any]:
        names = [f.name for f in dataclasses.fields(self) if f.init]
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _of_thread=threading.local())

    def encode_image(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        on_error: str = "raise",
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Unit-norm float32 [e] of an image, [n e] of several.

        Args:
          images: a path, encoded bytes, an open file, a PIL image, or an array [h w 3]
            of uint8 or of floats in [0, 1]; or several: a list, a generator, an array
            [n h w 3]. Only a few are taken ahead, so that a generator may yield more
            than fit into memory.
          on_error: "raise", or "nan" for a row of NaN for each image that cannot be
            read, which `last_errors` then names.
          progress: called with the images done and their number, 0 while unknown.

        Raises BadItem for the first image that cannot be read, naming it, with the rows
        before it; UserError for a classifier.

        >>> images, texts = clip.encode_image([image]), clip.encode_text(["a dog"])
        >>> (images @ texts.T).shape  # cosines
        (1, 1)
        >>> clip.encode_image(image).shape
        (16,)
        """
        self._check_embeds()
        return self._images(images, on_error, progress)

    def encode_text(
        self,
        texts: str | Iterable[str],
        *,
        on_error: str = "raise",
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Unit-norm float32 [e] of a str, [n e] of several: a list, a generator.

        on_error, progress: as in `encode_image`.

        Raises BadItem for the first text that is not a str, with the rows before it;
        UserError for a model without text.

        >>> clip.encode_text(["a dog", "a cat"]).shape
        (2, 16)
        """
        given = text_inputs.Texts(texts)
        skip = self._begin(on_error)
        try:
            found = self.encoder.read_texts(
                self.variables, given, progress=progress, skip_broken=skip
            )
        except Stopped as error:
            raise self._bad_item(error) from error
        errors = [
            ItemError(place, f"text {place}", reason)
            for place, reason in found.broken.items()
        ]
        return self._finished(found.embed, errors, given.single)

    def classify(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        on_error: str = "raise",
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Probabilities of a classifier's `class_names`, float32 [classes] of an image,
        [n classes] of several.

        images, on_error, progress: as in `encode_image`. Raises UserError for another
        kind of model, and as `encode_image` does; the rows of a BadItem are logits.

        >>> classifier.class_names, classifier.classify([image])
        (('dog', 'cat'), array([[0.75, 0.25]], dtype=float32))
        """
        if self.model.image_output != "logits":
            raise UserError("this model is not a classifier: use encode_image(images)")
        return softmax(self._images(images, on_error, progress))

    def zero_shot(
        self,
        images: ImageLike | Iterable[ImageLike],
        names: Iterable[str],
        *,
        templates: str | Iterable[str] = (),
        on_error: str = "raise",
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Probabilities of classes that are known by name only, float32 [classes] of an
        image, [n classes] of several.

        They are the softmax of logit_scale * cosine over the names, whose sum is 1. A
        model with a logit_bias, as SigLIP's, judges each name by itself: they are the
        sigmoid of logit_scale * cosine + logit_bias, and have any sum.

        Args:
          images, on_error, progress: as in `encode_image`.
          names: of the classes.
          templates: prompts with one `{}` for the name, whose embeddings are averaged;
            empty: those of `evals=zeroshot`.

        The embeddings of the last names and templates are kept.

        Raises UserError for names or templates that cannot be used, and as
        `encode_image` and `encode_text` do; the rows of a BadItem are embeddings.

        >>> clip.zero_shot(image, ["dog", "cat"], templates="a photo of a {}.").shape
        (2,)
        """
        classes = self._classes(names, templates)
        images = self.encode_image(images, on_error=on_error, progress=progress)
        logits = self.logit_scale * (images @ classes.T)
        bias = self.logit_bias
        return softmax(logits) if bias is None else sigmoid(logits + np.float32(bias))

    def similarity(self, images: Any, texts: Any) -> np.ndarray:
        """Cosines, float32 [n m]; without an axis for a single image or text.

        images, texts: as in `encode_image` and `encode_text`, or their embeddings:
        arrays of floats [e] or [n e].

        Raises as `encode_image` and `encode_text` do, and UserError for embeddings of
        another width.

        >>> clip.similarity([image, image], "a dog").shape
        (2,)
        """
        left = self._embeddings(images, self.encode_image)
        return left @ self._embeddings(texts, self.encode_text).T

    def match_probability(
        self, images: Any, texts: Any, *, prior: float = 0.5
    ) -> np.ndarray:
        """How likely images and texts match, float32 of the shape of `similarity`, by
        the cut-off that `evals=match` has fitted.

        prior: the share of pairs that match: 0.5 in the fit, 1 / n if one of n does.

        Raises UserError if this model has no cut-off, saying how to get one, and as
        `similarity` does.

        >>> clip.match_probability([image, image], "a dog").shape
        (2,)
        """
        self._check_embeds()
        found = self.cutoff.checked(prior)
        return found.probability(self.similarity(images, texts), prior).astype("f4")

    def image_features(
        self, pixels: Any, variables: Variables | None = None
    ) -> jax.Array:
        """The embeddings of preprocessed images, as a function for jax: it can be
        differentiated by both arguments, jitted and vmapped.

        Args:
          pixels: uint8 or floats in [0, 1], [s s 3] or [n s s 3].
          variables: those of the model if None.

        Returns unit-norm float32 [e] or [n e], as `encode_image` does.

        Raises UserError for another shape or dtype, and for a classifier.

        >>> import jax
        >>> pixels = clip.preprocess(image) / np.float32(255)
        >>> gradient = jax.grad(lambda x: clip.image_features(x)[0])(pixels)
        >>> gradient.shape
        (16, 16, 3)
        """
        self._check_embeds()
        pixels = image_inputs.pixels(pixels, self.encoder.image_shape)
        if not len(pixels):
            return jnp.zeros((0, self.embed_dim), jnp.float32)
        single = pixels.ndim == 3
        embed = self._features(
            self.variables if variables is None else variables,
            pixels[None] if single else pixels,
        )
        return embed[0] if single else embed

    @property
    def last_errors(self) -> list[ItemError]:
        """What this thread's last call could not encode.

        >>> embed = clip.encode_text(["a dog", None], on_error="nan")
        >>> [(error.number, error.reason) for error in clip.last_errors]
        [(1, 'the caption is not text but NoneType: None')]
        """
        return list(getattr(self._of_thread, "errors", ()))

    @property
    def class_names(self) -> tuple[str, ...]:
        """A classifier's classes in the order of `classify`; else ().

        >>> classifier.class_names
        ('dog', 'cat')
        """
        return self.encoder.classes.names

    @property
    def batch_size(self) -> int:
        """How many images or texts the model encodes at once, at most.

        >>> clip.batch_size
        64
        """
        return self.encoder.batch_size

    @functools.cached_property
    def embed_dim(self) -> int:
        """The embeddings' width. Raises UserError for a classifier.

        >>> clip.embed_dim
        16
        """
        self._check_embeds()
        return self._outputs["image_embed"].shape[-1]

    @functools.cached_property
    def logit_scale(self) -> float:
        """The inverse temperature: logits are logit_scale * image @ text.T, plus
        logit_bias if the model has one.

        Raises UserError for a classifier.

        >>> clip.logit_scale > 1
        True
        """
        return self._scalar("logit_scale")

    @functools.cached_property
    def logit_bias(self) -> float | None:
        """What a model trained by the sigmoid loss adds to its logits; else None.

        >>> clip.logit_bias is None
        True
        """
        return self._scalar("logit_bias") if "logit_bias" in self._outputs else None

    def _scalar(self, name: str) -> float:
        self._check_embeds()
        return self.encoder.scalar(self.variables, name)

    def __repr__(self) -> str:
        side, parts = self.encoder.image_shape[0], []
        model = self.config.model
        for kind, size in (("image", f"{side} px"), ("text", "")):
            if kind in model:
                if kind == "text" and self.tokenizer is not None:
                    size = f"{self.tokenizer.context_length} tokens"
                parts.append(f"{kind} {model[kind].name} {size}")
        if self.model.image_output == "logits":
            parts.append(f"{len(self.class_names)} classes")
        else:
            parts.append(f"embed_dim {self.embed_dim}")
        count = sum(x.size for x in jax.tree.leaves(self.variables.get("params", {})))
        parts += [f"{count:,} parameters", f"step {self.step}"]
        return f"<clipjax {model.name}: {', '.join(parts)}>"

    def _check_embeds(self) -> None:
        if self.model.image_output == "logits":
            raise UserError("this model is a classifier: use classify(images)")

    @functools.cached_property
    def _outputs(self) -> Any:
        blank = np.zeros((1, *self.encoder.image_shape), np.uint8)
        return jax.eval_shape(self.model.encode_image, self.variables, blank)

    @functools.cached_property
    def _features(self) -> Callable[[Variables, jax.Array], jax.Array]:
        name = self.model.image_output
        return jax.jit(lambda v, pixels: self.model.encode_image(v, pixels)[name])

    def _images(
        self, images: Any, on_error: str, progress: Progress | None
    ) -> np.ndarray:
        given = image_inputs.Images(images)
        skip = self._begin(on_error)
        try:
            found = self.encoder.images(
                self.variables, given, progress=progress, skip_broken=skip
            )
        except Stopped as error:
            raise self._bad_item(error) from error
        places = np.flatnonzero(~found.valid).tolist()
        errors = [
            ItemError(place, *what)
            for place, what in zip(places, found.broken, strict=True)
        ]
        return self._finished(found.embed, errors, given.single)

    def _begin(self, on_error: str) -> bool:
        """Whether to skip broken items. Forgets the errors of the last call."""
        if on_error not in ON_ERROR:
            raise UserError(f'on_error={on_error!r}: use "raise" or "nan"')
        self._of_thread.errors = []
        return on_error == "nan"

    def _bad_item(self, error: Stopped) -> BadItem:
        self._of_thread.errors = [ItemError(error.place, error.key, error.reason)]
        return BadItem(str(error), error.place, error.rows)

    def _finished(
        self, embed: np.ndarray, errors: list[ItemError], single: bool
    ) -> np.ndarray:
        embed[[error.number for error in errors]] = np.nan
        self._of_thread.errors = errors
        return embed[0] if single else embed

    def _classes(
        self, names: Iterable[str], templates: str | Iterable[str]
    ) -> np.ndarray:
        """Unit-norm float32 [classes e]."""
        from clipjax.evals import zeroshot  # only here, because its import takes time

        names = text_inputs.class_names(names)
        templates = text_inputs.templates(templates) or zeroshot.TEMPLATES
        key = names, templates
        kept = getattr(self._of_thread, "classes", None)
        if kept is not None and kept[0] == key:
            return kept[1]
        alone = [(name,) for name in names]
        texts = self.encode_text(zeroshot.all_prompts(alone, templates))
        classes = zeroshot.average(texts, [len(templates)] * len(names))
        self._of_thread.classes = key, classes
        return classes

    def _embeddings(
        self, given: Any, encode: Callable[[Any], np.ndarray]
    ) -> np.ndarray:
        """Unit-norm float32 [e] or [n e] of items, or of embeddings."""
        if not isinstance(given, np.ndarray | jax.Array) or given.ndim not in (1, 2):
            return encode(given)
        if not jnp.issubdtype(given.dtype, jnp.floating):
            return encode(given)
        given = np.asarray(given, np.float32)
        if given.shape[-1] != self.embed_dim:
            raise UserError(
                f"embeddings of shape {list(given.shape)}: this model's have "
                f"{self.embed_dim} numbers each"
            )
        norms = np.linalg.norm(given, axis=-1, keepdims=True)
        return given / np.where(norms > 0, norms, 1)
