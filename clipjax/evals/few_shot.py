"""`evals=few_shot`: classifies images after a few training images of each class.

For each number of shots and each of several random draws, two classifiers are fitted
to features of unit norm: logistic regression of one fixed penalty, and the class whose
mean is nearest by cosine (prototypical networks, arXiv 1703.05175).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from clipjax import option_checks
from clipjax.encoder import part_of
from clipjax.evals.common import draws, labelled, logistic, protocol
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.intervals import over_draws
from clipjax.evals.common.labelled import Labelled
from clipjax.evals.common.neighbours import unit
from clipjax.evals.common.ranking import rank_scores
from clipjax.types import EvalResult, Metric, UserError, Variables

METHODS = ("top1", "class_mean_top1")  # of logistic regression, and of nearest means


def make(
    inputs: Inputs,
    *,
    train_split: str = "train",
    shots: tuple[int, ...] = (1, 2, 4, 8, 16),
    seeds: int = 5,
    l2: float = 0.1,
    label_sets: tuple[str, ...] = (),
    features: str = "auto",
    max_samples: int = 0,
    max_train_samples: int = 0,
) -> FewShot:
    """Few-shot classification on each of the source's label sets.

    Args:
      train_split: the split of the source whose images are drawn.
      shots: numbers of training images per class. A class with fewer gives all it has,
        and the result counts such classes.
      seeds: how many draws, by the seeds 0, 1, ...; a draw of more shots holds that of
        fewer.
      l2: the penalty, 1 / C of scikit-learn's LogisticRegression, for features of unit
        norm. It is fixed, as a few images cannot choose it.
      label_sets: names of label sets; empty: all of the source's.
      features: "pooled": what the image tower gives before its projection; "embed": the
        embeddings; "auto": pooled ones if the model and stored embeddings have them.
      max_samples: the most images, evenly spread over the source; 0: all.
      max_train_samples: the most training images, evenly spread; 0: all.

    Raises:
      UserError: as labelled.open_splits, and if `shots`, `seeds` or `l2` is out of
        range.
    """
    if not shots or min(shots) < 1 or seeds < 1:
        raise UserError(
            f"evals=few_shot: shots={shots}, seeds={seeds}: use numbers from 1 on"
        )
    option_checks.above_zero("evals=few_shot: l2", l2)
    splits = labelled.open_splits(
        "few_shot",
        inputs,
        train_split=train_split,
        label_sets=label_sets,
        features=features,
        max_samples=max_samples,
        max_train_samples=max_train_samples,
    )
    return FewShot(splits, tuple(sorted(set(shots))), seeds, l2)


@dataclasses.dataclass(frozen=True)
class FewShot:
    """The evaluator; see the module and `make`.

    What the numbers do not mean. One draw of one image per class may be points above or
    below another, so single draws are not comparable; the interval is over draws and
    evaluated images. The penalty is not tuned, so a number is no upper limit.
    """

    splits: labelled.Splits
    shots: tuple[int, ...]
    seeds: int
    l2: float

    def cost(self) -> str:
        """See types.Evaluator."""
        fits = self.seeds * len(self.shots) * len(self.splits.places)
        return (
            f"{self.splits.cost}, and fits {fits} classifiers to up to "
            f"{self.shots[-1]} of them per class"
        )

    def metric_units(self) -> dict[str, str]:
        """See types.Evaluator."""
        return {
            _name(label_set, shots, method): "fraction"
            for label_set in self.splits.places
            for shots in self.shots
            for method in METHODS
        }

    def run(
        self, variables: Variables, progress: Callable[[int, int], None] | None = None
    ) -> EvalResult:
        """Metrics "<set>/shots_<n>/top1" of logistic regression and
        "<set>/shots_<n>/class_mean_top1" of the nearest class mean, over all draws.

        Rows have one image each: `key`, and for every metric a column of its name with
        the share of draws that got the image right, NaN without a label in the set.
        Ties count as their expected value.

        Raises UserError as labelled.Splits.read.
        """
        done = self.splits.count
        total = done + self.seeds * len(self.splits.places)
        reading = self.splits.read(variables, part_of(progress, 0, total))
        metrics: dict[str, Metric] = {}
        places = np.unique(np.concatenate([x.places for x in reading.label_sets]))
        keys: dict[int, str] = {}
        columns: dict[str, np.ndarray] = {}
        sizes = []
        for data in reading.label_sets:
            keys.update(zip(data.places.tolist(), data.keys, strict=True))
            hits: dict[str, list[np.ndarray]] = {}
            test = unit(data.test)
            for seed in range(self.seeds):
                for name, own in self._draw(data, test, seed).items():
                    hits.setdefault(name, []).append(own)
                done += 1
                if progress is not None:
                    progress(done, total)
            for name, found in hits.items():
                every = np.stack(found)
                metrics[name] = over_draws(every, 1 / len(data.classes))
                columns[name] = np.full(len(places), np.nan)
                at = np.searchsorted(places, data.places)
                columns[name][at] = every.mean(axis=0)
            sizes.append(data.size + self._few(data))
        return EvalResult(
            metrics,
            _name(reading.label_sets[0].name, self.shots[-1], METHODS[0]),
            "; ".join([*sizes, f"{self.seeds} draws", *reading.notes]),
            reading.broken,
            {"key": [keys[place] for place in places.tolist()], **columns},
            protocol.joined(
                f"{', '.join(map(str, self.shots))} shots, {self.seeds} draws, unit "
                f"norm, L2 {self.l2:g}",
                self.splits.protocol,
            ),
        )

    def _draw(
        self, data: Labelled, test: np.ndarray, seed: int
    ) -> dict[str, np.ndarray]:
        """One draw's metrics by name: float [n], each image's probability to hit.

        test: data.test, of unit norm.
        """
        order = draws.shots(data.train_labels, seed)
        drawn = order < self.shots[-1]
        order, labels = order[drawn], data.train_labels[drawn]
        train, count = unit(data.train[drawn]), len(data.classes)
        problem = logistic.Problem(train, labels, count)
        scaled = problem.scaled(test)
        found = {}
        for shots in self.shots:
            own = order < shots
            sums = np.zeros((count, train.shape[1]), np.float64)
            np.add.at(sums, labels[own], train[own])
            scores = (
                problem.fit(self.l2, own).logits(scaled),
                test @ unit(sums).T,
            )
            for method, score in zip(METHODS, scores, strict=True):
                ranks = rank_scores(score, data.test_labels)
                found[_name(data.name, shots, method)] = ranks.hits(1)
        return found

    def _few(self, data: Labelled) -> str:
        """Classes that have fewer images than shots, as a part of the size."""
        counts = np.bincount(data.train_labels)
        few = {shots: int((counts < shots).sum()) for shots in self.shots}
        told = [f"{count} for {shots}" for shots, count in few.items() if count]
        return f", classes with fewer images than shots: {', '.join(told)}" * bool(told)


def _name(label_set: str, shots: int, method: str) -> str:
    return f"{label_set}/shots_{shots}/{method}"
