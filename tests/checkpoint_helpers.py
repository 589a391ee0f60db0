"""What the tests of checkpoints share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.engine.checkpoint.saves import Checkpoints


class Opener:
    """Opens the checkpoints of one folder; `said` lists their warnings."""

    def __init__(self, workdir):
        self.workdir = workdir
        self.said: list[str] = []
        self.made: list[Checkpoints] = []

    def __call__(self, **options) -> Checkpoints:
        self.made.append(Checkpoints(self.workdir, warn=self.said.append, **options))
        return self.made[-1]

    def close(self) -> None:
        for saves in self.made:
            saves.close()


def small(step: int) -> dict[str, Any]:
    """A state whose content tells its step."""
    draw = np.random.default_rng(step)
    return {"w": jnp.asarray(draw.normal(size=(64, 32)), jnp.float32), "n": step}


def fill(saves: Checkpoints, *steps: int) -> None:
    for step in steps:
        saves.save(step, small(step), {"at": step})
    saves.wait()


def bits(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype), bits(jax.random.key_data(leaf))
    array = np.asarray(leaf)
    return array.dtype, array.shape, array.tobytes()


def assert_same(found: Any, wanted: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert type(a) is type(b)
        assert bits(a) == bits(b)
