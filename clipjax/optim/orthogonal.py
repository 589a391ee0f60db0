"""Muon's update: momentum made orthogonal (K. Jordan et al. 2024; arXiv 2502.16982)."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from clipjax.optim import matrices

# Of the quintic Newton-Schulz iteration, tuned by its authors for a steep slope at 0:
# singular values end between about 0.7 and 1.2.
COEFFICIENTS = 3.4445, -4.7750, 2.0315
STEPS = 5


def orthogonalize(stacked: str = "") -> optax.GradientTransformation:
    """Brings the singular values of each matrix [n m] near 1. Then scales its root mean
    square to about 0.2, that of Adam's updates (arXiv 2502.16982, section 2.2).

    stacked: see `matrices.form`, which says as what matrices larger kernels act.
    """

    def update(updates, state, params=None):
        del params
        return matrices.over(_orthogonal, updates, stacked), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _orthogonal(matrix: Float[Array, "n m"]) -> Float[Array, "n m"]:
    a, b, c = COEFFICIENTS
    x = matrix / (jnp.linalg.norm(matrix) + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    x = x.T if tall else x
    return x * (0.2 * max(matrix.shape) ** 0.5)
