"""Evaluations: tables with intervals and chance, classes, and examples."""

from __future__ import annotations

import re
from collections.abc import Mapping

from clipjax import class_recalls, result_tables
from clipjax.report_parts import class_cards, retrieval_cards
from clipjax.report_parts.example_source import Sources
from clipjax.report_parts.page import Columns, Fold, Section, Table, Text
from clipjax.report_parts.run_files import RunFiles
from clipjax.report_parts.thumbnails import Pictures
from clipjax.results import Evaluation
from clipjax.types import EvalResult, UserError

CARDS = 6  # in a gallery
SETS = 6  # label sets with tables of classes


def evaluation_section(run: RunFiles) -> Section:
    """Every evaluator's numbers; other evaluations of the run are folded."""
    blocks: list[object] = []
    for evaluation in run.evaluations[:1]:
        blocks.append(Text(f"{_of(evaluation)}."))
        blocks.append(Columns([[one] for one in tables(evaluation.results)]))
    for evaluation in run.evaluations[1:9]:
        title = f"{evaluation.folder.name}: {_of(evaluation)}"
        blocks.append(Fold(title, tables(evaluation.results)))
    if not run.evaluations:
        blocks += _logged(run)
    return Section("Evaluation", blocks)


def tables(results: Mapping[str, EvalResult]) -> list[object]:
    """A table per evaluator."""
    found: list[object] = []
    for label, result in results.items():
        note = result.size
        if result.broken:
            note += f" ({result.broken} broken examples left out)"
        columns = result_tables.columns(result)
        names = [name.replace("_", " ").replace("/", ": ") for name in result.metrics]
        lines = [list(line) for line in zip(names, *columns.values(), strict=True)]
        strong = frozenset([list(result.metrics).index(result.primary)])
        found.append(
            Table(["metric", *columns], lines, label, strong=strong, note=note)
        )
    return found


def _of(evaluation: Evaluation) -> str:
    meta = evaluation.meta
    data = meta.get("data") or {}
    name = f"{data.get('name', '?')}, split {data.get('split', '?')}"
    weights = "The moving average" if meta.get("ema") else "The weights"
    return f"{weights} of step {meta.get('step', '?')} on {name}"


def _logged(run: RunFiles) -> list[object]:
    """The last numbers that training logged, without intervals."""
    names = [name for name in run.log.names() if name.startswith("eval/")]
    lines = [
        [
            re.sub("[/_]", " ", name.removeprefix("eval/")),
            f"{run.series(name)[0][-1]:,}",
            f"{run.last(name):.4g}",
        ]
        for name in names
    ]
    gap = Text("No evaluation is on disk, so there are no intervals.", "gap")
    if not lines:
        return [gap]
    title = "As logged while training"
    return [gap, Table(["metric", "step", "value"], lines, title)]


def example_section(run: RunFiles, sources: Sources, pictures: Pictures) -> Section:
    """Hits, misses and the hardest examples, and classes, of the first evaluation."""
    blocks: list[object] = []
    for evaluation in run.evaluations[:1]:
        for label in evaluation.results:
            try:
                rows = evaluation.rows(label)
            except UserError as error:
                blocks.append(Text(str(error), "gap"))
                continue
            examples = sources.of_evaluator(evaluation, label)
            try:
                blocks += _examples(rows, examples, pictures)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                why = f"{type(error).__name__}: {error}"
                blocks.append(
                    Text(f"The rows of {label} cannot be shown ({why}).", "gap")
                )
            if examples is not None and examples.gap:
                blocks.append(Text(examples.gap, "gap"))
    if not blocks:
        blocks.append(
            Text("Without an evaluation's rows there are no examples to show.", "gap")
        )
    return Section("Examples", blocks)


def _examples(rows, examples, pictures: Pictures) -> list[object]:
    if retrieval_cards.is_retrieval(rows):
        return list(retrieval_cards.galleries(rows, examples, pictures, CARDS))
    blocks: list[object] = []
    for label_set in class_recalls.label_sets(rows)[:SETS]:
        both = class_cards.tables(rows, label_set)
        inner: list[object] = [Columns([[one] for one in both])]
        gallery = class_cards.mistakes(rows, label_set, examples, pictures, CARDS)
        inner += [gallery] if gallery else []
        blocks.append(Fold(f"Classes: {label_set}", inner))
    return blocks
