"""TrainState: everything that a run needs to continue, as one pytree."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from clipjax.engine import sharding
from clipjax.optim import factory
from clipjax.optim.factory import Optim
from clipjax.types import Config, Loss, Model


class TrainState(flax.struct.PyTreeNode):
    """step: int32, batches seen. params: the model's parameters, float32.
    model_state: BatchNorm statistics, {} without. ema: {} or averages {"params",
    "model_state"}, moving ones or the optimizer's own. bad_total, bad_in_row: int32,
    steps whose update was dropped because a value was not finite. key: the seed's key,
    which each step folds with its number.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    loss_state: Any
    ema: Any
    bad_total: jax.Array
    bad_in_row: jax.Array
    key: jax.Array


def has_averages(config: Config) -> bool:
    """Whether a run keeps averages of its parameters, which are then evaluated."""
    return config.train.ema > 0 or factory.averages(config.optim)


def variables(params: Any, model_state: Any) -> dict[str, Any]:
    """The variables that a Linen module takes."""
    return {"params": params, **({"batch_stats": model_state} if model_state else {})}


def eval_variables(state: TrainState, ema: bool) -> dict[str, Any]:
    """The variables to evaluate: the moving averages if `ema` and the run has them."""
    if ema and state.ema:
        return variables(state.ema["params"], state.ema["model_state"])
    return variables(state.params, state.model_state)


def create(model: Model, loss: Loss, tx: Any, ema: bool, seed: int) -> TrainState:
    """A fresh state; pure, for jit and eval_shape."""
    key = jax.random.key(seed)
    # Steps fold their numbers into `key`: initialisation takes another number.
    fresh = model.init(jax.random.fold_in(key, 2**31 - 1))
    params, model_state = fresh["params"], fresh.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=optimizer_state(tx, params),
        loss_state=loss.init(),
        # Copied because donation may not see one buffer twice.
        ema=jax.tree.map(jnp.copy, {"params": params, "model_state": model_state})
        if ema
        else {},
        bad_total=jnp.zeros((), jnp.int32),
        bad_in_row=jnp.zeros((), jnp.int32),
        key=key,
    )


def optimizer_state(tx: Any, params: Any) -> Any:
    """A fresh state of an optimizer; pure.

    Some keep the first parameters, copied because donation may not see one buffer
    twice.
    """
    return tx.init(jax.tree.map(jnp.copy, params))


def shapes(
    model: Model,
    loss: Loss,
    optim: Optim,
    ema: bool,
    seed: int,
    mesh: jax.sharding.Mesh,
) -> TrainState:
    """The state as ShapeDtypeStructs with shardings; allocates nothing."""
    abstract = jax.eval_shape(lambda: create(model, loss, optim.tx, ema, seed))
    return jax.tree.map(
        lambda leaf, placement: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=placement
        ),
        abstract,
        sharding.tree_shardings(mesh, abstract),
    )


def initialise(
    model: Model, loss: Loss, optim: Optim, ema: bool, seed: int, template: TrainState
) -> TrainState:
    """A fresh state, computed under one jit with the template's shardings."""
    placement = jax.tree.map(lambda leaf: leaf.sharding, template)
    make = jax.jit(
        lambda: create(model, loss, optim.tx, ema, seed), out_shardings=placement
    )
    return make()
