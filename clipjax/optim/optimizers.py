"""Optimizers: each `name(rate, decay, *, lr, options)` returns an optax transformation.

rate: makes the schedule from the peak learning rate. decay: makes the transformation
that adds weight decay, given its strength, under the run's exclusions and groups. An
optimizer that puts it before its own scaling couples the decay; after, decouples it.

All raise UserError for a value out of its limits; see `limits.check`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable

import jax
import optax

from clipjax.optim.limits import check
from clipjax.optim.orthogonal import orthogonalize

Rate = Callable[[float], optax.Schedule]
Decay = Callable[[float], optax.GradientTransformation]


def adamw(
    rate: Rate,
    decay: Decay,
    *,
    lr: float = 5e-4,
    b1: float = 0.9,
    b2: float = 0.98,
    eps: float = 1e-6,
    weight_decay: float = 0.2,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (arXiv 1711.05101).

    The defaults are CLIP's for ViT towers (arXiv 2103.00020, appendix).

    Args:
      lr: the peak learning rate.
      b1: decay of the mean of gradients, in [0, 1).
      b2: decay of the mean of squared gradients, in [0, 1).
      eps: added to the root of that mean, above 0.
      weight_decay: strength of the decay, times the learning rate.
    """
    check(lr=lr, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    return optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        decay(weight_decay),
        optax.scale_by_learning_rate(rate(lr)),
    )


def adam(
    rate: Rate,
    decay: Decay,
    *,
    lr: float = 1e-4,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Adam (arXiv 1412.6980); weight decay is coupled: added to the gradient (L2).

    The same update as torch.optim.Adam, coupled decay included.

    Args:
      lr: the peak learning rate.
      b1: decay of the mean of gradients, in [0, 1).
      b2: decay of the mean of squared gradients, in [0, 1).
      eps: added to the root of that mean, above 0.
      weight_decay: strength of the decay, added to the gradient.
    """
    check(lr=lr, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    return optax.chain(
        decay(weight_decay),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.scale_by_learning_rate(rate(lr)),
    )


def sgd(
    rate: Rate,
    decay: Decay,
    *,
    lr: float = 0.01,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Gradient descent with (Nesterov) momentum and coupled weight decay.

    The same update as torch.optim.SGD with dampening 0.

    Args:
      lr: the peak learning rate.
      momentum: decay of the sum of gradients, in [0, 1).
      nesterov: take Nesterov's form of the momentum.
      weight_decay: strength of the decay, added to the gradient.
    """
    check(lr=lr, momentum=momentum, weight_decay=weight_decay)
    return optax.chain(
        decay(weight_decay),
        optax.trace(decay=momentum, nesterov=nesterov),
        optax.scale_by_learning_rate(rate(lr)),
    )


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
      by_adam: pattern of matrices that go to Adam; arrays of other than two
        dimensions always do.
    """
    check(lr=lr, momentum=momentum, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    adam_names = re.compile(by_adam)

    def label(path, leaf) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return "adam" if leaf.ndim != 2 or adam_names.search(name) else "muon"

    by_kind: dict[Hashable, optax.GradientTransformation] = {
        "muon": optax.chain(optax.trace(momentum, nesterov), orthogonalize()),
        "adam": optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
    }
    return optax.chain(
        optax.partition(
            by_kind, lambda params: jax.tree_util.tree_map_with_path(label, params)
        ),
        decay(weight_decay),
        optax.scale_by_learning_rate(rate(lr)),
    )
