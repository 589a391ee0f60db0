"""Training and evaluation images with labels: the data of probes and neighbours.

The training images are another split of the evaluator's source. Evaluators of one
source share both splits, so each image is read and encoded once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipjax import option_checks, registry
from clipjax.data import class_lists
from clipjax.encoder import Progress, part_of
from clipjax.evals.common import protocol
from clipjax.evals.common.inputs import Inputs, Seen
from clipjax.evals.common.ranking import finite, spread
from clipjax.types import UserError, Variables

FEATURES = ("auto", "pooled", "embed")


class Labelled(NamedTuple):
    """One label set's images, as features.

    name: of the label set. classes: names of those with training images.
    train, train_labels: float32 [n d], finite, and int [n], places in `classes`.
    test, test_labels, keys: float32 [m d], int [m] and the keys of the evaluated ones.
    places: int [m], theirs among the images that `Splits.read` has read.
    """

    name: str
    classes: tuple[str, ...]
    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    keys: list[str]
    places: np.ndarray

    @property
    def size(self) -> str:
        """What was evaluated, as a part of EvalResult.size."""
        return (
            f"{self.name}: {len(self.test):,} images, {len(self.classes):,} classes, "
            f"{len(self.train):,} training images x {self.train.shape[1]:,} features"
        )


class Reading(NamedTuple):
    """What reading the two splits gave.

    broken: how many evaluation images could not be used. notes: what else to say of the
    images, as a part of EvalResult.size.
    """

    label_sets: list[Labelled]
    broken: int
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class Splits:
    """The two splits of a source; see `open_splits`.

    evals: the evaluator's name, for messages. pooled: whether features are the tower's
    before projection. places: by label set, per class of the evaluation data, its
    number in the training data. protocol: see EvalResult, without the evaluator's own
    words.
    """

    evals: str
    inputs: Inputs
    train: Inputs
    train_split: str
    pooled: bool
    indices: list[int]
    train_indices: list[int]
    places: dict[str, tuple[int, ...]]
    protocol: str

    @property
    def cost(self) -> str:
        """What reading costs beside encoding the evaluation data."""
        count = len(self.train_indices)
        return f"needs {count:,} images of {self.train_split!r}, encoded once for all"

    @property
    def count(self) -> int:
        """How many images `read` encodes."""
        return len(self.indices) + len(self.train_indices)

    def read(self, variables: Variables, progress: Progress | None = None) -> Reading:
        """Reads and encodes the images that are not cached.

        Raises UserError if a label set has no readable image in either split, a class
        has evaluation images but no training image, a training image's features are
        not finite, or all evaluation images are training images.
        """
        total = self.count
        seen = self.inputs.images(
            variables, self.indices, progress=part_of(progress, 0, total)
        )
        seen = self._without_unknown(seen, self.inputs)
        train = self.train.images(
            variables,
            self.train_indices,
            progress=part_of(progress, len(self.indices), total),
        )
        train = self._without_unknown(train, self.train)
        notes = []
        if train.broken:
            notes.append(f"{len(train.broken):,} training images left out as broken")
        if shared := self._shared(seen, train):
            notes.append(f"{shared:,} images are training images too")
        wrong = int((~finite(self._features(seen))).sum())
        if wrong:
            notes.append(f"{wrong:,} images' features not finite and counted as wrong")
        found = [self._label_set(name, seen, train) for name in self.places]
        return Reading(found, len(seen.broken), notes)

    def _label_set(self, name: str, seen: Seen, train: Seen) -> Labelled:
        chosen, own = self._labels(train, name, self.train_split)
        counts = np.bincount(own, minlength=len(self.train.source.class_names[name]))
        kept, labels = self._labels(seen, name, "evaluation")
        numbers = np.array(self.places[name])[labels]
        names = list(self.train.source.class_names[name])
        if missing := np.setdiff1d(numbers, np.flatnonzero(counts)).tolist():
            more = f", and {len(missing) - 1} more classes" if missing[1:] else ""
            raise UserError(
                f"evals={self.evals}: the class {names[missing[0]]!r} of {name!r}"
                f"{more} has evaluation images but no training image in the split "
                f"{self.train_split!r}: add some, or leave it out of both"
            )
        if np.count_nonzero(counts) < 2:
            raise UserError(
                f"evals={self.evals}: the training images of {name!r} have fewer than "
                "two classes: give more, or leave it out of label_sets"
            )
        features = self._features(train)[chosen]
        bad = np.flatnonzero(~finite(features))
        if len(bad):
            key = train.keys[int(chosen[bad[0]])]
            raise UserError(
                f"evals={self.evals}: {len(bad):,} of {len(features):,} training "
                f"images have features that are not finite, such as {key}: the model's "
                "weights or precision are at fault"
            )
        number = np.cumsum(counts > 0) - 1
        return Labelled(
            name,
            tuple(names[i] for i in np.flatnonzero(counts).tolist()),
            features,
            number[own],
            self._features(seen)[kept],
            number[numbers],
            [seen.keys[i] for i in kept],
            kept,
        )

    def _labels(
        self, seen: Seen, name: str, split: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """The places of the images that have a label in a set, and the labels."""
        kept, labels = seen.labelled(name)
        if not len(kept):
            why = f" ({seen.first_reason})" if seen.first_reason else ""
            raise UserError(
                f"evals={self.evals}: no {split} image with a label in {name!r} can be "
                f"read{why}: mend the data or leave it out of label_sets"
            )
        return kept, labels

    def _features(self, seen: Seen) -> np.ndarray:
        if not self.pooled:
            return seen.embed
        assert seen.pooled is not None  # open_splits asked for them
        return seen.pooled

    def _without_unknown(self, seen: Seen, inputs: Inputs) -> Seen:
        """Without images whose label is no class of the source."""
        counts = {name: len(inputs.source.class_names[name]) for name in self.places}

        def problem(place: int) -> str:
            for name, count in counts.items():
                label = seen.labels[place].get(name, -1)
                if label >= count:
                    return f"its label {label} is no class of {name!r}"
            return ""

        return seen.without(problem)

    def _shared(self, seen: Seen, train: Seen) -> int:
        """How many evaluation images have the key and the features of a training image.

        Raises UserError if all have.
        """
        rows = self._features(train)
        known = {
            key: rows[i] for i, key in enumerate(train.keys) if train.valid[i] and key
        }
        own = self._features(seen)
        same = [
            np.allclose(known[key], own[i], rtol=1e-3, atol=1e-3)
            for i, key in enumerate(seen.keys)
            if seen.valid[i] and key in known
        ]
        if same and all(same) and len(same) == int(seen.valid.sum()):
            raise UserError(
                f"evals={self.evals}: train_split={self.train_split!r} holds the "
                "evaluation images themselves: name a split of other images"
            )
        return sum(same)


def open_splits(
    evals: str,
    inputs: Inputs,
    *,
    train_split: str,
    label_sets: Sequence[str],
    features: str,
    max_samples: int,
    max_train_samples: int,
) -> Splits:
    """Opens the training images of an evaluator, and matches the classes by name.

    Args: as the options of `evals=knn`.

    Raises UserError if an option is out of range, the source has no labels or no such
    split, or the two splits' classes cannot be matched.
    """
    if max_samples < 0 or max_train_samples < 0:
        raise UserError(
            f"evals={evals}: max_samples={max_samples}, max_train_samples="
            f"{max_train_samples}: use numbers from 0 on"
        )
    option_checks.one_of(f"evals={evals}: features", features, FEATURES)
    source = inputs.source
    known = list(source.class_names)
    if not known:
        raise UserError(
            f"evals={evals} needs images with class labels, and the data has none; "
            f"choose other evaluation data ({evals}@imagefolder)"
        )
    for name in label_sets:
        if name not in known:
            raise UserError(
                f"evals={evals}: the data has no label set {name!r}."
                f"{registry.suggest(name, known)} Known: {', '.join(known)}"
            )
    try:
        train = inputs.of_split(train_split)
    except UserError as error:
        raise UserError(
            f"evals={evals}: train_split={train_split!r}: {error}"
        ) from error
    names = tuple(label_sets) or tuple(known)
    places = {name: _places(evals, name, inputs, train, train_split) for name in names}
    pooled = features != "embed"
    if features == "auto":
        pooled = inputs.has_pooled("image") and train.has_pooled("image")
    if pooled:
        inputs.need_pooled("image")
        train.need_pooled("image")
    train_indices = spread(len(train.source), max_train_samples).tolist()
    made_of = protocol.joined(
        *(protocol.of_classes(name, train.source.class_names[name]) for name in names),
        f"{len(train_indices)} training images of {train_split}",
        "features before the projection" if pooled else "embeddings",
        protocol.of_sample(max_samples),
    )
    return Splits(
        evals,
        inputs,
        train,
        train_split,
        pooled,
        spread(len(source), max_samples).tolist(),
        train_indices,
        places,
        made_of,
    )


def _places(
    evals: str, name: str, inputs: Inputs, train: Inputs, split: str
) -> tuple[int, ...]:
    """Per class of a label set of the evaluation data, its training class's number."""
    if name not in train.source.class_names:
        has = ", ".join(train.source.class_names) or "no labels"
        raise UserError(
            f"evals={evals}: the split {split!r} has no label set {name!r}, only {has}"
        )
    known = class_lists.classes_of(train.source, name)
    if len(known.names) < 2:
        raise UserError(
            f"evals={evals}: label set {name!r} has fewer than two classes: give data "
            "with more, or leave it out of label_sets"
        )
    given = class_lists.classes_of(inputs.source, name)
    missing = [one for one in given.names if one not in known.names]
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise UserError(
            f"evals={evals}: the evaluation data have the class {missing[0]!r}{more} "
            f"of {name!r}, and the split {split!r} does not: give both the same classes"
        )
    try:
        return class_lists.places(known, given)[0]
    except UserError as error:
        raise UserError(f"evals={evals}: split {split!r}: {error}") from error
