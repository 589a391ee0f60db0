"""A step's gradient: at once, or exactly the same in micro-batches.

Gradients of micro-batches cannot be added, because a contrastive loss depends on the
full batch. Instead the embeddings of all micro-batches are computed first and the loss
is differentiated at them. Each micro-batch then runs again, with the same dropout
masks, to backpropagate its part of that gradient (GradCache, arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from clipjax.engine.state import TrainState, variables
from clipjax.engine.watch import NOT_FINITE, outputs_not_finite
from clipjax.types import GLOBAL_OUTPUTS, Batch, Loss, Metrics, Model, Outputs, Tree

# (value, gradient, new model state, new loss state, outputs, metrics)
Found = tuple[Float[Array, ""], Tree, Tree, Tree, Outputs, Metrics]


def make(
    model: Model, loss: Loss, micro_batches: int
) -> Callable[[TrainState, Batch, PRNGKeyArray], Found]:
    """Returns gradient(state, batch, key), whose outputs are those of GLOBAL_OUTPUTS.

    micro_batches: in how many parts the towers take the batch. Part m has the rows
    m, m + micro_batches, ..., some on every device, and the key fold_in(key, m).
    """
    if micro_batches == 1:
        return lambda state, batch, key: _at_once(model, loss, state, batch, key)
    return lambda state, batch, key: _in_parts(
        model, loss, state, batch, key, micro_batches
    )


def _at_once(
    model: Model, loss: Loss, state: TrainState, batch: Batch, key: PRNGKeyArray
) -> Found:
    def objective(params):
        outputs, model_state = model.apply(
            variables(params, state.model_state), batch, True, key
        )
        value, loss_state, metrics = loss(
            at_least_float32(outputs), batch, state.loss_state, state.step
        )
        rows, shared = _split(outputs)
        return value, (
            model_state,
            loss_state,
            shared,
            _with_faults(rows | shared, metrics),
        )

    result = jax.value_and_grad(objective, has_aux=True)(state.params)
    (value, (model_state, loss_state, outputs, metrics)), gradient = result
    return value, gradient, model_state, loss_state, outputs, metrics


def _in_parts(
    model: Model,
    loss: Loss,
    state: TrainState,
    batch: Batch,
    key: PRNGKeyArray,
    count: int,
) -> Found:
    by_part = partial(_part, count=count)

    def whole(x: Shaped[Array, "m n ..."]) -> Shaped[Array, "m*n ..."]:
        return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])

    def forward(params, model_state, number, rows):
        outputs, model_state = model.apply(
            variables(params, model_state), rows, True, jax.random.fold_in(key, number)
        )
        return _split(outputs), model_state

    numbers, parts = jnp.arange(count), jax.tree.map(by_part, dict(batch))

    def first(_, numbered_part):
        return (), forward(state.params, state.model_state, *numbered_part)[0]

    _, (rows, shared) = jax.lax.scan(first, (), (numbers, parts))
    rows = jax.tree.map(whole, rows)
    shared = jax.tree.map(lambda x: x[0], shared)

    def objective(rows, shared):
        outputs = at_least_float32({**rows, **shared})
        value, loss_state, metrics = loss(outputs, batch, state.loss_state, state.step)
        return value, (loss_state, _with_faults(outputs, metrics))

    result = jax.value_and_grad(objective, (0, 1), has_aux=True)(rows, shared)
    (value, (loss_state, metrics)), (row_gradient, shared_gradient) = result

    def second(carry, numbered_part):
        gradient, model_state = carry
        number, rows, part_gradient = numbered_part
        _, back, model_state = jax.vjp(
            lambda params: forward(params, model_state, number, rows),
            state.params,
            has_aux=True,
        )
        # The outputs that all parts share count once, in the first part.
        once = jax.tree.map(lambda x: x * (number == 0), shared_gradient)
        (more,) = back((part_gradient, once))
        return (jax.tree.map(jnp.add, gradient, more), model_state), ()

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    (gradient, model_state), _ = jax.lax.scan(
        second,
        (zeros, state.model_state),
        (numbers, parts, jax.tree.map(by_part, row_gradient)),
    )
    return value, gradient, model_state, loss_state, shared, metrics


def statistics(
    model: Model, micro_batches: int
) -> Callable[[Tree, Tree, Batch, PRNGKeyArray], Tree]:
    """Returns statistics(params, model_state, batch, key) -> the model state after the
    batch, of a forward pass in training mode; at once if there is none to change."""

    def after(params: Tree, model_state: Tree, batch: Batch, key: PRNGKeyArray) -> Tree:
        if not model_state:
            return model_state

        def part(before, numbered_part):
            number, rows = numbered_part
            part_key = jax.random.fold_in(key, number) if micro_batches > 1 else key
            found = model.apply(variables(params, before), rows, True, part_key)
            return found[1], ()

        if micro_batches == 1:
            return part(model_state, (0, batch))[0]
        parts = jax.tree.map(lambda x: _part(x, micro_batches), dict(batch))
        return jax.lax.scan(part, model_state, (jnp.arange(micro_batches), parts))[0]

    return after


def _part(x: Shaped[Array, "b ..."], count: int) -> Shaped[Array, "m n ..."]:
    return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)


def at_least_float32(outputs: Outputs) -> Outputs:
    """The outputs for a loss: a cosine in bfloat16 errs by 0.004, a logit by 0.4."""

    def promote(x: Shaped[Array, "*d"]) -> Shaped[Array, "*d"]:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    return jax.tree.map(promote, outputs)


def _with_faults(outputs: Outputs, metrics: Metrics) -> Metrics:
    return {**metrics, NOT_FINITE: {"outputs": outputs_not_finite(outputs)}}


def _split(outputs: Outputs) -> tuple[Outputs, Outputs]:
    """Returns (outputs with a row per example, except large tokens; GLOBAL_OUTPUTS)."""
    rows = {
        name: value
        for name, value in outputs.items()
        if name not in GLOBAL_OUTPUTS and not name.endswith("_tokens")
    }
    return rows, {name: outputs[name] for name in GLOBAL_OUTPUTS if name in outputs}
