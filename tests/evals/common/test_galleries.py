"""Published protocols and captions of the same words, against brute force."""

import math

import numpy as np
import pytest
from evals_tools import (
    Data,
    captioned,
    chances,
    table_encoder,
    values,
    variables,
)

from clipjax.evals import retrieval
from clipjax.evals.common import galleries
from clipjax.evals.common.galleries import Published
from clipjax.evals.common.inputs import Inputs
from clipjax.types import UserError

KS = (1, 3)


def brute(scores, right, k):
    """Expected hit at k and rank for each query, if ties are broken at random."""
    hits, ranks = [], []
    for row, own in zip(scores, right, strict=True):
        row = np.where(np.isnan(row), -np.inf, row)
        best = row[own].max()
        if best == -np.inf:  # behind all
            hits.append(0)
            ranks.append(len(row) + 1)
            continue
        above, tied = (row > best).sum(), (row == best).sum()
        wrong = int(tied - own[row == best].sum())

        def missed(places, tied=int(tied), wrong=wrong):
            places = min(max(places, 0), tied)
            return math.comb(wrong, places) / math.comb(tied, places)

        hits.append(1 - missed(k - above))
        # The sum of the probabilities that the rank is above 0, 1, 2, ...
        ranks.append(sum(missed(place - above) for place in range(above + tied)))
    return np.array(hits), np.array(ranks)


def gallery_values(images, texts, owner, words=None):
    """Brute-force values of a gallery; words: captions are right by them."""
    right = owner == np.arange(len(images))[:, None]  # [images captions]
    if words is not None:
        same = words[:, None] == words
        right = (right.astype(int) @ same) > 0
    scores = images @ texts.T
    found = {}
    for k in KS:
        one, one_ranks = brute(scores, right, k)
        other, other_ranks = brute(scores.T, right.T, k)
        found[f"image_to_text_recall@{k}"] = one.mean()
        found[f"text_to_image_recall@{k}"] = other.mean()
        found[f"mean_recall@{k}"] = (one.mean() + other.mean()) / 2
    found["image_to_text_mean_rank"] = one_ranks.mean()
    found["text_to_image_mean_rank"] = other_ranks.mean()
    found["image_to_text_median_rank"] = np.median(one_ranks)
    found["text_to_image_median_rank"] = np.median(other_ranks)
    return found


class Made:
    """Images with captions of few words and small integers as embeddings, so that ties
    and captions of the same words abound; two embeddings are not finite.
    """

    def __init__(self, seed, counts):
        rng = np.random.default_rng(seed)
        n, m = len(counts), sum(counts)
        self.owner = np.repeat(np.arange(n), counts)
        self.number = np.concatenate([np.arange(count) for count in counts])
        self.words = rng.integers(0, 2 * m // 3, m)
        spaces = rng.integers(1, 3, m)
        self.captions = [
            f"word{' ' * space}{word}"
            for word, space in zip(self.words, spaces, strict=True)
        ]
        self.images = rng.integers(-2, 3, (n, 3)).astype(np.float32)
        self.images[n // 2] = np.nan
        table = {text: rng.integers(-2, 3, 3) for text in self.captions}
        table = {text: row.astype(np.float32) for text, row in table.items()}
        table[self.captions[1]] += np.inf
        self.texts = np.stack([table[text] for text in self.captions])
        self.table = table

    def run(self, broken=(), **options):
        places = range(len(self.images))
        data = Data(captioned(places, self.owner, self.captions, broken))
        inputs = Inputs(table_encoder(list(self.table)), data)
        table = variables(self.images, list(self.table.values()))
        return retrieval.make(inputs, ks=KS, **options).run(table)

    def expected(self, images, taken=99, same_caption=False):
        """Brute-force values of these images with their first captions."""
        own = np.isin(self.owner, images) & (self.number < taken)
        owner = np.searchsorted(images, self.owner[own])
        texts = np.where(np.isinf(self.texts), np.nan, self.texts)
        words = self.words[own] if same_caption else None
        return gallery_values(self.images[images], texts[own], owner, words)


@pytest.mark.parametrize("seed", range(4))
def test_captions_of_the_same_words_are_right_beside_the_usual_numbers(seed):
    made = Made(seed, np.random.default_rng(seed).integers(1, 5, 12))
    result = made.run(same_caption=True)
    usual = made.expected(np.arange(12))
    same = made.expected(np.arange(12), same_caption=True)
    assert usual != same
    expected = usual | {f"same_caption/{name}": x for name, x in same.items()}
    assert values(result) == pytest.approx(expected, abs=1e-9)
    assert values(made.run()) == pytest.approx(usual, abs=1e-9)
    assert result.primary == "mean_recall@1"
    # An uninformed model finds more right answers too.
    guessed = chances(result)
    assert guessed["same_caption/mean_recall@1"] > guessed["mean_recall@1"]


def test_rows_of_both_readings():
    made = Made(1, [2] * 8)
    rows = made.run(same_caption=True, protocols=("standard", "pair_diagonal")).rows
    kinds = np.array(rows["protocol"])
    readings = ["pair_diagonal", "standard", "standard/same_caption"]
    assert sorted(set(kinds)) == readings
    for kind, direction in (
        (kind, name) for kind in readings for name in galleries.DIRECTIONS
    ):
        at = np.flatnonzero(
            (kinds == kind) & (np.array(rows["direction"]) == direction)
        )
        by_image = direction == "image_to_text" and kind != "pair_diagonal"
        assert len(at) == (8 if by_image else 16)
        if kind != "standard/same_caption":
            continue
        for place in at:
            query, right = rows["query"][place], set(rows["right"][place])
            if direction == "image_to_text":
                own = set(made.words[made.owner == query])
                # A caption's id is 2 * image + number, its place here.
                assert right == set(np.flatnonzero(np.isin(made.words, list(own))))
            else:
                same = made.words == made.words[query]
                assert right == set(made.owner[same])


@pytest.mark.parametrize("broken", [(), (0, 7)])
def test_folds_are_averaged_and_later_captions_left_out(broken, monkeypatch):
    monkeypatch.setitem(galleries.PUBLISHED, "coco_5k", Published(20, captions=2))
    folds = Published(20, folds=5, captions=2)
    monkeypatch.setitem(galleries.PUBLISHED, "coco_1k_5fold", folds)
    made = Made(3, [2, 3, 4, 2] * 5)
    names = ("coco_1k_5fold", "coco_5k", "standard")
    result = made.run(broken, protocols=names)
    whole = np.setdiff1d(np.arange(20), broken)
    parts = [whole[whole // 4 == fold] for fold in range(5)]
    found = values(result)
    assert result.primary == "coco_1k_5fold/mean_recall@1"
    assert result.protocol == (
        "coco_1k_5fold, first 2 captions; coco_5k, first 2 captions; "
        "standard, all captions"
    )
    for name, expected in (
        ("coco_5k/", made.expected(whole, 2)),
        ("", made.expected(whole)),
    ):
        got = {key: found[name + key] for key in expected}
        assert got == pytest.approx(expected, abs=1e-9), name
    averaged = [made.expected(part, 2) for part in parts]
    for name in averaged[0]:
        if "median" in name or (broken and ("rank" in name or "@3" in name)):
            continue  # not of the folds' means, or a fold has no third image to miss
        expected = np.mean([fold[name] for fold in averaged])
        got = found[f"coco_1k_5fold/{name}"]
        assert got == pytest.approx(expected, abs=1e-9), name
    # Chance is that of four images or their eight captions, and of twenty.
    if not broken:
        guessed = chances(result)
        assert guessed["coco_1k_5fold/text_to_image_recall@1"] == 1 / 4
        assert guessed["coco_5k/text_to_image_recall@1"] == pytest.approx(1 / 20)
    # Neighbours of a fold are in it.
    rows = result.rows
    for place in np.flatnonzero(np.array(rows["protocol"]) == "coco_1k_5fold"):
        near = rows["neighbours"][place]
        image = int(rows["key"][place].split()[1])
        assert rows["fold"][place] == image // 4
        near = near[near >= 0]
        if rows["direction"][place] == "image_to_text":
            near = near // 4  # the most captions
        assert (near // 4 == image // 4).all()
    metric = result.metrics["coco_1k_5fold/mean_recall@1"]
    assert metric.low < metric.value < metric.high and metric.n == 3 * len(whole)


def test_the_published_sizes():
    """COCO's and Flickr's Karpathy test splits, in CLIP's and later papers."""
    assert galleries.PUBLISHED == {
        "coco_5k": (5000, 1, 5),
        "coco_1k_5fold": (5000, 5, 5),
        "flickr_1k": (1000, 1, 5),
    }


@pytest.mark.parametrize("name", list(galleries.PUBLISHED))
def test_other_data_are_refused(name):
    with pytest.raises(UserError, match=f"{name}.*the data has 3 images with captions"):
        Made(0, [5] * 3).run(protocols=("standard", name))


def test_an_image_without_five_captions_is_refused(monkeypatch):
    monkeypatch.setitem(galleries.PUBLISHED, "flickr_1k", Published(3))
    with pytest.raises(UserError, match="5 captions each.*has an image with 4"):
        Made(0, [5, 4, 6]).run(protocols=("flickr_1k",))
    result = Made(0, [5, 5, 6]).run(protocols=("flickr_1k",))
    assert result.metrics["flickr_1k/text_to_image_recall@1"].n == 15


def test_a_fold_without_images_is_refused(monkeypatch):
    folds = Published(6, folds=3, captions=1)
    monkeypatch.setitem(galleries.PUBLISHED, "coco_1k_5fold", folds)
    with pytest.raises(UserError, match="3 parts, and 1 images of part 2 can be read"):
        Made(0, [1] * 6).run(broken=(3,), protocols=("coco_1k_5fold",))


def test_too_many_of_the_same():
    """One line, in place of a table with a right answer for each pair of queries."""
    count = 6000
    places = np.arange(count)
    blank = np.zeros((count, 1), np.float32)
    data = galleries.Captioned(
        blank, blank, places, np.zeros(count, int), places, count
    )
    few = galleries.same_caption(
        data, ["the same"] * 100 + [str(x) for x in places[100:]]
    )
    assert few.captions.shape == (count, 100)
    with pytest.raises(
        UserError, match=r"same_caption: 6,000 answers .* 6,000 queries"
    ):
        galleries.same_caption(data, ["the  same", " the same"] * (count // 2))
    with pytest.raises(UserError, match=r"same_image: 6,000 answers are the same, too"):
        galleries.same_image(data, ["digest"] * count)
