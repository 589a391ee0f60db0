"""Moving averages kept for every image or text of the data set, as logarithms.

A table holds log u for each id; -inf: never visited. In the log domain nothing
overflows at small temperatures, and no entry dies by underflow.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from clipjax.losses.common import matches

# Tables have whole multiples of this many rows, so that any usual number of devices
# can share one, and a state saved on one number of devices fits on another.
ROWS = 1024


def table(count: int, value: float) -> jax.Array:
    """A fresh table float32 for ids in [0, count)."""
    return jnp.full(-(-max(count, 1) // ROWS) * ROWS, value, jnp.float32)


def log_average(
    old: jax.Array, log_values: jax.Array, gamma: Any, warm: bool = True
) -> jax.Array:
    """log((1 - gamma) u + gamma g) of log u and log g; if u was never set g, or if
    not `warm` gamma * g.
    """
    gamma = jnp.asarray(gamma, log_values.dtype)
    mixed = jnp.logaddexp(jnp.log1p(-gamma) + old, jnp.log(gamma) + log_values)
    return jnp.where(jnp.isneginf(old), log_values, mixed) if warm else mixed


def visit(
    rows: jax.Array, ids: jax.Array, log_g: jax.Array, gamma: Any, warm: bool = True
) -> tuple[jax.Array, jax.Array]:
    """log u [b] of the batch after this visit, without gradient, and the new table."""
    log_g = log_mean_by_id(jax.lax.stop_gradient(log_g), ids)
    log_u = log_average(read(rows, ids, log_g), log_g, gamma, warm)
    return log_u, write(rows, ids, log_u)


def log_mean_by_id(log_values: jax.Array, ids: jax.Array) -> jax.Array:
    """log of the mean of exp(log_values) over rows of equal id, for each row [b]."""
    slot, n = matches.slots(ids), ids.shape[0]
    top = jax.ops.segment_max(log_values, slot, n)[slot]
    top = jnp.where(jnp.isneginf(top), 0, top)
    sums = jax.ops.segment_sum(jnp.exp(log_values - top), slot, n)[slot]
    return top + jnp.log(sums / matches.counts(ids).astype(sums.dtype))


def mean_by_id(values: jax.Array, ids: jax.Array) -> jax.Array:
    """The mean over rows of equal id, for each row [b]."""
    return matches.group_mean(values[:, None], ids)[:, 0]


def read(rows: jax.Array, ids: jax.Array, like: jax.Array) -> jax.Array:
    """The table's entries for ids [b], in the other array's type."""
    return rows[ids].astype(like.dtype)


def write(rows: jax.Array, ids: jax.Array, values: jax.Array) -> jax.Array:
    """The table with values [b] at ids; rows of equal id must bring equal values."""
    return rows.at[ids].set(values.astype(rows.dtype), mode="drop")
