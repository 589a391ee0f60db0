"""Encodes images and texts with a trained model; all embeddings come from here.

Evaluators, the library face, export and search encode through it. Every batch has one
of few shapes, a single one unless `few_sizes` is set, so each side is compiled rarely;
images are read and decoded by threads while the device works on the batches before.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clipjax import batch_sizes
from clipjax.data.class_lists import NONE, Classes
from clipjax.data.text.cleaning import check
from clipjax.data_wait import DataWait
from clipjax.encoded import Images, Stopped, Texts
from clipjax.encoded_batches import fetched
from clipjax.image_batches import ImageBatches, Note
from clipjax.multihost import gather
from clipjax.text_batches import TextBatches
from clipjax.types import (
    BadExample,
    Model,
    Outputs,
    Tokenizer,
    UserError,
    Variables,
)

Progress = Callable[[int, int], None]


def part_of(progress: Progress | None, before: int, total: int) -> Progress | None:
    """A progress function for work that begins after `before` of `total`."""
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)


class Encoder:
    """Encodes with the variables of each call; holds no arrays of the model.

    On several processes every process makes the same calls with the same arguments:
    each reads its rows of each batch, and all of them get the whole result.

    Args:
      preprocess: bytes, uint8 [h w 3] or a PIL image -> uint8 [s s 3], as the functions
        in clipjax/data/images/preprocess.py return it.
      batch_size: over all devices; rounded up to a multiple of their number.
      mesh: the devices over which a batch is split, and which hold the variables; None
        for the default device.
      threads: how many read and decode, in each process.
      timeout: seconds to wait for an image, 0 for no limit.
      classes: a classifier's, in the order of its logits.
      few_sizes: pads the last images or texts to a smaller size if they fill less than
        half a batch, and texts to the shortest of a few lengths if `padding_invariant`,
        instead of to one size and length; for an Encoder without a mesh.
      padding_invariant: whether a text's embedding does not depend on the padding.

    An Encoder can be pickled; what it has compiled stays behind.

    Raises UserError for a batch_size or threads below 1.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer | None,
        preprocess: Callable[[Any], np.ndarray],
        *,
        batch_size: int = 64,
        mesh: Mesh | None = None,
        threads: int = 2,
        timeout: float = 0.0,
        classes: Classes = NONE,
        few_sizes: bool = False,
        padding_invariant: bool = False,
    ):
        self._remake = functools.partial(
            Encoder,
            model,
            tokenizer,
            preprocess,
            batch_size=batch_size,
            mesh=mesh,
            threads=threads,
            timeout=timeout,
            classes=classes,
            few_sizes=few_sizes,
            padding_invariant=padding_invariant,
        )
        self.classes = classes
        self.image_output = model.image_output
        for name, value in (("batch_size", batch_size), ("threads", threads)):
            if not hasattr(value, "__index__") or value < 1:
                raise UserError(f"{name}={value!r} of the encoder: use 1 or more")
        devices = 1 if mesh is None else mesh.size
        self.batch_size = -(-batch_size // devices) * devices
        self._tokenizer = tokenizer
        self._preprocess = preprocess
        self._threads = threads
        self._timeout = timeout
        self.image_shape = preprocess(np.zeros((8, 8, 3), np.uint8)).shape
        self._split = None
        self._rows = list(range(self.batch_size))  # those that this process fills
        self._sizes = (self.batch_size,)
        self._lengths: tuple[int, ...] = ()  # the tokenizer's
        if few_sizes:
            assert mesh is None, "smaller batches cannot be spread over devices"
            self._sizes = (*batch_sizes.below(self.batch_size), self.batch_size)
            if padding_invariant and tokenizer is not None:
                self._lengths = batch_sizes.lengths(tokenizer.context_length)
        outputs: dict[str, Any] = {}
        if mesh is not None:
            self._split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
            outputs = {"out_shardings": NamedSharding(mesh, PartitionSpec())}
            local = self._split.addressable_devices_indices_map((self.batch_size,))
            parts = [part for index in local.values() for part in index or ()]
            self._rows = sorted({row for part in parts for row in self._rows[part]})
        self._pooled = getattr(model, "pooled_outputs", {})  # a user's may lack it

        def compiled(side: str, *names: str) -> Callable[..., tuple[jax.Array, ...]]:
            """The model's `encode_` of a side; returns the outputs of these names."""

            def chosen(*args: Any) -> tuple[jax.Array, ...]:
                outputs: Outputs = getattr(model, f"encode_{side}")(*args)
                for name in names:
                    if name not in outputs:
                        known = ", ".join(outputs)
                        raise UserError(f"encode_{side} gives no {name}, but {known}")
                return tuple(outputs[name] for name in names)

            return jax.jit(chosen, **outputs)

        self._encode_scalar = functools.cache(functools.partial(compiled, "image"))
        # Compiled at the first call, so pooled features cost nothing unless requested.
        names = {"image": model.image_output, "text": "text_embed"}
        self._encode_image, self._encode_text = (
            compiled(side, name) for side, name in names.items()
        )
        self._pool_image, self._pool_text = (
            compiled(side, name, self._pooled.get(side, ""))
            for side, name in names.items()
        )

    def scalar(self, variables: Variables, name: str) -> float:
        """An output that no image changes, such as logit_scale.

        Raises UserError if the model does not have it.
        """
        blank = np.zeros((1, *self.image_shape), np.uint8)
        # Compiled, so that the tower, on which it does not depend, is left out.
        return float(self._encode_scalar(name)(variables, blank)[0])

    def check_pooled(self, side: str) -> None:
        """Raises UserError unless the model gives this side's pooled features.

        side: "image" or "text".
        """
        if side not in self._pooled:
            raise UserError(
                f"this model gives no pooled features of its {side} side: choose one "
                f"whose pooled_outputs name them, such as model=two_tower"
            )

    def images(
        self,
        variables: Variables,
        examples: Any,
        indices: Sequence[int] | None = None,
        *,
        keep: Callable[[Any], Any] | None = None,
        progress: Progress | None = None,
        skip_broken: bool = True,
        pooled: bool = False,
        meanwhile: Callable[[list[Any]], None] | None = None,
        wait: DataWait | None = None,
        alter: Callable[[str, np.ndarray], np.ndarray] | None = None,
    ) -> Images:
        """Reads, decodes and encodes images.

        Args:
          examples: a Source, or a sequence of Examples or of images (encoded bytes,
            uint8 [h w 3], PIL), whose elements the threads take; or another iterable of
            them, whose elements this thread takes, two ahead per thread. An
            element that is a BadExample is broken.
          indices: which of a Source or sequence, in this order; None for all.
          keep: called in a thread with each element of `examples`; returns JSON values
            that the caller needs with the image, so that a source is read once. May
            raise BadExample too.
          progress: called with the images done and their total, 0 if unknown.
          skip_broken: False raises Stopped for the first broken image, as soon as it
            has been read and those before it are encoded; for an Encoder without a
            mesh.
          pooled: whether to return the tower's pooled features from the same pass too.
          meanwhile: called with what `keep` returned for each batch, None per broken
            image, while the device encodes the batch; for one process.
          wait: measures how long the device waits for images.
          alter: called in a thread with an image's key and what `preprocess` gives for
            it, uint8 [s s 3]; returns what is encoded in its place, of the same shape.

        Raises UserError if `pooled` and the model gives none.
        """
        if pooled:
            self.check_pooled("image")
        batches = self._batches(
            examples, indices, keep, skip_broken=skip_broken, alter=alter
        )
        handed = 0

        def hand_over() -> None:
            nonlocal handed
            new, handed = batches.notes[handed:], len(batches.notes)
            if meanwhile is not None:
                meanwhile([note.value if note.reason is None else None for note in new])

        encode = self._pool_image if pooled else self._encode_image
        options = {"progress": progress, "meanwhile": hand_over, "wait": wait}
        arrays = self._encode(encode, variables, batches, **options)
        if batches.error is not None:
            place, key, reason = batches.error
            raise Stopped(reason or "", key, place, arrays[0])
        valid = np.zeros(batches.total, bool)
        kept: list[Any] = [None] * batches.total
        broken = {}
        for place, value, reason in self._exchange(batches.notes):
            if reason is None:
                valid[place], kept[place] = True, value
            else:
                broken[place] = (value, reason)
        for array in arrays:
            array[~valid] = 0
        reasons = [broken[place] for place in sorted(broken)]
        return Images(arrays[0], valid, kept, reasons, arrays[1] if pooled else None)

    def image_stream(
        self,
        variables: Variables,
        examples: Any,
        *,
        progress: Progress | None = None,
        wait: DataWait | None = None,
    ) -> Generator[tuple[np.ndarray, list[Note]]]:
        """As `images`, but yields each batch's embeddings and outcomes as soon as they
        are there, and holds no others; for one process.
        """
        batches = self._batches(examples, None, None, skip_broken=True)
        options = {"put": self._put, "progress": progress, "wait": wait}
        done = 0
        for embed, *_ in fetched(self._encode_image, variables, batches, **options):
            notes = batches.notes[done : done + len(embed)]
            done += len(notes)
            yield embed[: len(notes)], notes

    def _batches(
        self, examples: Any, indices: Any, keep: Any, **options: Any
    ) -> ImageBatches:
        return ImageBatches(
            examples,
            indices,
            keep,
            self._preprocess,
            shape=self.image_shape,
            sizes=self._sizes,
            rows=self._rows,
            threads=self._threads,
            timeout=self._timeout,
            **options,
        )

    def texts(
        self,
        variables: Variables,
        texts: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Returns float32 [m e], of unit norm.

        Raises BadExample for a text that is not a str, before it encodes any; UserError
        for a model without a text tower.
        """
        self._check_texts(texts)
        return self.read_texts(variables, texts, progress=progress).embed

    def alike(self, texts: Sequence[str]) -> np.ndarray:
        """int64 [m], of each text the place of the first that has the same tokens, so
        that the model cannot tell the two apart.

        Raises as `texts` does.
        """
        self._check_texts(texts)
        firsts: dict[bytes, int] = {}
        found = np.zeros(len(texts), np.int64)
        size = self._sizes[-1]
        for start in range(0, len(texts), size):
            ids, mask = self._text_tokenizer()(list(texts[start : start + size]))
            for place, row in enumerate(np.concatenate([ids, mask], axis=1), start):
                found[place] = firsts.setdefault(row.tobytes(), place)
        return found

    def pooled_texts(
        self,
        variables: Variables,
        texts: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns what `texts` does, and the tower's pooled features, float32 [m d].

        Raises as `texts` does, and UserError if the model gives no such features.
        """
        self.check_pooled("text")
        self._check_texts(texts)
        found = self.read_texts(variables, texts, progress=progress, pooled=True)
        assert found.pooled is not None
        return found.embed, found.pooled

    def read_texts(
        self,
        variables: Variables,
        texts: Iterable[Any],
        *,
        progress: Progress | None = None,
        skip_broken: bool = False,
        pooled: bool = False,
    ) -> Texts:
        """Takes texts a batch at a time, and encodes them.

        Args:
          texts: one that is a BadExample, or not a str, is broken.
          progress: called with the texts done and their total, 0 while unknown.
          skip_broken: False raises Stopped for the first broken text, when those before
            it are encoded.
          pooled: whether to return the tower's pooled features too.

        Raises UserError for a model without a text tower.
        """
        batches = TextBatches(
            texts,
            self._text_tokenizer(),
            sizes=self._sizes,
            lengths=self._lengths,
            rows=self._rows,
            skip_broken=skip_broken,
        )
        encode = self._pool_text if pooled else self._encode_text
        arrays = self._encode(encode, variables, batches, progress=progress)
        if (error := batches.error) is not None:
            key = error.key or f"text {batches.total}"
            raise Stopped(error.reason, key, batches.total, arrays[0])
        broken = {place: error.reason for place, error in batches.broken.items()}
        for array in arrays:
            array[list(broken)] = 0
        return Texts(arrays[0], broken, arrays[1] if pooled else None)

    def _text_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise UserError("this model encodes no text; see model=two_tower")
        return self._tokenizer

    def _check_texts(self, texts: Sequence[str]) -> None:
        self._text_tokenizer()
        for number, text in enumerate(texts):
            try:
                check(text)
            except BadExample as error:
                raise BadExample(error.reason, f"text {number}") from None

    def _encode(
        self,
        encode: Callable[..., tuple[jax.Array, ...]],
        variables: Variables,
        batches: ImageBatches | TextBatches,
        **options: Any,
    ) -> list[np.ndarray]:
        """Each output, concatenated over all batches, without the padding.

        options: of encoded_batches.fetched.
        """
        parts = list(fetched(encode, variables, batches, put=self._put, **options))
        return [
            np.concatenate(outputs)[: batches.total]
            for outputs in zip(*parts, strict=True)
        ]

    def __reduce__(self) -> Any:
        return self._remake, ()

    def _put(self, array: np.ndarray) -> Any:
        if self._split is None:
            return array
        # By callback, because a process's rows need not be contiguous.
        return jax.make_array_from_callback(
            array.shape, self._split, lambda index: array[index]
        )

    def _exchange(self, notes: list[Any]) -> list[Any]:
        """The notes of all processes; they pass through JSON even on one process."""
        text = json.dumps(notes)
        texts = [text] if self._split is None else gather(text)
        return [note for text in texts for note in json.loads(text)]
