"""A report, at the start of a run, of the texts that its tokenizer loses."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from clipjax.data.text import lost_texts
from clipjax.engine.run import Run
from clipjax.multihost import on_primary
from clipjax.types import Config, Evaluator, Source, Tokenizer, UserError

Say = Callable[[str], None]


def tell(run: Run, say: Say) -> None:
    """Reports losses in training and validation captions and evaluators' texts.

    Every process must call it. Raises UserError if all training captions get the same
    ids.
    """
    tokenizer = run.tokenizer
    if tokenizer is not None:
        name = run.config.data.tokenizer.name
        on_primary(lambda: _tell(run, tokenizer, name, say))


def tell_evaluators(
    evaluators: Mapping[str, Evaluator],
    tokenizer: Tokenizer | None,
    config: Config,
    say: Say,
) -> None:
    """Reports losses in the texts that evaluators encode; see Evaluator.texts.

    Evaluators of the same captions, or of texts that lose the same, share the lines.

    config: the config of the tokenizer's run.
    """
    if tokenizer is None:
        return
    counted: list[tuple[lost_texts.Captions, lost_texts.Lost]] = []
    told: list[tuple[str, lost_texts.Lost, list[str]]] = []
    for label, evaluator in evaluators.items():
        texts = getattr(evaluator, "texts", dict)()
        for what, (items, total) in texts.items():
            same = (lost for captions, lost in counted if captions == items)
            lost = next(same, None) or lost_texts.count(items, total, tokenizer)
            if isinstance(items, lost_texts.Captions):
                counted.append((items, lost))
            alike = (own for words, one, own in told if (words, one) == (what, lost))
            labels = next(alike, None)
            if labels is None:
                told.append((what, lost, labels := []))
            labels.append(label)
    for what, lost, labels in told:
        of = f"evals.{', '.join(labels)}, {what}"
        name = config.data.tokenizer.name
        for line in lost.lines(of, name, tokenizer.context_length):
            say(line)


def _tell(run: Run, tokenizer: Tokenizer, name: str, say: Say) -> None:
    lost = _captions(run.source, "training captions", tokenizer, name, say)
    if lost.all_alike and run.text_augment is None:
        one, other = lost.alike_example
        raise UserError(
            f"all {lost.different:,} different training captions that were looked at "
            f"become the same ids ({one[:60]!r}, {other[:60]!r}): "
            f"{lost.remedy(name)}"
        )
    counted = {
        id(run.evaluators.inputs[label].source)
        for label, evaluator in run.evaluators.items()
        if "captions" in getattr(evaluator, "texts", dict)()
    }
    source = run.eval_source
    validated = run.config.train.val_batches > 0 and id(source) not in counted
    if source is not None and validated:
        _captions(source, "validation captions", tokenizer, name, say)
    tell_evaluators(run.evaluators, tokenizer, run.config, say)


def _captions(
    source: Source, what: str, tokenizer: Tokenizer, name: str, say: Say
) -> lost_texts.Lost:
    total = int(np.sum(source.caption_counts))
    lost = lost_texts.count(lost_texts.captions(source), total, tokenizer)
    for line in lost.lines(what, name, tokenizer.context_length):
        say(line)
    return lost
