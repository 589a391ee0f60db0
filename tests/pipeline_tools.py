"""A tiny source, tokenizer and augmentation whose batches say where they come from."""

import os
import signal

import numpy as np

from clipjax.data.batching import pipeline
from clipjax.types import BadExample, Example


class Tiny:
    """Images of 2x2 pixels that hold their index; example i has 1 to 3 captions."""

    templates: dict = {}

    def __init__(self, size=13, broken=(), counts=None, labels=("class",), killer=-1):
        self.broken = frozenset(broken)
        self.killer = killer
        self.caption_counts = np.array(
            [1 + i % 3 for i in range(size)] if counts is None else counts, np.int32
        )
        self.max_captions = int(self.caption_counts.max(initial=0))
        self.class_names = {label: ("even", "odd") for label in labels}

    def __len__(self):
        return len(self.caption_counts)

    def __getitem__(self, index):
        assert isinstance(index, int)
        if index == self.killer:
            os.kill(os.getpid(), signal.SIGKILL)
        if index in self.broken:
            raise BadExample("it is broken")
        return Example(
            image=np.full((2, 2, 3), index, np.uint8),
            captions=[f"{index} {c}" for c in range(self.caption_counts[index])],
            labels={label: index % 2 for label in self.class_names},
            key=f"tiny/{index}",
        )


class Tokens:
    """Ids 1 + image index, 1 + caption index, padding."""

    vocab_size, context_length, pad_id = 300, 3, 0

    def __call__(self, texts):
        for one in texts:
            if not isinstance(one, str):
                raise BadExample("the caption is not text")
        rows = [[1 + int(n) for n in one.split()] + [0] for one in texts]
        return np.array(rows, np.int32), np.array(rows) > 0


class Noise:
    """The image's index in one channel, a random draw in the others."""

    def __call__(self, image, rng):
        image = image.copy()
        image[..., 1:] = rng.integers(0, 256, (2, 2, 2))
        return image


def batches(source, count, start=0, size=4, tokenizer=Tokens, **options):
    made = pipeline.train_batches(
        source,
        tokenizer and tokenizer(),
        Noise(),
        **{"seed": 3, "global_batch": size, "start_step": start, "threads": 0}
        | options,
    )
    try:
        return [next(made) for _ in range(count)]
    finally:
        made.close()


def assert_same(ones, others):
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def joined(found, name):
    return np.concatenate([batch[name] for batch in found])


def all_batches(source, **options):
    return pipeline.train_batches(
        source, Tokens(), Noise(), seed=3, global_batch=4, **options
    )
