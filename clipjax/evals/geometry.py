"""`evals=geometry`: how images and captions lie on the unit sphere.

The modality gap (Liang et al., arXiv 2203.02053), alignment and uniformity (Wang and
Isola, arXiv 2005.10242) and the effective rank (Roy and Vetterli, EUSIPCO 2007); see
evals/common/embedding_shape.py for their formulas.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from clipjax.data.text import lost_texts
from clipjax.data.text.lost_texts import Item
from clipjax.evals.common import captioned, embedding_shape, protocol
from clipjax.evals.common.bootstrap import means_over_images
from clipjax.evals.common.embedding_shape import Estimate
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.ranking import finite
from clipjax.pulse import pulse
from clipjax.types import EvalResult, Metric, UserError, Variables

METRICS = {  # name -> whether more is better
    "modality_gap": False,
    "alignment": False,
    "image_uniformity": False,
    "text_uniformity": False,
    "image_effective_rank": True,
    "text_effective_rank": True,
}
PRIMARY = "modality_gap"
COLUMNS = ("similarity", "image_crowding", "text_crowding")  # and those of METRICS


def make(inputs: Inputs, *, references: int = 4096, max_samples: int = 0) -> Geometry:
    """The geometry of all images of the source that have captions, and these.

    Args:
      references: the most images, or captions, that every one is compared with for
        uniformity, evenly spread; if there are no more, uniformity is over all pairs.
        Time grows with it, memory does not.
      max_samples: the most images, evenly spread over the source; 0: all.

    Raises:
      UserError: if an option is out of range, or fewer than two images have captions.
    """
    if references < 2:
        raise UserError(f"evals=geometry: references={references}: give 2 or more")
    indices = captioned.choose("geometry", inputs, max_samples)
    return Geometry(inputs, references, indices, protocol.of_sample(max_samples))


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The evaluator; see the module and `make`.

    What the numbers do not mean. None says how well a model tells pairs apart: a model
    that gives all inputs one embedding has the best gap and alignment, random
    embeddings have the best uniformity and rank. An effective rank grows with the
    number of images, and a gap of few images is too large by chance.
    """

    inputs: Inputs
    references: int
    indices: list[int]
    sample: str

    def run(
        self, variables: Variables, progress: Callable[[int, int], None] | None = None
    ) -> EvalResult:
        """The metrics of METRICS, and a row per image that could be read.

        Embeddings that are not finite are left out, and so are images without any
        caption left; if fewer than two images remain, all metrics are NaN.

        Rows: `key`; `captions`; `similarity`, the mean cosine to its captions;
        `image_crowding` and `text_crowding`, the mean of exp(-2 |x - y|^2) to the
        images (captions) of others that it (its captions) is compared with: from 0, 1
        for copies; and per metric a column of its name, whose mean is the metric. NaN
        for images left out.

        Raises UserError if fewer than two images can be read.
        """
        reading = captioned.read(
            "geometry", self.inputs, variables, self.indices, progress
        )
        data = reading.data
        good_texts = finite(data.texts) & finite(data.images)[data.owner]
        good_images = np.zeros(len(data.images), bool)
        good_images[data.owner[good_texts]] = True
        with pulse.working():  # other processes wait
            shape = _shape(
                _taken(data.images, good_images),
                _taken(data.texts, good_texts),
                (np.cumsum(good_images) - 1)[data.owner[good_texts]],
                self.references,
            )
        size = reading.size
        if wrong := reading.not_finite:
            size += f", {wrong} embeddings not finite and left out"
        rows: dict[str, Any] = {"key": reading.keys, "captions": reading.captions}
        for name, values in shape.columns.items():
            column = np.full(len(data.images), np.nan)
            column[good_images] = values
            rows[name] = column
        how = protocol.joined(self._protocol(), self.sample)
        return EvalResult(shape.metrics, PRIMARY, size, reading.broken, rows, how)

    def metric_units(self) -> dict[str, str]:
        """See types.Evaluator."""
        return dict.fromkeys(METRICS, "")

    def texts(self) -> dict[str, tuple[Iterable[Item], int]]:
        """See types.Evaluator."""
        return lost_texts.of_evaluator(self.inputs.source, self.indices)

    def _protocol(self) -> str:
        return (
            "all captions, uniformity by exp(-2 d^2) over pairs of different images "
            f"against at most {self.references}, rank of the covariance"
        )


class _Shape(NamedTuple):
    """metrics; and columns of rows, float64 [n], of the images that are finite."""

    metrics: dict[str, Metric]
    columns: dict[str, np.ndarray]


class _Number(NamedTuple):
    """ends: the least and the most that it can be. chance: of random directions."""

    estimate: Estimate
    ends: tuple[float, float]
    chance: float


def _shape(
    images: np.ndarray, texts: np.ndarray, owner: np.ndarray, references: int
) -> _Shape:
    """All numbers of finite embeddings: images [n e], texts [m e] of the images `owner`
    int [m], in order, at least one each.
    """
    n, width = images.shape
    if n < 2:
        nothing = np.full(n, math.nan)
        metrics = {
            name: Metric(math.nan, None, "", more, n=n)
            for name, more in METRICS.items()
        }
        return _Shape(metrics, dict.fromkeys([*COLUMNS, *METRICS], nothing))
    gap = embedding_shape.modality_gap(images, texts, owner)
    distances, products = embedding_shape.own_pairs(images, texts, owner)
    alignment = embedding_shape.mean_over_texts(distances, owner, n)
    by_chance = math.sqrt(1 / n + 1 / len(texts))
    numbers = {
        "modality_gap": _Number(gap.estimate, (0.0, 2.0), by_chance),
        "alignment": _Number(alignment, (0.0, 4.0), 2.0),
    }
    columns = {"similarity": np.bincount(owner, products) / np.bincount(owner)}
    evenest = embedding_shape.random_uniformity(width)
    sides = {"image": (images, np.arange(n)), "text": (texts, owner)}
    for side, (rows, own) in sides.items():
        found = embedding_shape.uniformity(rows, own, n, references)
        rank = embedding_shape.effective_rank(rows, own, n)
        most = float(min(width, len(rows) - 1))
        random_rank = embedding_shape.random_rank(len(rows), width)
        numbers[f"{side}_uniformity"] = _Number(found.estimate, (-8.0, 0.0), evenest)
        numbers[f"{side}_effective_rank"] = _Number(rank, (0.0, most), random_rank)
        columns[f"{side}_crowding"] = found.potential
    by_image = {name: numbers[name].estimate.by_image for name in METRICS}
    ends = [numbers[name].ends for name in METRICS]
    intervals = means_over_images(np.stack(list(by_image.values()), axis=1), ends)
    metrics = {}
    for (name, more), (low, high) in zip(METRICS.items(), intervals, strict=True):
        if name == "modality_gap":  # what so few images show by chance is taken off
            low = math.sqrt(max(low**2 - gap.noise, 0.0))
        value, chance = numbers[name].estimate.value, numbers[name].chance
        low, high = min(low, value), max(high, value)
        metrics[name] = Metric(value, chance, "", more, low, high, n)
    return _Shape(metrics, {name: columns[name] for name in COLUMNS} | by_image)


def _taken(rows: np.ndarray, good: np.ndarray) -> np.ndarray:
    """The good rows, without a copy if all are."""
    return rows if good.all() else rows[good]
