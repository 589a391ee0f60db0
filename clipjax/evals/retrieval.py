"""`evals=retrieval`: finds an image's captions and a caption's image.

Protocols, each with the chance level of every recall and rank:

- standard: N distinct images against all M captions. Image to text hits if any of
  the image's own captions is among the first k of M; text to image if the caption's
  image is among the first k of N. Papers report Flickr and COCO this way since
  Karpathy and Fei-Fei (arXiv:1412.2306).
- coco_5k, flickr_1k: the same, of exactly the 5,000 or 1,000 images of the Karpathy
  test split with the first five captions of each. coco_1k_5fold: the mean over five
  galleries, the first 1,000 of COCO's images, the next, and so on.
- words_N, such as words_8: the same, with each caption cut to its first N words. How
  the recall grows with N says how much of a caption a model uses: its effective text
  length (Zhang et al., arXiv:2403.15378).
- pair_diagonal: M (image, caption) pairs, each image repeated per caption, and only
  the pair's own partner counts. An image's copies tie, so a perfect model with five
  captions per image gets 20 % at k=1. Compare its numbers with such numbers only,
  never with standard ones.

Numbers are expected values if ties are broken at random; see
clipjax/evals/common/ranking.py.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from clipjax import registry
from clipjax.data.text import lost_texts
from clipjax.data.text.lost_texts import Item
from clipjax.encoder import part_of
from clipjax.evals.common import captioned, galleries, protocol, result_rows
from clipjax.evals.common.bootstrap import mean_and_median
from clipjax.evals.common.galleries import DIRECTIONS, PROTOCOLS, PUBLISHED, Search
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.intervals import Hits, mean
from clipjax.evals.common.ranking import Ranks
from clipjax.types import EvalResult, Metric, Rows, UserError, Variables

SAME_CAPTION, SAME_IMAGE = "same_caption/", "same_image/"  # before metrics' names


def make(
    inputs: Inputs,
    *,
    ks: tuple[int, ...] = (1, 5, 10),
    block: int = 1024,
    protocols: tuple[str, ...] = ("standard",),
    max_samples: int = 0,
    same_caption: bool = False,
    same_image: bool = False,
) -> Retrieval:
    """Retrieval in both directions over all images of the source that have captions.

    Args:
      ks: the k of the recalls; 1 is always added. A k that is not below the gallery's
        number of images is left out because it would always hit.
      block: queries ranked at a time; the result does not depend on it.
      protocols: any of PROTOCOLS, and words_N for numbers N. The first one has the
        primary metric. The metrics of "standard" have plain names ("mean_recall@1"),
        the others' begin with the protocol. words_N encodes the captions that it cuts.
      max_samples: the most images, evenly spread over the source; 0: all.
      same_caption: also counts captions of other images as right if they have the same
        words, and these images, beside the usual numbers: metrics
        "same_caption/mean_recall@1". Not for pair_diagonal and words_N.
      same_image: also counts copies of an image (files of the same bytes) and their
        captions as right: metrics "same_image/mean_recall@1". Not for pair_diagonal
        and words_N.

    Raises:
      UserError: if an option is out of range, fewer than two images have captions, or
        the data are not those of a published protocol.

    >>> source = registry.load("data", "scenes")("val")
    >>> evaluator = make(Inputs(clip.encoder, source), max_samples=4)
    >>> result = evaluator.run(clip.variables)
    >>> result.metrics["mean_recall@1"].chance
    0.25
    """
    if not ks or min(ks) < 1 or block < 1:
        raise UserError(
            f"evals=retrieval: ks={ks}, block={block}: use ks and block from 1 on"
        )
    for name in protocols or ("",):
        if name not in PROTOCOLS and not _words(name):
            raise UserError(
                f"evals=retrieval has no protocol {name!r}."
                f"{registry.suggest(name, PROTOCOLS)} Known: {', '.join(PROTOCOLS)}, "
                "and words_N for numbers N from 1 on"
            )
    indices = captioned.choose("retrieval", inputs, max_samples)
    for name in protocols:
        _check_published(name, inputs.source.caption_counts[indices])
    taken = {name: f"first {of.captions}" for name, of in PUBLISHED.items()}
    hows = [f"{name}, {taken.get(name, 'all')} captions" for name in protocols]
    how_made = protocol.joined(*hows, protocol.of_sample(max_samples))
    ks = tuple(sorted({1, *ks}))
    if same_image:
        inputs.need_digests()
    same = tuple(
        name
        for name, wanted in ((SAME_CAPTION, same_caption), (SAME_IMAGE, same_image))
        if wanted
    )
    return Retrieval(inputs, ks, block, tuple(protocols), same, indices, how_made)


def _check_published(name: str, counts: np.ndarray) -> None:
    published = PUBLISHED.get(name)
    if published is None:
        return
    wrong = ""
    if len(counts) != published.images:
        wrong = f"has {len(counts)} images with captions"
    elif min(counts) < published.captions:
        wrong = f"has an image with {min(counts)}"
    if wrong:
        raise UserError(
            f"evals=retrieval: protocol {name!r} is of {published.images} images with "
            f"{published.captions} captions each, and the data {wrong}; choose the "
            "Karpathy test split of it, without max_samples, or protocol 'standard'"
        )


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """The evaluator; see the module and `make`.

    same: the other choices of right answers, of SAME_CAPTION and SAME_IMAGE.

    What the numbers do not mean. They fall as the gallery grows, so they compare models
    on the same gallery only. Another image that fits a caption just as well counts as
    wrong. A model can tell scenes apart well and be poor at attributes, counts or word
    order, which few galleries test. Images that cannot be read leave the gallery with
    their captions, which makes it slightly easier; `broken` counts them.
    """

    inputs: Inputs
    ks: tuple[int, ...]
    block: int
    protocols: tuple[str, ...]
    same: tuple[str, ...]
    indices: list[int]
    protocol: str

    def run(
        self, variables: Variables, progress: Callable[[int, int], None] | None = None
    ) -> EvalResult:
        """Metrics by direction (image_to_text, text_to_image, and their mean):
        recall@k, and the mean and median rank of the best right answer. Rows as in
        result_rows.by_query, one per query; an image's id is its number in the source,
        a caption's is image * max_captions + its number, as `text_id` of a batch.

        Raises UserError if fewer than two images can be read.
        """
        count = self._captions_total()
        cuts = [name for name in self.protocols if _words(name)]
        before = len(self.indices) + count
        total = before + count * len(cuts)
        reading = captioned.read(
            "retrieval",
            self.inputs,
            variables,
            self.indices,
            part_of(progress, 0, total),
        )
        data, texts = reading.data, reading.texts
        first_caption = reading.numbers[data.owner] * self.inputs.source.max_captions
        ids = _Ids(
            reading.keys,
            {"image": reading.numbers, "text": first_caption + data.number},
            {"image": reading.captions, "text": [[text] for text in texts]},
        )
        rights = {"": galleries.own(data)}
        if SAME_CAPTION in self.same:
            rights[SAME_CAPTION] = galleries.same_caption(data, texts)
        if SAME_IMAGE in self.same:
            assert reading.digests is not None  # `make` asked for them
            rights[SAME_IMAGE] = galleries.same_image(data, reading.digests)
        metrics: dict[str, Metric] = {}
        tables: list[Rows] = []
        for kind, more, start in self._variants():
            used, named = data, ids
            if words := _words(kind):
                at = before + count * cuts.index(kind)
                part = part_of(progress, at, total)
                cut = captioned.cut(reading, words, self.inputs, variables, part)
                used, own = cut.data, [[text] for text in cut.texts]
                named = ids._replace(captions={"image": cut.captions, "text": own})
                if progress is not None:
                    progress(at + count, total)
            found = galleries.searches(kind, used, rights[more], self.block)
            metrics |= _metrics(found, self.ks, start)
            name = f"{kind}/{more}".rstrip("/")
            tables += [named.rows(name, side, found[side]) for side in DIRECTIONS]
        size = reading.size
        if wrong := reading.not_finite:
            size += f", {wrong} embeddings not finite and ranked last"
        first = self.protocols[0]
        return EvalResult(
            metrics,
            "mean_recall@1" if first == "standard" else f"{first}/mean_recall@1",
            size,
            reading.broken,
            result_rows.join(tables),
            self.protocol,
        )

    def metric_units(self) -> dict[str, str]:
        """See types.Evaluator; as if all images could be read."""
        units = {}
        for kind, _, start in self._variants():
            folds = PUBLISHED[kind].folds if kind in PUBLISHED else 1
            ks = [k for k in self.ks if k < len(self.indices) // folds]
            for side in DIRECTIONS:
                units |= {f"{start}{side}_recall@{k}": "fraction" for k in ks}
                units |= {f"{start}{side}_{x}_rank": "rank" for x in ("mean", "median")}
            units |= {f"{start}mean_recall@{k}": "fraction" for k in ks}
        return units

    def _variants(self) -> list[tuple[str, str, str]]:
        """Each protocol with each choice of right answers, and what the names of its
        metrics begin with.
        """
        return [
            (kind, more, ("" if kind == "standard" else f"{kind}/") + more)
            for kind in self.protocols
            for more in ("", *self.same)
            if not (more and (kind == "pair_diagonal" or _words(kind)))
        ]

    def texts(self) -> dict[str, tuple[Iterable[Item], int]]:
        """See types.Evaluator."""
        return lost_texts.of_evaluator(self.inputs.source, self.indices)

    def cost(self) -> str:
        """See types.Evaluator."""
        cuts = ", ".join(name for name in self.protocols if _words(name))
        if not cuts:
            return ""
        return f"encodes up to {self._captions_total()} cut captions for each of {cuts}"

    def _captions_total(self) -> int:
        return int(self.inputs.source.caption_counts[self.indices].sum())


def _words(protocol: str) -> int:
    """N of "words_N"; 0 of another protocol."""
    found = re.fullmatch(r"words_([1-9]\d{0,5})", protocol)
    return int(found[1]) if found else 0


class _Ids(NamedTuple):
    """What rows call images and captions.

    keys: of the images. of: "image" and "text" -> int64, the ids of all. captions: by
    the same, each one's.
    """

    keys: list[str]
    of: dict[str, np.ndarray]
    captions: dict[str, list[list[str]]]

    def rows(self, protocol: str, direction: str, folds: list[Search]) -> Rows:
        """The rows of one direction; see result_rows.by_query."""
        asked, answers = direction.split("_to_")
        tables = [
            result_rows.by_query(
                [self.keys[image] for image in found.owner],
                self.of[asked][found.queries],
                [self.captions[asked][query] for query in found.queries],
                [self.of[answers][row[row >= 0]].tolist() for row in found.right],
                self.of[answers],
                found.ranks,
                protocol=protocol,
                direction=direction,
                fold=fold,
            )
            for fold, found in enumerate(folds)
        ]
        return result_rows.join(tables)


def _metrics(
    found: dict[str, list[Search]], ks: tuple[int, ...], prefix: str
) -> dict[str, Metric]:
    """Those of a protocol; recalls are averaged over its folds."""
    metrics: dict[str, Metric] = {}
    least = min(fold.images for fold in found[DIRECTIONS[0]])
    both: dict[int, list[Hits]] = {k: [] for k in ks if k < least}
    for name in DIRECTIONS:
        for k in both:
            hits = [
                Hits(
                    fold.ranks.hits(k),
                    fold.owner,
                    float(fold.uninformed.hits(k).mean()),
                )
                for fold in found[name]
            ]
            metrics[f"{prefix}{name}_recall@{k}"] = mean(hits)
            both[k] += hits
        metrics |= _rank_metrics(found[name], f"{prefix}{name}_")
    for k, hits in both.items():
        metrics[f"{prefix}mean_recall@{k}"] = mean(hits)
    return metrics


def _rank_metrics(folds: list[Search], prefix: str) -> dict[str, Metric]:
    """ "<prefix>mean_rank" and "<prefix>median_rank", over the queries of all folds."""
    expected = np.concatenate([fold.ranks.expected() for fold in folds])
    owner = np.concatenate([fold.owner for fold in folds])
    values = float(expected.mean()), float(np.median(expected))
    guessed_means = [fold.uninformed.expected().mean() for fold in folds]
    guessed_medians = [_median(fold.uninformed) for fold in folds]
    chances = float(np.mean(guessed_means)), float(np.mean(guessed_medians))
    intervals = mean_and_median(expected, owner)
    return {
        f"{prefix}{name}_rank": Metric(
            value, guessed, "rank", False, low, high, len(expected)
        )
        for name, value, guessed, (low, high) in zip(
            ("mean", "median"), values, chances, intervals, strict=True
        )
    }


def _median(uninformed: Ranks) -> float:
    """The smallest rank within which half of all queries are expected to hit."""
    owns, weights = np.unique(uninformed.own, return_counts=True)
    total = int(uninformed.own[0] + uninformed.ties[0])
    place = np.arange(total)
    missed = np.zeros(total)  # the share of queries whose right answers come later
    for own, weight in zip(owns, weights, strict=True):
        wrong = np.clip((total - own - place) / (total - place), 0, None)
        missed += weight / weights.sum() * np.cumprod(wrong)
    return 1.0 + float(np.argmax(missed <= 0.5))
