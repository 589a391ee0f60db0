"""SOAP: Adam in the eigenbasis of Shampoo's statistics (arXiv 2409.11321)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from clipjax.optim import matrices
from clipjax.optim.limits import check
from clipjax.optim.row import Decay, Rate

# Products of bases need float32's digits: in fewer, the steps are no longer Adam's.
PRECISION = jax.lax.Precision.HIGHEST


def soap(
    rate: Rate,
    decay: Decay,
    *,
    lr: float = 3e-3,
    b1: float = 0.95,
    b2: float = 0.95,
    b3: float = 0.95,
    eps: float = 1e-8,
    every: int = 10,
    max_dim: int = 10_000,
    weight_decay: float = 0.01,
    by_adam: str = r"positions|class_token",
) -> optax.GradientTransformation:
    """SOAP (arXiv 2409.11321): Adam in a slowly turning eigenbasis of a matrix's rows
    and columns; Adam for the rest.

    The first step of a matrix moves nothing: it starts the bases. A kernel of more than
    two dimensions is a matrix of inputs and outputs.

    Args:
      lr: the peak learning rate.
      b1: decay of the mean of gradients, in [0, 1).
      b2: decay of the mean of squared gradients, in [0, 1).
      b3: decay of the means of products of rows and of columns, in [0, 1).
      eps: added to the root of the mean of squares, above 0.
      every: steps between turns of the bases.
      max_dim: a side of a matrix with more rows or columns keeps its own basis.
      weight_decay: strength of the decay, times the learning rate.
      by_adam: pattern of matrices that go to Adam; vectors and scalars always do.
    """
    check(lr=lr, b1=b1, b2=b2, b3=b3, eps=eps, every=every, max_dim=max_dim)
    check(weight_decay=weight_decay)
    by_kind: dict[Hashable, optax.GradientTransformation] = {
        "soap": scale_by_soap(b1, b2, b3, eps, every, max_dim),
        matrices.REST: optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
    }
    return optax.chain(
        optax.partition(by_kind, matrices.labels("soap", by_adam)),
        decay(weight_decay),
        optax.scale_by_learning_rate(rate(lr)),
    )


class Sides(NamedTuple):
    """Of a matrix's rows and its columns: their mean products, and a basis of those;
    None for a side that is too large."""

    rows: Float[Array, "n n"] | None
    columns: Float[Array, "m m"] | None
    row_basis: Float[Array, "n n"] | None
    column_basis: Float[Array, "m m"] | None


class SoapState(NamedTuple):
    count: jax.Array
    mu: Any
    nu: Any
    sides: tuple[Sides, ...]  # per matrix, in the order of the leaves


def scale_by_soap(
    b1: float, b2: float, b3: float, eps: float, every: int, max_dim: int
) -> optax.GradientTransformation:
    """The steps before decay and rate, of leaves with two or more dimensions."""

    def init(params: Any) -> Any:
        def sides(name: str, leaf: Array) -> Sides:
            _, rows, columns = matrices.form(name, leaf.shape)

            def square(size: int) -> Array | None:
                if size > max_dim:
                    return None
                return jnp.zeros((size, size), jnp.float32)

            return Sides(*(square(size) for size in (rows, columns) * 2))

        found = jax.tree.map(sides, matrices.names(params), params)
        return SoapState(
            jnp.zeros((), jnp.int32),
            optax.tree.zeros_like(params),
            optax.tree.zeros_like(params),
            tuple(jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, Sides))),
        )

    def update(updates, state, params=None):
        del params
        fresh = state.count == 0
        leaves, tree = jax.tree.flatten(updates)
        kept = zip(
            leaves,
            jax.tree.leaves(matrices.names(updates)),
            jax.tree.leaves(state.mu),
            jax.tree.leaves(state.nu),
            state.sides,
            strict=True,
        )
        steps, mus, nus, sides = [], [], [], []
        for leaf, name, mu, nu, side in kept:
            shape = matrices.form(name, leaf.shape)[1:]
            gradient = leaf.reshape(shape)
            mean = jnp.where(fresh, 0, b1 * mu + (1 - b1) * leaf)
            turned = turn(gradient, side)
            square = jnp.where(fresh, 0, b2 * nu.reshape(shape) + (1 - b2) * turned**2)
            # The first step starts the bases, so the means have one step fewer.
            steps_done = jnp.maximum(state.count, 1)
            first = turn(mean.reshape(shape), side) / (1 - b1**steps_done)
            second = square / (1 - b2**steps_done)
            step = turn_back(first / (jnp.sqrt(second) + eps), side)
            steps.append(jnp.where(fresh, 0, step).reshape(leaf.shape))
            mus.append(mean)
            nus.append(square.reshape(leaf.shape))
            sides.append(_renewed(side, gradient, state.count, b3, every))
        return tree.unflatten(steps), SoapState(
            state.count + 1,
            tree.unflatten(mus),
            tree.unflatten(nus),
            tuple(sides),
        )

    return optax.GradientTransformation(init, update)


def turn(matrix: Float[Array, "n m"], side: Sides) -> Float[Array, "n m"]:
    """A matrix in the bases of its rows and columns."""
    if side.row_basis is not None:
        matrix = jnp.matmul(side.row_basis.T, matrix, precision=PRECISION)
    if side.column_basis is not None:
        matrix = jnp.matmul(matrix, side.column_basis, precision=PRECISION)
    return matrix


def turn_back(matrix: Float[Array, "n m"], side: Sides) -> Float[Array, "n m"]:
    """The inverse of `turn`."""
    if side.row_basis is not None:
        matrix = jnp.matmul(side.row_basis, matrix, precision=PRECISION)
    if side.column_basis is not None:
        matrix = jnp.matmul(matrix, side.column_basis.T, precision=PRECISION)
    return matrix


def _renewed(
    side: Sides, gradient: Float[Array, "n m"], count: jax.Array, b3: float, every: int
) -> Sides:
    """The means with one more gradient, and their bases: eigenvectors at first, later
    turned by a step of the power iteration and QR, every so many steps."""

    def basis_of(product: Array, old: Array) -> Array:
        def turned() -> Array:
            return jnp.linalg.qr(jnp.matmul(product, old, precision=PRECISION))[0]

        # Orders of bases change nothing: each has its own mean of squares.
        def first() -> Array:
            return jnp.linalg.eigh(product)[1]

        kind = jnp.where(count == 0, 0, jnp.where(count % every == 0, 1, 2))
        return jax.lax.switch(kind, (first, turned, lambda: old))

    def product(old: Array, factor: Array) -> Array:
        new = jnp.matmul(factor, factor.T, precision=PRECISION)
        return b3 * old + (1 - b3) * new

    rows = columns = row_basis = column_basis = None
    if side.rows is not None and side.row_basis is not None:
        rows = product(side.rows, gradient)
        row_basis = basis_of(rows, side.row_basis)
    if side.columns is not None and side.column_basis is not None:
        columns = product(side.columns, gradient.T)
        column_basis = basis_of(columns, side.column_basis)
    return Sides(rows, columns, row_basis, column_basis)
