"""An evaluator: the distance of pairs, the uniformity of images (arXiv 2005.10242)."""

import dataclasses

import numpy as np

from clipjax.evals.common.inputs import Inputs
from clipjax.option_checks import at_least_one
from clipjax.types import EvalResult, Metric, UserError


def make(inputs: Inputs, *, samples: int = 500) -> "Alignment":
    """Alignment and uniformity of the first captions and their images.

    Args:
      samples: number of examples, the source's first ones.
    """
    at_least_one("evals.alignment.samples", samples)
    return Alignment(inputs, samples)


@dataclasses.dataclass
class Alignment:
    inputs: Inputs
    samples: int

    def run(self, variables, progress=None) -> EvalResult:
        count = min(self.samples, len(self.inputs.source))
        seen = self.inputs.images(variables, range(count), progress=progress)
        rows = [i for i, own in enumerate(seen.captions) if own and own[0]]
        if len(rows) < 2:
            raise UserError("evals=examples.alignment needs two images with captions")
        first = [str(seen.captions[i][0]) for i in rows]
        images, texts = seen.embed[rows], self.inputs.texts(variables, first)
        distances = np.square(images - texts).sum(axis=1)
        others = (2 - 2 * images @ images.T)[np.triu_indices(len(rows), 1)]
        metrics = {
            # Independent random directions have a mean distance of 2.
            "distance": Metric(
                float(distances.mean()),
                chance=2.0,
                higher_is_better=False,
                n=len(rows),
            ),
            "uniformity": Metric(
                float(np.log(np.exp(-2 * others).mean())),
                higher_is_better=False,
                n=len(rows),
            ),
        }
        size = f"{len(rows)} pairs"
        table = {"key": [seen.keys[i] for i in rows], "distance": distances}
        return EvalResult(metrics, "distance", size, len(seen.broken), table)
