"""`evals=knn`: each image's class by a vote of its nearest training images.

The vote of DINO (arXiv 2104.14294): the k training images of the highest cosine
similarity vote for their classes with the weight exp(similarity / temperature). Nothing
is fitted. The search is exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from clipjax import option_checks
from clipjax.evals.common import labelled, protocol
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.label_results import LabelResults, metric_units
from clipjax.evals.common.neighbours import class_votes
from clipjax.pulse import pulse
from clipjax.types import EvalResult, UserError, Variables


def make(
    inputs: Inputs,
    *,
    train_split: str = "train",
    neighbours: tuple[int, ...] = (20,),
    temperature: float = 0.07,
    label_sets: tuple[str, ...] = (),
    features: str = "auto",
    ks: tuple[int, ...] = (1, 5),
    max_samples: int = 0,
    max_train_samples: int = 0,
) -> Knn:
    """Nearest neighbours on each of the source's label sets.

    Args:
      train_split: the split of the source whose images vote.
      neighbours: how many of them vote; several give several results, and the first is
        the primary one. A number above that of the training images takes them all.
      temperature: of the votes' weights.
      label_sets: names of label sets; empty: all of the source's.
      features: "pooled": what the image tower gives before its projection; "embed": the
        embeddings; "auto": pooled ones if the model and stored embeddings have them.
      ks: the k of the top-k accuracies; 1 is always added. A k that is not below the
        number of classes is left out because it would always hit.
      max_samples: the most images, evenly spread over the source; 0: all.
      max_train_samples: the most training images, evenly spread; 0: all.

    Raises:
      UserError: as labelled.open_splits, and if `neighbours`, `temperature` or `ks` is
        out of range.
    """
    if not neighbours or min(neighbours) < 1 or not ks or min(ks) < 1:
        raise UserError(
            f"evals=knn: neighbours={neighbours}, ks={ks}: use numbers from 1 on"
        )
    option_checks.above_zero("evals=knn: temperature", temperature)
    splits = labelled.open_splits(
        "knn",
        inputs,
        train_split=train_split,
        label_sets=label_sets,
        features=features,
        max_samples=max_samples,
        max_train_samples=max_train_samples,
    )
    return Knn(
        splits,
        tuple(dict.fromkeys(neighbours)),
        temperature,
        tuple(sorted({1, *ks})),
    )


@dataclasses.dataclass(frozen=True)
class Knn:
    """The evaluator; see the module and `make`.

    What the numbers do not mean. They tell how well the features' directions separate
    the classes, not what could be learnt from them: a linear probe is usually higher.
    They depend on the number of training images, and on how alike they are.
    """

    splits: labelled.Splits
    neighbours: tuple[int, ...]
    temperature: float
    ks: tuple[int, ...]

    def cost(self) -> str:
        """See types.Evaluator."""
        return self.splits.cost

    def metric_units(self) -> dict[str, str]:
        """See types.Evaluator; as if every class had training images."""
        more = [f"neighbours_{number}/" for number in self.neighbours[1:]]
        return metric_units(self.splits, self.ks, more)

    def run(
        self, variables: Variables, progress: Callable[[int, int], None] | None = None
    ) -> EvalResult:
        """Metrics and rows as LabelResults.result, of the first of `neighbours`, and
        the same metrics under "neighbours_<n>/" of the others. The rows' score is the
        share of the votes.

        Ties count as their expected value, see evals/common/neighbours.py.

        Raises UserError as labelled.Splits.read.
        """
        reading = self.splits.read(variables, progress)
        results = LabelResults(reading, self.ks)
        for data in reading.label_sets:
            with pulse.working():  # other processes wait for a long search
                first, *others = class_votes(
                    data.test,
                    data.train,
                    data.train_labels,
                    len(data.classes),
                    self.neighbours,
                    self.temperature,
                )
            results.add(data, first)
            for number, votes in zip(self.neighbours[1:], others, strict=True):
                results.add_more(data, votes, f"neighbours_{number}/")
        return results.result(self._protocol())

    def _protocol(self) -> str:
        numbers = ", ".join(map(str, self.neighbours))
        how = f"{numbers} nearest by cosine, temperature {self.temperature:g}"
        return protocol.joined(how, self.splits.protocol)
