"""SogCLR: a contrastive loss over the whole data set, not the batch (arXiv 2202.12387).

Objective: temperature * mean over images of log(eps + u_i), plus the same over texts,
where u_i, kept for every image and text, is a moving average of g_i (see
losses/common/global_contrastive.py). A step's gradient is that of the surrogate
mean_i 1 / (b - 1) * sum_j w_ij (S_ij - S_ii), w_ij = exp((S_ij - S_ii) / temperature) /
(u_i + eps) held fixed; the loss is the surrogate's value, which says little. The metric
`objective` is what goes down. With the squared hinge max(0, S_ij - S_ii + margin)^2 is
in place of S_ij - S_ii everywhere, within the exponentials of g and w too.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from clipjax.losses.common import diagnostics, matches, moving, pairs, scheduled
from clipjax.losses.common import global_contrastive as gcl
from clipjax.option_checks import above_zero, one_of
from clipjax.types import Batch, LossSpec, Metrics, Outputs, Tree


def make(
    spec: LossSpec,
    *,
    temperature: float = 0.07,
    gamma: float = 0.8,
    eps: float = 1e-10,
    surrogate: str = "linear",
    margin: float = 1.0,
    cold_start: str = "first",
    include_own: bool = False,
    same_image: str = "negative",
    same_caption: str = "negative",
    block: int = 0,
    schedules: scheduled.Schedules = (),
) -> SogclrLoss:
    """The SogCLR loss. The model's logit_scale has no part in it.

    Args:
      temperature: of the exponentials.
      gamma: weight in (0, 1] of the batch's g in the moving average.
      eps: added to u, so that an easy example's weights stay bounded.
      surrogate: "linear", or "squared_hinge": max(0, S_ij - S_ii + margin)^2 in place
        of S_ij - S_ii, within the exponentials too.
      margin: of the squared hinge, above 0.
      cold_start: u at the first visit: "first" takes g, "gamma" gamma * g.
      include_own: count the own pair (a term of 1, of e^(margin^2 / temperature) with
        the hinge) in g, as some implementations do.
      same_image, same_caption: "negative" or "mask"; see losses/common/matches.py.
      block: rows of the matrix at a time, 0 for all; see losses/common/pairs.py.
      schedules: of temperature and gamma; see losses/common/scheduled.py.

    Raises UserError for a value out of range.
    """
    one_of("loss.surrogate", surrogate, ("linear", "squared_hinge"))
    above_zero("loss.margin", margin)
    one_of("loss.cold_start", cold_start, ("first", "gamma"))
    rule = matches.rule(same_image, same_caption, matches.WITHOUT_POSITIVE)
    values = scheduled.values(
        spec.total_steps,
        schedules,
        {"temperature": scheduled.TEMPERATURE, "gamma": scheduled.SHARE},
        temperature=temperature,
        gamma=gamma,
    )
    return SogclrLoss(
        values=values,
        log_eps=gcl.log_eps(eps),
        hinge=margin if surrogate == "squared_hinge" else None,
        warm=cold_start == "first",
        include_own=include_own,
        rule=rule,
        plan=pairs.Plan(block, spec.mesh),
        sizes=(spec.num_images, spec.num_texts),
    )


@dataclasses.dataclass(frozen=True)
class SogclrLoss:
    values: scheduled.Values
    log_eps: float
    hinge: float | None
    warm: bool
    include_own: bool
    rule: matches.Rule
    plan: pairs.Plan
    sizes: tuple[int, int]

    def init(self) -> dict[str, Float[Array, " ids"]]:
        """log u of every image and text, -inf: not yet visited."""
        images, texts = self.sizes
        return {
            "image_log_u": moving.table(images, -jnp.inf),
            "text_log_u": moving.table(texts, -jnp.inf),
        }

    def __call__(
        self, outputs: Outputs, batch: Batch, state: Tree, step: Int[ArrayLike, ""]
    ) -> tuple[Float[Array, ""], Tree, Metrics]:
        """Needs image_embed, text_embed [b e], image_id and text_id."""
        now = self.values.at(step)
        temperature = now["temperature"]
        rows, columns = self.rule.sides(
            outputs, batch, (1 / temperature, 1 / temperature)
        )
        value = objective = jnp.zeros((), rows.vectors.dtype)
        new_state = {}
        both = ("image", rows, columns), ("text", columns, rows)
        found = gcl.anchors(rows, columns, self.plan)
        for anchor, (name, ours, theirs) in zip(found, both, strict=True):
            key, ids = f"{name}_log_u", batch[gcl.ID_KEYS[name]]
            log_g, own = anchor.log_g, 0.0
            if self.hinge is not None:
                log_g = self._hinged_log_g(anchor, ours, theirs)
                own = self.hinge**2 / temperature
            if self.include_own:
                log_g = gcl.log_g_with_own(log_g, anchor.negatives, own)
            log_u, new_state[key] = moving.visit(
                state[key], ids, log_g, now["gamma"], self.warm
            )
            padded = jnp.logaddexp(log_u, jnp.asarray(self.log_eps, log_u.dtype))
            if self.hinge is None:
                value += gcl.carrier(anchor, padded)
            else:
                value += self._hinged(anchor, padded, ours, theirs)
            objective += temperature * padded.mean()
        metrics = {
            **diagnostics.measure(outputs, self.plan, None),
            "objective": objective,
            "gamma": now["gamma"],
            "temperature": temperature,
        }
        return value, new_state, metrics

    def _cost(
        self,
        rows: tuple[pairs.Side, Float[Array, " n"], Float[Array, " n"]],
        columns: pairs.Side,
    ) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
        """max(0, S_ij - S_ii + margin)^2 and, without gradient, what the
        exponentials are of; -inf, so that none overflows, of a pair left out."""
        assert self.hinge is not None
        side, own, _ = rows
        s = pairs.products(side.vectors, columns.vectors)
        cost = jnp.square(jnp.maximum(s - own[:, None] + self.hinge, 0))
        keep = pairs.mask(side, columns, "negatives")
        exponents = jnp.where(keep, side.scale[:, None] * cost, -jnp.inf)
        return cost, jax.lax.stop_gradient(exponents)

    def _hinged_log_g(
        self, anchor: gcl.Anchors, rows: pairs.Side, columns: pairs.Side
    ) -> Float[Array, " n"]:
        def term(rows, columns):
            return self._cost(rows, columns)[1]

        row_inputs = rows, anchor.own, anchor.own
        log_sum = pairs.row_log_total(term, row_inputs, columns, self.plan)
        return log_sum - jnp.log(anchor.negatives)

    def _hinged(
        self,
        anchor: gcl.Anchors,
        log_u: Float[Array, " n"],
        rows: pairs.Side,
        columns: pairs.Side,
    ) -> Float[Array, ""]:
        def term(rows, columns):
            cost, exponents = self._cost(rows, columns)
            weights = jnp.exp(exponents - rows[2][:, None])
            return (cost * jax.lax.stop_gradient(weights)).sum()

        shift = log_u + jnp.log(anchor.negatives)
        total = pairs.total(term, (rows, anchor.own, shift), columns, self.plan)
        return total / anchor.own.shape[0]
