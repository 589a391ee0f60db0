"""Wrappers of optimizers: a config names them before the optimizer that they wrap,
`optim=lookahead+adamw`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from clipjax import registry
from clipjax.optim.around import Around, Tx, around
from clipjax.optim.limits import check
from clipjax.optim.row import Decay, Factory, Rate, with_options
from clipjax.types import UserError


class LookaheadState(NamedTuple):
    """count: int32, steps since the last return. slow: the slow parameters."""

    count: jax.Array
    slow: Any
    inner: Any


def lookahead(*, sync_every: int = 6, slow_step: float = 0.5) -> Callable[[Tx], Tx]:
    """Lookahead (arXiv 1907.08610): every so many steps the parameters return to slow
    ones, which have come part of the way towards them.

    Args:
      sync_every: steps between returns.
      slow_step: share of the way that the slow parameters come, in (0, 1].
    """
    check(sync_every=sync_every, slow_step=slow_step)

    def wrap(tx: Tx) -> Tx:
        def init(params):
            slow = jax.tree.map(jnp.copy, params)
            return LookaheadState(jnp.zeros((), jnp.int32), slow, tx.init(params))

        def update(updates, state, params=None, **more):
            steps, inner = tx.update(updates, state.inner, params, **more)
            count = (state.count + 1) % sync_every
            slow = jax.tree.map(
                lambda s, p, u: jnp.where(count == 0, s + slow_step * (p + u - s), s),
                state.slow,
                params,
                steps,
            )
            steps = jax.tree.map(
                lambda u, s, p: jnp.where(count == 0, s - p, u), steps, slow, params
            )
            return steps, LookaheadState(count, slow, inner)

        return optax.GradientTransformationExtraArgs(init, update)

    return wrap


def sam(*, radius: float = 0.05) -> Callable[[Tx], Tx]:
    """Sharpness-aware minimisation (arXiv 2010.01412): the gradient is that of the
    parameters a radius uphill, of the same batch; a step costs about two.

    Args:
      radius: length of the way uphill over all parameters, above 0.
    """
    check(radius=radius)

    def wrap(tx: Tx) -> Tx:
        def update(updates, state, params=None, **more: Any):
            norm = optax.global_norm(updates)
            # Without a slope there is no uphill.
            length = jnp.where(norm > 0, radius / jnp.where(norm > 0, norm, 1), 0)
            uphill = jax.tree.map(
                lambda p, g: p + length.astype(g.dtype) * g, params, updates
            )
            updates = more["gradient_at"](uphill)
            return tx.update(updates, state, params, **more)

        return optax.GradientTransformationExtraArgs(tx.init, update)

    return wrap


WRAPPERS = {"lookahead": lookahead, "sam": sam}


def compose(
    name: str, load: Callable[[str], Factory], optimizers: Mapping[str, Any]
) -> Factory | None:
    """The factory of "lookahead+adamw"; None for the name of an optimizer alone.

    load: the factory of the name behind the wrapper.

    Raises UserError for anything but wrappers, each once, before one optimizer.
    """
    outer, plus, inner_name = name.partition("+")
    if outer not in WRAPPERS:
        if not plus:
            return None
        known = ", ".join(WRAPPERS)
        hint = registry.suggest(outer, WRAPPERS)
        what = "is no wrapper" if outer in optimizers else "is unknown"
        raise UserError(
            f"optim={name}: {outer} {what}.{hint} Write wrappers ({known}) first and "
            "one optimizer last, as lookahead+adamw"
        )
    if not inner_name:
        raise UserError(
            f"optim={name}: {outer} wraps an optimizer: name it too, as {outer}+adamw"
        )
    if outer in inner_name.split("+"):
        raise UserError(f"optim={name}: {outer} is given twice")
    return _wrapped(outer, inner_name, load(inner_name))


def _wrapped(outer: str, inner_name: str, inner: Factory) -> Factory:
    wrapper = WRAPPERS[outer]
    own, theirs = registry.options(wrapper), registry.options(inner)
    if both := sorted(own.keys() & theirs.keys()):
        raise UserError(
            f"optim={outer}+{inner_name}: both have an option {', '.join(both)}: give "
            "the inner one's another name"
        )

    def make(rate: Rate, decay: Decay, **chosen: Any) -> Around:
        ours = {key: value for key, value in chosen.items() if key in own}
        within = {key: value for key, value in chosen.items() if key not in own}
        wrap, made = wrapper(**ours), inner(rate, decay, **within)
        if outer == "lookahead" and isinstance(made, Around) and made.averaged:
            raise UserError(
                f"optim={outer}+{inner_name}: {inner_name} averages its parameters "
                "itself, which lookahead would move away: leave lookahead out"
            )
        return around(wrap, made)

    what, args = _docstring(wrapper)
    inner_what, inner_args = _docstring(inner)
    doc = f"{what}\n\nAround {inner_name}: {inner_what}\n\nArgs:\n{args}\n{inner_args}"
    make = with_options(make, doc, {**own, **theirs})
    make.__name__ = make.__qualname__ = f"{outer}+{inner_name}"
    return make


def _docstring(factory: Callable[..., Any]) -> tuple[str, str]:
    """(description, the lines of its options) of a factory's docstring."""
    what, _, args = (inspect.getdoc(factory) or "").partition("Args:\n")
    return what.strip(), args.rstrip()
