"""An optimizer: Lion (arXiv 2302.06675), steps by the sign of a momentum."""

from collections.abc import Callable

import optax

from clipjax.optim.limits import check


def make(
    rate: Callable[[float], optax.Schedule],
    decay: Callable[[float], optax.GradientTransformation],
    *,
    lr: float = 1e-4,
    b1: float = 0.9,
    b2: float = 0.99,
    weight_decay: float = 1.0,
) -> optax.GradientTransformation:
    """Lion with decoupled weight decay.

    Args:
      lr: learning rate at the schedule's peak; a tenth to a third of AdamW's.
      b1: the momentum's share in the step's direction.
      b2: the momentum's decay.
      weight_decay: times the rate, the share of a parameter that a step removes.
    """
    check(lr=lr, b1=b1, b2=b2, weight_decay=weight_decay)
    return optax.chain(
        optax.scale_by_lion(b1=b1, b2=b2),
        decay(weight_decay),
        optax.scale_by_learning_rate(rate(lr)),
    )
