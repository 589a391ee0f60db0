"""The step and the validation loss as a run makes them: buffers and pixels."""

import io

import jax
import numpy as np
import pytest
from rich.console import Console

from clipjax.engine import evaluation, run, sharding
from clipjax.engine import state as states
from clipjax.engine.activity import Activity
from clipjax.engine.progress import Progress
from run_tools import tiny

pytestmark = pytest.mark.usefixtures("on_one_device")


def prepared(folder, arg="", **changes):
    made = run.prepare(tiny(arg, train__val_batches=1, **changes), folder, True)
    state = states.initialise(
        made.model, made.loss, made.optim, False, 0, made.template
    )
    return made, state


def val_loss(made, state):
    progress = Progress(Activity(Console(file=io.StringIO())), 8, 0, 16)
    return evaluation.Evaluation(made, progress).run(state)[1]["val_loss"].value


@pytest.mark.thorough
def test_the_validation_loss_is_of_pixels_that_no_augmentation_has_changed(tmp_path):
    plain, state = prepared(tmp_path / "plain")
    grey, _ = prepared(tmp_path / "grey", "augment=grayscale", data__augment__p=1.0)
    image = plain.eval_source[0].image
    draw = np.random.default_rng(0)
    assert (plain.augment(image, draw) != grey.augment(image, draw)).any()
    assert val_loss(grey, state) == val_loss(plain, state)


@pytest.mark.thorough
def test_the_step_takes_the_buffers_of_the_state_it_is_given(tmp_path):
    """Else a run holds parameters and moments twice."""
    made, state = prepared(tmp_path)
    source = run.batches(made, 0)
    try:
        batch = sharding.put_batch(made.mesh, next(source))
    finally:
        source.close()
    after, _ = run.jit_step(made)(state, batch)
    for part in ("params", "opt_state"):
        for leaf in jax.tree.leaves(getattr(state, part)):
            assert leaf.is_deleted()
        for leaf in jax.tree.leaves(getattr(after, part)):
            assert not leaf.is_deleted()
