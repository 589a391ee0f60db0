"""Retrieval and zero-shot numbers against brute force, hand computation, simulation."""

import jax
import numpy as np
import pytest
from evals_tools import (
    BROKEN,
    Data,
    captioned,
    chances,
    pixels,
    table_encoder,
    values,
    variables,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax import registry
from clipjax.engine.sharding import make_mesh, replicated
from clipjax.evals import retrieval, zeroshot
from clipjax.evals.common import ranking
from clipjax.evals.common.inputs import Inputs
from clipjax.types import Example, UserError


def _retrieval(images, texts, owner, broken=(), mesh=None, **options):
    """Runs the evaluator on given embeddings; caption j belongs to image owner[j]."""
    captions = [f"caption {j}" for j in range(len(texts))]
    data = Data(captioned(range(len(images)), owner, captions, broken))
    table = variables(images, texts)
    if mesh is not None:
        table = jax.device_put(table, replicated(mesh))
    evaluator = retrieval.make(
        Inputs(table_encoder(captions, mesh=mesh), data), **options
    )
    result = evaluator.run(table)
    # Captions of images without any, or of broken ones, are never asked for.
    assert max(np.bincount(data.reads)) == 1
    return result


def _random(seed, n, most, levels=3, width=4):
    """Embeddings of small integers: exact products, and so exact ties, many of them."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(n), rng.integers(1, most + 1, n))
    draw = rng.integers(-levels, levels + 1, (n + len(owner), width))
    return draw[:n].astype(float), draw[n:].astype(float), owner


def _brute(scores, right, k):
    """Expected hit at k and rank under random tie-breaking, by its definition."""
    best = scores[right].max()
    above = (scores > best).sum()
    tied = np.flatnonzero(scores == best)
    own = right[tied].sum()
    # The position of the first right one among the tied, one place after another.
    hit, rank, still = 0.0, 0.0, 1.0
    for place in range(len(tied)):
        now = still * own / (len(tied) - place)
        if above + place < k:
            hit += now
        rank += now * (above + place + 1)
        still -= now
        if still < 1e-12:
            break
    return hit, rank


def _brute_metrics(scores, right, ks):
    found = {}
    for k in ks:
        pairs = [_brute(row, own, k) for row, own in zip(scores, right, strict=True)]
        found[f"recall@{k}"] = np.mean([hit for hit, _ in pairs])
        found["mean_rank"] = np.mean([rank for _, rank in pairs])
        found["median_rank"] = np.median([rank for _, rank in pairs])
    return found


def _check(result, prefix, direction, expected):
    for name, value in expected.items():
        got = result.metrics[f"{prefix}{direction}_{name}"].value
        assert got == pytest.approx(value, abs=1e-9), (prefix, direction, name)


@pytest.mark.thorough
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    n=st.integers(2, 9),
    most=st.integers(1, 4),
    block=st.integers(1, 12),
    levels=st.integers(1, 3),
)
def test_retrieval_equals_brute_force(seed, n, most, block, levels):
    images, texts, owner = _random(seed, n, most, levels)
    protocols = ("standard", "pair_diagonal")
    result = _retrieval(images, texts, owner, block=block, protocols=protocols)
    scores = images @ texts.T
    mine = owner == np.arange(n)[:, None]
    ks = [k for k in (1, 5) if k < n]
    _check(result, "", "image_to_text", _brute_metrics(scores, mine, ks))
    _check(result, "", "text_to_image", _brute_metrics(scores.T, mine.T, ks))
    pairs, diagonal = scores[owner], np.eye(len(owner), dtype=bool)
    start = "pair_diagonal/"
    _check(result, start, "image_to_text", _brute_metrics(pairs, diagonal, ks))
    _check(result, start, "text_to_image", _brute_metrics(pairs.T, diagonal, ks))
    for name in ("mean_recall@1", "pair_diagonal/mean_recall@1"):
        one, other = (
            name.replace("mean", side) for side in ("image_to_text", "text_to_image")
        )
        mean = (result.metrics[one].value + result.metrics[other].value) / 2
        assert result.metrics[name].value == pytest.approx(mean)
    assert ("text_to_image_recall@5" in result.metrics) == (n > 5)


def test_retrieval_by_hand():
    # Two captions of image 0, one of image 1, one of image 2.
    images = np.eye(3)
    texts = np.array([[0.9, 0, 0], [0.1, 0.8, 0], [0, 0.7, 0], [0.5, 0, 0.4]])
    result = _retrieval(images, texts, np.array([0, 0, 1, 2]), ks=(1, 2))
    # Image 0 ranks caption 0 first; image 1 prefers caption 1 to its own; image 2
    # finds caption 3. Caption 1 prefers image 1 (own second), caption 3 image 0.
    assert values(result) == pytest.approx(
        {
            "image_to_text_recall@1": 2 / 3,
            "image_to_text_recall@2": 1.0,
            "image_to_text_mean_rank": 4 / 3,
            "image_to_text_median_rank": 1.0,
            "text_to_image_recall@1": 1 / 2,
            "text_to_image_recall@2": 1.0,
            "text_to_image_mean_rank": 1.5,
            "text_to_image_median_rank": 1.5,
            "mean_recall@1": (2 / 3 + 1 / 2) / 2,
            "mean_recall@2": 1.0,
        }
    )
    # Two of four captions right: 1 - 2/4, and 1 - (2*1)/(4*3); one of four: 1/4, 2/4.
    assert chances(result) == pytest.approx(
        {
            "image_to_text_recall@1": (1 / 2 + 1 / 4 + 1 / 4) / 3,
            "image_to_text_recall@2": (5 / 6 + 1 / 2 + 1 / 2) / 3,
            "image_to_text_mean_rank": (5 / 3 + 5 / 2 + 5 / 2) / 3,
            "image_to_text_median_rank": 2.0,
            "text_to_image_recall@1": 1 / 3,
            "text_to_image_recall@2": 2 / 3,
            "text_to_image_mean_rank": 2.0,
            "text_to_image_median_rank": 2.0,
            "mean_recall@1": (1 / 3 + 1 / 3) / 2,
            "mean_recall@2": (11 / 18 + 2 / 3) / 2,
        }
    )
    # Score intervals of 2 of 3, and of 2 of 4 captions that tell as much as 56/15: by
    # image, weights of 2/4, 1/4 and 1/4 have squares of 3/8, residuals of 0, 1/8 and
    # -1/8 a variance of 3/64; (1/4 + 3/16) / (3/64 + 3/16 * 3/8).
    found, other = (
        result.metrics[f"{side}_recall@1"]
        for side in ("image_to_text", "text_to_image")
    )
    assert (found.low, found.high, found.n) == pytest.approx(
        (0.2077, 0.9385, 3), abs=1e-4
    )
    assert (other.low, other.high, other.n) == pytest.approx(
        (0.1439, 0.8561, 4), abs=1e-4
    )
    for name, metric in result.metrics.items():
        assert metric.low <= metric.value <= metric.high, name
        assert metric.n == {"i": 3, "t": 4, "m": 7}[name[0]], name
        if metric.unit == "fraction":
            assert metric.low < metric.high, name
    assert not result.metrics["text_to_image_mean_rank"].higher_is_better
    assert result.primary == "mean_recall@1"
    assert result.size == "3 images x 4 captions" and result.broken == 0


def test_a_perfect_model_gets_a_fifth_under_pair_diagonal():
    images = np.eye(12)
    owner = np.repeat(np.arange(12), 5)
    texts = images[owner] + np.eye(60)[:, :12] * 0  # captions of an image are alike
    protocols = ("pair_diagonal", "standard")
    result = _retrieval(images, texts, owner, protocols=protocols)
    found, start = values(result), "pair_diagonal/"
    for direction in ("image_to_text", "text_to_image", "mean"):
        assert found[f"{start}{direction}_recall@1"] == pytest.approx(0.2)
        assert found[f"{start}{direction}_recall@5"] == pytest.approx(1.0)
        assert found[f"{direction}_recall@1"] == pytest.approx(1.0)
    assert found[f"{start}text_to_image_mean_rank"] == pytest.approx(3.0)
    assert result.primary == f"{start}mean_recall@1"
    # Also where the five captions differ: each image copy finds its own once in five.
    rng = np.random.default_rng(0)
    texts = images[owner] * rng.uniform(0.5, 1, (60, 1))
    result = _retrieval(images, texts, owner, protocols=protocols)
    found, guessed = values(result), chances(result)
    assert found[f"{start}image_to_text_recall@1"] == pytest.approx(0.2)
    assert guessed[f"{start}image_to_text_recall@1"] == pytest.approx(1 / 60)
    assert guessed[f"{start}text_to_image_recall@5"] == pytest.approx(5 / 60)


def test_identical_images_share_their_hits():
    images = np.eye(4)[[0, 0, 0, 1]]
    result = _retrieval(images, np.eye(4)[[0, 0, 0, 1]], np.arange(4), ks=(1, 2))
    # Three captions guess among three copies; the fourth is certain.
    assert result.metrics["text_to_image_recall@1"].value == pytest.approx(
        (3 / 3 + 1) / 4
    )
    assert result.metrics["text_to_image_recall@2"].value == pytest.approx(
        (3 * 2 / 3 + 1) / 4
    )
    assert result.metrics["text_to_image_mean_rank"].value == pytest.approx(
        (3 * 2 + 1) / 4
    )


def test_copies_tie_exactly_in_real_numbers():
    """Products of equal columns may differ in the last bit; their ranks may not."""
    rng = np.random.default_rng(0)
    one = rng.standard_normal((1, 37)).astype(np.float32)
    for count in (1, 7, 64):
        queries = rng.standard_normal((count, 37)).astype(np.float32)
        ranks = ranking.rank(queries, one.repeat(53, 0), np.full((count, 1), 11))
        assert ranks.greater.tolist() == [0] * count
        assert ranks.ties.tolist() == [52] * count


@pytest.mark.parametrize("block", [1, 7, 64])
def test_block_size_and_memory_limit_do_not_matter(block, monkeypatch):
    images, texts, owner = _random(3, 40, 3)
    usual = _retrieval(images, texts, owner)
    assert _retrieval(images, texts, owner, block=block) == usual
    monkeypatch.setattr(ranking, "MAX_SIMILARITIES", 300)
    assert _retrieval(images, texts, owner, block=block) == usual


@settings(max_examples=15, deadline=None)
@given(
    own=st.integers(1, 4),
    ties=st.integers(0, 5),
    greater=st.integers(0, 4),
    k=st.integers(1, 12),
)
def test_expected_hits_and_ranks_equal_simulated_ones(own, ties, greater, k):
    ranks = ranking.Ranks(*(np.array([x]) for x in (greater, ties, own)))
    rng = np.random.default_rng(0)
    tied = np.tile(np.arange(own + ties) < own, (4000, 1))
    first = rng.permuted(tied, axis=1).argmax(1) + greater + 1
    assert ranks.hits(k)[0] == pytest.approx((first <= k).mean(), abs=0.04)
    assert ranks.expected()[0] == pytest.approx(first.mean(), abs=0.12)


@pytest.mark.slow
def test_chance_equals_random_embeddings():
    rng = np.random.default_rng(0)
    n, draws = 12, 60
    owner = np.repeat(np.arange(n), rng.integers(1, 6, n))
    found = []
    for _ in range(draws):
        images = rng.standard_normal((n, 8))
        texts = rng.standard_normal((len(owner), 8))
        found.append(
            _retrieval(
                images, texts, owner, protocols=("standard", "pair_diagonal"), ks=(1, 3)
            )
        )
    for name, value in chances(found[0]).items():
        drawn = [result.metrics[name].value for result in found]
        error = np.std(drawn) / np.sqrt(draws)
        # The median of twelve ranks lies within one of that of many.
        slack = 1.0 if name.endswith("median_rank") else 0.0
        assert abs(np.mean(drawn) - value) < 4.5 * error + slack, name
    assert set(found[0].metrics) == set(chances(found[0]))


def test_broken_images_leave_with_their_captions_and_are_counted():
    images, texts, owner = _random(5, 10, 3)
    broken = (0, 4, 9)
    result = _retrieval(images, texts, owner, broken=broken)
    stay = ~np.isin(np.arange(10), broken)
    renamed = np.cumsum(stay) - 1
    kept = stay[owner]
    clean = _retrieval(images[stay], texts[kept], renamed[owner[kept]])
    assert result.broken == 3 and clean.broken == 0
    assert result.metrics == clean.metrics
    assert result.size == clean.size == f"7 images x {kept.sum()} captions"
    with pytest.raises(UserError, match="9 of 10 images .* image 1: cannot be decoded"):
        _retrieval(images, texts, owner, broken=range(1, 10))


def test_images_without_captions_are_left_out_and_samples_are_spread():
    images, texts, _ = _random(6, 8, 1)
    owner = np.array([1, 1, 2, 4, 5, 7])
    result = _retrieval(images, texts[:6], owner)
    assert result.size == "5 images x 6 captions"
    assert _retrieval(images, texts[:6], owner, max_samples=3).size.startswith(
        "3 images"
    )
    assert ranking.spread(10, 4).tolist() == [0, 2, 5, 7]
    assert ranking.spread(3, 0).tolist() == ranking.spread(3, 9).tolist() == [0, 1, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_never_hit(bad):
    images, texts, owner = np.eye(4), np.eye(4), np.arange(4)
    whole = _retrieval(images + bad, texts + bad, owner, ks=(1, 3))
    assert whole.metrics["mean_recall@3"].value == 0
    assert whole.metrics["text_to_image_mean_rank"].value == 5
    assert "8 embeddings not finite" in whole.size
    images[1, 2] = bad
    part = _retrieval(images, texts, owner, ks=(1, 3))
    assert part.metrics["text_to_image_recall@1"].value == 3 / 4
    assert part.metrics["image_to_text_recall@3"].value == 3 / 4
    texts[2] = bad
    part = _retrieval(images, texts, owner, ks=(1, 3))
    assert part.metrics["image_to_text_recall@1"].value == 1 / 2


def test_zeros_do_not_stand_in_for_what_is_not_finite():
    gallery = np.array([[np.nan, 0], [0, 0], [1, 0]], np.float32)
    ranks = ranking.rank(-np.ones((2, 2), np.float32), gallery, np.array([[0], [1]]))
    assert ranks.greater.tolist() == [3, 0]
    assert ranks.ties.tolist() == [0, 0]


def test_eight_devices_give_the_same_result():
    images, texts, owner = _random(8, 13, 3)
    mesh = make_mesh({"data": 4, "fsdp": 2})
    assert _retrieval(images, texts, owner, mesh=mesh) == _retrieval(
        images, texts, owner
    )


def test_progress_covers_images_and_texts():
    data = Data([Example(pixels(i), [f"caption {i}"]) for i in range(5)])
    evaluator = retrieval.make(
        Inputs(table_encoder([f"caption {i}" for i in range(5)]), data)
    )
    seen = []
    evaluator.run(variables(np.eye(5), np.eye(5)), lambda *done: seen.append(done))
    assert seen == [(4, 10), (5, 10), (9, 10), (10, 10)]


def _cut(images, captions, rows, **options):
    """Retrieval of an image per list of captions; rows: text -> its embedding."""
    data = Data([Example(pixels(i), own, key=f"{i}") for i, own in enumerate(captions)])
    evaluator = retrieval.make(Inputs(table_encoder(rows), data), **options)
    seen = []
    table = variables(images, list(rows.values()))
    result = evaluator.run(table, lambda *done: seen.append(done))
    assert all(done <= total for done, total in seen) and len({x for _, x in seen}) == 1
    assert seen[-1][0] == seen[-1][1]
    assert evaluator.metric_units().keys() == result.metrics.keys()
    return evaluator, result


def test_captions_cut_to_their_first_words():
    """Of one word both captions are "red", which is image 0's: each image's own ties
    with the other's, and half a hit is expected; captions find image 0.
    """
    rows = {"red  dog": [1.0, 0], "red cat": [0.0, 1], "red": [1.0, 0]}
    evaluator, result = _cut(
        np.eye(2),
        [["red  dog"], ["red cat"]],
        rows,
        protocols=("standard", "words_1", "words_2"),
        same_caption=True,
    )
    found = values(result)
    for name in ("mean_recall@1", "words_2/mean_recall@1"):
        assert found[name] == 1
    assert found["words_1/image_to_text_recall@1"] == 0.5
    assert found["words_1/text_to_image_recall@1"] == 0.5
    assert result.metrics["words_1/mean_recall@1"].n == 4
    assert not any("words_1/same" in name for name in found)
    used = {
        (protocol, *own)
        for protocol, own in zip(
            result.rows["protocol"], result.rows["captions"], strict=True
        )
        if protocol.startswith("words")
    }
    assert used == {
        ("words_1", "red"),
        ("words_2", "red  dog"),
        ("words_2", "red cat"),
    }
    assert "; words_1, all captions; words_2, all captions" in result.protocol
    expected = "encodes up to 2 cut captions for each of words_1, words_2"
    assert evaluator.cost() == expected


def test_cut_captions_equal_captions_of_these_words():
    """Three to six words, cut to four; images have one to three captions."""
    rng = np.random.default_rng(0)
    captions = [
        [" ".join(rng.choice(list("abcd"), rng.integers(3, 7))) for _ in range(n)]
        for n in rng.integers(1, 4, 12)
    ]
    cut = [[" ".join(text.split()[:4]) for text in own] for own in captions]
    texts = dict.fromkeys(text for own in captions + cut for text in own)
    rows = {text: rng.normal(size=4) for text in texts}
    images = rng.normal(size=(12, 4))
    _, one = _cut(images, captions, rows, protocols=("words_4", "standard"))
    _, other = _cut(images, cut, rows)
    assert one.primary == "words_4/mean_recall@1"
    for name, metric in other.metrics.items():
        assert one.metrics[f"words_4/{name}"] == metric
    assert one.metrics["mean_recall@1"] != other.metrics["mean_recall@1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ks": ()}, "ks="),
        ({"protocols": ("words_0",)}, "no protocol 'words_0'.* and words_N for"),
        ({"protocols": ("words_",)}, "no protocol 'words_'"),
        ({"ks": (0,)}, "ks="),
        ({"block": 0}, "block=0"),
        ({"max_samples": -1}, "max_samples=-1"),
        ({"max_samples": 1}, "max_samples=1 leaves one image"),
        ({"protocols": ()}, "no protocol ''"),
        ({"protocols": ("standart",)}, "Did you mean 'standard'"),
    ],
)
def test_retrieval_refuses(options, message):
    data = Data([Example(pixels(i), ["a"]) for i in range(2)])
    with pytest.raises(UserError, match=message):
        retrieval.make(Inputs(table_encoder(["a"]), data), **options)


def test_retrieval_needs_captions():
    with pytest.raises(UserError, match="with captions, and the data has 1"):
        retrieval.make(
            Inputs(
                table_encoder([]), Data([Example(pixels(0), ["a"]), Example(pixels(1))])
            )
        )


def _zeroshot(images, labels, class_names, prompts, broken=(), data=None, **options):
    """labels: one dict an image; prompts: text -> embedding."""
    data = Data(
        [
            Example(BROKEN if i in broken else pixels(i), labels=own)
            for i, own in enumerate(labels)
        ],
        class_names,
        data,
    )
    evaluator = zeroshot.make(Inputs(table_encoder(list(prompts)), data), **options)
    result = evaluator.run(variables(images, list(prompts.values())))
    assert np.bincount(data.reads).max() == 1
    return result


def test_an_oracle_gets_everything_and_a_guesser_chance():
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(8)]
    classes = rng.integers(0, 8, 400)
    labels = [{"kind": int(c)} for c in classes]
    prompts = {f"a {name}": row for name, row in zip(names, np.eye(8), strict=True)}
    given = {"class_names": {"kind": names}, "prompts": prompts, "templates": ("a {}",)}
    result = _zeroshot(np.eye(8)[classes], labels, **given)
    assert result.metrics["kind/top1"].value == result.metrics["kind/top5"].value == 1
    assert result.metrics["kind/mean_class_recall"].value == 1
    share = np.bincount(classes).max() / 400
    assert result.metrics["kind/majority_share"].value == pytest.approx(share)
    assert chances(result) == {
        "kind/top1": 1 / 8,
        "kind/top5": 5 / 8,
        "kind/mean_class_recall": 1 / 8,
    }
    assert result.primary == "kind/top1"
    assert result.size == "kind: 400 images, 8 classes"
    guesses = _zeroshot(rng.standard_normal((400, 8)), labels, **given)
    for name, value in chances(guesses).items():
        assert abs(guesses.metrics[name].value - value) < 0.09, name
    blind = _zeroshot(np.zeros((400, 8)), labels, **given)
    for name, value in chances(blind).items():
        assert blind.metrics[name].value == pytest.approx(value), name
    ruined = _zeroshot(np.full((400, 8), np.nan), labels, **given)
    assert ruined.metrics["kind/top1"].value == ruined.metrics["kind/top5"].value == 0
    assert "400 embeddings not finite" in ruined.size


def test_mean_class_recall_weighs_classes_alike():
    prompts = {"a": [1, 0, 0], "b": [0, 1, 0], "c": [0, 0, 1]}
    images = np.array([[1, 0, 0]] * 4)  # everything is called a; c does not occur
    labels = [{"kind": 0}] * 3 + [{"kind": 1}]
    result = _zeroshot(
        images, labels, {"kind": list("abc")}, prompts, templates=("{}",), ks=(2,)
    )
    assert values(result) == pytest.approx(
        {
            "kind/top1": 3 / 4,
            "kind/top2": 3 / 4 + 1 / 4 / 2,  # b and c tie
            "kind/mean_class_recall": 1 / 2,
            "kind/majority_share": 3 / 4,
        }
    )


def test_prompts_are_averaged_and_renormalised():
    prompts = {
        "a {x} 1": [1.0, 0.0],
        "one {x} 1": [0.0, 1.0],
        "a 2": [0.6, 0.8],
        "one 2": [0.6, 0.8],
        "a 3": [1.0, 0.0],
        "one 3": [-1.0, 0.0],
    }
    encoder = table_encoder(list(prompts))
    table = variables(np.eye(2), list(prompts.values()))
    names, templates = [("{x} 1",), ("2",), ("3",)], ["a {}", "one {}"]
    found = zeroshot.class_embeddings(
        Inputs(encoder, Data([])), table, names, templates
    )
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found, [[half, half], [0.6, 0.8], [0, 0]], rtol=1e-6)


def test_several_label_sets_partial_labels_and_broken_images():
    class_names = {"shape": ["disc", "star"], "hue": ["red", "blue", "grey"]}
    prompts = {
        "the shape disc": [1, 0, 0, 0, 0],
        "the shape star": [0, 1, 0, 0, 0],
        "red": [0, 0, 1, 0, 0],
        "blue": [0, 0, 0, 1, 0],
        "grey": [0, 0, 0, 0, 1],
    }
    labels = [
        {"shape": 0, "hue": 0},
        {"shape": 1},
        {"hue": 2},
        {},
        {"shape": 1, "hue": 1},
        {"shape": 7},  # no such class
    ]
    images = [[1, 0, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 1, 0], *np.eye(5)[[0, 1, 1]]]
    templates = {"shape": ("the shape {}",), "hue": ("{}",)}
    result = _zeroshot(
        images, labels, class_names, prompts, broken=(4,), data=templates
    )
    assert result.metrics["shape/top1"].value == 1 / 2
    assert result.metrics["hue/top1"].value == 1 / 2
    assert result.metrics["mean_top1"].value == 1 / 2
    assert result.metrics["mean_top1"].chance == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert result.primary == "mean_top1" and result.broken == 2
    assert result.size == "shape: 2 images, 2 classes; hue: 2 images, 3 classes"
    one = _zeroshot(
        images, labels, class_names, prompts, data=templates, label_sets=("hue",)
    )
    assert set(one.metrics) == {
        "hue/top1",
        "hue/mean_class_recall",
        "hue/majority_share",
    }
    with pytest.raises(UserError, match="no image with a label in 'shape'"):
        _zeroshot(images, [{"hue": 1}] * 6, class_names, prompts, data=templates)


def test_general_templates_serve_a_source_without_its_own():
    names = ["cat", "dog"]
    prompts = {
        template.replace("{}", name): row
        for name, row in zip(names, np.eye(2), strict=True)
        for template in zeroshot.TEMPLATES
    }
    labels = [{"class": 0}, {"class": 1}]
    result = _zeroshot(np.eye(2), labels, {"class": names}, prompts)
    assert result.metrics["class/top1"].value == 1


def test_zeroshot_takes_templates_from_a_file(tmp_path):
    place = tmp_path / "t.txt"
    place.write_text("art of a {c}.\n{}\n")
    prompts = {
        text.replace("{}", name): row
        for name, row in (("cat", [1, 0]), ("dog", [0, 1]))
        for text in ("art of a {}.", "{}")
    }
    labels, names = [{"class": 0}, {"class": 1}], {"class": ["cat", "dog"]}
    found = _zeroshot(np.eye(2), labels, names, prompts, templates_file=str(place))
    assert found.metrics["class/top1"].value == 1


def test_zeroshot_takes_several_names_of_a_class_from_a_file(tmp_path):
    """Against the mean of all a class's prompts, by hand."""
    place, plain = tmp_path / "names.json", tmp_path / "names.txt"
    place.write_text('{"a": ["cat", "puss"], "1": "dog", "c": "fox"}')
    words = {"cat": [1, 0], "puss": [0, 1], "dog": [1, 0], "fox": [0.6, 0.8]}
    prompts = {
        template.replace("{}", word): row
        for word, row in words.items()
        for template in ("a {}", "{}")
    }
    labels, names = [{"kind": 0}, {"kind": 1}, {"kind": 2}], {"kind": ["a", "b", "c"]}
    images = [[1, 1], [1, 0], [1, 1.2]]  # nearest: (1, 1) / sqrt 2, dog, fox
    options = {"templates": ("a {}", "{}"), "class_names_file": str(place)}
    found = _zeroshot(images, labels, names, prompts, **options)
    assert found.metrics["kind/top1"].value == 1
    assert found.rows["label_name"] == ["cat; puss", "dog", "fox"]
    assert found.rows["score"][0] == pytest.approx(np.sqrt(2))
    plain.write_text("cat\ndog\nfox\n")
    options["class_names_file"] = str(plain)
    alone = _zeroshot(images, labels, names, prompts, **options)
    assert alone.metrics["kind/top1"].value == (0 + 1 / 2 + 1) / 3  # cat and dog tie
    assert alone.protocol != found.protocol
    own = {"kind": ["cat", "dog", "fox"]}
    del options["class_names_file"]
    assert _zeroshot(images, labels, own, prompts, **options).protocol == alone.protocol


def test_several_names_share_texts_only_if_all_are_alike(tmp_path):
    place = tmp_path / "names.txt"
    place.write_text("crane; bird\ncrane; machine\ncrane; bird\n")
    data = Data([Example(pixels(0), labels={"kind": 0})], {"kind": ["a", "b", "c"]})
    inputs = Inputs(table_encoder([]), data)
    made = zeroshot.make(inputs, class_names_file=str(place), same_name="merge")
    assert made.classes == {"kind": (("crane", "bird"), ("crane", "machine"))}
    assert made.groups == {"kind": (0, 1, 0)}
    ((texts, count),) = made.texts().values()
    assert count == 2 and list(texts)[1][:2] == [
        "a photo of a crane.",
        "a picture of a crane.",
    ]
    with pytest.raises(UserError, match="2 classes called 'crane; bird', and same_na"):
        zeroshot.make(inputs, class_names_file=str(place), same_name="error")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ks": (0,)}, "ks="),
        ({"max_samples": -1}, "max_samples=-1"),
        ({"class_names_file": "nowhere.txt"}, "cannot read nowhere.txt"),
        (
            {"class_names_file": "n.txt", "label_sets": ()},
            "is of one label set: choose it by label_sets, of kind, single",
        ),
        ({"label_sets": ("kinf",)}, "Did you mean 'kind'"),
        ({"label_sets": ("single",)}, "'single' has fewer than two"),
        ({"templates": ("a photo",)}, "'a photo' needs one {}"),
        ({"templates": ("{} {}",)}, "needs one {}"),
        ({"templates_file": "nowhere.txt"}, "cannot read nowhere.txt"),
        ({"templates": ("{}",), "templates_file": "t"}, "both give prompts"),
    ],
)
def test_zeroshot_refuses(options, message):
    data = Data(
        [Example(pixels(0), labels={"kind": 0})],
        {"kind": ["a", "b"], "single": ["a"]},
    )
    options = {"label_sets": ("kind",)} | options
    with pytest.raises(UserError, match=message):
        zeroshot.make(Inputs(table_encoder([]), data), **options)


def test_zeroshot_needs_labels():
    with pytest.raises(UserError, match="the data has none"):
        zeroshot.make(Inputs(table_encoder([]), Data([Example(pixels(0), ["a"])])))


@pytest.mark.parametrize("name", ["retrieval", "zeroshot"])
def test_evaluators_are_components_with_options(name):
    assert name in registry.names("evals") and "ranking" not in registry.names("evals")
    assert registry.options(registry.load("evals", name))["max_samples"].default == 0
