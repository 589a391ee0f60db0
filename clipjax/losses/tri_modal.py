"""CLIP's loss over every pair of image, text and audio, and a reconstruction.

L = sum over the pairs (image, text), (image, audio), (text, audio) that the model
encodes of InfoNCE (losses/clip.py) + reconstruction * |decoded_audio - audio_encoded|^2
/ d + joint * the mean of InfoNCE between the joint embedding and each modality's.

The audio encoding is decoded from image and text together, and is itself not moved. A
row without a modality (bool [b] NAME_present in the batch) counts in no term with it.
Without audio and joint embedding this is the CLIP loss. After
github.com/intrinsicD/DeepLearning2.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from clipjax.losses.common import diagnostics, matches, pairs
from clipjax.models.multimodal.fusion import rows_with
from clipjax.types import Batch, LossSpec, Metrics, Outputs, Tree, UserError

MODALITIES = ("image", "text", "audio")


def make(
    spec: LossSpec,
    *,
    reconstruction: float = 0.5,
    joint: float = 0.0,
    same_image: str = "negative",
    same_caption: str = "negative",
    block: int = 0,
) -> TriModalLoss:
    """The loss of models with two or three modalities, such as memory_network.

    Args:
      reconstruction: weight of the squared error of the decoded audio encoding; no
        effect without audio.
      joint: weight of the terms with the embedding of image and text together.
      same_image, same_caption: "negative", "mask" or "positive" (an even target over
        all matches), of rows whatever their modalities; see losses/common/matches.py.
      block: rows of a matrix at a time, 0 for all; see losses/common/pairs.py.

    Raises UserError for a value out of range.
    """
    for name, value in (("reconstruction", reconstruction), ("joint", joint)):
        if value < 0:
            raise UserError(f"loss.{name}={value}: must be 0 or more")
    rule = matches.rule(same_image, same_caption)
    plan = pairs.Plan(block, spec.mesh)
    return TriModalLoss(reconstruction, joint, rule, plan)


@dataclasses.dataclass(frozen=True)
class TriModalLoss:
    reconstruction: float
    joint: float
    rule: matches.Rule
    plan: pairs.Plan

    def init(self) -> Tree:
        return {}

    def __call__(
        self, outputs: Outputs, batch: Batch, state: Tree, step: Int[ArrayLike, ""]
    ) -> tuple[Float[Array, ""], Tree, Metrics]:
        """Needs image_embed, text_embed [b d], logit_scale; image_id by same_image,
        text and text_mask by same_caption.

        Takes audio_embed if there is one, then by `reconstruction` decoded_audio and
        audio_encoded [b d]; joint_embed by `joint`. Raises UserError if what an
        option asks for is missing, and for a batch of one, which has no negatives.
        """
        matches.at_least_two(outputs["image_embed"])
        names = [name for name in MODALITIES if f"{name}_embed" in outputs]
        value = even = jnp.zeros((), outputs["image_embed"].dtype)
        metrics: Metrics = {}
        for one, other in itertools.combinations(names, 2):
            term, chance, sums = self._between(one, other, outputs, batch)
            value, even = value + term, even + chance
            metrics[f"{one}_{other}_loss"] = term
            if (one, other) == ("image", "text"):
                known = None if self.rule.has("mask") else sums
                metrics |= diagnostics.measure(outputs, self.plan, known)
        if self.reconstruction and "audio" in names:
            error = self._reconstruction(outputs, batch)
            value = value + self.reconstruction * error
            metrics["reconstruction_loss"] = error
        if self.joint:
            _need("joint_embed", outputs, "loss.joint")
            terms = [self._between("joint", name, outputs, batch) for name in names]
            metrics["joint_loss"] = sum(term[0] for term in terms) / len(terms)
            value = value + self.joint * metrics["joint_loss"]
            even = even + self.joint * sum(term[1] for term in terms) / len(terms)
        # A reconstruction's value at the start is unknown.
        if "reconstruction_loss" not in metrics:
            metrics[diagnostics.UNINFORMED] = even
        return value, state, metrics

    def _between(
        self, one: str, other: str, outputs: Outputs, batch: Batch
    ) -> tuple[Float[Array, ""], Float[Array, ""], tuple[pairs.Sums, pairs.Sums]]:
        """InfoNCE over the rows that have both, its value if all pairs were alike, and
        its sums."""
        x, y = outputs[f"{one}_embed"], outputs[f"{other}_embed"]
        scale = outputs["logit_scale"]
        here = rows_with(batch, one, len(x)) & rows_with(batch, other, len(y))
        rows = self.rule.side(x, scale, batch, here)
        columns = pairs.side(y, scale, rows.apart, rows.match, here)
        sums = pairs.log_sums(rows, columns, "all", self.plan)
        own = [
            (rows.vectors * matches.targets(columns)).sum(axis=1)
            for rows, columns in ((rows, columns), (columns, rows))
        ]
        cost = (sums[0].lse + sums[1].lse) / 2 - scale * (own[0] + own[1]) / 2
        even = jnp.log(jnp.maximum(matches.kept_count(columns), 1))
        return _mean(cost, here), _mean(even, here), sums

    def _reconstruction(self, outputs: Outputs, batch: Batch) -> Float[Array, ""]:
        """The mean squared error over the rows that have audio."""
        for name in ("decoded_audio", "audio_encoded"):
            _need(name, outputs, "loss.reconstruction")
        target = jax.lax.stop_gradient(outputs["audio_encoded"])
        errors = jnp.square(outputs["decoded_audio"] - target).mean(axis=1)
        return _mean(errors, rows_with(batch, "audio", len(errors)))


def _mean(cost: Float[Array, " b"], here: Bool[Array, " b"]) -> Float[Array, ""]:
    """Over the rows that are here; 0 if none is."""
    return jnp.where(here, cost, 0).sum() / jnp.maximum(here.sum(), 1)


def _need(output: str, outputs: Outputs, option: str) -> None:
    if output not in outputs:
        raise UserError(
            f"{option} is above 0 and the model gives no {output}: set {option}=0, or "
            "with model=memory_network set model.joint"
            + (" and have 'audio' in model.decoders" if "audio" in output else "")
        )
