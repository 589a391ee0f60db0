"""`evals=caption_choice`: which of several captions fits an image, right or wrong?

It asks for what retrieval hardly tests: word order, and which attribute belongs to
what. A choice is an image with a right caption and one or more wrong ones, which are
made by rule from any captioned data (evals/common/wrong_captions.py), or read from a
file in the form of SugarCrepe (data/annotations/caption_choices.py).

Beside each accuracy stand two numbers that need no model of images: what a model of the
captions' language alone gets, and what a model that is blind to word order could get.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clipjax import paths, registry
from clipjax.data.annotations import caption_choices
from clipjax.data.text import lost_texts
from clipjax.encoder import Progress, part_of
from clipjax.evals.common import choice_plans, protocol, result_rows, wrong_captions
from clipjax.evals.common import choices as choosing
from clipjax.evals.common.choice_plans import ByRule, Listed, Made
from clipjax.evals.common.choices import Choice
from clipjax.evals.common.inputs import Inputs, Seen
from clipjax.evals.common.intervals import Hits, mean, share
from clipjax.evals.common.ranking import finite, spread
from clipjax.evals.common.text_likelihood import Bigrams
from clipjax.types import EvalResult, Metric, Rows, UserError, Variables

RULES = tuple(wrong_captions.RULES)
ACCURACY, TEXT_ONLY = "accuracy", "text_only_accuracy"
CEILING = "order_blind_ceiling"


def make(
    inputs: Inputs,
    *,
    negatives: tuple[str, ...] = RULES,
    choices_file: str = "",
    captions: int = 0,
    seed: int = 0,
    max_samples: int = 0,
) -> CaptionChoice:
    """Choices by rule from the source's captions, or those of a file.

    Args:
      negatives: the rules that make wrong captions, any of RULES; a choice per rule and
        caption.
      choices_file: a JSON file in SugarCrepe's form, or a folder of such, a kind of
        choices each; in place of `negatives`. Its images are the source's whose key, or
        the last part of it, is their name.
      captions: how many of an image's captions `negatives` change, the first; 0: all.
      seed: of the rules.
      max_samples: the most images, evenly spread over those that have choices; 0: all.

    Raises:
      UserError: if an option is out of range, the source has no captions to change, or
        it lacks images of the file.

    >>> source = registry.load("data", "scenes")("val")
    >>> evaluator = make(Inputs(clip.encoder, source), negatives=("shuffle",))
    >>> sorted(evaluator.metric_units())
    ['shuffle/accuracy', 'shuffle/order_blind_ceiling', 'shuffle/text_only_accuracy']
    """
    if captions < 0 or max_samples < 0:
        raise UserError(
            f"evals=caption_choice: captions={captions}, max_samples={max_samples}: "
            "use numbers from 0 on"
        )
    for name in negatives or ("",):
        if name not in RULES:
            raise UserError(
                f"evals=caption_choice: negatives has no rule {name!r}."
                f"{registry.suggest(name, RULES)} Known: {', '.join(RULES)}"
            )
    sample = protocol.of_sample(max_samples)
    if choices_file:
        if tuple(negatives) != RULES or captions or seed:
            raise UserError(
                f"evals=caption_choice: choices_file={choices_file} has its own wrong "
                "captions: leave negatives, captions and seed out"
            )
        found = caption_choices.read(paths.expand(choices_file))
        plan = choice_plans.listed(inputs.source, found, choices_file, max_samples)
        return CaptionChoice(inputs, plan, sample)
    captioned = np.flatnonzero(inputs.source.caption_counts)
    if not len(captioned):
        raise UserError(
            "evals=caption_choice changes captions, and the data has none: choose "
            "other evaluation data, or name a choices_file"
        )
    indices = captioned[spread(len(captioned), max_samples)].tolist()
    rules = tuple(dict.fromkeys(negatives))
    plan = ByRule(inputs.source, indices, rules, captions, seed)
    return CaptionChoice(inputs, plan, sample)


@dataclasses.dataclass(frozen=True)
class CaptionChoice:
    """The evaluator; see the module and `make`.

    plan: where the choices come from. sample: what the protocol says of max_samples.

    What the numbers do not mean. A wrong caption by rule may happen to be true of the
    picture, and an odd one gives itself away: text_only_accuracy says how often. A
    model that is far above both that and order_blind_ceiling uses the order of words;
    one that is not may still be good at all else. Accuracies of different rules, files
    or captions cannot be compared.
    """

    inputs: Inputs
    plan: ByRule | Listed
    sample: str

    def run(
        self, variables: Variables, progress: Callable[[int, int], None] | None = None
    ) -> EvalResult:
        """Metrics "<kind>/accuracy", "<kind>/text_only_accuracy" and
        "<kind>/order_blind_ceiling" per rule, or file, and with several kinds their
        means "mean_accuracy" and so on, over the kinds with choices. The metrics of a
        kind without any are NaN.

        A right caption that ties with wrong ones counts as its expected value, and one
        that is not finite as wrong. Images are the units of the intervals.

        Rows, one per choice: key (the image's), protocol (the kind), query (the
        choice's number: by rule image * max_captions + caption, else its place in the
        file), captions (the right one first), scores (theirs), hit, text_only and
        order_blind (each one's expected hit).

        Raises UserError if no image can be read, or no kind has a choice.
        """
        indices = self.plan.indices
        total = len(indices) + self.plan.most_texts
        seen = self.inputs.images(
            variables, indices, progress=part_of(progress, 0, total)
        )
        made = self.plan.choices(seen)
        if not any(made.kinds.values()):
            raise UserError(self._nothing(made))
        embeds = self._embeddings(
            variables, made, part_of(progress, len(indices), total)
        )
        model = Bigrams(made.right)
        tables = {
            kind: _table(kind, found, made.seen, embeds, model)
            for kind, found in made.kinds.items()
            if found
        }
        hits = {kind: _hits(made.kinds[kind], rows) for kind, rows in tables.items()}
        metrics: dict[str, Metric] = {}
        for kind in made.kinds:
            metrics |= _metrics(kind, hits.get(kind))
        primary = f"{next(iter(made.kinds))}/{ACCURACY}"
        if len(made.kinds) > 1:
            metrics |= _means(list(hits.values()))
            primary = f"mean_{ACCURACY}"
        sizes = [made.size(kind) for kind in made.kinds]
        every = [choice for found in made.kinds.values() for choice in found]
        used = sorted({choice.place for choice in every})
        wrong = sum(int((~finite(x)).sum()) for x in (seen.embed[used], embeds.rows))
        if wrong:
            sizes.append(f"{wrong} embeddings not finite and never chosen")
        digest = protocol.digest([text for one in every for text in one.captions])
        return EvalResult(
            metrics,
            primary,
            "; ".join(sizes),
            len(made.seen.broken),
            result_rows.join(list(tables.values())),
            protocol.joined(
                self.plan.protocol, f"{len(every)} choices {digest}", self.sample
            ),
        )

    def _nothing(self, made: Made) -> str:
        broken = ""
        if made.seen.broken:
            key, why = next(iter(made.seen.broken.values()))
            broken = (
                f" ({len(made.seen.broken)} of {len(self.plan.indices)} images cannot "
                f"be used, the first is {key}: {why})"
            )
        return (
            f"evals=caption_choice: there is nothing to choose by "
            f"{', '.join(made.kinds)}{broken}: choose other negatives or mend the data"
        )

    def _embeddings(
        self, variables: Variables, made: Made, progress: Progress | None
    ) -> _Texts:
        """The embeddings of the right captions, as retrieval asks for them, so that
        both share them, and then of the wrong ones.
        """
        right = made.encoded
        places: dict[str, int] = {}
        for place, text in enumerate(right):
            places.setdefault(text, place)
        wrong = dict.fromkeys(
            text
            for found in made.kinds.values()
            for choice in found
            for text in choice.captions
            if text not in places
        )
        rows = self.inputs.texts(variables, right, progress=progress)
        if wrong:
            total = len(right) + len(wrong)
            later = part_of(progress, len(right), total)
            more = self.inputs.texts(variables, list(wrong), progress=later)
            rows = np.concatenate([rows, more])
            places |= {text: len(right) + i for i, text in enumerate(wrong)}
        return _Texts(rows, places)

    def metric_units(self) -> dict[str, str]:
        """See types.Evaluator."""
        kinds = [f"{kind}/" for kind in self.plan.kinds]
        kinds += ["mean_"] if len(kinds) > 1 else []
        names = (ACCURACY, TEXT_ONLY, CEILING)
        return {f"{kind}{name}": "fraction" for kind in kinds for name in names}

    def texts(self) -> dict[str, tuple[Iterable[lost_texts.Item], int]]:
        """See types.Evaluator; wrong captions by rule have the right ones' words."""
        if isinstance(self.plan, Listed):
            texts = self.plan.texts()
            return {"captions": (((text,) for text in texts), len(texts))}
        return lost_texts.of_evaluator(self.inputs.source, self.plan.indices)


class _Texts(NamedTuple):
    """rows: float32 [m e]. places: text -> its row."""

    rows: np.ndarray
    places: Mapping[str, int]


def _table(
    kind: str, found: Sequence[Choice], seen: Seen, embeds: _Texts, model: Bigrams
) -> Rows:
    """The rows of one kind's choices; see CaptionChoice.run."""
    made = choosing.flat(found)
    places = np.array([choice.place for choice in found])
    texts = np.array([embeds.places[text] for text in made.texts])
    scores = choosing.similarities(seen.embed, embeds.rows, places[made.owners], texts)
    ends = made.starts + made.sizes
    return {
        "key": [seen.keys[place] for place in places],
        "protocol": [kind] * len(found),
        "query": np.array([choice.query for choice in found]),
        "captions": [list(choice.captions) for choice in found],
        "scores": [
            scores[start:end].tolist()
            for start, end in zip(made.starts, ends, strict=True)
        ],
        "hit": choosing.hits(scores, made),
        "text_only": choosing.hits(choosing.likelihoods(found, model), made),
        "order_blind": choosing.hits(choosing.order_blind(found), made),
    }


_COLUMNS = {ACCURACY: "hit", TEXT_ONLY: "text_only", CEILING: "order_blind"}


def _hits(found: Sequence[Choice], rows: Rows) -> dict[str, Hits]:
    """By the metric's name."""
    places = np.array([choice.place for choice in found])
    chance = float(np.mean([1 / len(choice.captions) for choice in found]))
    return {
        name: Hits(
            np.asarray(rows[column]), places, None if name == CEILING else chance
        )
        for name, column in _COLUMNS.items()
    }


def _metrics(kind: str, hits: Mapping[str, Hits] | None) -> dict[str, Metric]:
    """hits: of `_hits`; None of a kind without choices."""
    if hits is None:
        nothing = Metric(float("nan"), unit="fraction", n=0)
        return {f"{kind}/{name}": nothing for name in _COLUMNS}
    return {f"{kind}/{name}": _exact(name, share(own)) for name, own in hits.items()}


def _means(parts: Sequence[Mapping[str, Hits]]) -> dict[str, Metric]:
    return {
        f"mean_{name}": _exact(name, mean([part[name] for part in parts]))
        for name in _COLUMNS
    }


def _exact(name: str, metric: Metric) -> Metric:
    """The ceiling follows from the texts alone, so it has no interval."""
    if name != CEILING:
        return metric
    return dataclasses.replace(metric, low=None, high=None)
