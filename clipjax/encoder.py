"""From images and texts to embeddings with a trained model: the one place that does so.

Evaluators, the library face, export and search encode through it. Every batch has one
fixed shape, the last padded, so each side is compiled once for an Encoder; images are
read and decoded by threads while the device works on the batches before.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clipjax.agree import gather
from clipjax.data.ahead import PATIENCE, Ahead, Late, name_of
from clipjax.data.labels import NONE, Classes
from clipjax.types import BadExample, Model, Tokenizer, UserError, Variables

Progress = Callable[[int, int], None]

AHEAD = 2  # batches that the threads may be in front of the device


def part_of(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Reports to `progress` work that begins after `before` of `total`."""
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)


class Images(NamedTuple):
    """What became of n images.

    embed: float32 [n e], of unit norm (of a classifier: logits), and zeros where not
      valid.
    valid: bool [n], false where the image could not be read or decoded.
    kept: n values of `keep`, None where not valid.
    broken: the key of each image that is not valid, and the reason.
    """

    embed: np.ndarray
    valid: np.ndarray
    kept: list[Any]
    broken: list[tuple[str, str]]


class Encoder:
    """Encodes with whatever variables it is given; holds no arrays of the model.

    On several processes every process makes the same calls with the same arguments:
    each reads its rows of each batch, and all of them get the whole result.

    Args:
      preprocess: bytes, uint8 [h w 3] or a PIL image -> uint8 [s s 3], as the functions
        of clipjax/data/preprocess.py make it.
      batch_size: of all devices together; rounded up to a multiple of their number.
      mesh: the devices to spread a batch over, which then also hold the variables; None
        for the default device.
      threads: that read and decode, in each process.
      timeout: seconds that an image is awaited, 0 for ever.
      classes: of a classifier, in the order of its logits.

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
    ):
        self.classes = classes
        self.image_output = model.image_output
        for name, value in (("batch_size", batch_size), ("threads", threads)):
            if value < 1:
                raise UserError(f"{name}={value} of the encoder: use 1 or more")
        devices = 1 if mesh is None else mesh.size
        self.batch_size = -(-batch_size // devices) * devices
        self._tokenizer = tokenizer
        self._preprocess = preprocess
        self._threads = threads
        self._timeout = timeout
        self._image_shape = preprocess(np.zeros((8, 8, 3), np.uint8)).shape
        self._split = None
        self._rows = list(range(self.batch_size))  # of each batch, filled here
        outputs: dict[str, Any] = {}
        if mesh is not None:
            self._split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
            outputs = {"out_shardings": NamedSharding(mesh, PartitionSpec())}
            here = self._split.addressable_devices_indices_map((self.batch_size,))
            parts = [part for index in here.values() for part in index or ()]
            self._rows = sorted({row for part in parts for row in self._rows[part]})
        self._encode_image = jax.jit(
            lambda variables, image: model.encode_image(variables, image)[
                model.image_output
            ],
            **outputs,
        )
        self._encode_text = jax.jit(
            lambda variables, text, mask: model.encode_text(variables, text, mask)[
                "text_embed"
            ],
            **outputs,
        )

    def images(
        self,
        variables: Variables,
        examples: Any,
        indices: Sequence[int] | None = None,
        *,
        keep: Callable[[Any], Any] | None = None,
        progress: Progress | None = None,
    ) -> Images:
        """Reads, decodes and encodes images.

        Args:
          examples: a Source, or a sequence of Examples or of images (encoded bytes,
            uint8 [h w 3], PIL); any other iterable is made a list first.
          indices: which of them, in this order; all where None.
          keep: called in a thread with each element of `examples`, for what the caller
            needs beside the image, so that a source is read once; returns JSON values.
            May raise BadExample too.
          progress: called with the images done and their total.
        """
        if not hasattr(examples, "__getitem__"):
            examples = list(examples)
        chosen = list(range(len(examples)) if indices is None else indices)
        notes: list[Any] = []
        embed = self._encode(
            self._encode_image,
            variables,
            self._image_batches(examples, chosen, keep, notes),
            len(chosen),
            progress,
        )
        valid = np.zeros(len(chosen), bool)
        kept: list[Any] = [None] * len(chosen)
        broken = {}
        for place, value, reason in self._exchange(notes):
            if reason is None:
                valid[place], kept[place] = True, value
            else:
                broken[place] = (value, reason)
        embed[~valid] = 0
        return Images(embed, valid, kept, [broken[place] for place in sorted(broken)])

    def texts(
        self,
        variables: Variables,
        texts: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Returns float32 [m e], of unit norm.

        Raises BadExample for a text that is not a str, UserError for a model without a
        text tower.
        """
        if self._tokenizer is None:
            raise UserError("this model encodes no text; see model=two_tower")
        return self._encode(
            self._encode_text,
            variables,
            self._text_batches(list(texts)),
            len(texts),
            progress,
        )

    def _encode(
        self,
        encode: Callable[..., jax.Array],
        variables: Variables,
        batches: Iterable[tuple[np.ndarray, ...]],
        total: int,
        progress: Progress | None,
    ) -> np.ndarray:
        parts = []

        def fetch(output: jax.Array) -> None:
            parts.append(np.asarray(output, np.float32))
            if progress is not None:
                progress(min(len(parts) * self.batch_size, total), total)

        before = None
        for batch in batches:
            after = encode(variables, *(self._put(array) for array in batch))
            # One batch late, so that the device has work while the host waits.
            if before is not None:
                fetch(before)
            before = after
        assert before is not None  # _starts gives at least one batch
        fetch(before)
        return np.concatenate(parts)[:total]

    def _put(self, array: np.ndarray) -> Any:
        if self._split is None:
            return array
        # By callback, since the rows of a process need not lie together.
        return jax.make_array_from_callback(
            array.shape, self._split, lambda index: array[index]
        )

    def _starts(self, total: int) -> list[int]:
        """Of the batches; one without examples where there are none, for the width."""
        return list(range(0, max(total, 1), self.batch_size))

    def _image_batches(
        self,
        examples: Any,
        chosen: list[int],
        keep: Callable[[Any], Any] | None,
        notes: list[Any],
    ) -> Iterator[tuple[np.ndarray]]:
        """Yields uint8 [b h w 3] with this process's rows; fills `notes`."""
        starts = self._starts(len(chosen))
        places = [
            start + row
            for start in starts
            for row in self._rows
            if start + row < len(chosen)
        ]
        read = Ahead(
            lambda number: self._read(examples, chosen[places[number]], keep),
            range(len(places)),
            threads=self._threads,
            depth=AHEAD * len(self._rows),
        )
        patience = PATIENCE
        try:
            left = collections.deque(places)
            for start in starts:
                batch = np.zeros((self.batch_size, *self._image_shape), np.uint8)
                while left and left[0] < start + self.batch_size:
                    place = left.popleft()
                    pixels, value, reason = read.take(self._timeout)
                    if pixels is not None:
                        batch[place - start] = pixels
                    notes.append((place, value, reason))
                yield (batch,)
        except Late:
            patience = 0.0
            raise UserError(
                f"{name_of(examples, chosen[place])} has not been read for "
                f"{self._timeout:g} s (data.timeout): see whether the place of the "
                f"data answers and start again, or give a longer data.timeout (0: no "
                f"limit)"
            ) from None
        finally:
            read.close(patience)

    def _read(
        self, examples: Any, index: int, keep: Callable[[Any], Any] | None
    ) -> tuple[np.ndarray | None, Any, str | None]:
        """(pixels, what was kept, None), or (None, key, reason) for a broken one."""
        key = f"example {index}"
        try:
            example = examples[index]
            key = getattr(example, "key", "") or key
            value = None if keep is None else keep(example)
            pixels = self._preprocess(getattr(example, "image", example))
        except BadExample as error:
            return None, error.key or key, error.reason
        if pixels.shape != self._image_shape or pixels.dtype != np.uint8:
            raise ValueError(
                f"preprocess gave {pixels.dtype} {list(pixels.shape)} for {key}, not "
                f"uint8 {list(self._image_shape)}"
            )
        return pixels, value, None

    def _text_batches(
        self, texts: list[str]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields ids int32 [b l] and mask bool [b l] with this process's rows."""
        for start in self._starts(len(texts)):
            # An empty text has a valid token; a row of padding alone might divide by 0.
            assert self._tokenizer is not None  # `texts` has seen to that
            filler = [part.repeat(self.batch_size, 0) for part in self._tokenizer([""])]
            rows = [row for row in self._rows if start + row < len(texts)]
            if rows:
                tokens = self._tokenizer([texts[start + row] for row in rows])
                for whole, part in zip(filler, tokens, strict=True):
                    whole[rows] = part
            yield filler[0], filler[1]

    def _exchange(self, notes: list[Any]) -> list[Any]:
        """The notes of all processes, by way of JSON on one process as on many."""
        text = json.dumps(notes)
        texts = [text] if self._split is None else gather(text)
        return [note for text in texts for note in json.loads(text)]
