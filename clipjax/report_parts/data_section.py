"""What a run was trained and evaluated on: facts of the data, and a sample."""

from __future__ import annotations

import collections
import re
from typing import Any

import numpy as np

from clipjax.data.images import decoding
from clipjax.report_parts.example_source import Sources, sampled, spread
from clipjax.report_parts.page import Card, Columns, Gallery, Section, Table, Text
from clipjax.report_parts.run_files import RunFiles
from clipjax.report_parts.thumbnails import Pictures
from clipjax.types import BadExample, Example, Source

READ = 2000  # examples whose captions are read
SIZED = 24  # images whose sizes are read
CARDS = 6
WORDS = 12  # most frequent ones


def data_section(run: RunFiles, sources: Sources, pictures: Pictures) -> Section:
    """The section of the training and the evaluation data."""
    columns, cards, gaps = [], [], []
    for part, words in (("train", "Training data"), ("eval", "Evaluation data")):
        examples = sources.of_run(run, part)
        if examples is None:
            continue
        recorded = run.data.get(f"data.{part}", {})
        source = examples.source()
        if source is None:
            pairs = [("source", examples.name), *_recorded(recorded)]
            gaps.append(Text(examples.gap, "gap"))
        else:
            some = sampled(source, SIZED)
            pairs = [("source", examples.name), *_facts(source, some)]
            if part == "train":
                # Far ones first, so that the cards are of all of the source.
                far = [one for first in range(4) for one in some[first::4]]
                cards = [
                    Card(examples.keep(pictures, one), list(one.captions[:3]))
                    for one in far[:CARDS]
                ]
        lines = [list(pair) for pair in pairs]
        columns.append([Table(["", ""], lines, words, texts=2)])
    blocks: list[object] = [*gaps]
    if columns:
        blocks.append(Columns(columns))
    if cards:
        blocks.append(Gallery(cards, "A sample of the training data"))
    if not blocks:
        blocks.append(Text("Which data it has is not known.", "gap"))
    return Section("Data", blocks)


def _recorded(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What the run noted of data that are gone."""
    return [
        (name, f"{found[name]:,}")
        for name in ("examples", "captions")
        if isinstance(found.get(name), int)
    ]


def _facts(source: Source, some: list[Example]) -> list[tuple[str, str]]:
    counts = np.asarray(source.caption_counts)
    total = int(counts.sum())
    pairs = [("examples", f"{len(source):,}")]
    if total:
        each = f"{total / len(source):.3g} per image"
        pairs.append(("captions", f"{total:,}, {each}"))
        pairs += _words(source)
    sizes = []
    for example in some:
        try:
            sizes.append(decoding.size(example.image))
        except BadExample:
            continue
    if sizes:
        wide, high = np.array(sizes).T
        text = f"{_range(wide)} x {_range(high)} pixels"
        pairs.append((f"image sizes, of {len(sizes)}", text))
    for name, classes in list(source.class_names.items())[:4]:
        pairs.append((f"classes of {name}", f"{len(classes):,}"))
    if problems := getattr(source, "problems", None):
        pairs.append(("left out or not used", f"{len(problems):,}"))
    return pairs


def _words(source: Source) -> list[tuple[str, str]]:
    """Lengths and words of captions."""
    captions_of = getattr(source, "captions_of", None)
    if captions_of is None:
        return []
    texts: list[str] = []
    for index in spread(len(source), READ):
        try:
            texts += captions_of(index)
        except (BadExample, OSError):
            continue
    if not texts:
        return []
    words = [re.findall(r"\w+", text.lower()) for text in texts]
    lengths = np.array([len(one) for one in words])
    seen = collections.Counter(word for one in words for word in one)
    common = ", ".join(word for word, _ in seen.most_common(WORDS))
    of = f", of {len(texts):,}"
    return [
        (f"words per caption{of}", f"{lengths.mean():.1f}, at most {lengths.max()}"),
        (f"distinct words{of}", f"{len(seen):,}"),
        ("most frequent", common),
    ]


def _range(values: np.ndarray) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} - {high}"
