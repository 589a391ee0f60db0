"""FastCLIP v0 to v3: global contrastive losses for many devices (arXiv 2407.01445).

All keep moving averages u of g for every image and text, as SogCLR does, with a gamma
that falls from 1 along a cosine. With t the temperature:

v0  mean(g1 / u1) + mean(g2 / u2), u held fixed; t is the model's, learned. Its value
    says little (2 at first visits): the metric `objective` is what v1 minimises.
v1  t / 2 * (mean log u1 + mean log u2), t fixed.
v2  a temperature for each image and text: iSogCLR with Adam.
v3  t / 2 * (mean log u1 + mean log u2) + rho * t, t is the model's, learned.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from clipjax.losses import isogclr
from clipjax.losses.common import diagnostics, matches, moving, pairs, scheduled
from clipjax.losses.common import global_contrastive as gcl
from clipjax.option_checks import one_of
from clipjax.types import Batch, Loss, LossSpec, Metrics, Outputs, Tree, UserError

# Each variant's options with their defaults, those of the authors' experiments.
DEFAULTS = {
    "v0": {},
    "v1": {"temperature": 0.07},
    "v2": {"temperature": 0.03, "rho": 7.0},
    "v3": {"rho": 6.5},
}
LEARNED = "v2", "temperature"


def make(
    spec: LossSpec,
    *,
    variant: str = "v3",
    temperature: float | None = None,
    rho: float | None = None,
    gamma: float = 1.0,
    eps: float = 1e-14,
    scaling: str = "consistent",
    same_image: str = "negative",
    same_caption: str = "negative",
    block: int = 0,
    schedules: scheduled.Schedules = (("gamma", "cosine", 0.2, 0.5),),
) -> Loss:
    """A FastCLIP loss.

    Args:
      variant: "v0", "v1", "v2" or "v3".
      temperature: v1: its value, 0.07 by default; v2: of every example at the start,
        0.03 by default. v0 and v3 learn the model's own (model.logit_scale_init,
        optim.groups for its learning rate), or keep it by model.learnable_scale=False.
      rho: larger values give larger temperatures; of v2, 7 by default, and v3, 6.5.
      gamma: weight of the batch's g in the moving average, at the start.
      eps: added to u.
      scaling: "consistent": gradients of the formulas above; "official": those of the
        authors' code: at the features half of v0's and 1 / t times v1's, at the
        temperature v0's own and in v3 the part that comes through g twice.
      same_image, same_caption: "negative" or "mask"; see losses/common/matches.py.
      block: rows of the matrix at a time, 0 for all; see losses/common/pairs.py.
      schedules: of gamma (and rho, temperature); see losses/common/scheduled.py.

    Raises UserError for a value out of range.
    """
    one_of("loss.variant", variant, ("v0", "v1", "v2", "v3"))
    one_of("loss.scaling", scaling, ("consistent", "official"))
    defaults = DEFAULTS[variant]
    for name, value in (("temperature", temperature), ("rho", rho)):
        if value is not None and name not in defaults:
            raise UserError(
                f"loss.{name}={value}: has no part in loss.variant={variant}"
                + (", which learns the model's" if name == "temperature" else "")
            )
    for name, *_ in schedules:
        # Of v2 the temperature is learned.
        if name != "gamma" and (name not in defaults or (variant, name) == LEARNED):
            raise UserError(
                f"loss.schedules: {name!r} has no part in variant {variant}"
            )
    temperature = (
        defaults.get("temperature", 1.0) if temperature is None else temperature
    )
    rho = defaults.get("rho", 0.0) if rho is None else rho
    if temperature <= 0:
        raise UserError(f"loss.temperature={temperature}: must be above 0")
    if variant == "v2":
        if scaling == "official":
            raise UserError("loss.scaling='official': variant v2 has one form only")
        if not 0.01 <= temperature <= 1:
            raise UserError(f"loss.temperature={temperature}: must be from 0.01 to 1")
        return isogclr.make(
            spec,
            temperature_init=temperature,
            temperature_min=0.01,
            temperature_lr=0.0133,
            temperature_optim="adam",
            rho=rho,
            gamma=gamma,
            eps=eps,
            same_image=same_image,
            same_caption=same_caption,
            block=block,
            schedules=schedules,
        )
    rule = matches.rule(same_image, same_caption, matches.WITHOUT_POSITIVE)
    limits = {
        "temperature": scheduled.TEMPERATURE,
        "gamma": scheduled.SHARE,
        "rho": (0.0, 1000.0),
    }
    values = scheduled.values(
        spec.total_steps,
        schedules,
        limits,
        temperature=temperature,
        gamma=gamma,
        rho=rho,
    )
    return FastclipLoss(
        variant=variant,
        values=values,
        log_eps=gcl.log_eps(eps),
        official=scaling == "official",
        rule=rule,
        plan=pairs.Plan(block, spec.mesh),
        sizes=(spec.num_images, spec.num_texts),
    )


@dataclasses.dataclass(frozen=True)
class FastclipLoss:
    variant: str
    values: scheduled.Values
    log_eps: float
    official: bool
    rule: matches.Rule
    plan: pairs.Plan
    sizes: tuple[int, int]

    def init(self) -> dict[str, Float[Array, " ids"]]:
        """log u of every image and text, -inf: not yet visited."""
        return {
            f"{name}_log_u": moving.table(count, -jnp.inf)
            for name, count in zip(gcl.ID_KEYS, self.sizes, strict=True)
        }

    def __call__(
        self, outputs: Outputs, batch: Batch, state: Tree, step: Int[ArrayLike, ""]
    ) -> tuple[Float[Array, ""], Tree, Metrics]:
        """Needs image_embed, text_embed [b e], logit_scale, image_id and text_id."""
        now = self.values.at(step)
        like = outputs["image_embed"]
        t = jnp.asarray(now["temperature"], like.dtype)
        if self.variant != "v1":
            t = 1 / outputs["logit_scale"].astype(like.dtype)
        fixed = jax.lax.stop_gradient(t)
        rows, columns = self.rule.sides(outputs, batch, (1 / fixed, 1 / fixed))
        value = slope = features = objective = jnp.zeros((), like.dtype)
        new_state = {}
        found = gcl.anchors(rows, columns, self.plan)
        for anchor, (name, id_key) in zip(found, gcl.ID_KEYS.items(), strict=True):
            table = f"{name}_log_u"
            log_u, new_state[table] = moving.visit(
                state[table], batch[id_key], anchor.log_g, now["gamma"]
            )
            padded = jnp.logaddexp(log_u, jnp.asarray(self.log_eps, log_u.dtype))
            # An anchor that never had a negative has no average.
            padded = jnp.where(jnp.isneginf(log_u), 0, padded)
            objective += fixed * padded.mean() / 2
            # Through g: of t * log u, at the features, and at t.
            features += gcl.carrier(anchor, padded)
            through = (
                gcl.temperature_slope(anchor, padded) - jax.lax.stop_gradient(padded)
            ).mean()
            if self.variant == "v0":
                value += gcl.ratio(anchor, padded).mean()
                slope += through / fixed
            else:
                value += fixed * padded.mean() / 2
                slope += padded.mean() / 2 + through * (1 if self.official else 0.5)
        factor = 1 / fixed if self.variant == "v0" else 0.5
        if self.official:
            factor *= {"v0": 0.5, "v1": 1 / fixed, "v3": 1.0}[self.variant]
        metrics = diagnostics.measure(outputs, self.plan, None)
        metrics |= {"gamma": now["gamma"], "temperature": fixed}
        if self.variant == "v3":
            value += now["rho"] * fixed
            slope += now["rho"]
            objective += now["rho"] * fixed
            metrics[diagnostics.UNINFORMED] = now["rho"] * fixed
        # The value above, with the gradients at the features and the temperature.
        moves = features * factor
        if self.variant != "v1":
            moves += t * jax.lax.stop_gradient(slope)
        metrics["objective"] = objective
        value = jax.lax.stop_gradient(value - moves) + moves
        return value, new_state, metrics
