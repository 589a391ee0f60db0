"""`evals=classification`: top-k accuracy of a classifier on labelled images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from clipjax.data import class_lists
from clipjax.encoder import Progress
from clipjax.evals.common import accuracy, protocol, result_rows
from clipjax.evals.common.classified import Classified, Reading
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.ranking import NEAREST, spread
from clipjax.types import EvalResult, UserError, Variables

OUTPUT = "logits"  # the model's output that it needs


def make(
    inputs: Inputs,
    *,
    ks: tuple[int, ...] = (1, 5),
    max_samples: int = 0,
    same_name: str = "apart",
) -> Classification:
    """Accuracy over the source's images.

    Classes are matched by name: the source's must be among the model's, in any order.
    `class_lists.places` matches classes of one name by their folders or by position.

    Args:
      ks: the k of the top-k accuracies; 1 is always added. A k that is not below the
        number of classes is left out because it would always hit.
      max_samples: the most images, evenly spread over the source; 0: all.
      same_name: "apart": classes of one name are different classes; "merge": they are
        one class, whose logit is the largest of theirs; "error": they are refused.

    Raises:
      UserError: if an option is out of range, the source has no such labels, or several
        classes have one name and nothing says which is meant.
    """
    if not ks or min(ks) < 1 or max_samples < 0:
        raise UserError(
            f"evals=classification: ks={ks}, max_samples={max_samples}: use ks from 1 "
            "on, max_samples from 0 on"
        )
    class_lists.check_same_name("classification", same_name)
    source, classes = inputs.source, inputs.encoder.classes
    known = classes.names
    fitting = [
        label_set
        for label_set, names in source.class_names.items()
        if set(names) <= set(known)
    ]
    if len(fitting) != 1:
        label_sets = "; ".join(
            f"{label_set}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            for label_set, names in source.class_names.items()
        )
        raise UserError(
            f"evals=classification: the model tells {', '.join(known[:5])}"
            f"{', ...' if len(known) > 5 else ''} apart, and the evaluation data have "
            f"{label_sets or 'no labels'}: choose data with labels that it knows"
        )
    source_classes = class_lists.classes_of(source, fitting[0])
    if same_name == "error":
        class_lists.refuse_same_names("classification", known)
    if same_name == "merge":
        merged, groups = class_lists.merge_same_names(known)
        places = tuple(merged.names.index(name) for name in source_classes.names)
        counted = merged.names
        how = "merged"
    else:
        groups, counted = tuple(range(len(known))), tuple(known)
        try:
            places, how = class_lists.places(classes, source_classes)
        except UserError as error:
            raise UserError(
                f"evals=classification: {error}; give data with the training data's "
                f"list of classes, tell them apart by class_names_file, or count them "
                f"as one by same_name=merge"
            ) from error
    matching = ""
    if how and (shared := class_lists.shared_names(source_classes.names or known)):
        matching = f"; {class_lists.shared_words(shared)}, {how}"
    indices = spread(len(source), max_samples).tolist()
    ks = tuple(sorted({1, *ks}))
    shared = class_lists.shared_names(known)
    how_made = protocol.joined(
        protocol.of_classes(fitting[0], counted, same_name=same_name if shared else ""),
        protocol.of_sample(max_samples),
    )
    return Classification(
        inputs, fitting[0], places, groups, counted, ks, indices, matching, how_made
    )


@dataclasses.dataclass(frozen=True)
class Classification:
    """The evaluator; see `make`.

    groups: per class of the model, the class that it counts as; names: theirs.
    places: per class of the data, which of these it is. matching: how classes of one
    name are matched, for `size`. protocol: see EvalResult.

    What the numbers do not mean. Top-1 rewards frequent classes if the set is not
    balanced: compare it with majority_share, and see mean_class_recall. The model
    always names one of its classes, so a high number does not say that it knows when
    none of them fits.
    """

    inputs: Inputs
    label_set: str
    places: tuple[int, ...]
    groups: tuple[int, ...]
    names: tuple[str, ...]
    ks: tuple[int, ...]
    indices: list[int]
    matching: str
    protocol: str

    def run(
        self, variables: Variables, progress: Callable[[int, int], None] | None = None
    ) -> EvalResult:
        """Metrics "top<k>", "mean_class_recall" and "majority_share"; rows as
        result_rows.by_class, one per image.

        Ties count in expectation; see clipjax/evals/common/ranking.py.

        Raises UserError if no labelled image can be read.
        """
        reading = self.read(variables, progress)
        (data,) = reading.sets
        ranks = data.ranks(NEAREST)
        metrics = accuracy.of(ranks, data.labels, len(data.names), self.ks, "")
        size = data.size
        wrong = int((~data.finite()).sum())
        if wrong:
            size += f"; {wrong} outputs not finite and counted as wrong"
        rows = result_rows.by_class(
            data.keys, data.names, data.labels, ranks, self.label_set
        )
        broken = len(reading.seen.broken)
        return EvalResult(metrics, "top1", size, broken, rows, self.protocol)

    def read(self, variables: Variables, progress: Progress | None = None) -> Reading:
        """The images and their logits, of the one label set.

        Raises UserError if no labelled image can be read.
        """
        seen = self.inputs.images(variables, self.indices, progress=progress)
        seen = seen.without(
            lambda place: self._problem(seen.labels[place].get(self.label_set, -1))
        )
        kept, labels = seen.labelled(self.label_set)
        if not len(kept):
            why = f": {seen.first_reason}" if seen.first_reason else ""
            raise UserError(
                f"evals=classification: no labelled image can be read{why}; mend the "
                "evaluation data"
            )
        numbers = np.array(self.places)[labels]
        logits = self._grouped(seen.embed)
        data = Classified(
            self.label_set, self.names, seen, kept, numbers, logits, None, self.matching
        )
        return Reading(seen, [data])

    def metric_units(self) -> dict[str, str]:
        """See types.Evaluator."""
        return accuracy.units(len(set(self.groups)), self.ks, "")

    def _grouped(self, logits: np.ndarray) -> np.ndarray:
        """[n classes] -> [n groups], each group's largest logit."""
        if len(set(self.groups)) == len(self.groups):
            return logits
        largest = np.full((len(logits), max(self.groups) + 1), -np.inf, logits.dtype)
        for old, new in enumerate(self.groups):
            largest[:, new] = np.maximum(largest[:, new], logits[:, old])
        return largest

    def _problem(self, label: int) -> str:
        if label < len(self.places):
            return ""
        return f"its label {label} is no class of {self.label_set!r}"
