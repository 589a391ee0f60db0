"""Runs batches on the device, and fetches what it made of each one batch late."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from clipjax.data_wait import DataWait
from clipjax.image_batches import ImageBatches
from clipjax.pulse import pulse
from clipjax.text_batches import TextBatches


def fetched(
    encode: Callable[..., tuple[jax.Array, ...]],
    variables: Any,
    batches: ImageBatches | TextBatches,
    *,
    put: Callable[[np.ndarray], Any],
    progress: Callable[[int, int], None] | None = None,
    meanwhile: Callable[[], None] | None = None,
    wait: DataWait | None = None,
) -> Iterator[list[np.ndarray]]:
    """Yields each batch's outputs on the host, float32, padding included.

    Of no batches it yields one without rows, so that their width is known.

    encode: compiled; (variables, *arrays) -> outputs. put: an array onto the devices.
    meanwhile: called while the device works on a batch. The rest as `Encoder.images`.
    """
    done, total, before = 0, batches.expected, None

    def fetch(outputs: tuple[jax.Array, ...]) -> list[np.ndarray]:
        nonlocal done
        arrays = [np.asarray(output, np.float32) for output in outputs]
        done += len(arrays[0])
        pulse.beat()
        if progress is not None:
            progress(min(done, batches.total), total)
        return arrays

    for batch in batches if wait is None else wait.over(batches):
        after = encode(variables, *(put(array) for array in batch))
        if wait is not None:
            wait.follow(after)
        if meanwhile is not None:
            meanwhile()
        # One batch late, so that the device has work while the host waits.
        if before is not None:
            yield fetch(before)
        before = after
    if before is not None:
        yield fetch(before)
    else:  # there were none; without compiling
        shapes = jax.eval_shape(encode, variables, *batches.blank(1))
        yield [np.zeros((0, *shape.shape[1:]), np.float32) for shape in shapes]
