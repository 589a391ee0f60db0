"""`loss=parts.faulty_loss`: the CLIP loss, not finite in some steps (from 0)."""

from __future__ import annotations

import jax.numpy as jnp

from clipjax.losses import clip


class Faulty:
    def __init__(self, loss, first, last):
        self._loss, self._first, self._last = loss, first, last

    def init(self):
        return self._loss.init()

    def __call__(self, outputs, batch, state, step):
        value, state, metrics = self._loss(outputs, batch, state, step)
        bad = (step >= self._first) & (step <= self._last)
        return jnp.where(bad, jnp.nan, value), state, metrics


def make(spec, *, first: int = 0, last: int = -1) -> Faulty:
    return Faulty(clip.make(spec), first, last)
