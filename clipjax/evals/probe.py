"""`evals=probe`: a linear classifier fitted to the features of training images.

Logistic regression on all training images at once, as in CLIP's paper (arXiv
2103.00020, section 3.2 and A.3): features as the image tower gives them, L-BFGS of at
most 1,000 iterations, and the L2 penalty that is best on images held out from training.
The probe of that penalty is fitted again to all training images.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from clipjax.encoder import Progress, part_of
from clipjax.evals.common import draws, labelled, logistic, protocol
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.label_results import LabelResults, metric_units
from clipjax.evals.common.labelled import Labelled
from clipjax.types import EvalResult, UserError, Variables


def make(
    inputs: Inputs,
    *,
    train_split: str = "train",
    l2: float = 0.0,
    val_share: float = 0.2,
    seed: int = 0,
    label_sets: tuple[str, ...] = (),
    features: str = "auto",
    ks: tuple[int, ...] = (1, 5),
    max_samples: int = 0,
    max_train_samples: int = 0,
) -> Probe:
    """A linear probe on each of the source's label sets.

    Args:
      train_split: the split of the source that the probe is fitted to.
      l2: the penalty, 1 / C of scikit-learn's LogisticRegression; 0: the best of 97
        values from 1e-6 to 1e6 on the images that are held out.
      val_share: of each class, the share of its training images that is held out.
      seed: chooses these images.
      label_sets: names of label sets; empty: all of the source's.
      features: "pooled": what the image tower gives before its projection; "embed": the
        embeddings; "auto": pooled ones if the model and stored embeddings have them.
      ks: the k of the top-k accuracies; 1 is always added. A k that is not below the
        number of classes is left out because it would always hit.
      max_samples: the most images, evenly spread over the source; 0: all.
      max_train_samples: the most training images, evenly spread; 0: all.

    Raises:
      UserError: as labelled.open_splits, and if `l2`, `val_share`, `seed` or `ks` is
        out of range.
    """
    if not ks or min(ks) < 1:
        raise UserError(f"evals=probe: ks={ks}: use numbers from 1 on")
    if not 0 <= l2 < math.inf:
        raise UserError(f"evals=probe: l2={l2}: must be 0 or more")
    if not 0 < val_share < 1 or seed < 0:
        raise UserError(
            f"evals=probe: val_share={val_share}, seed={seed}: use a share between 0 "
            "and 1, and a seed from 0 on"
        )
    splits = labelled.open_splits(
        "probe",
        inputs,
        train_split=train_split,
        label_sets=label_sets,
        features=features,
        max_samples=max_samples,
        max_train_samples=max_train_samples,
    )
    return Probe(splits, l2, val_share, seed, tuple(sorted({1, *ks})))


@dataclasses.dataclass(frozen=True)
class Probe:
    """The evaluator; see the module and `make`.

    What the numbers do not mean. The probe sees labels of this data set, so they tell
    what the features hold, not what the model answers by itself. They depend on the
    number of training images and on the width of the features. The interval is over
    evaluation images, not over training sets.
    """

    splits: labelled.Splits
    l2: float
    val_share: float
    seed: int
    ks: tuple[int, ...]

    @property
    def _fits(self) -> int:
        """How many fits a label set takes at most."""
        return 1 if self.l2 else logistic.most_tries() + 1

    def cost(self) -> str:
        """See types.Evaluator."""
        fits = self._fits * len(self.splits.places)
        count = f"{fits} linear probes" if fits > 1 else "a linear probe"
        return (
            f"{self.splits.cost}, and fits at most {count} to them, of at most "
            f"{logistic.ITERATIONS:,} iterations"
        )

    def metric_units(self) -> dict[str, str]:
        """See types.Evaluator; as if every class had training images."""
        return metric_units(self.splits, self.ks)

    def run(
        self, variables: Variables, progress: Callable[[int, int], None] | None = None
    ) -> EvalResult:
        """Metrics and rows as LabelResults.result; the rows' score is the logit.

        Raises UserError as labelled.Splits.read, and if no image can be held out.
        """
        done, total = self.splits.count, len(self.splits.places) * self._fits
        total += done
        reading = self.splits.read(variables, part_of(progress, 0, total))
        results = LabelResults(reading, self.ks)
        for data in reading.label_sets:
            problem = logistic.Problem(data.train, data.train_labels, len(data.classes))
            l2, told = self.l2, f"L2 {self.l2:.3g}"
            if not l2:
                l2, share = self._choose(data, problem, part_of(progress, done, total))
                told = f"L2 {l2:.3g} ({share:.2%} of those held out)"
            results.add(data, problem.logits(problem.fit(l2), data.test), told)
            done += self._fits
            if progress is not None:
                progress(done, total)
        return results.result(protocol.joined(self._how, self.splits.protocol))

    @property
    def _how(self) -> str:
        """The part of the protocol that is this evaluator's.

        It names the rule that chooses L2, not the value: that differs between models
        whose probes are to be compared.
        """
        if self.l2:
            return f"linear probe, L2 {self.l2:g}"
        return (
            f"linear probe, L2 by {self.val_share:g} of each class held out, seed "
            f"{self.seed}"
        )

    def _choose(
        self, data: Labelled, problem: logistic.Problem, progress: Progress | None
    ) -> tuple[float, float]:
        """(the best penalty, its accuracy) on the images held out.

        The lower loss decides between equal accuracies.
        """
        out = draws.held_out(data.train_labels, self.val_share, self.seed)
        if not out.any():
            raise UserError(
                f"evals=probe: no class of {data.name!r} has two training images, so "
                "none can be held out: set the penalty by the option l2"
            )
        held, labels = problem.scaled(data.train[out]), data.train_labels[out]
        shares: dict[float, float] = {}

        def score(l2: float) -> tuple[float, float]:
            logits = problem.fit(l2, ~out).logits(held)
            shares[l2] = float((logits.argmax(axis=1) == labels).mean())
            return shares[l2], -logistic.mean_loss(logits, labels)

        def tried(count: int) -> None:
            if progress is not None:
                progress(count, self._fits)

        best = logistic.choose_l2(score, tried)
        return best, shares[best]
