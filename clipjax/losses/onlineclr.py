"""OnlineCLR: a soft maximum over all negative pairs against one over all positives.

From report 4's course code; no paper was found. Objective: negative_temperature * log
sum over negative pairs of exp(s / negative_temperature) + positive_temperature * log
sum over positive pairs of exp(-s / positive_temperature), each pair counted in both
directions. The two sums are moving averages over steps; a step's gradient is that of
sum w_n s_n - sum w_p s_p with the weights w_n = exp(s_n / negative_temperature) / u_n,
w_p = exp(-s_p / positive_temperature) / u_p held fixed.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from clipjax.losses.common import diagnostics, matches, moving, pairs, scheduled
from clipjax.option_checks import one_of
from clipjax.types import Batch, LossSpec, Metrics, Outputs, Tree


def make(
    spec: LossSpec,
    *,
    negative_temperature: float = 0.07,
    positive_temperature: float = 0.7,
    gamma: float = 0.8,
    cold_start: str = "first",
    same_image: str = "negative",
    same_caption: str = "negative",
    block: int = 0,
    schedules: scheduled.Schedules = (),
) -> OnlineclrLoss:
    """The OnlineCLR loss. The model's logit_scale has no part in it.

    Args:
      negative_temperature, positive_temperature: the course has 0.01 and 0.1.
      gamma: weight in (0, 1] of a batch's sums in their moving averages.
      cold_start: the averages after the first batch: "first" its sums, "gamma" gamma
        times them, as in the course's code, whose first weights so sum to 1 / gamma.
      same_image, same_caption: "negative", "mask" or "positive" (all matches are
        positive pairs); see losses/common/matches.py.
      block: rows of the matrix at a time, 0 for all; see losses/common/pairs.py.
      schedules: of the temperatures and gamma; see losses/common/scheduled.py.

    Raises UserError for a value out of range.
    """
    one_of("loss.cold_start", cold_start, ("first", "gamma"))
    rule = matches.rule(same_image, same_caption)
    limits = {
        "negative_temperature": scheduled.TEMPERATURE,
        "positive_temperature": scheduled.TEMPERATURE,
        "gamma": scheduled.SHARE,
    }
    values = scheduled.values(
        spec.total_steps,
        schedules,
        limits,
        negative_temperature=negative_temperature,
        positive_temperature=positive_temperature,
        gamma=gamma,
    )
    plan = pairs.Plan(block, spec.mesh)
    return OnlineclrLoss(values, cold_start == "first", rule, plan)


@dataclasses.dataclass(frozen=True)
class OnlineclrLoss:
    values: scheduled.Values
    warm: bool
    rule: matches.Rule
    plan: pairs.Plan

    def init(self) -> dict[str, Float[Array, ""]]:
        """log of the two moving averages, -inf: none yet."""
        return {
            "negative_log_u": jnp.full((), -jnp.inf, jnp.float32),
            "positive_log_u": jnp.full((), -jnp.inf, jnp.float32),
        }

    def __call__(
        self, outputs: Outputs, batch: Batch, state: Tree, step: Int[ArrayLike, ""]
    ) -> tuple[Float[Array, ""], Tree, Metrics]:
        """Needs image_embed, text_embed [b e]; image_id by same_image, text and
        text_mask by same_caption.

        Raises UserError for a batch of one, which has no negatives.
        """
        now = self.values.at(step)
        t_n, t_p = now["negative_temperature"], now["positive_temperature"]
        scales = 1 / t_n, 1 / t_n
        rows, columns = self.rule.sides(outputs, batch, scales)
        matches.at_least_two(rows.vectors)
        sums = pairs.row_sums(rows, columns, "negatives", self.plan)
        pushed, log_n = _moved(t_n, sums.lse, sums.mean)
        if self.rule.has("positive"):
            away = rows._replace(vectors=-rows.vectors, scale=rows.scale * t_n / t_p)
            there = columns._replace(scale=away.scale)
            sums = pairs.row_sums(away, there, "matches", self.plan)
            pulled, log_p = _moved(t_p, sums.lse, sums.mean)
        else:
            away = -(rows.vectors * columns.vectors).sum(axis=1)
            pulled, log_p = _moved(t_p, away / t_p, jax.lax.stop_gradient(away))
        before = state["negative_log_u"].astype(log_n.dtype)
        # A batch of one image, masked, has no negatives.
        some = jnp.isfinite(log_n)
        u_n = self._average(before, log_n, now["gamma"])
        u_n = jnp.where(some, u_n, before)
        u_p = self._average(state["positive_log_u"], log_p, now["gamma"])
        weight_n = jnp.where(some, jnp.exp(log_n - u_n), 0)
        value = weight_n * pushed + jnp.exp(log_p - u_p) * pulled
        metrics = {
            **diagnostics.measure(outputs, self.plan, None),
            **now,
            "objective": t_n * jnp.where(jnp.isneginf(u_n), 0, u_n) + t_p * u_p,
        }
        new_state = {
            "negative_log_u": u_n.astype(state["negative_log_u"].dtype),
            "positive_log_u": u_p.astype(state["positive_log_u"].dtype),
        }
        return value, new_state, metrics

    def _average(
        self,
        old: Float[Array, ""],
        log_sum: Float[Array, ""],
        gamma: Float[ArrayLike, ""],
    ) -> Float[Array, ""]:
        return moving.log_average(old.astype(log_sum.dtype), log_sum, gamma, self.warm)


def _moved(
    temperature: Float[ArrayLike, ""],
    lse: Float[Array, " n"],
    mean: Float[Array, " n"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean of s over pairs weighted by exp(s / temperature), with the gradient that
    it has when the weights are held fixed; and log of the sum of these exponentials.

    lse, mean: of the pairs of each row. Every pair counts twice, once for each
    direction. The sum carries no gradient, and is -inf over no pair.
    """
    some = jnp.isfinite(lse).any()
    log_sum = jax.nn.logsumexp(jnp.where(some, lse, 0)) + math.log(2)
    weights = jnp.where(some, 2 * jnp.exp(lse - log_sum), 0)
    moves = temperature * jnp.where(some, log_sum, 0)
    value = jax.lax.stop_gradient((weights * mean).sum() - moves) + moves
    return value, jax.lax.stop_gradient(jnp.where(some, log_sum, -jnp.inf))
