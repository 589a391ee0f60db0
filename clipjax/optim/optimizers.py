"""The table of optimizers: each is a factory `name(rate, decay, *, lr, options)`.

rate: makes the schedule from the peak learning rate. decay: makes the transformation
that adds weight decay, given its strength, under the run's exclusions and groups. An
optimizer that puts it before its own scaling couples the decay; after, decouples it.

A factory returns an optax transformation, or `around.Around`. A transformation whose
`update` takes the keyword `gradient_at` can have further gradients of the step: it is
a function of parameters.

All raise UserError for a value out of its limits; see `limits.check`.
"""

from __future__ import annotations

from collections.abc import Callable

import optax

from clipjax.optim import (
    adam_kin,
    anderson,
    averages,
    projected,
    scaling,
    whole,
    wrapping,
)
from clipjax.optim.muon import muon
from clipjax.optim.row import DECOUPLED, Factory, named, row
from clipjax.optim.soap import soap
from clipjax.optim.universal_muon import scale_by_universal_muon

_PROJECTED = {
    "delta": "how small a cosine of gradient and weights says that their size does "
    "not matter.",
    "decay_share": "factor of the decay of those weights.",
}
_MIXED = {
    "memory": "differences of past steps that are mixed.",
    "regular": "penalty of the mixture's coefficients.",
    "curvature": "how much the penalty grows with the gradients' changes.",
    "trust": "limit of the correction's norm, in norms of Adam's step.",
}
_ROWS: dict[str, Factory] = {
    "sgd": row(
        "Gradient descent with (Nesterov) momentum and coupled weight decay.\n\n"
        "The same update as torch.optim.SGD with dampening 0.",
        lambda momentum, nesterov: optax.trace(momentum, nesterov),
        lr=0.01,
        momentum=0.9,
        nesterov=True,
    ),
    "lamb": row(
        "Adam with decay, each array scaled to its parameters' norm "
        "(arXiv 1904.00962), for large batches.",
        whole.lamb,
        "strength of the decay, inside the scaled step.",
        whole=True,
        lr=5e-3,
        b1=0.9,
        b2=0.999,
        eps=1e-6,
        weight_decay=0.02,
    ),
    "lars": row(
        "Momentum, each array of two or more dimensions scaled to its parameters' norm "
        "(arXiv 1708.03888), for large batches.",
        whole.lars,
        whole=True,
        meanings={"trust": "a step's share of the parameters' norm, before the rate."},
        lr=0.2,
        momentum=0.9,
        nesterov=False,
        trust=1e-3,
        weight_decay=1e-6,
    ),
    "adafactor": row(
        "Adafactor (arXiv 1804.04235): means of squares of rows and columns, not of "
        "entries.\n\nThe defaults are the paper's. big_vision's form: min_dim=32, "
        "b2_cap=0.999, clip_rms=0, by_parameter=False, momentum=0.9, "
        "momentum_bf16=True.",
        scaling.scale_by_adafactor,
        DECOUPLED,
        meanings={
            "min_dim": "arrays with two dimensions of this size or more are factored.",
            "decay_power": "the mean's decay at step t is 1 - t to the power of minus "
            "this.",
            "b2_cap": "the most that decay can be, in (0, 1].",
            "clip_rms": "limit of a step's root mean square, per array; 0: none.",
            "by_parameter": "scale by the parameters' root mean square, at least 1e-3.",
            "momentum": "decay of the mean of steps, in [0, 1); 0: none is kept.",
            "momentum_bf16": "keep that mean in bfloat16.",
        },
        lr=0.01,
        min_dim=128,
        decay_power=0.8,
        b2_cap=1.0,
        clip_rms=1.0,
        by_parameter=True,
        momentum=0.0,
        momentum_bf16=False,
    ),
    "rmsprop": row(
        "Momentum of gradients over the root of their mean square (Hinton 2012); "
        "coupled weight decay.\n\nThe same update as torch.optim.RMSprop.",
        scaling.scale_by_rmsprop,
        meanings={
            "momentum": "decay of the sum of steps, in [0, 1); 0: none is kept.",
            "centered": "take the variance in place of the mean square.",
        },
        lr=1e-3,
        b2=0.9,
        eps=1e-8,
        momentum=0.9,
        nesterov=False,
        centered=False,
    ),
    "adagrad": row(
        "Gradients over the root of the sum of their squares (Duchi et al. 2011); "
        "coupled weight decay.\n\nThe same update as torch.optim.Adagrad.",
        lambda initial, eps: optax.scale_by_rss(initial, eps),
        meanings={
            "initial": "what the sum begins with.",
            "eps": "added to the sum, above 0.",
        },
        lr=0.01,
        initial=0.0,
        eps=1e-10,
    ),
    "adadelta": row(
        "Steps in the parameters' own units (arXiv 1212.5701); coupled weight decay."
        "\n\nThe same update as torch.optim.Adadelta.",
        lambda b2, eps: optax.scale_by_adadelta(rho=b2, eps=eps),
        meanings={
            "b2": "decay of the means of squared gradients and steps, in [0, 1).",
            "eps": "added to both means, above 0.",
        },
        lr=1.0,
        b2=0.9,
        eps=1e-6,
    ),
    "novograd": row(
        "Momentum of gradients, each array divided by its mean norm "
        "(arXiv 1905.11286); the decay is in the momentum.",
        whole.novograd,
        "strength of the decay, added to the divided gradient.",
        whole=True,
        meanings={
            "b1": "decay of the sum of divided gradients, in [0, 1).",
            "b2": "decay of the mean of squared norms, in [0, 1).",
        },
        lr=0.01,
        b1=0.95,
        b2=0.98,
        eps=1e-8,
        weight_decay=1e-3,
    ),
    "sm3": row(
        "SM3 (arXiv 1901.11150): AdaGrad with a number per row and column, and "
        "momentum; coupled weight decay.",
        scaling.scale_by_sm3,
        meanings={"momentum": "decay of the mean of steps, in [0, 1)."},
        lr=0.1,
        momentum=0.9,
    ),
    "sophia": row(
        "Sophia-H (arXiv 2305.14342): steps over an estimate of the Hessian's "
        "diagonal, clipped.\n\nThe estimate takes a further gradient of the batch, and "
        "its derivative, every so many steps.",
        whole.sophia,
        DECOUPLED,
        whole=True,
        meanings={
            "b2": "decay of the mean of estimates, in [0, 1).",
            "eps": "the least that a step is divided by, above 0.",
            "gamma": "factor of the estimates, above 0.",
            "clip": "limit of an entry's step before the rate, above 0.",
            "every": "steps between estimates.",
        },
        lr=5e-4,
        b1=0.965,
        b2=0.99,
        eps=1e-8,
        gamma=0.01,
        clip=1.0,
        every=10,
        weight_decay=0.2,
    ),
    "prodigy": row(
        "Prodigy (arXiv 2306.06101): Adam that estimates its rate; lr is a factor of "
        "the estimate.",
        whole.prodigy,
        "strength of the decay, times the estimated rate.",
        whole=True,
        meanings={
            "lr": "the peak of the factor.",
            "d0": "the first estimate, above 0.",
            "d_factor": "factor of later estimates, above 0.",
            "safeguard_warmup": "leave the schedule out of the estimate, for warmups.",
        },
        lr=1.0,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        d0=1e-6,
        d_factor=1.0,
        safeguard_warmup=False,
    ),
    "dadapt_adamw": row(
        "D-Adaptation (arXiv 2301.07733): AdamW that estimates its rate; lr is a "
        "factor of the estimate.",
        whole.dadapt_adamw,
        "strength of the decay, times the estimated rate.",
        whole=True,
        meanings={
            "lr": "the peak of the factor.",
            "d0": "the first estimate, above 0.",
        },
        lr=1.0,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        d0=1e-6,
    ),
    "madgrad": row(
        "MADGRAD (arXiv 2101.11075): dual averaging over the cube root of the sum of "
        "squares; coupled weight decay.",
        whole.madgrad,
        whole=True,
        meanings={
            "momentum": "share of the parameters that a step keeps, in [0, 1).",
            "eps": "added to that root, above 0.",
        },
        lr=0.01,
        momentum=0.9,
        eps=1e-6,
    ),
    "adamp": row(
        "AdamP (arXiv 2006.08217): Adam without the steps' part along weights whose "
        "size does not matter.",
        projected.adamp,
        "strength of the decay, times the learning rate; reduced for those weights.",
        whole=True,
        meanings=_PROJECTED,
        lr=1e-3,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        nesterov=False,
        delta=0.1,
        decay_share=0.1,
        weight_decay=0.01,
    ),
    "sgdp": row(
        "SGDP (arXiv 2006.08217): momentum without the steps' part along weights whose "
        "size does not matter.",
        projected.sgdp,
        "strength of the decay, times the learning rate over 1 - momentum; reduced for "
        "those weights.",
        whole=True,
        meanings={**_PROJECTED, "eps": "added to the weights' norms, above 0."},
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        eps=1e-8,
        delta=0.1,
        decay_share=0.1,
        weight_decay=1e-5,
    ),
    "universal_muon": row(
        "Report 2's muon: Adam whose mean of gradients is made nearly orthogonal.\n\n"
        "For muon itself: optim=muon.",
        scale_by_universal_muon,
        DECOUPLED,
        meanings={
            "mode": '"preserve" keeps the norm of the mean; "auto" does not, and '
            "diverged there.",
            "least": "rows and columns that a matrix needs to be made orthogonal.",
        },
        lr=1e-3,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        mode="preserve",
        least=128,
    ),
    "anderson_gda": row(
        "Report 2's mixing of Adam's last steps, per array (Anderson 1965).\n\nIt "
        "keeps memory + 1 past steps and gradients.",
        anderson.anderson_gda,
        DECOUPLED,
        whole=True,
        meanings=_MIXED,
        lr=1e-3,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        memory=3,
        regular=1e-3,
        trust=1.5,
    ),
    "gda2": row(
        "Report 2's mixing of Adam's last steps, over all parameters together "
        "(Anderson 1965).\n\nIt keeps as many past steps, taken and proposed, and "
        "gradients as memory says.",
        anderson.gda2,
        DECOUPLED,
        whole=True,
        meanings=_MIXED,
        lr=1e-3,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        memory=5,
        regular=0.01,
        curvature=0.5,
        trust=1.5,
    ),
    "schedule_free_adamw": row(
        "AdamW whose parameters are averaged in place of a falling rate "
        "(arXiv 2405.15682); its average is evaluated.",
        averages.schedule_free_adamw,
        DECOUPLED,
        whole=True,
        meanings={"b1": "the average's share in what trains, in (0, 1)."},
        lr=2.5e-3,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
    ),
    "schedule_free_sgd": row(
        "Gradient descent whose parameters are averaged in place of a falling rate "
        "(arXiv 2405.15682); its average is evaluated; coupled weight decay.",
        averages.schedule_free_sgd,
        whole=True,
        meanings={"b1": "the average's share in what trains, in (0, 1)."},
        lr=1.0,
        b1=0.9,
    ),
}
WRAPPERS = wrapping.WRAPPERS
# Optimizers by name, for the registry.
COMPONENTS = named(__name__, {**adam_kin.ROWS, **_ROWS, "muon": muon, "soap": soap})


def compose(name: str, load: Callable[[str], Factory]) -> Factory | None:
    """The factory of "lookahead+adamw", for the registry; see `wrapping.compose`."""
    made = wrapping.compose(name, load, COMPONENTS)
    return made and named(__name__, {name: made})[name]
