"""The state that a new run starts from: fresh, or with the weights it names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax

from clipjax.engine import initial
from clipjax.engine import state as states
from clipjax.engine.run import Run
from clipjax.engine.step import check_start


def make(run: Run, say: Callable[[str], None]) -> tuple[states.TrainState, bool]:
    """The state, and whether weights were taken into it.

    Raises UserError if the weights cannot be read or do not suit the run.
    """
    config = run.config
    initial_weights = [
        initial.read(key, config, run.model, run.tokenizer, say)
        for key in initial.starts(config)
    ]
    for weights in initial_weights:
        if not weights.side:  # a tower starts without its run's temperature
            limit = config.train.max_logit_scale
            check_start(weights.what, weights.params, run.optim.frozen, limit)
        initial.check_arrays(weights, run.template)
    state = states.initialise(
        run.model,
        run.loss,
        run.optim,
        bool(run.template.ema),
        config.seed,
        run.template,
    )
    for weights in initial_weights:
        state = initial.take(weights, state, run.template, say)
    if initial_weights:
        # Some optimizers keep the parameters that they start from.
        placement = jax.tree.map(lambda leaf: leaf.sharding, run.template.opt_state)
        anew = jax.jit(
            partial(states.optimizer_state, run.optim.tx), out_shardings=placement
        )
        state = state.replace(opt_state=anew(state.params))
    return state, bool(initial_weights)
