"""`evals=parts.angle_evaluator`: how far captions point away from their images."""

from __future__ import annotations

import dataclasses

import numpy as np

from clipjax.encoder import Encoder
from clipjax.types import EvalResult, Metric, Source


@dataclasses.dataclass
class Angle:
    encoder: Encoder
    source: Source
    unit: str

    def run(self, variables, progress=None) -> EvalResult:
        found = self.encoder.images(
            variables, self.source, keep=lambda example: example.captions[0]
        )
        texts = self.encoder.texts(variables, found.kept)
        cosines = np.clip((found.embed * texts).sum(axis=1), -1, 1)
        angles = np.degrees(np.arccos(cosines))
        metrics = {
            "mean": Metric(
                float(angles.mean()), 90.0, self.unit, higher_is_better=False
            ),
            "pairs": Metric(float(len(texts))),
        }
        return EvalResult(metrics, "mean", f"{len(texts)} pairs")


def make(encoder: Encoder, source: Source, *, unit: str = "degrees") -> Angle:
    return Angle(encoder, source, unit)
