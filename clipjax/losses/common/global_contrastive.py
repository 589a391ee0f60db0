"""The parts of the global contrastive losses: SogCLR, iSogCLR and FastCLIP.

For an anchor i with similarities S_ij to its negatives, and its own S_ii:
g_i = mean over j of exp((S_ij - S_ii) / temperature_i), and u_i is its moving average
over the visits of i. The gradient that these losses use, sum over j of w_ij d(S_ij -
S_ii) with w_ij = exp((S_ij - S_ii) / temperature_i) / u_i, is that of log g_i times
temperature_i * g_i / u_i, so that only sums over rows and columns are needed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from clipjax.losses.common import matches, pairs
from clipjax.types import UserError

ID_KEYS = {"image": "image_id", "text": "text_id"}


def log_eps(eps: float) -> float:
    """The logarithm of the option eps; raises UserError unless it is in (0, 1)."""
    if not 0 < eps < 1:
        raise UserError(f"loss.eps={eps}: must be above 0 and below 1")
    return math.log(eps)


class Anchors(NamedTuple):
    """Of one direction: own S_ii; scale: 1 / temperature; log_g, which carries
    gradient; mean: of S over the negatives, weighted by their exponentials; negatives:
    their number, at least 1."""

    own: Float[Array, " b"]
    scale: Float[Array, " b"]
    log_g: Float[Array, " b"]
    mean: Float[Array, " b"]
    negatives: Float[Array, " b"]


def anchors(
    rows: pairs.Side, columns: pairs.Side, plan: pairs.Plan
) -> tuple[Anchors, Anchors]:
    """Both directions of a batch; an anchor without negatives has log_g -inf.

    Raises UserError for a batch of one.
    """
    matches.at_least_two(rows.vectors)
    own = (rows.vectors * columns.vectors).sum(axis=1)
    negatives = jnp.maximum(matches.negatives(rows), 1)
    both_sums = pairs.log_sums(rows, columns, "negatives", plan)
    image, text = (
        Anchors(
            own,
            side.scale,
            sums.lse - side.scale * own - jnp.log(negatives),
            sums.mean,
            negatives,
        )
        for side, sums in zip((rows, columns), both_sums, strict=True)
    )
    return image, text


def log_g_with_own(
    log_g: Float[Array, " b"],
    negatives: Float[Array, " b"],
    own: Float[ArrayLike, ""] = 0.0,
) -> Float[Array, " b"]:
    """log g with the own pair's exponential e^own in its sum, as some implementations
    have it; the divisor stays the number of negatives."""
    return jnp.logaddexp(log_g, own - jnp.log(negatives))


def ratio(anchor: Anchors, log_u: Float[Array, " b"]) -> Float[Array, " b"]:
    """g_i / u_i without gradient; 0 for an anchor without negatives."""
    return jax.lax.stop_gradient(jnp.exp(anchor.log_g - log_u))


def carrier(anchor: Anchors, log_u: Float[Array, " b"]) -> Float[Array, ""]:
    """The mean over anchors of the surrogate sum_j w_ij (S_ij - S_ii) / (negatives).

    Its gradient is that with the weights held fixed.
    """
    weight = ratio(anchor, log_u)
    value = weight * (anchor.mean - anchor.own)
    # An anchor without negatives has neither value nor gradient.
    some = jnp.isfinite(anchor.log_g)
    temperature = 1 / jax.lax.stop_gradient(anchor.scale)
    moving = weight * temperature * jnp.where(some, anchor.log_g, 0)
    return jax.lax.stop_gradient(value - moving).mean() + moving.mean()


def temperature_slope(anchor: Anchors, log_u: Float[Array, " b"]) -> Float[Array, " b"]:
    """d/dt of t log u(t) at each anchor's temperature t, without gradient."""
    spread = anchor.scale * (anchor.mean - anchor.own)
    return jax.lax.stop_gradient(log_u - ratio(anchor, log_u) * spread)
