"""What a run is told of its own numbers."""

import numpy as np
import pytest

from clipjax.engine.watch import NOT_FINITE, Watch

NAMES = ["image/kernel", "logit_scale", "text/a", "text/b", "text/c"]
FINE = {"loss": 4.0, "grad_norm": 1.0, "bad_in_row": 0}


def faults(outputs=(), gradient=(), update=()):
    flags = {"image_embed": False, **dict.fromkeys(outputs, True)}
    return {
        "outputs": flags,
        "gradient": np.array([name in gradient for name in NAMES]),
        "update": np.array([name in update for name in NAMES]),
    }


@pytest.mark.parametrize(
    ("loss", "norm", "found", "expected"),
    [
        (np.nan, np.nan, faults(["image_embed"]), "model's image_embed overflowed"),
        (np.inf, np.nan, faults(), "the loss overflowed, with finite embeddings"),
        (
            3.5,
            np.nan,
            faults(gradient=["text/a"], update=NAMES),
            "the gradient of text/a overflowed (loss 3.5, gradient norm nan)",
        ),
        (3.5, np.inf, faults(), "the norm of the gradient overflowed"),
        (
            3.5,
            2.0,
            faults(update=NAMES),
            "update of image/kernel, logit_scale, text/a and 2 more (all) overflowed",
        ),
        (3.5, 2.0, faults(), "the norm of the update overflowed"),
    ],
)
def test_the_first_that_overflowed(loss, norm, found, expected):
    watch = Watch(NAMES, 100, lambda text: None)
    watch.look(1, dict(FINE))
    bad = {"loss": loss, "grad_norm": norm, NOT_FINITE: found}
    watch.look(2, {**bad, "bad_in_row": 1})
    # What follows is a consequence, or another fault: the first is the one to know.
    later = {"loss": np.nan, "grad_norm": np.nan, NOT_FINITE: faults(["text_embed"])}
    watch.look(3, {**later, "bad_in_row": 2})
    text = watch.fault(3, 2)
    assert "from step 2 up to step 3: at step 2 " in text and expected in text


def test_a_good_step_ends_the_row():
    watch = Watch(NAMES, 100, lambda text: None)
    for step, bad, output in ((1, 1, "image_embed"), (2, 0, ""), (3, 1, "text_embed")):
        loss = np.nan if bad else 4.0
        values = {"loss": loss, "grad_norm": loss, "bad_in_row": bad}
        watch.look(step, {**values, NOT_FINITE: faults([output] if bad else [])})
    assert "at step 3 the model's text_embed" in watch.fault(3, 1)


def test_what_is_not_a_number_is_taken_out_of_the_row():
    values = {**FINE, NOT_FINITE: faults()}
    Watch(NAMES, 100, lambda text: None).look(1, values)
    assert values == FINE


def told(losses, start, total=100, **more):
    said = []
    watch = Watch(NAMES, total, said.append)
    for step, loss in enumerate(losses, start=1):
        watch.look(step, {**FINE, "loss": loss, "uninformed_loss": start, **more})
    return said


def test_a_loss_that_does_not_move_is_hinted_at_once():
    still = [
        4.85 + 0.3 * (-1) ** step for step in range(100)
    ]  # noisy, its mean is near
    said = told(still, 4.85, total=200)
    assert len(said) == 1
    assert said[0].startswith(
        "hint: at step 20, after a tenth of the run, the loss (mean 4.8"
    )
    assert "within 2% of 4.8500" in said[0]


@pytest.mark.parametrize(
    ("losses", "start"),
    [
        (np.linspace(4.85, 4.0, 100), 4.6),  # has moved when it is looked at
        ([0.0] * 100, 0.0 + 1e-3),
        ([np.nan] * 100, 4.85),
        ([4.85] * 9, 4.85),  # too few to say
    ],
)
def test_no_hint(losses, start):
    assert told(losses, start) == []


def test_no_hint_for_a_loss_without_such_a_value():
    said = []
    watch = Watch(NAMES, 100, said.append)
    for step in range(1, 100):
        watch.look(step, dict(FINE))
    assert said == []


def test_collapse_is_said_once():
    said = []
    watch = Watch(NAMES, 1000, said.append)
    for step in range(190, 220):
        ranks = {"image_effective_rank": 1.01, "text_effective_rank": 3.0}
        watch.look(step, {**FINE, **ranks})
    assert len(said) == 1 and "at step 200 the embeddings are nearly alike" in said[0]
