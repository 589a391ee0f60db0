"""evals=calibration: numbers by hand, from scratch, and of known truths."""

import math

import numpy as np
import pytest
import scipy.optimize
from evals_tools import Data, Table, Words, crop, pixels, values

import clipjax
from clipjax import reliability, results, testing
from clipjax.comparison import row_metrics
from clipjax.data.class_lists import Classes
from clipjax.encoder import Encoder
from clipjax.evals import calibration, classification, zeroshot
from clipjax.evals.common.inputs import Inputs
from clipjax.types import Example, UserError


class Scaled(Table):
    """A table of embeddings, with a logit_scale."""

    def encode_image(self, variables, image):
        embed = super().encode_image(variables, image)["image_embed"]
        return {"image_embed": embed, "logit_scale": variables["params"]["scale"]}


class Logits(Table):
    """A classifier that looks logits up."""

    image_output = "logits"

    def encode_image(self, variables, image):
        return {"logits": super().encode_image(variables, image)["image_embed"]}


def inputs_of(labels, count, classifies=True, more=None):
    """Inputs of an image per label; `more`: a second label set, name -> its labels."""
    names = [f"c{i}" for i in range(count)]
    sets = {"kind": labels} | (more or {})
    examples = [
        Example(
            pixels(i), [], {name: int(own[i]) for name, own in sets.items()}, f"{i}"
        )
        for i in range(len(labels))
    ]
    encoder = Encoder(
        Logits() if classifies else Scaled(),  # type: ignore[arg-type]
        Words(names),  # type: ignore[arg-type]
        crop,
        batch_size=64,
        classes=Classes(tuple(names)) if classifies else Classes(),
    )
    return Inputs(encoder, Data(examples, dict.fromkeys(sets, names)))


def run(logits, labels, **options):
    """The result of a classifier with these logits."""
    logits = np.asarray(logits, np.float32)
    inputs = inputs_of(labels, logits.shape[1])
    made = calibration.make(inputs, **options)
    return made.run({"params": {"image": logits}})


def drawn(seed, n, classes=4, spread=2.0, sharper=1.0):
    """Logits, and labels drawn from their softmax; then the logits times `sharper`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (n, classes))
    labels = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    return logits * sharper, labels


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def of_half(found, half):
    return np.flatnonzero(np.array(found.rows["half"]) == half)


def test_eight_images_by_hand():
    """The measured half has confidences 0.9, 0.9, 0.9, 0.9 (three right) and 0.7, 0.7,
    0.7, 0.5 (one of 0.7 right, and 0.5, which ties, counts half).

    Bins of a fifth: |0.9 - 3/4| * 4/8 + |0.7 - 1/3| * 3/8 + |0.5 - 1/2| * 1/8 = 0.2125.
    Two bins of equal mass: |0.9 - 3/4| * 4/8 + |0.65 - 1.5/4| * 4/8 = 0.2125.
    """
    confidence = np.array([0.9] * 4 + [0.7] * 3 + [0.5])
    right = np.array([1, 1, 0, 1, 0, 1, 0, 1])
    half = np.array(run(np.zeros((16, 2)), [0] * 16).rows["half"])
    logits, labels = np.zeros((16, 2)), np.zeros(16, int)
    logits[half == "measured", 0] = np.log(confidence / (1 - confidence))
    labels[half == "measured"] = 1 - right
    found = run(logits, labels, bins=5)
    assert found.metrics["ece"].value == pytest.approx(0.2125, abs=1e-6)
    two = run(logits, labels, bins=2).metrics
    assert two["adaptive_ece"].value == pytest.approx(0.2125, abs=1e-6)
    # The mean confidence is 6.2 / 8, and 4.5 of 8 are right.
    assert two["accuracy"].value == pytest.approx(4.5 / 8)
    assert two["overconfidence"].value == pytest.approx(100 * 1.7 / 8, abs=1e-4)
    # (1 - p)^2 + (1 - p)^2 of what is right, 2 p^2 of what is wrong.
    brier = (3 * 0.02 + 1.62 + 2 * 0.98 + 0.18 + 0.5) / 8
    assert two["brier"].value == pytest.approx(brier, abs=1e-6)
    nll = -(3 * math.log(0.9) + math.log(0.1) + 2 * math.log(0.3))
    nll = (nll - math.log(0.7) - math.log(0.5)) / 8
    assert two["nll"].value == pytest.approx(nll, abs=1e-6)
    table = reliability.bins(found.rows, 5)
    assert [one.count for one in table] == [0, 0, 1, 3, 4]
    assert [one.low for one in table] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert math.isnan(table[0].confidence) and table[0].accuracy.n == 0
    assert [one.accuracy.value for one in table[2:]] == pytest.approx(
        [0.5, 1 / 3, 0.75]
    )


def brute(confidence, right, bins):
    """The expected calibration error, bin by bin, by the papers' definitions."""
    equal = 0.0
    for b in range(bins):
        inside = [
            i
            for i, c in enumerate(confidence)
            if b / bins < c <= (b + 1) / bins or (b == 0 and c == 0)
        ]
        if inside:
            gap = abs(np.mean([confidence[i] - right[i] for i in inside]))
            equal += gap * len(inside) / len(confidence)
    return equal


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_numbers_from_the_rows(temperature):
    """Each by its definition, over probabilities recomputed."""
    logits, labels = drawn(0, 301, 5, sharper=temperature)
    found = run(logits, labels, bins=7, seed=3)
    metrics, rows = values(found), found.rows
    fitted, measured = of_half(found, "fit"), of_half(found, "measured")
    assert (len(fitted), len(measured)) == (150, 151)
    logits = logits.astype(np.float32).astype(float)

    def loss(log_t, taken):
        shares = softmax(logits[taken] / math.exp(log_t))
        return -np.log(shares[np.arange(len(taken)), labels[taken]]).mean()

    best = scipy.optimize.minimize_scalar(
        loss, bounds=(-3, 3), args=(fitted,), options={"xatol": 1e-9}
    )
    assert metrics["temperature"] == pytest.approx(math.exp(best.x), rel=1e-5)
    right = logits.argmax(axis=1) == labels
    assert (rows["hit"] == right).all()
    assert rows["prediction"].tolist() == logits.argmax(axis=1).tolist()
    assert rows["label"].tolist() == labels.tolist()
    for start, t in (("", 1.0), ("scaled/", metrics["temperature"])):
        shares = softmax(logits / t)
        confidence = shares.max(axis=1)
        column = "scaled_confidence" if start else "confidence"
        assert rows[column] == pytest.approx(confidence)
        own, hit = confidence[measured], right[measured]
        assert metrics[f"{start}ece"] == pytest.approx(brute(own, hit, 7))
        order = np.argsort(own)
        # Place i of n is in bin floor(7 i / n).
        parts = [order[np.arange(151) * 7 // 151 == b] for b in range(7)]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        gaps = [abs((own - hit)[part].sum()) for part in parts]
        assert metrics[f"{start}adaptive_ece"] == pytest.approx(sum(gaps) / 151)
        over = 100 * (own.mean() - hit.mean())
        assert metrics[f"{start}overconfidence"] == pytest.approx(over)
        expected = loss(math.log(t), measured)
        assert metrics[f"{start}nll"] == pytest.approx(expected)
        truth = np.eye(5)[labels[measured]]
        brier = ((shares[measured] - truth) ** 2).sum(axis=1).mean()
        assert metrics[f"{start}brier"] == pytest.approx(brier)
        assert found.metrics[f"{start}nll"].chance == pytest.approx(math.log(5))
        assert found.metrics[f"{start}brier"].chance == pytest.approx(0.8)
        # The table of a diagram has the same errors in it.
        for name, mass in (("ece", False), ("adaptive_ece", True)):
            table = reliability.bins(rows, 7, scaled=bool(start), equal_mass=mass)
            gaps = [
                one.count * abs(one.confidence - one.accuracy.value)
                for one in table
                if one.count
            ]
            assert metrics[f"{start}{name}"] == pytest.approx(sum(gaps) / 151)
    assert metrics["accuracy"] == pytest.approx(right[measured].mean())
    for name, metric in metrics.items():
        paired = row_metrics.of(name, rows)
        if "ideal" in name or name == "temperature":
            assert paired is None, name
        else:
            assert paired is not None and paired.metric == pytest.approx(metric), name
    for name, metric in found.metrics.items():
        assert metric.low < metric.value < metric.high, name
        assert metric.n == (150 if name == "temperature" else 151)
    assert found.primary == "ece" and found.metrics["ece"].mode == "min"
    assert "7 bins" in found.protocol and "seed 3" in found.protocol


@pytest.mark.parametrize("sharper", [1.0, 2.0])
def test_a_known_truth_is_recovered(sharper):
    """Labels are drawn from the model's own probabilities: it is calibrated, and one
    with doubled logits has the temperature 2, which calibrates it.
    """
    logits, labels = drawn(1, 6000, 10, sharper=sharper)
    found = run(logits, labels)
    fitted = found.metrics["temperature"]
    assert fitted.low < sharper < fitted.high and fitted.high - fitted.low < 0.2
    calibrated = ["scaled/"] + [""] * (sharper == 1.0)
    for start in calibrated:
        for name in ("ece", "adaptive_ece"):
            expected = found.metrics[f"{start}ideal_{name}"]
            value = found.metrics[f"{start}{name}"].value
            assert expected.low < value < expected.high < 0.04, (start, name)
        over = found.metrics[f"{start}overconfidence"]
        assert over.low < 0 < over.high
    if sharper == 2.0:
        assert found.metrics["ece"].low > found.metrics["ideal_ece"].high
        assert found.metrics["overconfidence"].low > 0
        for name in ("ece", "nll", "brier"):
            metrics = found.metrics
            assert metrics[f"scaled/{name}"].value < metrics[name].value


def test_zero_shot_is_the_softmax_of_scaled_cosines():
    """Over two label sets; predictions and hits are those of evals=zeroshot."""
    rng = np.random.default_rng(2)
    images, texts = rng.normal(size=(40, 6)), rng.normal(size=(3, 6))
    images, texts = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts)
    )
    texts[2] = texts[1]  # these tie
    labels = rng.integers(0, 3, 40)
    more = {"other": rng.integers(0, 3, 40)}
    variables = {
        "params": {
            "image": images.astype(np.float32),
            "text": np.concatenate([np.zeros((1, 6)), texts]).astype(np.float32),
            "scale": np.float32(20),
        }
    }
    inputs = inputs_of(labels, 3, False, more)
    found = calibration.make(inputs, templates=("{}",)).run(variables)
    shares = softmax(20 * (images @ texts.T))
    for at, own in ((slice(0, 40), labels), (slice(40, 80), more["other"])):
        assert found.rows["confidence"][at] == pytest.approx(shares.max(axis=1), 1e-4)
        expected = shares.max(axis=1, keepdims=True) - shares < 1e-6
        hits = expected[np.arange(40), own] / expected.sum(axis=1)
        assert found.rows["hit"][at] == pytest.approx(hits)
    assert 0.5 in found.rows["hit"]
    zero = zeroshot.make(inputs, templates=("{}",)).run(variables).rows
    for name in ("key", "label_set", "label", "label_name", "prediction_name"):
        assert list(found.rows[name]) == list(zero[name])
    metrics = found.metrics
    mean = (metrics["kind/ece"].value + metrics["other/ece"].value) / 2
    assert found.primary == "mean_ece"
    assert metrics["mean_ece"].value == pytest.approx(mean)
    assert metrics["mean_ece"].low < mean < metrics["mean_ece"].high
    assert "softmax of logit_scale * cosine" in found.protocol
    only = calibration.make(inputs, templates=("{}",), label_sets=("other",))
    alone = only.run(variables)
    assert alone.primary == "other/ece"
    assert alone.metrics["other/ece"] == metrics["other/ece"]
    assert reliability.bins(found.rows, label_set="other") == reliability.bins(
        alone.rows
    )
    lost = np.full_like(variables["params"]["text"], np.nan)
    variables = {"params": variables["params"] | {"text": lost}}
    lost = calibration.make(inputs, templates=("{}",)).run(variables)
    assert math.isnan(lost.metrics["mean_ece"].value)
    assert "40 outputs not finite and left out" in lost.size
    assert "no image to measure" in lost.size


def test_a_classifier_and_classification_agree():
    logits, labels = drawn(3, 60)
    inputs = inputs_of(labels, 4)
    variables = {"params": {"image": logits.astype(np.float32)}}
    found = calibration.make(inputs).run(variables).rows
    other = classification.make(inputs).run(variables).rows
    for name in ("key", "label_set", "label", "prediction", "prediction_name"):
        assert list(found[name]) == list(other[name])


def test_what_is_not_finite_is_left_out():
    logits, labels = drawn(4, 50)
    whole = run(logits, labels)
    logits[[3, 7, 20], [0, 1, 2]] = np.nan, np.inf, -np.inf
    found = run(logits, labels)
    assert found.size.endswith("3 outputs not finite and left out")
    rows = found.rows
    assert rows["half"] == whole.rows["half"]  # of all models alike
    assert np.flatnonzero(np.isnan(rows["confidence"])).tolist() == [3, 7, 20]
    assert rows["prediction"][[3, 7, 20]].tolist() == [-1] * 3
    good = set(range(50)) - {3, 7, 20}
    measured = sorted(good & set(of_half(found, "measured").tolist()))
    expected = brute(rows["confidence"][measured], rows["hit"][measured], 15)
    assert found.metrics["ece"].value == pytest.approx(expected)
    assert found.metrics["ece"].n == len(measured)
    assert found.metrics["temperature"].n == len(good) - len(measured)


@pytest.mark.parametrize(
    ("logits", "labels", "expected", "told"),
    [
        # All right by a wide margin: the lower the better.
        (np.eye(3)[[0, 1, 2] * 6] * 50, [0, 1, 2] * 6, (0, math.nan), "is wrong"),
        # All wrong: the higher the better.
        (
            np.eye(3)[[0, 1, 2] * 6] * 50,
            [1, 2, 0] * 6,
            (1, math.nan),
            "confidence tells nothing",
        ),
        # All tie: the confidence is chance, and so is the share right.
        (np.ones((18, 4)), [0] * 18, (0, 1), "all classes tie"),
        # One class, of which every image is.
        (np.ones((9, 1)), [0] * 9, (0, 1), "all classes tie"),
        # Two images, one per half; a single one cannot be fitted to.
        ([[9.0, 0], [9.0, 0]], [1, 1], (1, math.nan), "confidence tells nothing"),
        ([[9.0, 0]], [0], (0, math.nan), "no image to fit"),
        (np.full((6, 2), np.nan), [0] * 6, (math.nan, math.nan), "no image to measure"),
    ],
)
def test_degenerate_data(logits, labels, expected, told):
    """Finite numbers, or NaN with a reason; intervals have a width."""
    found = run(logits, labels)
    ece, fitted = found.metrics["ece"], found.metrics["temperature"]
    got = (ece.value, fitted.value)
    assert got == pytest.approx(expected, abs=2e-4, nan_ok=True)
    assert told in found.size
    for name, metric in found.metrics.items():
        if "temperature" in name or not math.isfinite(metric.value):
            continue
        assert metric.low <= metric.value <= metric.high, name
        if "ideal" not in name and len(logits[0]) > 1:
            assert metric.low < metric.high, name
    if math.isnan(fitted.value):
        assert math.isnan(found.metrics["scaled/ece"].value)
    assert sum(one.count for one in reliability.bins(found.rows)) == (
        found.metrics["accuracy"].n
    )


def test_copies_stay_together():
    """Every image four times: one half has all of it, and the interval knows."""
    logits, labels = drawn(5, 400)
    copies = np.arange(400) // 4
    logits, labels = logits[copies], labels[copies]
    inputs = inputs_of(labels, 4)
    for place, example in enumerate(inputs.source.examples):
        inputs.source.examples[place] = Example(
            np.concatenate([example.image, pixels(copies[place])], axis=0),
            [],
            example.labels,
            example.key,
        )
        # The first pixel chooses the logits; it is the same for copies.
        inputs.source.examples[place].image[0] = pixels(copies[place] * 4)[0]
    variables = {"params": {"image": logits.astype(np.float32)}}
    together = calibration.make(inputs, same_image=True).run(variables)
    halves = np.array(together.rows["half"]).reshape(100, 4)
    assert (halves == halves[:, :1]).all()
    assert (halves == "fit").sum() == 200
    apart = calibration.make(inputs).run(variables)
    halves = np.array(apart.rows["half"]).reshape(100, 4)
    assert (halves != halves[:, :1]).any()
    for name in ("ece", "nll", "temperature", "accuracy", "ideal_ece"):
        one, other = together.metrics[name], apart.metrics[name]
        assert one.high - one.low > 1.4 * (other.high - other.low), name
    assert "same_image" in together.protocol and "same_image" not in apart.protocol


def test_two_models_are_compared(tmp_path):
    """A sharper one is worse calibrated; each image's values are paired."""
    meta = {"evals": {"calibration": {"name": "calibration"}}}
    places, found = [], []
    for name, sharper in (("one", 1.0), ("two", 3.0)):
        found.append(run(*drawn(6, 400, sharper=sharper)))
        saved = {"": ({"calibration": found[-1]}, meta)}
        places.append(results.save(tmp_path / name, saved)[0])
    compared = clipjax.compare_evaluations(*places)
    by_name = {one.metric: one for one in compared.differences}
    assert {"ece", "nll", "brier", "accuracy", "scaled/ece"} <= by_name.keys()
    for name, one in by_name.items():
        before, after = (result.metrics[name].value for result in found)
        assert one.difference == pytest.approx(after - before, abs=1e-9), name
        assert one.n == one.images == 200
    assert by_name["ece"].low > 0 and by_name["nll"].p < 0.01
    assert by_name["accuracy"].p == 1
    flips = compared.flips(by_name["nll"], 3)
    assert all(flip.query.startswith("kind=c") for side in flips for flip in side)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 0}, "bins=0.*: use bins from 1 to 10,000"),
        ({"bins": 10**12}, "bins=1000000000000.*: use bins from 1 to 10,000"),
        ({"seed": -1}, "seed=-1"),
        ({"max_samples": -1}, "max_samples=-1"),
        ({"templates": ("{}",)}, "templates=.* this model is a classifier: leave it"),
        ({"label_sets": ("kind",)}, "label_sets=.* is a classifier"),
        ({"same_name": "alike"}, "same_name='alike'"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        calibration.make(inputs_of([0, 1], 2), **options)
    assert "\n" not in str(error.value)


def test_data_or_models_without_what_it_needs():
    inputs = inputs_of([0, 1], 2, classifies=False)
    with pytest.raises(UserError, match="no label set 'shape'"):
        calibration.make(inputs, label_sets=("shape",))

    class Plain(Table):
        pass

    encoder = Encoder(
        Plain(),  # type: ignore[arg-type]
        Words(["c0", "c1"]),  # type: ignore[arg-type]
        crop,
    )
    made = calibration.make(Inputs(encoder, inputs.source), templates=("{}",))
    table = np.eye(3, dtype=np.float32)
    with pytest.raises(UserError, match="encode_image gives no logit_scale, but image"):
        made.run({"params": {"image": table, "text": table}})
    inputs.source.class_names = {}
    with pytest.raises(UserError, match="calibration needs images with class labels"):
        calibration.make(inputs)


def test_contract():
    testing.check_evaluator("calibration", bins=1, same_image=True)
