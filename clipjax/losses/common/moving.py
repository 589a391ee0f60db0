"""Moving averages per image or text of the data set, as logarithms.

A table holds log u for each id; -inf: never visited. In the log domain nothing
overflows at small temperatures, and no entry dies by underflow.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Float32, Int

from clipjax.losses.common import matches

# Tables have whole multiples of this many rows, so that any usual number of devices
# can share one, and a state saved on one number of devices fits on another.
ROWS = 1024


def table(count: int, value: float) -> Float32[Array, " ids"]:
    """A fresh table for ids in [0, count)."""
    return jnp.full(-(-max(count, 1) // ROWS) * ROWS, value, jnp.float32)


def log_average(
    old: Float[Array, "*b"],
    log_values: Float[Array, "*b"],
    gamma: Float[ArrayLike, ""],
    warm: bool = True,
) -> Float[Array, "*b"]:
    """log((1 - gamma) u + gamma g) of log u and log g; if u was never set g, or if
    not `warm` gamma * g.
    """
    gamma = jnp.asarray(gamma, log_values.dtype)
    mixed = jnp.logaddexp(jnp.log1p(-gamma) + old, jnp.log(gamma) + log_values)
    return jnp.where(jnp.isneginf(old), log_values, mixed) if warm else mixed


def visit(
    rows: Float[Array, " ids"],
    ids: Int[Array, " b"],
    log_g: Float[Array, " b"],
    gamma: Float[ArrayLike, ""],
    warm: bool = True,
) -> tuple[Float[Array, " b"], Float[Array, " ids"]]:
    """log u of the batch after this visit, without gradient, and the new table."""
    log_g = log_mean_by_id(jax.lax.stop_gradient(log_g), ids)
    log_u = log_average(read(rows, ids, log_g), log_g, gamma, warm)
    return log_u, write(rows, ids, log_u)


def log_mean_by_id(
    log_values: Float[Array, " b"], ids: Int[Array, " b"]
) -> Float[Array, " b"]:
    """log of the mean of exp(log_values) over rows of equal id, for each row."""
    slot, n = matches.slots(ids), ids.shape[0]
    top = jax.ops.segment_max(log_values, slot, n)[slot]
    top = jnp.where(jnp.isneginf(top), 0, top)
    sums = jax.ops.segment_sum(jnp.exp(log_values - top), slot, n)[slot]
    return top + jnp.log(sums / matches.counts(ids).astype(sums.dtype))


def mean_by_id(values: Float[Array, " b"], ids: Int[Array, " b"]) -> Float[Array, " b"]:
    """The mean over rows of equal id, for each row."""
    return matches.group_mean(values[:, None], ids)[:, 0]


def read(
    rows: Float[Array, " ids"], ids: Int[Array, " b"], like: Float[Array, "*like"]
) -> Float[Array, " b"]:
    """The table's entries for ids, in the other array's type."""
    return rows[ids].astype(like.dtype)


def write(
    rows: Float[Array, " ids"], ids: Int[Array, " b"], values: Float[Array, " b"]
) -> Float[Array, " ids"]:
    """The table with values at ids; rows of equal id must bring equal values."""
    return rows.at[ids].set(values.astype(rows.dtype), mode="drop")
