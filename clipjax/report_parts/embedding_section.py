"""What the model makes of a few examples: similarities, and maps of embeddings."""

from __future__ import annotations

import numpy as np

from clipjax.report_parts import curves, drawings, encoded_sample, plane
from clipjax.report_parts.encoded_sample import Sample
from clipjax.report_parts.example_source import Sources, spread
from clipjax.report_parts.page import Charts, Columns, Section, Steps, Text
from clipjax.report_parts.run_files import RunFiles
from clipjax.report_parts.thumbnails import Pictures
from clipjax.types import UserError

PAIRS = 16  # of the matrix
SHOWN = 90  # pictures on the map
CLASSES = 12  # that colours can tell apart


def embedding_section(run: RunFiles, sources: Sources, pictures: Pictures) -> Section:
    """The section, or why there is none."""
    title = "Embeddings"
    evaluation = run.evaluations[0] if run.evaluations else None
    examples = sources.of(evaluation.meta.get("data")) if evaluation else None
    examples = examples or sources.of_run(run, "eval") or sources.of_run(run, "train")
    if examples is None or not run.saves:
        why = "Without a checkpoint and the names of its data there is nothing to show."
        return Section(title, [Text(why, "gap")])
    try:
        sample = encoded_sample.encode(run, examples, pictures)
    except UserError as error:
        return Section(title, [Text(f"The model cannot be used: {error}", "gap")])
    if sample is None:
        why = examples.gap or (
            "This model has no embeddings of images and captions, or the data have "
            "less than three captions."
        )
        return Section(title, [Text(why, "gap")])
    count = len(sample.keys)
    lead = (
        f"{count} examples of {examples.name}, encoded by the checkpoint of step "
        f"{sample.step:,}, each with its first caption."
    )
    return Section(title, [Text(lead), *_matrix(sample), *_maps(sample)])


def _matrix(sample: Sample) -> list[object]:
    chosen = list(spread(len(sample.keys), PAIRS))
    values = sample.images[chosen] @ sample.texts[chosen].T
    whole = sample.images @ sample.texts.T
    own = whole.diagonal()
    others = whole[~np.eye(len(whole), dtype=bool)]
    words = (
        f"Cosine similarity of {len(chosen)} images (rows) and captions (columns); "
        f"pairs are outlined. Over all {len(whole)} examples: {own.mean():.2f} of "
        f"pairs, {others.mean():.2f} of others."
    )
    drawing = drawings.matrix(values, [sample.pictures[at] for at in chosen], words)
    captions = Steps("Captions of the columns", [sample.captions[at] for at in chosen])
    return [Columns([[drawing], [captions]])]


def _maps(sample: Sample) -> list[object]:
    both = np.concatenate([sample.images, sample.texts])
    points, shares = plane.pca(both)
    count = len(sample.images)
    charts = [
        curves.scatter(
            "Images and captions by PCA",
            [("images", points[:count]), ("captions", points[count:])],
            _axes(shares),
        )
    ]
    own, own_shares = plane.pca(sample.images)
    for name, labels in _colourable(sample)[:2]:
        groups = [
            (sample.names[name][label], own[labels == label])
            for label in np.unique(labels[labels >= 0]).tolist()
        ]
        charts.append(curves.scatter(f"Images by {name}", groups, _axes(own_shares)))
    near = plane.tsne(sample.images)
    how = "t-SNE" if near is not None else "PCA"
    chosen = list(spread(count, SHOWN))
    drawing = drawings.picture_map(
        (own if near is None else near)[chosen],
        [sample.pictures[at] for at in chosen],
        f"{len(chosen)} images by {how}: what the model sees as alike lies together.",
    )
    return [Charts(charts), drawing]


def _axes(shares: np.ndarray) -> tuple[str, str]:
    """The labels of two components that have these shares of the variance."""
    first, second = (
        f"component {number} ({100 * share:.0f} %)"
        for number, share in enumerate(shares, 1)
    )
    return first, second


def _colourable(sample: Sample) -> list[tuple[str, np.ndarray]]:
    """Label sets that most examples have and colours can show."""
    return [
        (name, labels)
        for name, labels in sample.labels.items()
        if (labels >= 0).mean() > 0.5
        and 2 <= len(np.unique(labels[labels >= 0])) <= CLASSES
    ]
