"""`evals=classification`: top-k accuracy of a classifier on labelled images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from clipjax.encoder import Encoder
from clipjax.evals import accuracy
from clipjax.evals.ranking import finite, rank, spread
from clipjax.types import BadExample, EvalResult, Example, Source, UserError, Variables

OUTPUT = "logits"  # what it needs of the model


def make(
    encoder: Encoder,
    source: Source,
    *,
    ks: tuple[int, ...] = (1, 5),
    max_samples: int = 0,
) -> Classification:
    """Accuracy over the images of the source.

    Classes are matched by name: those of the source must be among the model's, in
    whatever order.

    Args:
      ks: of the top-k accuracies; 1 is always among them, and one that is not below
        the number of classes is left out, since it would always hit.
      max_samples: images at most, evenly spread over the source; 0: all.

    Raises:
      UserError: for an option out of range, or a source without such labels.
    """
    if not ks or min(ks) < 1 or max_samples < 0:
        raise UserError(
            f"evals=classification: ks={ks}, max_samples={max_samples}: use ks from 1 "
            "on, max_samples from 0 on"
        )
    known = encoder.class_names
    fitting = [
        label_set
        for label_set, names in source.class_names.items()
        if set(names) <= set(known)
    ]
    if len(fitting) != 1:
        there = "; ".join(
            f"{label_set}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            for label_set, names in source.class_names.items()
        )
        raise UserError(
            f"evals=classification: the model tells {', '.join(known[:5])}"
            f"{', ...' if len(known) > 5 else ''} apart, and the evaluation data have "
            f"{there or 'no labels'}: choose data with labels that it knows"
        )
    names = source.class_names[fitting[0]]
    places = tuple(known.index(name) for name in names)
    indices = spread(len(source), max_samples).tolist()
    ks = tuple(sorted({1, *ks}))
    return Classification(encoder, source, fitting[0], places, ks, indices)


@dataclasses.dataclass(frozen=True)
class Classification:
    """The evaluator; see `make`. places: the model's number of each class of the data.

    What the numbers do not mean. Top-1 rewards the frequent classes where the set is
    not balanced; compare it with majority_share, and see mean_class_recall. The model
    always names one of its classes, so a high number does not say that it knows when
    none of them fits.
    """

    encoder: Encoder
    source: Source
    label_set: str
    places: tuple[int, ...]
    ks: tuple[int, ...]
    indices: list[int]

    def run(
        self, variables: Variables, progress: Callable[[int, int], None] | None = None
    ) -> EvalResult:
        """Metrics "top<k>", "mean_class_recall" and "majority_share".

        Ties count in expectation; see clipjax/evals/ranking.py.

        Raises UserError where no labelled image can be read.
        """
        found = self.encoder.images(
            variables, self.source, self.indices, keep=self._label, progress=progress
        )
        labels = np.array([-1 if kept is None else kept for kept in found.kept])
        counted = labels >= 0
        if not counted.any():
            why = f": {found.broken[0][1]}" if found.broken else ""
            raise UserError(
                f"evals=classification: no labelled image can be read{why}; mend the "
                "evaluation data"
            )
        labels, logits = labels[counted], found.embed[counted]
        classes = np.eye(logits.shape[1], dtype=np.float32)
        ranks = rank(logits, classes, labels[:, None])
        metrics, chances = accuracy.of(ranks, labels, len(classes), self.ks, "")
        words = f"{len(labels)} images, {len(classes)} classes"
        wrong = int((~finite(logits)).sum())
        if wrong:
            words += f"; {wrong} outputs not finite and counted as wrong"
        return EvalResult(metrics, chances, "top1", words, len(found.broken))

    def _label(self, example: Example) -> int:
        label = int(example.labels.get(self.label_set, -1))
        if label >= len(self.places):
            raise BadExample(f"its label {label} is no class of {self.label_set!r}")
        return self.places[label] if label >= 0 else -1
