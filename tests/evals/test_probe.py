"""The linear probe: scikit-learn's numbers, what it chooses and what it refuses."""

import json
import pathlib
import time

import make_probe_goldens
import numpy as np
import pytest
from evals_tools import image_table, labelled_inputs

from clipjax import testing
from clipjax.evals import knn, probe
from clipjax.evals.common import logistic
from clipjax.pulse import pulse
from clipjax.types import UserError

GOLDENS = json.loads(make_probe_goldens.PLACE.read_text())
MADE = GOLDENS["made"]
FEATURES, LABELS = np.array(MADE["features"]), np.array(MADE["labels"])


def run(test_rows, test_labels, rows=FEATURES, labels=LABELS, **options):
    inputs = labelled_inputs(list(test_labels), labels.tolist(), list("abcd"))
    calls = []
    made = probe.make(inputs, **options)
    found = made.run(image_table(test_rows, rows), lambda *call: calls.append(call))
    assert all(done <= total for done, total in calls)
    assert calls[-1][0] == calls[-1][1] and len({total for _, total in calls}) == 1
    return found


def test_a_given_penalty_equals_scikit_learn():
    """The classes of ten images, of which the first is evaluated with a wrong label."""
    golden = MADE["fits"][2]
    answers = np.argmax(golden["probabilities"], axis=1)
    answers[0] = (answers[0] + 1) % 4
    moved = FEATURES[:10] + 1e-3  # else they would be the training images
    found = run(moved, answers, l2=golden["l2"])
    top1 = found.metrics["class/top1"]
    assert (top1.value, top1.n, top1.chance) == (0.9, 10, 0.25)
    assert top1.low == pytest.approx(0.5958, abs=1e-4)  # Wilson's of 9 of 10
    assert list(found.rows["prediction"]) == [
        (answers[0] - 1) % 4,
        *answers[1:].tolist(),
    ]
    assert found.rows["rank"][0] > 1 and found.rows["rank"][1] == 1
    assert found.size.endswith("100 training images x 6 features, L2 3")
    assert found.protocol.startswith("linear probe, L2 3; class: 4 classes ")


@pytest.mark.thorough
def test_the_penalty_is_the_best_on_images_held_out():
    """Features of noise alone: the more penalty, the better."""
    rng = np.random.default_rng(0)
    rows, labels = rng.standard_normal((40, 30)), np.arange(40) % 2
    signal = np.where(labels[:, None] == 1, 3.0, -3.0)
    noisy = run(rows[:4] + 9, [0, 1, 0, 1], rows, labels)
    clear = run(rows[:4] + 9, [0, 1, 0, 1], np.hstack([rows[:, 1:], signal]), labels)

    def l2(found):
        return float(found.size.partition(", L2 ")[2].partition(" ")[0])

    assert l2(clear) < 1e3 and "(100.00% of those held out)" in clear.size
    assert l2(noisy) > l2(clear)
    usual = noisy.protocol
    assert usual.startswith("linear probe, L2 by 0.2 of each class held out, seed 0; ")
    assert clear.protocol == usual  # the rule is compared, not the value


def test_what_it_costs():
    inputs = labelled_inputs([0, 1], [0, 1, 0, 1])
    told = "needs 4 images of 'train', encoded once for all, and fits at most "
    iterations = " to them, of at most 1,000 iterations"
    assert probe.make(inputs).cost() == f"{told}16 linear probes{iterations}"
    assert probe.make(inputs, l2=1.0).cost() == f"{told}a linear probe{iterations}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"l2": -1.0}, "l2=-1.0: must be 0 or more"),
        ({"l2": float("nan")}, "l2=nan: must be 0 or more"),
        ({"val_share": 1.0}, "val_share=1.0, seed=0: use a share between 0 and 1"),
        (
            {"seed": -1},
            "val_share=0.2, seed=-1: use a share between 0 and 1, and a seed from 0 on",
        ),
        ({"ks": ()}, "ks=.., use numbers from 1 on"),
    ],
)
def test_options_out_of_range(options, words):
    with pytest.raises(UserError, match=f"^evals=probe: {words.replace(',', '.')}"):
        probe.make(labelled_inputs([0], [0, 1]), **options)


@pytest.mark.thorough
def test_nothing_to_hold_out():
    inputs, table = labelled_inputs([0], [0, 1]), image_table(np.eye(3))
    with pytest.raises(UserError, match="no class of 'class' has two training images"):
        probe.make(inputs).run(table)
    assert probe.make(inputs, l2=1.0).run(table).metrics["class/top1"].n == 1


def burn(original):
    """A function that first computes for a while, and is asked how long it is idle."""

    def slow(*args, **options):
        end = time.process_time() + 0.05
        pulse.idle(time.monotonic())
        while time.process_time() < end:
            pass
        idle.append(pulse.idle(time.monotonic() + 1000))
        return original(*args, **options)

    idle = []
    return slow, idle


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("evaluator", "module", "name", "options"),
    [
        (probe, logistic, "_solve", {"l2": 1.0}),
        (knn, knn, "class_votes", {}),
    ],
)
def test_a_long_computation_is_progress_to_other_processes(
    evaluator, module, name, options, monkeypatch
):
    slow, idle = burn(getattr(module, name))
    monkeypatch.setattr(module, name, slow)
    inputs = labelled_inputs([0, 1], [0, 1])
    evaluator.make(inputs, **options).run(image_table(np.eye(4)))
    assert idle == [0]


def test_contract():
    testing.check_evaluator(probe.make)


@pytest.mark.slow
def test_real_images_equal_scikit_learn(shared_data):
    """Thumbnails of flowers, at the penalty that the probe chooses."""
    folder = pathlib.Path(shared_data) / "flowers5"
    rows, labels = make_probe_goldens.thumbnails(folder, "train")
    others, answers = make_probe_goldens.thumbnails(folder, "test")
    inputs = labelled_inputs(answers.tolist(), labels.tolist(), list("abcde"))
    found = probe.make(inputs).run(image_table(others, rows))
    l2 = float(found.size.partition(", L2 ")[2].partition(" ")[0])
    golden = GOLDENS["flowers"][str(round((np.log10(l2) + 6) * 8))]
    assert found.metrics["class/top1"].value == pytest.approx(golden, abs=0.002)
