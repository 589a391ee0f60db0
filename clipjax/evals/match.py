"""`evals=match`: from which similarity on do an image and a text match?

Retrieval ranks, and the best of a gallery may still be wrong. This fits the probability
that an image and a text belong together to their cosine, by Platt's scaling
(evals/common/platt.py): on half of the images, each with its own captions and with
those of other images. The other half says how good the fit is.

`clipjax.load` finds the fit in a run's evaluations, for `clip.match_probability`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from clipjax.data.text import lost_texts
from clipjax.data.text.lost_texts import Item
from clipjax.evals.common import captioned, choices, platt, protocol
from clipjax.evals.common.bootstrap import means_over_images
from clipjax.evals.common.captioned import Reading
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.intervals import Hits, mean, share
from clipjax.evals.common.match_pairs import HALVES, Pairs, make_pairs
from clipjax.evals.common.platt import Sigmoid
from clipjax.pulse import pulse
from clipjax.types import EvalResult, Metric, UserError, Variables

UNITS = {
    "accuracy": "fraction",
    "right_accepted": "fraction",
    "wrong_rejected": "fraction",
    "auc": "fraction",
    "log_loss": "nats",
    "threshold": "",
    "slope": "",
    "intercept": "",
}
PRIMARY = "accuracy"
_CELLS = 2  # the fewest in each half, so that they show how much they vary


def make(
    inputs: Inputs,
    *,
    others: int = 1,
    seed: int = 0,
    max_samples: int = 0,
    same_image: bool = False,
) -> Match:
    """The cut-off of all images of the source that have captions.

    Args:
      others: how many other images each image takes wrong captions from. More fit the
        intercept and slope somewhat better, and leave fewer independent groups of
        images for the intervals.
      seed: of the halves, and of which images are each other's others.
      max_samples: the most images, evenly spread over the source; 0: all.
      same_image: takes copies of an image (files of the same bytes) as one image, so
        that their captions are not wrong for each other.

    Raises:
      UserError: if an option is out of range, or too few images have captions.
    """
    if others < 1 or seed < 0:
        raise UserError(
            f"evals=match: others={others}, seed={seed}: give others of 1 or more and "
            "seed of 0 or more"
        )
    indices = captioned.choose("match", inputs, max_samples)
    _check_count(len(indices), others, "")
    if same_image:
        inputs.need_digests()
    how = protocol.joined(
        f"own captions against those of {others} other image{'s' * (others > 1)}, even "
        f"odds, fit on one half and measured on the other by seed {seed}",
        "same_image" if same_image else "",
        protocol.of_sample(max_samples),
    )
    return Match(inputs, others, seed, same_image, indices, how)


def _check_count(count: int, others: int, which: str) -> None:
    least = 2 * _CELLS * (others + 1)
    if count < least:
        hint = ", or take fewer others" if others > 1 else ""
        raise UserError(
            f"evals=match with others={others} needs {least} or more images with "
            f"captions, and there are {count}{which}: give more{hint}"
        )


@dataclasses.dataclass(frozen=True)
class Match:
    """The evaluator; see the module and `make`.

    What the numbers do not mean. A probability is that under even odds, as if half of
    all pairs matched: in a search most do not, so say how many do by
    `clip.match_probability(..., prior=...)`. The wrong captions are of random images;
    ones that are nearly right are harder to reject. And the fit is of texts like these
    captions: prompts or single words have other similarities.
    """

    inputs: Inputs
    others: int
    seed: int
    same_image: bool
    indices: list[int]
    how: str

    def run(
        self, variables: Variables, progress: Callable[[int, int], None] | None = None
    ) -> EvalResult:
        """The metrics of UNITS, and a row per pair.

        slope, intercept: of the fit; threshold: the cosine of probability 0.5, NaN if
        the slope is not above 0. The others are of the other half, with right and wrong
        pairs of equal weight. right_accepted: the share of right pairs whose
        probability is 0.5 or more, wrong_rejected: of wrong pairs whose is below;
        exactly 0.5 counts half. accuracy: their mean. auc: how likely a right pair is
        more similar than a wrong one, a tie counting half. log_loss: the mean cross
        entropy.

        Pairs with embeddings that are not finite are left out and counted. If a half
        has no right or no wrong pair left, all metrics are NaN.

        Rows: key (the image's), query (the caption's id: image * max_captions +
        number), captions (the one), match (whether it is the image's own), half ("fit"
        or "measured"), cell (the number of the group of images that are each other's
        others), score (the cosine), probability, hit (1 if the probability is on the
        right side of 0.5, 0.5 at it, else 0). NaN of pairs that are not finite.

        Raises UserError if too few images can be read, or a half has no wrong pairs
        because all its captions are the same.
        """
        reading = captioned.read(
            "match", self.inputs, variables, self.indices, progress
        )
        units = self._units(reading)
        count = int(units.max()) + 1
        which = " different ones" if self.same_image else ""
        _check_count(count, self.others, f"{which} that can be read")
        pairs = make_pairs(
            units, reading.data.owner, reading.texts, self.others, self.seed
        )
        for number, half in enumerate(HALVES):
            if pairs.match[pairs.half == number].all():
                raise UserError(
                    "evals=match: there are no wrong pairs, because the captions of "
                    f"the images ({half} half) say the same: give images with "
                    "different captions"
                )
        data = reading.data
        with pulse.working():  # other processes wait
            score = choices.similarities(
                data.images, data.texts, pairs.image, pairs.caption
            )
            found = measure(score, pairs)
        right = int(pairs.match.sum())
        size = f"{reading.size}: {right} right and {len(score) - right} wrong pairs"
        if wrong := int((~np.isfinite(score)).sum()):
            size += f", {wrong} pairs not finite and left out"
        most = self.inputs.source.max_captions
        ids = reading.numbers[data.owner] * most + data.number
        rows = {
            "key": [reading.keys[place] for place in pairs.image],
            "query": ids[pairs.caption],
            "captions": [[reading.texts[place]] for place in pairs.caption],
            "match": pairs.match,
            "half": [HALVES[number] for number in pairs.half],
            "cell": pairs.cell,
            "score": np.where(np.isfinite(score), score, np.nan),
            "probability": found.probability,
            "hit": _hits(found.probability, pairs.match),
        }
        return EvalResult(found.metrics, PRIMARY, size, reading.broken, rows, self.how)

    def metric_units(self) -> dict[str, str]:
        """See types.Evaluator."""
        return dict(UNITS)

    def texts(self) -> dict[str, tuple[Iterable[Item], int]]:
        """See types.Evaluator."""
        return lost_texts.of_evaluator(self.inputs.source, self.indices)

    def _units(self, reading: Reading) -> np.ndarray:
        """int [n] from 0: the same for copies of an image."""
        # Another evaluator of the same source may have asked for digests.
        if not self.same_image or reading.digests is None:
            return np.arange(len(reading.keys))
        return np.unique(reading.digests, return_inverse=True)[1]


class Measured(NamedTuple):
    """metrics; and probability float64 [n], of every pair, NaN if there is none."""

    metrics: dict[str, Metric]
    probability: np.ndarray


def measure(score: np.ndarray, pairs: Pairs) -> Measured:
    """Fits one half of the pairs with similarities float64 [n], measures the other."""
    good = np.isfinite(score)
    halves = [good & (pairs.half == number) for number in range(len(HALVES))]
    if not all(0 < pairs.match[half].sum() < half.sum() for half in halves):
        nothing = {
            name: Metric(math.nan, None, unit, name != "log_loss", n=0)
            for name, unit in UNITS.items()
        }
        return Measured(nothing, np.full(len(score), np.nan))
    fitted, measured = halves
    sigmoid = platt.fit(score[fitted], pairs.match[fitted])
    probability = sigmoid.probability(np.where(good, score, np.nan))
    metrics = {
        **_shares(_hits(probability, pairs.match)[measured], pairs.of(measured)),
        **_ranked(sigmoid, score[measured], pairs.of(measured)),
        **_parameters(sigmoid, score[fitted], pairs.of(fitted)),
    }
    return Measured({name: metrics[name] for name in UNITS}, probability)


def _hits(probability: np.ndarray, match: np.ndarray) -> np.ndarray:
    """float64 [n]: whether pairs are taken for what they are; NaN stays."""
    above = np.where(match, probability, 1 - probability) - 0.5
    return (np.sign(above) + 1) / 2


def _shares(hits: np.ndarray, pairs: Pairs) -> dict[str, Metric]:
    """A cell of images is the unit of the intervals."""
    own, other = pairs.match, ~pairs.match
    right = Hits(hits[own], pairs.cell[own], 0.5)
    wrong = Hits(hits[other], pairs.cell[other], 0.5)
    return {
        "accuracy": mean([right, wrong]),
        "right_accepted": share(right),
        "wrong_rejected": share(wrong),
    }


def _ranked(sigmoid: Sigmoid, score: np.ndarray, pairs: Pairs) -> dict[str, Metric]:
    """auc and log_loss, whose intervals are the bootstrap's over cells.

    A cell's value is the metric plus what its pairs add to it, times the number of
    cells, so that the mean is the metric. What a pair adds to auc is its placement
    among the pairs of the other kind (E. DeLong et al. 1988; N. Obuchowski 1997 for
    clusters).
    """
    own, other = pairs.match, ~pairs.match
    placement = np.empty(len(score))
    placement[own] = _share_below(score[own], np.sort(score[other]))
    placement[other] = 1 - _share_below(score[other], np.sort(score[own]))
    losses = platt.log_losses(sigmoid, score, pairs.match)
    auc = float(placement[own].mean())
    log_loss = float((losses[own].mean() + losses[other].mean()) / 2)
    by_cell = np.stack(
        [
            auc + _added(placement, pairs, 1.0),
            log_loss + _added(losses, pairs, 0.5),
        ],
        axis=1,
    )
    most = math.log(2) + abs(sigmoid.slope) + abs(sigmoid.intercept)
    intervals = means_over_images(by_cell, [(0.0, 1.0), (0.0, most)])
    values = {"auc": (auc, 0.5), "log_loss": (log_loss, math.log(2))}
    return {
        name: Metric(
            value,
            chance,
            UNITS[name],
            name != "log_loss",
            min(low, value),
            max(high, value),
            len(score),
        )
        for (name, (value, chance)), (low, high) in zip(
            values.items(), intervals, strict=True
        )
    }


def _share_below(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """float64 [n]: the share of `ordered` below each value, ties counting half."""
    below = np.searchsorted(ordered, values, "left")
    through = np.searchsorted(ordered, values, "right")
    return (below + through) / 2 / len(ordered)


def _added(values: np.ndarray, pairs: Pairs, weight: float) -> np.ndarray:
    """float64 [cells], of mean 0: weight * the sum over both kinds of what a cell's
    values add to their kind's mean, times the number of cells."""
    _, cell = np.unique(pairs.cell, return_inverse=True)
    cells = int(cell.max()) + 1
    found = np.zeros(cells)
    for kind in (pairs.match, ~pairs.match):
        rest = values[kind] - values[kind].mean()
        found += np.bincount(cell[kind], rest, cells) / kind.sum()
    return weight * cells * found


def _parameters(sigmoid: Sigmoid, score: np.ndarray, pairs: Pairs) -> dict[str, Metric]:
    """With Student's t intervals; none of what the pairs do not determine."""
    import scipy.special  # here: its import takes long

    values = {
        "slope": sigmoid.slope,
        "intercept": sigmoid.intercept,
        "threshold": sigmoid.threshold,
    }
    cells = len(np.unique(pairs.cell))
    if cells < 2:
        return {name: Metric(x, n=len(score)) for name, x in values.items()}
    errors = platt.errors(sigmoid, score, pairs.match, pairs.cell)
    quantile = float(scipy.special.stdtrit(cells - 1, 0.975))
    found = {}
    for name, value in values.items():
        half = quantile * getattr(errors, name)
        ends = (value - half, value + half) if math.isfinite(half) else (None, None)
        found[name] = Metric(value, None, "", True, *ends, len(score))
    return found
