"""The optimizer of a run: clipping, groups, freezing and decay around an update."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clipjax import param_paths
from clipjax.config import create
from clipjax.optim import layer_decay
from clipjax.optim.around import Around
from clipjax.optim.limits import check
from clipjax.types import UserError


@dataclasses.dataclass(frozen=True)
class Optim:
    """tx: optax transformation over the whole parameter tree.

    schedule: step -> learning rate of the default group.
    frozen: paths of the parameters that are not trained.
    averaged: (optimizer state, parameters) -> its own average of them, None without.
    """

    tx: optax.GradientTransformationExtraArgs
    schedule: optax.Schedule
    frozen: frozenset[str] = frozenset()
    averaged: Callable[[Any, Any], Any] | None = None


def make(
    config: Mapping[str, Any],
    total_steps: int,
    steps_per_epoch: int,
    params: Any,
    *,
    groups: tuple | None = None,
) -> Optim:
    """Builds the optimizer of a run.

    Args:
      config: the `optim` section.
      params: the parameter tree, or its shapes.
      groups: replace the section's groups unless None.

    Raises:
      UserError: if a group's pattern matches no parameter, no parameter is left to
        train, or a value is outside its range.
    """
    check(clip_norm=config["clip_norm"])
    names = param_paths.paths(params)
    factors = _factors(config["groups"] if groups is None else groups, names)
    layer_factors = layer_decay.factors(jax.tree.leaves(names), config["layer_decay"])
    lr_factor = jax.tree.map(lambda name: factors[name][0] * layer_factors[name], names)
    frozen_names = frozenset(
        name for name, (factor, _) in factors.items() if factor == 0.0
    )
    if len(frozen_names) == len(factors):
        raise UserError(
            "optim.groups freezes every parameter: nothing would be trained"
        )
    no_decay = re.compile(config["no_decay"])
    decay_factor = jax.tree.map(
        lambda name, leaf: (
            0.0 if leaf.ndim < 2 or no_decay.search(name) else factors[name][1]
        ),
        names,
        params,
    )

    def rate(peak: float) -> optax.Schedule:
        return create(
            "schedule", config["schedule"], peak, total_steps, steps_per_epoch
        )

    def decay(strength: float) -> optax.GradientTransformation:
        return _decay(strength, decay_factor) if strength else optax.identity()

    made = create("optim", config, rate, decay)
    outer = made if isinstance(made, Around) else Around(made, lambda tx: tx)
    tx = outer.inner
    if any(factor != 1.0 for factor in jax.tree.leaves(lr_factor)):
        tx = optax.chain(tx, _scale(lr_factor))
    frozen = jax.tree.map(lambda factor: factor == 0.0, lr_factor)
    if config["clip_norm"] > 0:
        tx = optax.chain(optax.clip_by_global_norm(config["clip_norm"]), tx)
    tx = outer.wrap(optax.with_extra_args_support(tx))
    if any(jax.tree.leaves(frozen)):
        # The partition leaves frozen parameters without optimizer state.
        labels = jax.tree.map(lambda is_frozen: "frozen" if is_frozen else "on", frozen)
        tx = optax.partition({"on": tx, "frozen": optax.set_to_zero()}, labels)
        tx = _with_whole_gradients(tx, frozen)
    return Optim(
        optax.with_extra_args_support(tx),
        rate(config["lr"]),
        frozen_names,
        outer.averaged,
    )


def averages(config: Mapping[str, Any]) -> bool:
    """Whether the optimizer of an `optim` section has an average of its own."""
    made = create(
        "optim", config, optax.constant_schedule, lambda strength: optax.identity()
    )
    return isinstance(made, Around) and made.averaged is not None


def _with_whole_gradients(
    tx: optax.GradientTransformationExtraArgs, frozen: Any
) -> optax.GradientTransformationExtraArgs:
    """Lets `gradient_at`, which takes and gives whole trees, be called from within the
    partition, where frozen parameters are masked."""

    def update(updates, state, params=None, *, gradient_at: Any = None, **more):
        def of_trained(trained):
            def fill(part, whole):
                return whole if isinstance(part, optax.MaskedNode) else part

            def mask(is_frozen, part):
                return optax.MaskedNode() if is_frozen else part

            masked = lambda leaf: isinstance(leaf, optax.MaskedNode)  # noqa: E731
            filled = jax.tree.map(fill, trained, params, is_leaf=masked)
            return jax.tree.map(mask, frozen, gradient_at(filled))

        return tx.update(updates, state, params, gradient_at=of_trained, **more)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _factors(groups: tuple, names: Any) -> dict[str, tuple[float, float]]:
    """Parameter path -> (lr factor, decay factor) of the first group that matches."""
    factors = {name: (1.0, 1.0) for name in jax.tree.leaves(names)}
    unmatched = set(factors)
    for pattern, lr, weight_decay in groups:
        matched = {name for name in factors if re.search(pattern, name)}
        if not matched:
            raise UserError(
                f"optim.groups: {pattern!r} matches no parameter; there are "
                f"{', '.join(sorted(factors)[:3])}, ... (--dry_run lists all)"
            )
        for name in matched & unmatched:
            factors[name] = (float(lr), float(weight_decay))
        unmatched -= matched
    return factors


def _decay(strength: float, factors: Any) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        def add(update, param, factor):
            # optax masks the leaves of other partitions, which have no factor.
            return update + strength * factor * param if factor else update

        return _over(add, updates, params, factors), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _scale(factors: Any) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        scale = lambda update, factor: update * jnp.asarray(factor, update.dtype)  # noqa: E731
        return _over(scale, updates, factors), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _over(function, updates: Any, *trees: Any) -> Any:
    """Maps over the updates; those that a partition masks stay."""

    def one(update, *rest):
        return (
            update if isinstance(update, optax.MaskedNode) else function(update, *rest)
        )

    return jax.tree.map(
        one, updates, *trees, is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode)
    )
