"""Rows of the table of optimizers: Adam and its kin, by means of the gradients."""

from __future__ import annotations

from functools import partial

import optax
import optax.contrib

from clipjax.optim import scaling
from clipjax.optim.row import DECOUPLED, Factory, row

ROWS: dict[str, Factory] = {
    "adamw": row(
        "Adam with decoupled weight decay (arXiv 1711.05101).\n\n"
        "The defaults are CLIP's for ViT towers (arXiv 2103.00020, appendix).",
        optax.scale_by_adam,
        DECOUPLED,
        lr=5e-4,
        b1=0.9,
        b2=0.98,
        eps=1e-6,
        weight_decay=0.2,
    ),
    "adam": row(
        "Adam (arXiv 1412.6980); weight decay is coupled: added to the gradient (L2)."
        "\n\nThe same update as torch.optim.Adam, coupled decay included.",
        optax.scale_by_adam,
        lr=1e-4,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
    ),
    "nadam": row(
        "Adam with Nesterov's momentum, which rises (Dozat 2016); coupled weight "
        "decay.\n\nThe same update as torch.optim.NAdam.",
        scaling.scale_by_nadam,
        meanings={"momentum_decay": "how fast the momentum rises to b1."},
        lr=2e-3,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        momentum_decay=4e-3,
    ),
    "nadamw": row(
        "Adam with Nesterov's momentum and decoupled weight decay.\n\n"
        "The defaults are those of adamw.",
        partial(optax.scale_by_adam, nesterov=True),
        DECOUPLED,
        lr=5e-4,
        b1=0.9,
        b2=0.98,
        eps=1e-6,
        weight_decay=0.2,
    ),
    "radam": row(
        "Adam that leaves the mean of squares out until its variance is bounded "
        "(arXiv 1908.03265); coupled weight decay.\n\n"
        "The same update as torch.optim.RAdam.",
        optax.scale_by_radam,
        lr=1e-3,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
    ),
    "amsgrad": row(
        "Adam over the largest mean of squares so far (Reddi et al. 2018); coupled "
        "weight decay.\n\nThe same update as torch.optim.Adam(amsgrad=True).",
        scaling.scale_by_amsgrad,
        lr=1e-3,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
    ),
    "adamax": row(
        "Adam over a decaying largest gradient (arXiv 1412.6980, section 7); coupled "
        "weight decay.\n\nThe same update as torch.optim.Adamax.",
        optax.scale_by_adamax,
        meanings={
            "b2": "decay of the largest gradient, in [0, 1).",
            "eps": "added to the gradient's size, above 0.",
        },
        lr=2e-3,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
    ),
    "lion": row(
        "Lion (arXiv 2302.06675): steps by the sign of a momentum.\n\n"
        "Rates are a tenth to a third of adamw's, decay is as much stronger.",
        optax.scale_by_lion,
        DECOUPLED,
        meanings={
            "b1": "the momentum's share in the step's direction, in [0, 1).",
            "b2": "decay of the momentum, in [0, 1).",
        },
        lr=1e-4,
        b1=0.9,
        b2=0.99,
        weight_decay=1.0,
    ),
    "adan": row(
        "Adam with a mean of the gradients' changes (arXiv 2208.06677).",
        partial(optax.scale_by_adan, eps_root=0.0),
        DECOUPLED,
        meanings={
            "b2": "decay of the mean of changes, in [0, 1).",
            "b3": "decay of the mean of squares, in [0, 1).",
        },
        lr=1e-3,
        b1=0.98,
        b2=0.92,
        b3=0.99,
        eps=1e-8,
        weight_decay=0.02,
    ),
    "adabelief": row(
        "Adam over the gradients' deviations from their mean (arXiv 2010.07468).",
        optax.scale_by_belief,
        DECOUPLED,
        meanings={"b2": "decay of the mean of squared deviations, in [0, 1)."},
        lr=1e-3,
        b1=0.9,
        b2=0.999,
        eps=1e-16,
    ),
    "yogi": row(
        "Adam whose mean of squares changes by the size of a square alone (Zaheer et "
        "al. 2018); coupled weight decay.",
        optax.scale_by_yogi,
        lr=0.01,
        b1=0.9,
        b2=0.999,
        eps=1e-3,
    ),
    "adopt": row(
        "ADOPT (arXiv 2411.02853): Adam with clipped steps, which converges for any "
        "b2.\n\nIts first step moves nothing.",
        optax.contrib.scale_by_adopt,
        DECOUPLED,
        meanings={"eps": "the least that a gradient is divided by, above 0."},
        lr=1e-3,
        b1=0.9,
        b2=0.9999,
        eps=1e-6,
    ),
    "ademamix": row(
        "AdEMAMix (arXiv 2409.03137): Adam with a second, slow mean of gradients.",
        scaling.scale_by_ademamix,
        DECOUPLED,
        meanings={
            "b3": "decay of the slow mean, in [0, 1).",
            "alpha": "weight of the slow mean.",
            "mix_steps": "steps over which alpha and b3 rise to their values; 0: none. "
            "The paper takes the whole run.",
        },
        lr=1e-3,
        b1=0.9,
        b2=0.999,
        b3=0.9999,
        eps=1e-8,
        alpha=5.0,
        mix_steps=0,
    ),
}
