"""`evals=retrieval`: finds an image's captions and a caption's image.

Two protocols, each with the chance level of every recall and rank:

- standard: N distinct images against all M captions. Image to text hits if any of
  the image's own captions is among the first k of M; text to image if the caption's
  image is among the first k of N. Papers report Flickr and COCO this way since
  Karpathy and Fei-Fei (arXiv:1412.2306).
- pair_diagonal: M (image, caption) pairs, each image repeated per caption, and only
  the pair's own partner counts. An image's copies tie, so a perfect model with five
  captions per image gets 20 % at k=1. Compare its numbers with such numbers only,
  never with standard ones.

Numbers are expected values if ties are broken at random; see
clipjax/evals/common/ranking.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from clipjax import registry
from clipjax.data.text.lost_texts import Item, captions
from clipjax.encoder import part_of
from clipjax.evals.common import protocol, result_rows
from clipjax.evals.common.bootstrap import mean_and_median
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.intervals import Hits, mean, share
from clipjax.evals.common.ranking import NEAREST, Ranks, chance, finite, rank, spread
from clipjax.types import EvalResult, Metric, Rows, UserError, Variables

PROTOCOLS = ("standard", "pair_diagonal")


def make(
    inputs: Inputs,
    *,
    ks: tuple[int, ...] = (1, 5, 10),
    block: int = 1024,
    protocols: tuple[str, ...] = ("standard",),
    max_samples: int = 0,
) -> Retrieval:
    """Retrieval in both directions over all images of the source that have captions.

    Args:
      ks: the k of the recalls; 1 is always added. A k that is not below the number of
        images is left out because it would always hit.
      block: queries ranked at a time; the result does not depend on it.
      protocols: any of PROTOCOLS. The first one's metrics have plain names
        ("mean_recall@1"), the others' begin with the protocol.
      max_samples: the most images, evenly spread over the source; 0: all.

    Raises:
      UserError: if an option is out of range, or fewer than two images have captions.

    >>> source = registry.load("data", "scenes")("val")
    >>> evaluator = make(Inputs(clip.encoder, source), max_samples=4)
    >>> result = evaluator.run(clip.variables)
    >>> result.metrics["mean_recall@1"].chance
    0.25
    """
    if not ks or min(ks) < 1 or block < 1 or max_samples < 0:
        raise UserError(
            f"evals=retrieval: ks={ks}, block={block}, max_samples={max_samples}: use "
            f"ks and block from 1 on, max_samples from 0 on"
        )
    for name in protocols or ("",):
        if name not in PROTOCOLS:
            raise UserError(
                f"evals=retrieval has no protocol {name!r}."
                f"{registry.suggest(name, PROTOCOLS)} Known: {', '.join(PROTOCOLS)}"
            )
    if max_samples == 1:
        raise UserError(
            "evals=retrieval: max_samples=1 leaves one image, which finds itself; give "
            "2 or more, or 0 for all"
        )
    captioned = np.flatnonzero(inputs.source.caption_counts)
    if len(captioned) < 2:
        raise UserError(
            f"evals=retrieval needs two or more images with captions, and the data has "
            f"{len(captioned)}; choose other evaluation data or evals=zeroshot"
        )
    indices = captioned[spread(len(captioned), max_samples)].tolist()
    how_made = protocol.joined(
        f"{' and '.join(protocols)}, all captions", protocol.of_sample(max_samples)
    )
    return Retrieval(
        inputs, tuple(sorted({1, *ks})), block, tuple(protocols), indices, how_made
    )


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """The evaluator; see the module and `make`.

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
        images_total = len(self.indices)
        total = images_total + self._captions_total()
        seen = self.inputs.images(
            variables, self.indices, progress=part_of(progress, 0, total)
        )
        seen = seen.without(
            lambda place: (
                "its captions are missing or not text"
                if not seen.captions[place] or None in seen.captions[place]
                else ""
            )
        )
        if seen.valid.sum() < 2:
            key, reason = next(iter(seen.broken.values()))
            raise UserError(
                f"evals=retrieval: {len(seen.broken)} of {images_total} images cannot "
                f"be read, the first is {key}: {reason}; mend the evaluation data"
            )
        captions = [seen.captions[place] for place in np.flatnonzero(seen.valid)]
        counts = np.array([len(own) for own in captions])
        owner = np.repeat(np.arange(len(captions)), counts)
        images = seen.embed[seen.valid]
        texts = self.inputs.texts(
            variables,
            [text for own in captions for text in own if text is not None],
            progress=part_of(progress, images_total, total),
        )

        kept = np.flatnonzero(seen.valid)
        image_ids = np.array(self.indices)[kept]
        number = np.concatenate([np.arange(count) for count in counts])
        caption_ids = image_ids[owner] * self.inputs.source.max_captions + number
        keys = [seen.keys[place] for place in kept]
        ids = _Ids(keys, image_ids, caption_ids, owner)
        metrics: dict[str, Metric] = {}
        tables: list[Rows] = []
        for kind in self.protocols:
            if kind == "standard":
                directions = self._standard(images, texts, counts, owner)
            else:
                directions = self._pair_diagonal(images, texts, counts, owner)
            start = "" if kind == self.protocols[0] else f"{kind}/"
            ks = [k for k in self.ks if k < len(images)]
            sides: dict[int, list[Hits]] = {k: [] for k in ks}
            for name, (ranks, uninformed) in directions.items():
                tables.append(ids.rows(kind, name, ranks))
                # One image's captions, or its copies, are no independent queries.
                groups = owner if len(ranks.greater) == len(owner) else None
                for k in ks:
                    guessed = float(uninformed.hits(k).mean())
                    sides[k].append(Hits(ranks.hits(k), groups, guessed))
                    metrics[f"{start}{name}_recall@{k}"] = share(sides[k][-1])
                metrics |= _rank_metrics(ranks, uninformed, groups, f"{start}{name}_")
            for k in ks:
                metrics[f"{start}mean_recall@{k}"] = mean(sides[k])
        size = f"{len(images)} images x {len(texts)} captions"
        wrong = sum(int((~finite(side)).sum()) for side in (images, texts))
        if wrong:
            size += f", {wrong} embeddings not finite and ranked last"
        rows = result_rows.joined(tables)
        return EvalResult(
            metrics, "mean_recall@1", size, len(seen.broken), rows, self.protocol
        )

    def texts(self) -> dict[str, tuple[Iterable[Item], int]]:
        """See types.Evaluator."""
        items = captions(self.inputs.source, self.indices)
        return {"captions": (items, self._captions_total())}

    def _captions_total(self) -> int:
        return int(self.inputs.source.caption_counts[self.indices].sum())

    def _standard(
        self,
        images: np.ndarray,
        texts: np.ndarray,
        counts: np.ndarray,
        owner: np.ndarray,
    ) -> dict[str, tuple[Ranks, Ranks]]:
        """Direction -> (ranks, an uninformed model's ranks)."""
        column = np.arange(counts.max())
        own = np.where(
            column < counts[:, None], (counts.cumsum() - counts)[:, None] + column, -1
        )
        return {
            "image_to_text": (
                self._rank(images, texts, own),
                chance(counts, len(texts)),
            ),
            "text_to_image": (
                self._rank(texts, images, owner[:, None]),
                chance(np.ones(len(texts)), len(images)),
            ),
        }

    def _rank(
        self,
        queries: np.ndarray,
        gallery: np.ndarray,
        right: np.ndarray,
        copies: np.ndarray | None = None,
    ) -> Ranks:
        return rank(
            queries, gallery, right, copies=copies, block=self.block, nearest=NEAREST
        )

    def _pair_diagonal(
        self,
        images: np.ndarray,
        texts: np.ndarray,
        counts: np.ndarray,
        owner: np.ndarray,
    ) -> dict[str, tuple[Ranks, Ranks]]:
        """As `_standard`."""
        uninformed = chance(np.ones(len(texts)), len(texts))
        own = np.arange(len(texts))[:, None]
        return {
            "image_to_text": (
                self._rank(images[owner], texts, own),
                uninformed,
            ),
            "text_to_image": (
                self._rank(texts, images, owner[:, None], copies=counts),
                uninformed,
            ),
        }


class _Ids(NamedTuple):
    """What rows call n images and their m captions.

    keys: of the images. images: int64 [n], captions: int64 [m], ids. owner: int64 [m],
    the place of each caption's image.
    """

    keys: list[str]
    images: np.ndarray
    captions: np.ndarray
    owner: np.ndarray

    def rows(self, protocol: str, direction: str, ranks: Ranks) -> Rows:
        """The rows of one direction; see result_rows.by_query."""
        by_image = protocol == "standard" and direction == "image_to_text"
        keys = self.keys if by_image else [self.keys[place] for place in self.owner]
        queries, gallery = self.captions, self.images
        right = self.images[self.owner][:, None].tolist()
        if direction == "image_to_text":
            queries, gallery = self.images, self.captions
            right = self.captions[:, None].tolist()
            if by_image:
                ends = np.flatnonzero(np.diff(self.owner)) + 1
                right = [own.tolist() for own in np.split(self.captions, ends)]
            else:
                queries = self.images[self.owner]
        return result_rows.by_query(
            keys,
            queries,
            right,
            gallery,
            ranks,
            protocol=protocol,
            direction=direction,
        )


def _rank_metrics(
    ranks: Ranks, uninformed: Ranks, groups: np.ndarray | None, prefix: str
) -> dict[str, Metric]:
    """ "<prefix>mean_rank" and "<prefix>median_rank"; groups as in mean_and_median."""
    expected = ranks.expected()
    values = float(expected.mean()), float(np.median(expected))
    chances = float(uninformed.expected().mean()), _median(uninformed)
    intervals = mean_and_median(expected, groups)
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
