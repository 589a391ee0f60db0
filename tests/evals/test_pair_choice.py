"""Winoground's scores: by hand, by brute force with ties, and what is refused."""

import itertools

import dataset_tools
import numpy as np
import pytest
from evals_tools import Data, Table, captioned, table_encoder, values, variables

from clipjax import testing
from clipjax.comparison import row_metrics
from clipjax.comparison.shared_rows import SharedRows
from clipjax.data.annotations.image_pairs import ImagePair
from clipjax.data.images import decoding
from clipjax.data.sources import winoground
from clipjax.encoder import Encoder
from clipjax.evals import pair_choice
from clipjax.evals.common import intervals, pair_scores
from clipjax.evals.common.inputs import Inputs
from clipjax.types import UserError

NAMES = ("text_score", "image_score", "group_score")


def expected(four):
    """The scores of s(c0,i0), s(c0,i1), s(c1,i0), s(c1,i1): published, and over every
    order of those that tie.
    """
    four = [x if np.isfinite(x) else -np.inf for x in four]
    if not (np.isfinite(four[0]) and np.isfinite(four[3])):
        return np.zeros(3), np.zeros(3)

    def scores(a, b, c, d):
        text, image = a > c and d > b, a > b and d > c
        return np.array([text, image, text and image], float)

    ranks = []
    for order in itertools.permutations(range(4)):
        keyed = sorted(range(4), key=lambda at: (four[at], order[at]))
        ranks.append(scores(*[keyed.index(at) for at in range(4)]))
    return scores(*four), np.mean(ranks, axis=0)


def test_scores_equal_brute_force():
    draw = np.random.default_rng(0)
    sims = draw.integers(-1, 2, (500, 2, 2)).astype(float)
    sims[draw.random(sims.shape) < 0.05] = np.nan
    sims[draw.random(sims.shape) < 0.03] = np.inf
    found = [pair_scores.strict(sims), pair_scores.random_ties(sims)]
    for at, four in enumerate(sims.reshape(-1, 4)):
        for scores, right in zip(found, expected(four), strict=True):
            assert [scores[name][at] for name in NAMES] == pytest.approx(right)


def test_chance_is_that_of_scores_that_are_all_alike():
    alike = pair_scores.random_ties(np.ones((1, 2, 2)))
    assert {name: own[0] for name, own in alike.items()} == pytest.approx(
        pair_scores.CHANCES
    )
    draws = np.random.default_rng(0).random((20000, 2, 2))
    for name, own in pair_scores.strict(draws).items():
        assert own.mean() == pytest.approx(pair_scores.CHANCES[name], abs=0.01)


CAPTIONS = ["a b", "b a", "c d", "d c", "e f", "f e", "g h", "h g i", "j k", "k j"]
TAGS = [
    {"collapsed_tag": "Object", "num_main_preds": "1"},
    {"collapsed_tag": "Object", "num_main_preds": "2", "secondary_tag": "Series"},
    {"collapsed_tag": "Both"},
    {"tag": "Noun"},
    {"collapsed_tag": "Relation"},
]


def inputs_of(broken=(), tags=TAGS):
    source = Data(captioned(range(10), np.arange(10), CAPTIONS, broken))
    source.pairs = [
        ImagePair(f"p{n}", 2 * n, 2 * n + 1, own) for n, own in enumerate(tags)
    ]
    return Inputs(table_encoder(CAPTIONS), source)


# Pair 0 is all right, of pair 1 the texts, of pair 2 the images, of pair 3 nothing.
IMAGES = [
    [1, 0],
    [0, 1],
    [1, 0],
    [1, 1],
    [1, 0],
    [0, 1],
    [1, 1],
    [0, 1],
    [9, 9],
    [9, 9],
]
TEXTS = [[1, 0], [0, 1], [2, 0], [1, 2], [2, 1], [3, 4], [2, 1], [1, 2], [1, 1], [1, 1]]


def by_hand():
    """Similarities of pairs 0 to 3, in the order c0i0, c0i1, c1i0, c1i1:
    1 0 0 1. 2 2 1 3: both images have the right text, caption 0's images tie.
    2 1 3 4: both captions have the right image, image 0 the wrong text. 3 1 3 2: image
    1 has the right text and image 0's tie, caption 1 has the wrong image.
    """
    return {
        "": [[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0]],
        "random_ties/": [[1, 1, 1], [1, 1 / 2, 1 / 2], [0, 1, 0], [1 / 2, 0, 0]],
    }


def test_by_hand():
    inputs = inputs_of(broken=(9,))
    evaluator = pair_choice.make(inputs)
    result = evaluator.run(variables(IMAGES, TEXTS))
    assert result.rows["similarities"].tolist() == [
        [1, 0, 0, 1],
        [2, 2, 1, 3],
        [2, 1, 3, 4],
        [3, 1, 3, 2],
    ]
    for start, rows in by_hand().items():
        for name, column in zip(NAMES, np.transpose(rows), strict=True):
            assert result.rows[start + name] == pytest.approx(column)
            metric = result.metrics[start + name]
            assert metric.value == pytest.approx(column.mean())
            assert (metric.n, metric.chance) == (4, pair_scores.CHANCES[name])
            low, high = intervals.wilson(column.mean(), 4)
            assert (metric.low, metric.high) == pytest.approx((low, high))
    found = values(result)
    # Captions of the same words: at most chance. Those of pair 3 differ by "i".
    ceilings = [found[f"order_blind_ceiling/{name}"] for name in NAMES]
    assert ceilings == pytest.approx(
        [(3 / 4 + 1) / 4, (3 / 4 + 1) / 4, (3 / 6 + 1) / 4]
    )
    assert result.metrics["order_blind_ceiling/text_score"].low is None
    # Of a text alone both images have the same likelihood, so images tie.
    assert found["text_only/image_score"] == 0.25
    assert found["Object/text_score"] == 1 and found["Object/image_score"] == 0.5
    assert found["main_preds_2/text_score"] == found["Series/text_score"] == 1
    assert found["Both/text_score"] == 0 and result.metrics["Both/text_score"].n == 1
    assert np.isnan(found["Relation/group_score"])
    assert result.metrics.keys() == evaluator.metric_units().keys()
    assert result.primary == "group_score"
    assert result.broken == 1
    assert result.size == "4 pairs, 1 left out for a broken image"
    assert result.protocol.startswith("4 pairs ")
    assert result.rows["query"] == ["p0", "p1", "p2", "p3"]
    assert (
        result.rows["key"][1] == "image 2" and result.rows["second_key"][1] == "image 3"
    )
    assert result.rows["captions"][3] == ["g h", "h g i"]
    assert result.rows["collapsed_tag"] == ["Object", "Object", "Both", ""]


def test_few_pairs_and_embeddings_that_are_not_finite():
    few = pair_choice.make(inputs_of(), max_samples=2).run(variables(IMAGES, TEXTS))
    assert few.rows["query"] == ["p0", "p2"]
    assert few.protocol.endswith("; at most 2 pairs, evenly spread")
    images = np.array(IMAGES, float)
    images[0] = np.nan
    result = pair_choice.make(inputs_of()).run(variables(images, TEXTS))
    assert result.rows["text_score"].tolist() == [0, 1, 0, 0, 0]
    assert "1 embeddings not finite and never chosen" in result.size
    assert result.protocol != few.protocol


def test_a_model_blind_to_order_has_ties_only():
    """Both captions of a pair are one embedding: no score, chance with ties."""
    texts = np.repeat(np.random.default_rng(0).random((5, 2)), 2, axis=0)
    inputs = inputs_of()
    result = pair_choice.make(inputs).run(variables(IMAGES, texts))
    for name in NAMES:
        assert result.rows[name].tolist() == [0] * 5
        assert (
            result.rows[f"random_ties/{name}"].max() <= pair_scores.CHANCES[name] + 1e-9
        )
    assert result.rows["random_ties/text_score"].tolist() == [0.25] * 5


class Letters:
    """A tokenizer by the sum of letters, blind to order."""

    def __call__(self, texts):
        ids = np.array([[sum(map(ord, text)) % 97] for text in texts], np.int32)
        return ids, np.ones_like(ids, bool)


def test_the_public_files(tmp_path):
    """From the files as distributed, with a broken image, to the rows."""
    dataset_tools.winoground(tmp_path)
    (tmp_path / "data" / "images" / "ex_2_img_1.png").write_bytes(b"no image")
    source = winoground.make("test", path=str(tmp_path))

    def mean(image):
        picture = np.asarray(decoding.decode(image))
        return np.uint8(picture.mean(axis=(0, 1)))[None, None]

    table = {
        "params": {
            "image": np.random.default_rng(1).normal(size=(2**16, 4)).astype("f4"),
            "text": np.random.default_rng(2).normal(size=(97, 4)).astype("f4"),
        }
    }
    inputs = Inputs(Encoder(Table(), Letters(), mean, batch_size=4), source)
    result = pair_choice.make(inputs).run(table)
    assert (result.size, result.broken) == ("2 pairs, 1 left out for a broken image", 1)
    assert result.rows["key"] == ["ex_0_img_0.png", "ex_1_img_0.png"]
    assert result.rows["captions"] == [
        list(x[:2]) for x in dataset_tools.WINOGROUND[:2]
    ]
    assert result.metrics["Series/text_score"].n == 0
    # Two orders of the same letters are one text for this model.
    np.testing.assert_array_equal(
        result.rows["similarities"][:, :2], result.rows["similarities"][:, 2:]
    )


def test_two_models_are_compared_by_pair():
    first, second = (
        pair_choice.make(inputs_of()).run(variables(IMAGES, texts))
        for texts in (TEXTS, TEXTS[::-1])
    )
    shared = SharedRows(first.rows, second.rows)
    for name in (*NAMES, "random_ties/text_score"):
        found = shared.difference("pairs", "b", name, first.metrics[name])
        change = second.metrics[name].value - first.metrics[name].value
        assert (found.difference, found.images) == (pytest.approx(change), 5)
    # What follows from the texts is the same for every model.
    for name in ("text_only/text_score", "order_blind_ceiling/group_score"):
        assert row_metrics.of(name, first.rows) is None
        assert first.rows[name.replace("/", "_")].mean() == first.metrics[name].value
    flips = shared.flips(
        shared.difference("pairs", "b", NAMES[0], first.metrics[NAMES[0]]), 2
    )
    assert flips[1][0].query in ("p0", "p1")


def test_refused():
    inputs = inputs_of()
    with pytest.raises(UserError, match="max_samples=-1: use a number from 0 on"):
        pair_choice.make(inputs, max_samples=-1)
    with pytest.raises(UserError, match="data has none: use data=winoground"):
        pair_choice.make(Inputs(inputs.encoder, Data(inputs.source.examples)))
    broken = inputs_of(broken=(0, 3, 4, 7, 8))
    with pytest.raises(UserError, match="each of the 5 pairs .* first is image 0: can"):
        pair_choice.make(broken).run(variables(IMAGES, TEXTS))


def test_contract():
    testing.check_evaluator(pair_choice.make)
