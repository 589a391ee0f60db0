"""Report 2's muon: Adam whose mean of gradients is made nearly orthogonal first."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from clipjax.types import UserError

MODES = ("preserve", "auto")
ITERATIONS = 3
# A matrix with fewer rows or columns takes smaller steps.
FULL_SIZE = 256


def scale_by_universal_muon(
    b1: float, b2: float, eps: float, mode: str, least: int
) -> optax.GradientTransformation:
    """The steps before decay and rate.

    mode: "preserve" gives the orthogonal matrix the norm of the mean; "auto" does not,
    which divides it by roots of squares of another size, and diverged in the report.
    """
    if mode not in MODES:
        raise UserError(f"optim.mode={mode!r}: must be one of {', '.join(MODES)}")

    def direction(mean: Array) -> Array:
        if mean.ndim != 2 or min(mean.shape) < least:
            return mean
        made = nearly_orthogonal(mean, eps)
        if mode == "auto":
            return made
        norms = jnp.linalg.norm(mean), jnp.linalg.norm(made)
        known = norms[1] > 1e-8
        return made * jnp.where(known, norms[0] / jnp.where(known, norms[1], 1), 1)

    def update(updates, state, params=None):
        del params
        count = state.count + 1
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)

        def step(mean: Array, square: Array) -> Array:
            small = mean.ndim == 2 and min(mean.shape) < FULL_SIZE
            scale = (min(mean.shape) / FULL_SIZE) ** 0.5 if small else 1.0
            return scale * direction(mean) / (jnp.sqrt(square) + eps)

        steps = jax.tree.map(
            step,
            optax.tree.bias_correction(mu, b1, count),
            optax.tree.bias_correction(nu, b2, count),
        )
        return steps, optax.ScaleByAdamState(count, mu, nu)

    init = optax.scale_by_adam(b1, b2).init
    return optax.GradientTransformation(init, update)


def nearly_orthogonal(matrix: Float[Array, "n m"], eps: float) -> Float[Array, "n m"]:
    """The matrix times the inverse root of its Gram matrix, by coupled Newton-Schulz
    iterations, too few for small singular values."""
    rows, columns = matrix.shape
    wide = rows <= columns
    gram = matrix @ matrix.T if wide else matrix.T @ matrix
    one = jnp.eye(len(gram), dtype=matrix.dtype)
    gram = gram + eps * one
    scale = jax.lax.rsqrt(jnp.trace(gram) / len(gram))
    y, z = gram * scale**2, one
    for _ in range(ITERATIONS):
        product = z @ y
        y, z = 1.5 * y - 0.5 * y @ product, 1.5 * z - 0.5 * product @ z
    return scale * (z @ matrix if wide else matrix @ z)
