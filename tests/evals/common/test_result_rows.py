"""Rows of evaluators against brute force over all answers, with ties and copies."""

import itertools

import numpy as np
import pytest
from evals_tools import BROKEN, Data, captioned, pixels, table_encoder, variables
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.evals import retrieval, zeroshot
from clipjax.evals.common import ranking, result_rows
from clipjax.evals.common.inputs import Inputs
from clipjax.types import Example


def best_first(scores):
    """The five best places by a plain sort, then -1, and the best score."""
    order = sorted(range(len(scores)), key=lambda at: (-scores[at], at))
    return (order + [-1] * 5)[:5], scores[order[0]]


def expected_rank(scores, right):
    """The mean over every order of the answers that tie with the best right one, and
    how many of these are wrong and right."""
    best = max(scores[at] for at in right)
    tied = [at for at, score in enumerate(scores) if score == best]
    own = sum(at in right for at in tied)
    firsts = [min(c) for c in itertools.combinations(range(len(tied)), own)]
    rank = sum(score > best for score in scores) + 1 + np.mean(firsts)
    return rank, len(tied) - own, own


@pytest.mark.thorough
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20), n=st.integers(3, 7), block=st.integers(1, 9))
def test_retrieval_rows_equal_brute_force(seed, n, block):
    """One image is broken, one has no captions, one caption's copy is another's."""
    draw = np.random.default_rng(seed)
    counts = draw.integers(1, 4, n)
    counts[draw.integers(n)] = 0
    owner = np.repeat(np.arange(n), counts)
    images = draw.integers(-1, 2, (n, 3)).astype(float)
    texts = draw.integers(-1, 2, (len(owner), 3)).astype(float)
    images[-1] = images[0]
    broken = draw.choice(np.flatnonzero(counts)) if (counts > 0).sum() > 2 else -1
    names = [f"caption {j}" for j in range(len(owner))]
    data = Data(captioned(range(n), owner, names, [broken]))
    inputs = Inputs(table_encoder(names), data)
    evaluator = retrieval.make(
        inputs, block=block, protocols=("standard", "pair_diagonal")
    )
    rows = evaluator.run(variables(images, texts)).rows

    most = max(counts)
    kept = [i for i in range(n) if counts[i] and i != broken]
    mine = [j for j in range(len(owner)) if owner[j] in kept]
    first = np.cumsum(counts) - counts
    ids = {j: owner[j] * most + j - first[owner[j]] for j in mine}
    expected = []

    def ask(i, query, scores, right, answers, *head):
        near, score = best_first(scores)
        near = [answers[at] if at >= 0 else -1 for at in near]
        own = [answers[at] for at in right]
        ranks = expected_rank(scores, right)
        row = 0, query, own, near[0], score, *ranks, near
        expected.append((f"image {i}", *head, *row))

    captions = [ids[j] for j in mine]
    for protocol in ("standard", "pair_diagonal"):
        pairs = protocol == "pair_diagonal"
        for i in [owner[j] for j in mine] if pairs else kept:
            scores = [float(images[i] @ texts[j]) for j in mine]
            if pairs:
                place = sum(row[1:3] == (protocol, "image_to_text") for row in expected)
                right = [place]
            else:
                right = [at for at, j in enumerate(mine) if owner[j] == i]
            ask(i, i, scores, right, captions, protocol, "image_to_text")
        for j in mine:
            at, head = kept.index(owner[j]), (protocol, "text_to_image")
            scores = [float(images[i] @ texts[j]) for i in kept]
            if not pairs:
                ask(owner[j], ids[j], scores, [at], kept, *head)
                continue
            # Copies of an image compete, and appear once among the neighbours.
            near, score = best_first(scores)
            near = [kept[place] if place >= 0 else -1 for place in near]
            copies = [float(images[owner[c]] @ texts[j]) for c in mine]
            ranks = expected_rank(copies, [mine.index(j)])
            row = 0, ids[j], [kept[at]], near[0], score, *ranks, near
            expected.append((f"image {owner[j]}", *head, *row))
    columns = "key protocol direction fold query captions right prediction score rank"
    assert list(rows) == [*columns.split(), "ties", "own", "neighbours"]
    asked = {i: [names[j] for j in mine if owner[j] == i] for i in kept}
    by_text = {ids[j]: [names[j]] for j in mine}
    for side, query, own in zip(
        *(rows[name] for name in ("direction", "query", "captions")), strict=True
    ):
        assert own == (asked if side == "image_to_text" else by_text)[query]
    shown = [np.asarray(x, object) for name, x in rows.items() if name != "captions"]
    found = list(zip(*shown, strict=True))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one[8] == pytest.approx(other[8])
        plain = [list(x) if isinstance(x, np.ndarray) else x for x in one]
        assert plain[:8] + plain[9:] == list(other[:8] + other[9:])


def test_a_rank_of_the_rows_is_that_of_the_metrics():
    draw = np.random.default_rng(0)
    names = [f"caption {j}" for j in range(30)]
    examples = [Example(pixels(i), names[3 * i : 3 * i + 3]) for i in range(10)]
    evaluator = retrieval.make(Inputs(table_encoder(names), Data(examples)))
    tables = variables(draw.standard_normal((10, 4)), draw.standard_normal((30, 4)))
    result = evaluator.run(tables)
    directions = np.array(result.rows["direction"])
    for name in ("image_to_text", "text_to_image"):
        ranks = result.rows["rank"][directions == name]
        assert len(ranks) == {"image_to_text": 10, "text_to_image": 30}[name]
        assert ranks.mean() == pytest.approx(result.metrics[f"{name}_mean_rank"].value)
        hits = result.metrics[f"{name}_recall@5"].value
        assert (ranks <= 5).mean() == pytest.approx(hits)


def test_zeroshot_rows_by_hand():
    """Classes tie; an image without a label, a broken one and one of NaN."""
    prompts = {"a": [1, 0], "b": [0, 1], "c": [0, 1], "dark": [1, 0], "light": [0, 1]}
    images = np.array([[0.5, 0.2], [0.1, 0.8], [1, 0], [np.nan, 1], [0.3, 0.3]])
    labels = [
        {"kind": 1, "tone": 0},
        {"kind": 2},
        {"kind": 0},
        {"kind": 1},
        {"tone": 1},
    ]
    examples = [
        Example(BROKEN if i == 2 else pixels(i), labels=own, key=f"image {i}")
        for i, own in enumerate(labels)
    ]
    class_names = {"kind": ["a", "b", "c"], "tone": ["dark", "light"]}
    inputs = Inputs(table_encoder(list(prompts)), Data(examples, class_names))
    evaluator = zeroshot.make(inputs, templates=("{}",))
    rows = evaluator.run(variables(images, list(prompts.values()))).rows
    near = [[0, 1, 2, -1, -1], [1, 2, 0, -1, -1], [-1] * 5]
    near += [[0, 1, -1, -1, -1], [0, 1, -1, -1, -1]]
    scores = rows.pop("score")
    assert {name: np.asarray(x).tolist() for name, x in rows.items()} == {
        "key": [f"image {i}" for i in (0, 1, 3, 0, 4)],
        "label_set": ["kind"] * 3 + ["tone"] * 2,
        "label": [1, 2, 1, 0, 1],
        "prediction": [0, 1, -1, 0, 0],
        "label_name": ["b", "c", "b", "dark", "light"],
        "prediction_name": ["a", "b", "", "dark", "dark"],
        "rank": [2.5, 1.5, 4, 1, 1.5],
        "ties": [1, 1, 0, 0, 1],
        "neighbours": near,
    }
    np.testing.assert_allclose(scores, [0.5, 0.8, np.nan, 0.5, 0.3], rtol=1e-6)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**20))
def test_rows_give_the_ranks_back(seed):
    draw = np.random.default_rng(seed)
    greater, ties, own = draw.integers(0, 9, (3, 20))
    ranks = ranking.Ranks(greater * 10 ** draw.integers(0, 6), ties, own + 1)
    rows = {"rank": ranks.expected(), "ties": ranks.ties, "own": ranks.own}
    found = result_rows.ranks_of(rows)
    for one, other in zip(found[:3], ranks[:3], strict=True):
        np.testing.assert_array_equal(one, other)
    single = ranks._replace(own=np.ones_like(own))
    found = result_rows.ranks_of({"rank": single.expected(), "ties": single.ties})
    np.testing.assert_array_equal(found.hits(3), single.hits(3))


def test_copies_in_real_numbers_come_in_the_order_of_the_gallery(monkeypatch):
    """Products of equal columns may differ in the last bit; their order may not."""
    draw = np.random.default_rng(1)
    gallery = draw.standard_normal((5, 37)).astype(np.float32).repeat(11, 0)
    queries = draw.standard_normal((9, 37)).astype(np.float32)
    gallery[0, 0] = np.inf  # never among the neighbours
    best = (queries @ gallery[[1, 11, 22, 33, 44]].T).argmax(axis=1)
    for limit in (2**25, 100):
        monkeypatch.setattr(ranking, "MAX_SIMILARITIES", limit)
        found = ranking.rank(queries, gallery, np.full((9, 1), 3), nearest=5)
        starts = np.array([1, 11, 22, 33, 44])[best]
        assert found.nearest.tolist() == [list(range(s, s + 5)) for s in starts]
    alone = ranking.rank(queries, gallery[:2], np.ones((9, 1), int), nearest=5)
    assert alone.nearest.tolist() == [[1, -1, -1, -1, -1]] * 9
