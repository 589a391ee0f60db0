"""`evals=parts.angle_evaluator`: how far captions point away from their images."""

from __future__ import annotations

import dataclasses

import numpy as np

from clipjax.evals.common.inputs import Inputs
from clipjax.types import EvalResult, Metric


@dataclasses.dataclass
class Angle:
    inputs: Inputs
    unit: str

    def run(self, variables, progress=None) -> EvalResult:
        seen = self.inputs.images(variables, range(len(self.inputs.source)))
        texts = self.inputs.texts(variables, [own[0] for own in seen.captions])
        cosines = np.clip((seen.embed * texts).sum(axis=1), -1, 1)
        angles = np.degrees(np.arccos(cosines))
        metrics = {
            "mean": Metric(
                float(angles.mean()), 90.0, self.unit, higher_is_better=False
            ),
            "pairs": Metric(float(len(texts))),
        }
        rows = {"key": seen.keys, "angle": angles}
        return EvalResult(metrics, "mean", f"{len(texts)} pairs", rows=rows)


def make(inputs: Inputs, *, unit: str = "degrees") -> Angle:
    return Angle(inputs, unit)
