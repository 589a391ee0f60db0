"""Muon for the matrices, Adam for the rest."""

from __future__ import annotations

from collections.abc import Hashable

import optax

from clipjax.optim import matrices
from clipjax.optim.limits import check
from clipjax.optim.orthogonal import orthogonalize
from clipjax.optim.row import Decay, Rate


def muon(
    rate: Rate,
    decay: Decay,
    *,
    lr: float = 1e-3,
    momentum: float = 0.95,
    nesterov: bool = True,
    b1: float = 0.9,
    b2: float = 0.98,
    eps: float = 1e-6,
    weight_decay: float = 0.2,
    by_adam: str = r"embedding|positions|class_token",
    flatten: bool = True,
    stacked: str = "",
) -> optax.GradientTransformation:
    """Muon for the matrices, Adam for the rest (K. Jordan et al. 2024), scaled so that
    learning rate and decoupled weight decay are those of AdamW (arXiv 2502.16982).

    Args:
      lr: the peak learning rate, of Muon and Adam.
      momentum: decay of the sum of a matrix's gradients, in [0, 1).
      nesterov: take Nesterov's form of that momentum.
      b1: Adam's decay of the mean of gradients, in [0, 1).
      b2: Adam's decay of the mean of squared gradients, in [0, 1).
      eps: added by Adam to the root of that mean, above 0.
      weight_decay: strength of the decay, times the learning rate.
      by_adam: pattern of matrices that go to Adam; vectors and scalars always do.
      flatten: take kernels of more than two dimensions, such as a convolution's, as
        matrices of inputs and outputs; False: they go to Adam.
      stacked: pattern of kernels whose first dimension counts layers, each of which is
        a matrix; empty: none.
    """
    check(lr=lr, momentum=momentum, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    by_kind: dict[Hashable, optax.GradientTransformation] = {
        "muon": optax.chain(optax.trace(momentum, nesterov), orthogonalize(stacked)),
        matrices.REST: optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
    }
    return optax.chain(
        optax.partition(by_kind, matrices.labels("muon", by_adam, flatten)),
        decay(weight_decay),
        optax.scale_by_learning_rate(rate(lr)),
    )
