"""The training step: one pure function, free of mesh, writer and config."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clipjax.engine import gradients
from clipjax.engine.mixing import Mixing
from clipjax.engine.state import TrainState, variables
from clipjax.engine.watch import NOT_FINITE, leaves_not_finite
from clipjax.optim.factory import Optim
from clipjax.types import Batch, Loss, Metrics, Model, UserError

# Differs from the keys of micro-batches, which are numbered from 0.
MIXING_KEY = 2**31 - 1
# Half a float16 step near ln 100, so that CLIP's released ln 100 is within the limit.
ROUNDING = 2e-3

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    model: Model,
    loss: Loss,
    optim: Optim,
    *,
    ema: float,
    max_logit_scale: float,
    micro_batches: int = 1,
    mixing: Mixing | None = None,
) -> TrainStep:
    """Returns train_step(state, batch) -> (state, metrics), to be jitted.

    ema: the moving average's decay, 0 for none; an optimizer's own average takes its
    place, with batch statistics of its own. max_logit_scale: the parameter
    logit_scale (a logarithm) is clamped to [0, ln max_logit_scale] unless it is frozen
    or this is 0.
    micro_batches: the number of parts in which the towers take a batch, see
    engine/gradients.py. mixing: mixes a classifier's examples, see engine/mixing.py.

    A step with a non-finite loss, gradient or update changes only `step` (otherwise
    the same batch would repeat without end) and the counts of such steps.
    """

    gradient = gradients.make(model, loss, micro_batches)
    statistics = gradients.statistics(model, micro_batches)
    clamps = max_logit_scale and "logit_scale" not in optim.frozen

    def clamp(params: Any) -> Any:
        return _clamp(params, max_logit_scale) if clamps else params

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        if mixing is not None:
            batch = mixing(batch, jax.random.fold_in(key, MIXING_KEY))

        value, grads, model_state, loss_state, outputs, metrics = gradient(
            state, batch, key
        )
        grad_norm = optax.global_norm(grads)
        updates, opt_state = optim.tx.update(
            grads,
            state.opt_state,
            state.params,
            value=value,
            # Of the same batch, with the same dropout; traced only if it is called.
            gradient_at=lambda params: gradient(
                state.replace(params=params), batch, key
            )[1],
        )
        params = clamp(optax.apply_updates(state.params, updates))
        if optim.averaged is not None and state.ema:
            mean = clamp(optim.averaged(opt_state, params))
            # Batch normalisation sees other activations with other parameters.
            seen = statistics(mean, state.ema["model_state"], batch, key)
            averages = {"params": mean, "model_state": seen}
        else:
            averages = _average(state, params, model_state, ema)

        # The update can overflow although the gradient did not.
        good = jnp.isfinite(value + grad_norm + optax.global_norm(updates))
        old = (
            state.params,
            state.model_state,
            state.opt_state,
            state.loss_state,
            state.ema,
        )
        new = (params, model_state, opt_state, loss_state, averages)
        params, model_state, opt_state, loss_state, averages = jax.tree.map(
            lambda after, before: jnp.where(good, after, before), new, old
        )
        bad = 1 - good.astype(jnp.int32)
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            loss_state=loss_state,
            ema=averages,
            bad_total=state.bad_total + bad,
            bad_in_row=(state.bad_in_row + bad) * bad,
            key=state.key,
        )
        if "replaced" in batch:
            metrics = {**metrics, "replaced": jnp.sum(batch["replaced"])}
        if "stop" in batch:
            metrics = {**metrics, "stop": jnp.max(batch["stop"])}
        if "logit_scale" in outputs:
            metrics = {**metrics, "logit_scale": outputs["logit_scale"]}
        faults = {
            **metrics.pop(NOT_FINITE),
            "gradient": leaves_not_finite(grads),
            "update": leaves_not_finite(updates),
        }
        metrics = {
            **metrics,
            NOT_FINITE: faults,
            "loss": value,
            "grad_norm": grad_norm,
            # The optimizer counts only the steps that it accepted.
            "learning_rate": optim.schedule(state.step - state.bad_total),
            "bad_total": new_state.bad_total,
            "bad_in_row": new_state.bad_in_row,
        }
        return new_state, metrics

    return train_step


def make_loss_step(
    model: Model, loss: Loss
) -> Callable[[TrainState, Batch], jax.Array]:
    """Returns loss_step(state, batch) -> loss in evaluation mode."""
    eval_step = make_eval_step(model, loss)
    return lambda state, batch: eval_step(state, batch)[0]


def make_eval_step(
    model: Model, loss: Loss
) -> Callable[[TrainState, Batch], tuple[jax.Array, Metrics]]:
    """Returns eval_step(state, batch) -> (loss, its metrics) in evaluation mode.

    The loss starts from a fresh state, because its state describes training examples.
    """

    def eval_step(state: TrainState, batch: Batch) -> tuple[jax.Array, Metrics]:
        outputs, _ = model.apply(
            variables(state.params, state.model_state), batch, False, state.key
        )
        outputs = gradients.at_least_float32(outputs)
        value, _, metrics = loss(outputs, batch, loss.init(), state.step)
        return value, metrics

    return eval_step


def check_start(
    what: str, params: Any, frozen: Collection[str], max_logit_scale: float
) -> None:
    """Raises UserError if the first step would clamp the inverse temperature.

    what: the parameters' origin, for the message. frozen: paths of parameters.
    """
    if not max_logit_scale or "logit_scale" in frozen or "logit_scale" not in params:
        return
    start = float(params["logit_scale"])
    if max(start - math.log(max_logit_scale), -start) > ROUNDING:
        raise UserError(
            f"{what}: its inverse temperature of {math.exp(start):.6g} is not between "
            f"1 and train.max_logit_scale={max_logit_scale:g}, so the first step would "
            "move it: set --config.train.max_logit_scale; 0 for no limits"
        )


def _clamp(params: Any, max_logit_scale: float) -> Any:
    if "logit_scale" not in params:
        return params
    clamped = jnp.clip(params["logit_scale"], 0.0, math.log(max_logit_scale))
    return {**params, "logit_scale": clamped}


def _average(state: TrainState, params, model_state, decay: float):
    if not state.ema:
        return state.ema
    # For short runs, recent parameters weigh more early on: (1 + t) / (10 + t).
    step = state.step.astype(jnp.float32)
    rate = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(
        # In this form unchanged values keep their bits.
        lambda mean, value: mean + (1 - rate).astype(mean.dtype) * (value - mean),
        state.ema,
        {"params": params, "model_state": model_state},
    )
