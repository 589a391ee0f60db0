"""`evals=pair_choice`: which of two captions fits which of two images (Winoground)?

The captions of a pair have the same words in another order, so the choice asks for what
the order means. Winoground's three scores (arXiv 2204.03162) say whether captions,
images or both are chosen right; evals/common/pair_scores.py has their formulas.

    --evals=pair_choice --data=winoground --data.path=FOLDER --data.split=test
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from clipjax.data.annotations.image_pairs import ImagePair
from clipjax.data.text import lost_texts
from clipjax.encoder import part_of
from clipjax.evals.common import pair_scores, protocol
from clipjax.evals.common.caption_words import bag
from clipjax.evals.common.choices import similarities
from clipjax.evals.common.inputs import Inputs, Seen
from clipjax.evals.common.intervals import Hits, share
from clipjax.evals.common.pair_scores import CHANCES, GROUP, Scores
from clipjax.evals.common.ranking import finite, spread
from clipjax.evals.common.text_likelihood import Bigrams
from clipjax.types import EvalResult, Metric, UserError, Variables

RANDOM_TIES = "random_ties/"
TEXT_ONLY, CEILING = "text_only/", "order_blind_ceiling/"


def make(inputs: Inputs, *, max_samples: int = 0) -> PairChoice:
    """The pairs of a source that has `pairs`, such as data=winoground.

    Args:
      max_samples: the most pairs, evenly spread; 0: all.

    Raises UserError if the source has no pairs, or max_samples is below 0.
    """
    if max_samples < 0:
        raise UserError(
            f"evals=pair_choice: max_samples={max_samples}: use a number from 0 on"
        )
    pairs: Sequence[ImagePair] = getattr(inputs.source, "pairs", ())
    if not pairs:
        raise UserError(
            "evals=pair_choice needs pairs of images, and the data has none: use "
            "data=winoground"
        )
    chosen = [pairs[at] for at in spread(len(pairs), max_samples)]
    sample = f"at most {max_samples} pairs, evenly spread" if max_samples else ""
    return PairChoice(inputs, chosen, sample)


@dataclasses.dataclass(frozen=True)
class PairChoice:
    """The evaluator; see the module and `make`.

    sample: what the protocol says of max_samples.

    What the numbers do not mean. Winoground's pairs ask for more than word order: small
    or unusual things, odd wording, common sense. So a low score says little about which
    of these a model lacks. Of 400 pairs the intervals are wide.
    """

    inputs: Inputs
    pairs: Sequence[ImagePair]
    sample: str

    def run(
        self, variables: Variables, progress: Callable[[int, int], None] | None = None
    ) -> EvalResult:
        """Metrics "text_score", "image_score" and "group_score" as published: a tie is
        wrong. "random_ties/..." are their expected values if ties are broken at random,
        "text_only/..." those of a model of the captions alone, and
        "order_blind_ceiling/..." the most that one blind to word order can get, both
        with ties broken at random. "TAG/..." are the published scores of a tag's pairs.

        A pair with a broken image is left out.

        Rows, one per pair: key (the first image's), query (the pair's id), second_key,
        captions, similarities (of the first caption with the first and the second
        image, of the second caption with both), each tag, and a column for each score
        but those of tags. The model's have the metrics' names, so that two models are
        compared by these alone.

        Raises UserError if no pair can be used.
        """
        indices = [index for pair in self.pairs for index in (pair.first, pair.second)]
        total = 2 * len(indices)
        seen = self.inputs.images(
            variables, indices, progress=part_of(progress, 0, total)
        ).with_captions()
        used = np.flatnonzero(seen.valid.reshape(-1, 2).all(axis=1))
        if not len(used):
            raise UserError(self._nothing(seen))
        pairs = [self.pairs[at] for at in used.tolist()]
        places = np.stack([2 * used, 2 * used + 1], axis=1)
        captions = [[str(seen.captions[at][0]) for at in own] for own in places]
        texts = [text for own in captions for text in own]
        embeds = self.inputs.texts(
            variables, texts, progress=part_of(progress, len(indices), total)
        )
        if self.inputs.are_stored:
            # Rows of batches of several sizes may be rounded otherwise: ties stay ties.
            embeds = embeds[self.inputs.encoder.alike(texts)]
        # Each caption with each image: [n 2 2].
        images = np.repeat(places[:, None], 2, axis=1)
        numbers = np.repeat(np.arange(len(texts)).reshape(-1, 2)[:, :, None], 2, axis=2)
        found = similarities(seen.embed, embeds, images.ravel(), numbers.ravel())
        found = found.reshape(-1, 2, 2)
        columns = _columns(found, captions)
        metrics = {name: _metric(name, values) for name, values in columns.items()}
        for tag in self._tags():
            own = [at for at, pair in enumerate(pairs) if tag in _tags_of(pair)]
            for name in CHANCES:
                metrics[f"{tag}/{name}"] = _metric(name, columns[name][own])
        size = f"{len(pairs)} pairs"
        if left_out := len(self.pairs) - len(pairs):
            size += f", {left_out} left out for a broken image"
        both = seen.embed[places.ravel()], embeds
        if wrong := sum(int((~finite(x)).sum()) for x in both):
            size += f"; {wrong} embeddings not finite and never chosen"
        names = sorted({name for pair in pairs for name in pair.tags})
        rows = {
            "key": [seen.keys[at] for at in places[:, 0]],
            "query": [pair.id for pair in pairs],
            "second_key": [seen.keys[at] for at in places[:, 1]],
            "captions": captions,
            "similarities": found.reshape(-1, 4),
            **{name: [pair.tags.get(name, "") for pair in pairs] for name in names},
            **{_column(name): values for name, values in columns.items()},
        }
        made = protocol.joined(
            f"{len(pairs)} pairs {protocol.digest(texts)}", self.sample
        )
        return EvalResult(metrics, GROUP, size, len(seen.broken), rows, made)

    def _nothing(self, seen: Seen) -> str:
        key, why = next(iter(seen.broken.values()))
        return (
            f"evals=pair_choice: each of the {len(self.pairs)} pairs has an image that "
            f"cannot be used, the first is {key}: {why}"
        )

    def _tags(self) -> list[str]:
        """The groups of pairs with numbers of their own."""
        found = {group for pair in self.pairs for group in _groups(pair)}
        return list(dict.fromkeys(tag for _, tag in sorted(found)))

    def metric_units(self) -> dict[str, str]:
        """See types.Evaluator."""
        starts = ["", RANDOM_TIES, TEXT_ONLY, CEILING]
        starts += [f"{tag}/" for tag in self._tags()]
        return {f"{start}{name}": "fraction" for start in starts for name in CHANCES}

    def texts(self) -> dict[str, tuple[Iterable[lost_texts.Item], int]]:
        """See types.Evaluator."""
        indices = [index for pair in self.pairs for index in (pair.first, pair.second)]
        return lost_texts.of_evaluator(self.inputs.source, indices)


def _columns(found: np.ndarray, captions: Sequence[Sequence[str]]) -> Scores:
    """Each pair's scores: of the model as published, and with ties at random; of the
    texts alone; and of a model blind to word order that is right otherwise.

    found: float [n 2 2]. captions: two of each of the n pairs.
    """
    model = Bigrams(dict(enumerate(captions)))
    likely = [
        [model.log_likelihood(text, at) for text in own]
        for at, own in enumerate(captions)
    ]
    same = np.array([bag(one) == bag(other) for one, other in captions])
    blind = np.ones((len(captions), 2, 2))
    blind[:, 0, 1] = blind[:, 1, 0] = same
    parts = {
        "": pair_scores.strict(found),
        RANDOM_TIES: pair_scores.random_ties(found),
        # The same for both images.
        TEXT_ONLY: pair_scores.random_ties(
            np.repeat(np.array(likely)[..., None], 2, 2)
        ),
        CEILING: pair_scores.random_ties(blind),
    }
    return {
        f"{start}{name}": values
        for start, scores in parts.items()
        for name, values in scores.items()
    }


def _column(name: str) -> str:
    """The column of a metric."""
    of_texts = name.startswith((TEXT_ONLY, CEILING))
    return name.replace("/", "_") if of_texts else name


def _metric(name: str, values: np.ndarray) -> Metric:
    """The ceiling follows from the texts alone, so it has no interval and chance.

    values: of the pairs; NaN is the metric of none.
    """
    if not len(values):
        return Metric(float("nan"), CHANCES[name], "fraction", n=0)
    if name.startswith(CEILING):
        found = share(Hits(values))
        return dataclasses.replace(found, low=None, high=None)
    return share(Hits(values, chance=CHANCES[name.rpartition("/")[2]]))


def _tags_of(pair: ImagePair) -> set[str]:
    return {tag for _, tag in _groups(pair)}


def _groups(pair: ImagePair) -> list[tuple[int, str]]:
    """The tags by which the paper groups its numbers (tables 4 and 5), each after the
    number of its field, in which order they are shown.
    """
    count = pair.tags.get("num_main_preds", "")
    texts = (
        pair.tags.get("collapsed_tag", ""),
        f"main_preds_{count}" if count else "",
        *pair.tags.get("secondary_tag", "").split(","),
    )
    return [(min(i, 2), text.strip()) for i, text in enumerate(texts) if text.strip()]
