"""iSogCLR: SogCLR with a temperature for every image and text (arXiv 2305.11965).

min over the model and temperatures t_i of 1 / N * sum_i t_i (log E_j exp((S_ij - S_ii)
/ t_i) + rho), over images and over texts. The model's gradient is SogCLR's at the
temperatures before the step; these then follow G_i = log u_i + rho - mean_j w_ij h_ij,
h_ij = (S_ij - S_ii) / t_i, through an average: v_i <- (1 - beta) v_i + beta
clip(G_i, -5, 5), t_i <- clip(t_i - temperature_lr v_i, temperature_min, ..max); or, as
FastCLIP-v2 has it (arXiv 2407.01445), by Adam.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from clipjax.losses.common import diagnostics, matches, moving, pairs, scheduled
from clipjax.losses.common import global_contrastive as gcl
from clipjax.option_checks import one_of
from clipjax.types import Batch, LossSpec, Metrics, Outputs, Tree, UserError

CLIP = 5.0  # of a temperature's gradient
DECAYS = 0.9, 0.999  # of Adam's two moments


def make(
    spec: LossSpec,
    *,
    temperature_init: float = 0.07,
    temperature_min: float = 0.005,
    temperature_max: float = 1.0,
    temperature_lr: float = 0.03,
    beta: float = 0.9,
    temperature_optim: str = "average",
    gamma: float = 0.8,
    rho: float = 6.0,
    eps: float = 1e-10,
    cold_start: str = "first",
    include_own: bool = False,
    same_image: str = "negative",
    same_caption: str = "negative",
    block: int = 0,
    schedules: scheduled.Schedules = (),
) -> IsogclrLoss:
    """The iSogCLR loss. The model's logit_scale has no part in it.

    Args:
      temperature_init, temperature_min, temperature_max: of every example.
      temperature_lr: size of the steps that temperatures take. The authors' 0.03 is
        for one visit an epoch; more often, temperatures swing between their bounds.
      beta: weight in (0, 1] of the newest slope in its average.
      temperature_optim: "average", or "adam" as in FastCLIP's code, with decays 0.9 and
        0.999 that are off in the first epoch, and a bias correction that counts epochs.
      gamma: weight in (0, 1] of the batch's g in the moving average.
      rho: larger values give larger temperatures.
      eps: added to u.
      cold_start, include_own: as of the SogCLR loss. The authors' code,
        zhqiu/contrastive-learning-iSogCLR, has "gamma" and True.
      same_image, same_caption: "negative" or "mask"; see losses/common/matches.py.
      block: rows of the matrix at a time, 0 for all; see losses/common/pairs.py.
      schedules: of gamma, rho, temperature_lr; see losses/common/scheduled.py.

    Raises UserError for a value out of range.
    """
    rule = matches.rule(same_image, same_caption, matches.WITHOUT_POSITIVE)
    one_of("loss.temperature_optim", temperature_optim, ("average", "adam"))
    one_of("loss.cold_start", cold_start, ("first", "gamma"))
    if not 0 < temperature_min <= temperature_init <= temperature_max:
        raise UserError(
            f"loss.temperature_init={temperature_init}: must be from temperature_min="
            f"{temperature_min}, above 0, to temperature_max={temperature_max}"
        )
    if not 0 < beta <= 1:
        raise UserError(f"loss.beta={beta}: must be above 0, 1 at most")
    values = scheduled.values(
        spec.total_steps,
        schedules,
        {"gamma": scheduled.SHARE, "rho": (0, 1000), "temperature_lr": (0, 1)},
        gamma=gamma,
        rho=rho,
        temperature_lr=temperature_lr,
    )
    return IsogclrLoss(
        values=values,
        init_at=temperature_init,
        bounds=(temperature_min, temperature_max),
        beta=beta,
        adam=temperature_optim == "adam",
        epoch=spec.steps_per_epoch,
        log_eps=gcl.log_eps(eps),
        warm=cold_start == "first",
        include_own=include_own,
        rule=rule,
        plan=pairs.Plan(block, spec.mesh),
        sizes=(spec.num_images, spec.num_texts),
    )


@dataclasses.dataclass(frozen=True)
class IsogclrLoss:
    values: scheduled.Values
    init_at: float
    bounds: tuple[float, float]
    beta: float
    adam: bool
    epoch: int
    log_eps: float
    warm: bool
    include_own: bool
    rule: matches.Rule
    plan: pairs.Plan
    sizes: tuple[int, int]

    def init(self) -> dict[str, Float[Array, " ids"]]:
        """log u, temperature and its slope's average, of every image and text."""
        state = {}
        for name, count in zip(gcl.ID_KEYS, self.sizes, strict=True):
            state[f"{name}_log_u"] = moving.table(count, -jnp.inf)
            state[f"{name}_temperature"] = moving.table(count, self.init_at)
            state[f"{name}_momentum"] = moving.table(count, 0.0)
            if self.adam:
                state[f"{name}_squares"] = moving.table(count, 0.0)
        return state

    def __call__(
        self, outputs: Outputs, batch: Batch, state: Tree, step: Int[ArrayLike, ""]
    ) -> tuple[Float[Array, ""], Tree, Metrics]:
        """Needs image_embed, text_embed [b e], image_id and text_id."""
        now = self.values.at(step)
        like = outputs["image_embed"]
        temperatures = {
            name: moving.read(state[f"{name}_temperature"], batch[key], like)
            for name, key in gcl.ID_KEYS.items()
        }
        scales = 1 / temperatures["image"], 1 / temperatures["text"]
        rows, columns = self.rule.sides(outputs, batch, scales)
        value = objective = jnp.zeros((), like.dtype)
        new_state = {}
        metrics = diagnostics.measure(outputs, self.plan, None)
        found = gcl.anchors(rows, columns, self.plan)
        for anchor, (name, key) in zip(found, gcl.ID_KEYS.items(), strict=True):
            ids, t = batch[key], temperatures[name]
            table, log_g = f"{name}_log_u", anchor.log_g
            if self.include_own:
                log_g = gcl.log_g_with_own(log_g, anchor.negatives)
            log_u, new_state[table] = moving.visit(
                state[table], ids, log_g, now["gamma"], self.warm
            )
            padded = jnp.logaddexp(log_u, jnp.asarray(self.log_eps, log_u.dtype))
            value += gcl.carrier(anchor, padded)
            objective += (t * (padded + now["rho"])).mean()
            slope = gcl.temperature_slope(anchor, padded) + now["rho"]
            slope = jnp.where(jnp.isfinite(anchor.log_g), slope, 0)
            slope = moving.mean_by_id(jnp.clip(slope, -CLIP, CLIP), ids)
            kept = {
                kind: moving.read(state[f"{name}_{kind}"], ids, slope)
                for kind in self._moments()
            }
            direction, kept = self._direction(slope, kept, step)
            moved = jnp.clip(t - now["temperature_lr"] * direction, *self.bounds)
            for kind, values in {"temperature": moved, **kept}.items():
                place = f"{name}_{kind}"
                new_state[place] = moving.write(state[place], ids, values)
            metrics[f"{name}_temperature"] = moved.mean()
        return value, new_state, {**metrics, "objective": objective, **now}

    def _moments(self) -> tuple[str, ...]:
        return ("momentum", "squares") if self.adam else ("momentum",)

    def _direction(
        self,
        slope: Float[Array, " b"],
        kept: dict[str, Float[Array, " b"]],
        step: Int[ArrayLike, ""],
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, " b"]]]:
        """The temperatures' direction, and the moments after this visit."""
        if not self.adam:
            mean = (1 - self.beta) * kept["momentum"] + self.beta * slope
            return mean, {"momentum": mean}
        epoch = jnp.asarray(step) // self.epoch
        first, second = (jnp.where(epoch > 0, b, 0.0) for b in DECAYS)
        mean = first * kept["momentum"] + (1 - first) * slope
        squares = second * kept["squares"] + (1 - second) * jnp.square(slope)
        moments = {"momentum": mean, "squares": squares}
        times = (epoch + 1).astype(slope.dtype)
        mean, squares = mean / (1 - first**times), squares / (1 - second**times)
        return mean / (jnp.sqrt(squares) + 1e-8), moments
