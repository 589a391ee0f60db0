"""`evals=caption_choice`: which of several captions fits an image, right or wrong?

It asks for what retrieval hardly tests: word order, and which attribute belongs to
what. A choice is an image with a right caption and one or more wrong ones, which are
made by rule from any captioned data (evals/common/wrong_captions.py), are the data's
own (ARO), or are read from a file in the form of SugarCrepe
(data/annotations/caption_choices.py).

Beside each accuracy stand two numbers that need no model of images: what a model of the
captions' language alone gets, and what a model that is blind to word order could get.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from clipjax import paths, registry
from clipjax.data.annotations import caption_choices
from clipjax.data.text import lost_texts
from clipjax.encoder import Progress, part_of
from clipjax.evals.common import (
    choice_plans,
    choice_results,
    protocol,
    result_rows,
    wrong_captions,
)
from clipjax.evals.common.choice_plans import ByRule, Listed, Made
from clipjax.evals.common.choice_results import ACCURACY, MACRO, Texts
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.ranking import finite, spread
from clipjax.evals.common.text_likelihood import Bigrams
from clipjax.types import EvalResult, UserError, Variables

RULES, USUAL = tuple(wrong_captions.RULES), wrong_captions.USUAL


def make(
    inputs: Inputs,
    *,
    negatives: tuple[str, ...] = (),
    choices_file: str = "",
    captions: int = 0,
    seed: int = 0,
    max_samples: int = 0,
) -> CaptionChoice:
    """Choices by rule from the source's captions, its own, or those of a file.

    Args:
      negatives: the rules that make wrong captions, any of RULES; a choice per rule and
        caption. (): the data's own wrong captions, as data=aro has, else USUAL.
      choices_file: a JSON file in SugarCrepe's form, or a folder of such, a kind of
        choices each; in place of `negatives`. Its images are the source's whose key, or
        the last part of it, is their name.
      captions: how many of an image's captions `negatives` change, the first; 0: all.
      seed: of the rules.
      max_samples: the most images, evenly spread over those that have choices; 0: all.
        Of the data's own choices, the most parts of images.

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
    for name in negatives:
        if name not in RULES:
            raise UserError(
                f"evals=caption_choice: negatives has no rule {name!r}."
                f"{registry.suggest(name, RULES)} Known: {', '.join(RULES)}"
            )
    sample = protocol.of_sample(max_samples)
    if choices_file:
        if negatives or captions or seed:
            raise UserError(
                f"evals=caption_choice: choices_file={choices_file} has its own wrong "
                "captions: leave negatives, captions and seed out"
            )
        found = caption_choices.read(paths.expand(choices_file))
        plan = choice_plans.listed(inputs.source, found, choices_file, max_samples)
        return CaptionChoice(inputs, plan, sample)
    if (own := getattr(inputs.source, "choices", ())) and not negatives:
        if captions or seed:
            raise UserError(
                "evals=caption_choice: the data has its own wrong captions: leave "
                "captions and seed out, or name rules by negatives"
            )
        return CaptionChoice(inputs, choice_plans.own(own, max_samples), sample)
    captioned = np.flatnonzero(inputs.source.caption_counts)
    if not len(captioned):
        raise UserError(
            "evals=caption_choice changes captions, and the data has none: choose "
            "other evaluation data, or name a choices_file"
        )
    indices = captioned[spread(len(captioned), max_samples)].tolist()
    rules = tuple(dict.fromkeys(negatives or USUAL))
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
        kind without any are NaN. Choices of groups also give "<kind>/macro_accuracy"
        and so on, the means over the groups that count.

        A right caption that ties with wrong ones counts as its expected value, and one
        that is not finite as wrong. Images are the units of the intervals.

        Rows, one per choice: key (the image's), protocol (the kind), query (the
        choice's number: by rule image * max_captions + caption, else its place in the
        file), captions (the right one first), scores (theirs), hit, text_only and
        order_blind (each one's expected hit). If there are groups: picture (whose part
        the image is, a number), group, and counted.

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
        model, grouped = Bigrams(made.right), self.plan.grouped
        tables = {
            kind: choice_results.table(kind, found, made, embeds, model, grouped)
            for kind, found in made.kinds.items()
            if found
        }
        metrics = choice_results.metrics(made, tables, grouped)
        primary = (MACRO if grouped else "") + ACCURACY
        several = len(made.kinds) > 1
        primary = (
            f"mean_{primary}" if several else f"{next(iter(made.kinds))}/{primary}"
        )
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
    ) -> Texts:
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
        if self.inputs.are_stored:
            # Rounded otherwise than rows that are encoded now: ties would be lost.
            rows = rows[self.inputs.encoder.alike([*right, *wrong])]
        return Texts(rows, places)

    def metric_units(self) -> dict[str, str]:
        """See types.Evaluator."""
        names = choice_results.names(self.plan.kinds, self.plan.grouped)
        return dict.fromkeys(names, "fraction")

    def texts(self) -> dict[str, tuple[Iterable[lost_texts.Item], int]]:
        """See types.Evaluator; wrong captions by rule have the right ones' words."""
        if isinstance(self.plan, Listed):
            texts = self.plan.texts()
            return {"captions": (((text,) for text in texts), len(texts))}
        return lost_texts.of_evaluator(self.inputs.source, self.plan.indices)
