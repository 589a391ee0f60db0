"""A tokenizer: one token per UTF-8 byte, between a start and an end token."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from clipjax.data.text import cleaning, packing

FRAME = packing.Frame(prefix=(1,), suffix=(2,), pad=0)


def make(
    captions: Callable[[], Iterable[str]] | None,
    state: str | None,
    *,
    context_length: int = 64,
) -> "ByteTokenizer":
    """The byte tokenizer; it learns nothing from captions.

    Args:
      context_length: tokens per row.
    """
    cleaning.check_length("byte_tokenizer", context_length, FRAME.least())
    return ByteTokenizer(context_length)


class ByteTokenizer:
    vocab_size, pad_id = 256 + 3, FRAME.pad

    def __init__(self, context_length: int):
        self.context_length = context_length

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        texts = [packing.encodable(text) for text in cleaning.check_list(texts)]
        rows = [[3 + byte for byte in text.encode()] for text in texts]
        return FRAME.pack(rows, self.context_length)

    def state(self) -> None:
        return None
