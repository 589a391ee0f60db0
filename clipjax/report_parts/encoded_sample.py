"""A few examples as the run's model sees them: embeddings of images and captions."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from clipjax.report_parts.example_source import Examples, sampled
from clipjax.report_parts.run_files import RunFiles
from clipjax.report_parts.thumbnails import Pictures
from clipjax.types import Example, UserError

MOST = 240  # examples
PART = 48  # that are encoded together
SECONDS = 4.0  # after the first part, from which on no other begins


class Sample(NamedTuple):
    """n examples. keys: theirs. pictures: names in Pictures. captions: the first of
    each. images, texts: unit-norm float32 [n e]. labels: label set -> int [n], -1
    without one; names: label set -> the classes' names. step: the checkpoint's.
    """

    keys: list[str]
    pictures: list[str]
    captions: list[str]
    images: np.ndarray
    texts: np.ndarray
    labels: dict[str, np.ndarray]
    names: dict[str, list[str]]
    step: int


def encode(run: RunFiles, examples: Examples, pictures: Pictures) -> Sample | None:
    """Encodes examples that are evenly spread over a source, as many as SECONDS allow.

    Returns None for a run whose model has no embeddings of images and texts, and if
    less than three examples have a caption, or `examples.gap` says why there are none.

    Raises UserError if the run's checkpoint cannot be used.
    """
    model = run.section("model")
    if not {"image", "text"} <= model.keys():
        return None
    source = examples.source()
    if source is None or source.max_captions == 0:
        return None
    found = [one for one in sampled(source, MOST) if one.captions]
    # Others first, so that the first part is spread over the source as well.
    found = [one for first in range(5) for one in found[first::5]]
    if len(found) < 3:
        return None
    images, texts, kept, step = _encoded(run, found)
    if len(kept) < 3:
        return None
    return Sample(
        [one.key for one in kept],
        [examples.keep(pictures, one) for one in kept],
        [one.captions[0] for one in kept],
        images,
        texts,
        {
            name: np.array([one.labels.get(name, -1) for one in kept])
            for name in source.class_names
        },
        {name: [str(x) for x in own] for name, own in source.class_names.items()},
        step,
    )


def _encoded(
    run: RunFiles, found: list[Example]
) -> tuple[np.ndarray, np.ndarray, list[Example], int]:
    """Embeddings of as many as the time allows, without broken ones."""
    from clipjax import library  # here: a page without a model needs no jax

    meta = run.evaluations[0].meta if run.evaluations else {}
    step = meta.get("step")
    known = {save.step for save in run.saves}
    which = step if step in known else "best"
    try:
        clip = library.load(
            run.folder,
            checkpoint=which,
            ema=bool(meta.get("ema", True)),
            batch_size=PART,
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{type(error).__name__}: {error}") from error
    images, texts = [], []
    done, begin = 0, 0.0
    while done < len(found) and (not done or time.monotonic() - begin < SECONDS):
        part = found[done : done + PART]
        images.append(clip.encode_image([x.image for x in part], on_error="nan"))
        texts.append(clip.encode_text([x.captions[0] for x in part]))
        done += len(part)
        begin = begin or time.monotonic()  # the first part includes compiling
    left, right = np.concatenate(images), np.concatenate(texts)
    good = np.flatnonzero(
        np.isfinite(left).all(axis=1) & np.isfinite(right).all(axis=1)
    )
    return left[good], right[good], [found[at] for at in good], clip.step
