"""The match cut-off as an evaluator: its numbers from scratch, refusals, rows."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
from evals_tools import Data, captioned, chances, table_encoder, values, variables

import clipjax
from clipjax import results, testing
from clipjax.evals import match, retrieval
from clipjax.evals.common import match_pairs
from clipjax.evals.common.inputs import Inputs
from clipjax.types import Example, UserError


def run(images, texts, owner, captions=None, broken=(), **options):
    """The result of given embeddings; caption j belongs to image owner[j]."""
    captions = captions or [f"caption {j}" for j in range(len(texts))]
    data = Data(captioned(range(len(images)), owner, captions, broken))
    inputs = Inputs(table_encoder(captions), data)
    return match.make(inputs, **options).run(variables(images, texts))


def drawn(seed, n, captions=3, width=6, alike=0.7):
    """Unit vectors; captions lie near their image."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(n), captions)
    images = rng.normal(size=(n, width))
    texts = alike * images[owner] + rng.normal(size=(len(owner), width))
    images, texts = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts)
    )
    return images, texts, owner


def halves(found):
    """(score, match, probability) of the pairs fitted, and of those measured."""
    half, rows = np.array(found.rows["half"]), found.rows
    return [
        tuple(rows[name][half == word] for name in ("score", "match", "probability"))
        for word in ("fit", "measured")
    ]


@pytest.mark.parametrize("captions", [1, 4])
@pytest.mark.parametrize("rounded", [False, True])
def test_numbers_from_the_rows(captions, rounded):
    """Each by its definition, over scores recomputed; rounded ones tie."""
    images, texts, owner = drawn(0, 40, captions)
    if rounded:
        images, texts = (np.sign(x) / math.sqrt(6) for x in (images, texts))
    found = run(images, texts, owner)
    rows = found.rows
    image = np.array([int(key.split()[1]) for key in rows["key"]])
    caption = np.array([int(text.split()[1]) for (text,) in rows["captions"]])
    assert (rows["match"] == (owner[caption] == image)).all()
    assert (
        rows["query"].tolist()
        == (owner[caption] * captions + caption % captions).tolist()
    )
    products = (images[image] * texts[caption]).sum(axis=1)
    assert rows["score"] == pytest.approx(products, abs=1e-6)

    (score, own, _), (later, mine, probability) = halves(found)
    metrics = values(found)
    slope, intercept = metrics["slope"], metrics["intercept"]
    least = penalised(slope, intercept, score, own)
    for step in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        assert penalised(slope + step[0], intercept + step[1], score, own) > least
    assert metrics["threshold"] == pytest.approx(-intercept / slope)
    expected = 1 / (1 + np.exp(-(slope * later + intercept)))
    assert probability == pytest.approx(expected)
    right, wrong = expected[mine], expected[~mine]
    assert metrics["right_accepted"] == pytest.approx((right >= 0.5).mean())
    assert metrics["wrong_rejected"] == pytest.approx((wrong < 0.5).mean())
    accuracy = ((right >= 0.5).mean() + (wrong < 0.5).mean()) / 2
    assert metrics["accuracy"] == pytest.approx(accuracy)
    pairs = later[mine][:, None] - later[~mine][None]
    assert metrics["auc"] == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())
    statistic = scipy.stats.mannwhitneyu(later[mine], later[~mine]).statistic
    assert metrics["auc"] == pytest.approx(statistic / pairs.size)
    losses = -np.log(right).mean(), -np.log(1 - wrong).mean()
    assert metrics["log_loss"] == pytest.approx(sum(losses) / 2)

    assert chances(found) == pytest.approx(
        dict.fromkeys(("accuracy", "right_accepted", "wrong_rejected", "auc"), 0.5)
        | {"log_loss": math.log(2)}
    )
    for name, metric in found.metrics.items():
        assert metric.low < metric.value < metric.high, name
    assert found.metrics["auc"].n == found.metrics["accuracy"].n == len(later)
    assert found.metrics["slope"].n == len(score)
    assert found.metrics["log_loss"].mode == "min"
    assert found.primary == "accuracy"


def penalised(slope, intercept, score, own):
    """Firth's penalised cross entropy, kinds alike."""
    p = 1 / (1 + np.exp(-(slope * score + intercept)))
    weights = 0.5 / np.where(own, own.mean(), 1 - own.mean())
    x = np.stack([score, np.ones(len(score))])
    information = (x * weights * p * (1 - p)) @ x.T
    entropy = -(weights * np.log(np.where(own, p, 1 - p))).sum()
    return entropy - math.log(np.linalg.det(information)) / 2


def test_a_known_truth_is_recovered():
    """Cosines of right pairs are normal around 0.3, of wrong ones around 0.2: then the
    slope is 0.1 / 0.05^2 = 40 and the threshold 0.25.
    """
    rng, n = np.random.default_rng(0), 400
    # Image i is a basis vector, and a caption has its cosine with each image there.
    texts = rng.normal(0.2, 0.05, (n, n))
    texts[np.arange(n), np.arange(n)] += 0.1
    metrics = run(np.eye(n), texts, np.arange(n)).metrics
    truth = {
        "slope": 40,
        "threshold": 0.25,
        "intercept": -10,
        "accuracy": scipy.stats.norm.cdf(1),  # a deviation on either side
        "auc": scipy.stats.norm.cdf(math.sqrt(2)),
    }
    for name, value in truth.items():
        assert metrics[name].low < value < metrics[name].high, name
        assert metrics[name].high - metrics[name].low < abs(value) / 2, name


@pytest.mark.thorough
def test_intervals_hold_the_truth():
    """In 100 draws of 60 images with two captions: normal similarities of variance
    0.04^2 + 2 * 0.02^2, of which pairs of one image, or caption, share a part.
    """
    rng, held = np.random.default_rng(1), []
    n, variance = 60, 0.04**2 + 2 * 0.02**2
    owner = np.repeat(np.arange(n), 2)
    auc = scipy.stats.norm.cdf(0.1 / math.sqrt(2 * variance))
    truth = {"threshold": 0.15, "slope": 0.1 / variance, "auc": auc}
    for _ in range(100):
        texts = rng.normal(0.1, 0.04, (2 * n, n)) + rng.normal(0, 0.02, n)
        texts += rng.normal(0, 0.02, (2 * n, 1))
        texts[np.arange(2 * n), owner] += 0.1
        words = [str(number) for number in range(2 * n)]
        pairs = match_pairs.make_pairs(np.arange(n), owner, words, 1, 0)
        found = match.measure(texts[pairs.caption, pairs.image], pairs).metrics
        held.append([found[k].low <= x <= found[k].high for k, x in truth.items()])
    assert np.mean(held, axis=0) == pytest.approx([0.95] * 3, abs=0.06)


def test_perfect_and_collapsed_models():
    """Separable pairs are finite, with intervals of some width; equal ones tell
    nothing, and count half.
    """
    n = 20
    found = run(np.eye(n), np.eye(n), np.arange(n))
    metrics = found.metrics
    assert metrics["accuracy"].value == metrics["auc"].value == 1
    assert metrics["accuracy"].low < 0.95 and metrics["auc"].low < 0.95
    assert metrics["threshold"].value == pytest.approx(0.5)
    # By the penalty half a pair of the other kind beside ten.
    assert metrics["slope"].value == pytest.approx(2 * math.log(21))
    for name in ("slope", "threshold", "intercept", "log_loss"):
        assert metrics[name].low < metrics[name].high
    rows = np.full((n, 3), 3**-0.5)
    metrics = run(rows, rows, np.arange(n)).metrics
    assert metrics["accuracy"].value == metrics["auc"].value == 0.5
    assert metrics["slope"].value == 0 and math.isnan(metrics["threshold"].value)
    assert metrics["slope"].low is None
    assert metrics["log_loss"].value == pytest.approx(math.log(2))


def test_what_is_not_finite_is_left_out_and_counted():
    images, texts, owner = drawn(2, 24)
    images[3], texts[30] = np.nan, np.inf
    found = run(images, texts, owner)
    lost = ~np.isfinite(found.rows["score"])
    image = np.array([int(key.split()[1]) for key in found.rows["key"]])
    caption = np.array([int(text.split()[1]) for (text,) in found.rows["captions"]])
    assert (lost == ((image == 3) | (caption == 30))).all() and lost.any()
    assert np.isnan(found.rows["probability"][lost]).all()
    assert np.isfinite(found.rows["probability"][~lost]).all()
    assert found.size.endswith(f"{lost.sum()} pairs not finite and left out")
    assert found.metrics["accuracy"].n + found.metrics["slope"].n == (~lost).sum()
    found = run(images + np.nan, texts, owner)
    assert all(math.isnan(one.value) and one.n == 0 for one in found.metrics.values())
    assert found.metrics.keys() == match.UNITS.keys()


def test_broken_images_and_samples():
    images, texts, owner = drawn(3, 20)
    found = run(images, texts, owner, broken=(0, 19))
    assert found.broken == 2 and found.size.startswith("18 images x 54 captions")
    assert not {"image 0", "image 19"} & set(found.rows["key"])
    found = run(images, texts, owner, max_samples=10)
    assert set(found.rows["key"]) == {f"image {i}" for i in range(0, 20, 2)}
    assert found.protocol.endswith("; at most 10 images, evenly spread")


def test_two_models_are_compared(tmp_path):
    """Cells are the units: pairs of one share images and captions."""
    meta = {"evals": {"match": {"name": "match"}}}
    places = []
    for name, alike in (("one", 0.4), ("two", 1.5)):
        found = run(*drawn(8, 60, alike=alike))
        places.append(results.save(tmp_path / name, {"": ({"match": found}, meta)})[0])
    compared = clipjax.compare_evaluations(*places)
    names = ["accuracy", "right_accepted", "wrong_rejected"]
    assert [one.metric for one in compared.differences] == names
    one = compared.differences[0]
    before, after = (results.read(place).results["match"] for place in places)
    assert one.baseline == pytest.approx(before.metrics["accuracy"].value)
    assert one.value == pytest.approx(after.metrics["accuracy"].value)
    assert one.low < one.difference < one.high
    assert one.images == 15 and one.n == before.metrics["accuracy"].n
    better, worse = compared.flips(one, 2)
    kinds = {flip.query.split("'")[0] for flip in [*better, *worse]}
    assert kinds and kinds <= {"right pair ", "wrong pair "}


def test_more_others_and_another_seed():
    images, texts, owner = drawn(4, 24, 1)
    found = run(images, texts, owner, others=2)
    assert (~found.rows["match"]).sum() == 48
    assert "those of 2 other images" in found.protocol
    other = run(images, texts, owner, others=2, seed=5)
    assert values(other) != values(found) and "seed 5" in other.protocol


def test_copies_of_an_image():
    """Twice the same images: with same_image none is another's wrong one."""
    images, texts, owner = drawn(5, 12, 1)
    captions = [f"caption {j}" for j in range(24)]
    examples = captioned(range(12), owner, captions)
    more = [
        dataclasses.replace(one, captions=[captions[12 + i]], key=f"copy {i}")
        for i, one in enumerate(examples)
    ]
    inputs = Inputs(table_encoder(captions), Data(examples + more))
    table = variables(images, np.concatenate([texts, texts]))
    found = match.make(inputs, same_image=True).run(table)
    assert "same_image" in found.protocol
    assert (found.rows["score"][found.rows["match"]] > -1).all()
    for key, query, own in zip(
        found.rows["key"], found.rows["query"], found.rows["match"], strict=True
    ):
        number = int(key.split()[1])
        assert own == (query == number + 12 * key.startswith("copy"))
        assert own or query % 12 != number
    # Digests that another evaluator of the source asks for change nothing.
    plain = match.make(Inputs(table_encoder(captions), inputs.source)).run(table)
    shared = Inputs(table_encoder(captions), inputs.source)
    evaluator = match.make(shared)
    shared.need_digests()
    assert values(evaluator.run(table)) == values(plain)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"others": 0}, "others=0, seed=0: give others of 1 or more"),
        ({"seed": -1}, "others=1, seed=-1: give others"),
        ({"others": 3}, "with others=3 needs 16 or more images with captions, and "
         "there are 12: give more, or take fewer others"),
        ({"max_samples": 7}, "with others=1 needs 8 .* and there are 7: give more$"),
        ({"max_samples": 1}, "max_samples=1 leaves one image"),
        ({"broken": range(5)}, "with others=1 needs 8 .* there are 7 that can be read"),
        ({"captions": ["a  dog", "a dog"] * 6}, "there are no wrong pairs, because"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted(options, words):
    images, texts, owner = drawn(6, 12, 1)
    with pytest.raises(UserError, match=f"^evals=match:? ?{words}"):
        run(images, texts, owner, **options)


def test_it_needs_captions():
    data = Data([Example(np.zeros((1, 1, 3), np.uint8))])
    with pytest.raises(UserError, match="^evals=match needs two or more images"):
        match.make(Inputs(table_encoder([]), data))


def test_it_shares_what_retrieval_encodes():
    images, texts, owner = drawn(7, 8, 2)
    captions = [f"caption {j}" for j in range(16)]
    data = Data(captioned(range(8), owner, captions))
    encoder = table_encoder(captions)
    inputs, table = Inputs(encoder, data), variables(images, texts)
    retrieval.make(inputs).run(table)
    encoder.texts = None  # what is encoded is there
    seen = []
    match.make(inputs).run(table, lambda *done: seen.append(done))
    assert sorted(data.reads) == list(range(8)) and seen[-1] == (24, 24)


def test_contract():
    testing.check_evaluator(match.make)
