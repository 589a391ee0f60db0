"""What lies around an optimizer's own steps, and how a run applies it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

Tx = optax.GradientTransformationExtraArgs


@dataclasses.dataclass(frozen=True)
class Around:
    """What a factory returns instead of a transformation if one is around another.

    inner: the one within, whose gradients a run clips and whose steps it scales by the
    groups' factors. wrap: makes the whole from the inner one with these.
    averaged: (its state, parameters) -> the parameters to evaluate and to save beside
    those that train; None: the parameters themselves.
    """

    inner: optax.GradientTransformation
    wrap: Callable[[Tx], Tx]
    averaged: Callable[[Any, Any], Any] | None = None


def whole(made: optax.GradientTransformation | Around) -> Tx:
    """A factory's transformation, with what it has around it."""
    if isinstance(made, Around):
        return made.wrap(optax.with_extra_args_support(made.inner))
    return optax.with_extra_args_support(made)


def around(
    wrap: Callable[[Tx], Tx], made: optax.GradientTransformation | Around
) -> Around:
    """One more wrapper around what a factory made."""
    if isinstance(made, Around):
        within = made.wrap
        return Around(made.inner, lambda tx: wrap(within(tx)), made.averaged)
    return Around(made, wrap)
