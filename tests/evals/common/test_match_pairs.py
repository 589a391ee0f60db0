"""Pairs in cells and halves, against their definition pair by pair."""

import numpy as np
import pytest

from clipjax.evals.common.match_pairs import HALVES, make_pairs


def made(counts, others=1, seed=0, units=None, captions=None):
    """Pairs of images with so many captions each, and each caption's image."""
    owner = np.repeat(np.arange(len(counts)), counts)
    units = np.arange(len(counts)) if units is None else np.array(units)
    captions = captions or [f"caption {j}" for j in range(len(owner))]
    return make_pairs(units, owner, captions, others, seed), owner


def wrong_of(pairs, image):
    return set(pairs.caption[(pairs.image == image) & ~pairs.match].tolist())


@pytest.mark.parametrize("others", [1, 3])
@pytest.mark.parametrize("images", [16, 23])
def test_pairs_of_distinct_captions(images, others):
    counts = np.random.default_rng(images).integers(1, 5, images)
    pairs, owner = made(counts, others)
    own = {(owner[j], j) for j in range(len(owner))}
    right = zip(pairs.image[pairs.match], pairs.caption[pairs.match], strict=True)
    assert set(right) == own and pairs.match.sum() == len(own)
    assert (np.diff(pairs.image) >= 0).all()
    whole = np.zeros(images, int)
    for cell in np.unique(pairs.cell):
        inside = pairs.cell == cell
        mine = np.unique(pairs.image[inside])
        assert others < len(mine) <= 2 * others + 1
        whole[mine] += 1
        assert len(np.unique(pairs.half[inside])) == 1
        # Every image of the cell with every caption of it.
        captions = np.flatnonzero(np.isin(owner, mine))
        assert inside.sum() == len(mine) * len(captions)
        assert set(pairs.caption[inside]) == set(captions)
    assert (whole == 1).all()
    sizes = [len(np.unique(pairs.image[pairs.half == i])) for i in range(len(HALVES))]
    assert sizes == [-(-images // 2), images // 2]


def test_the_seed_decides():
    pairs, other = (made([2] * 20, seed=seed)[0] for seed in (0, 1))
    again = made([2] * 20, seed=0)[0]
    assert all((a == b).all() for a, b in zip(pairs, again, strict=True))
    assert len(other.half) != len(pairs.half) or (other.half != pairs.half).any()


def test_captions_of_the_same_words_are_no_wrong_pair():
    """Images 0 to 3 in one cell: 0 and 1 share a caption but for its white space."""
    captions = ["a  dog", "one", "a dog ", "two", "A dog", "three", "four", "five"]
    captions += [f"other {i}" for i in range(8)]
    pairs, _ = made([2] * 8, others=3, captions=captions, seed=seed_with({0, 1, 2, 3}))
    assert wrong_of(pairs, 0) == {3, 4, 5, 6, 7}
    assert wrong_of(pairs, 1) == {1, 4, 5, 6, 7}
    assert wrong_of(pairs, 2) == {0, 1, 2, 3, 6, 7}
    assert pairs.match.sum() == 16


def test_copies_of_an_image_are_one():
    """Images 0 and 5 are copies: in one cell, and neither right nor wrong by turns."""
    units = [0, 1, 2, 3, 4, 0, 5, 6, 7]
    pairs, _ = made([1] * 9, units=units)
    cells = {image: set(pairs.cell[pairs.image == image]) for image in (0, 5)}
    assert cells[0] == cells[5]
    both = (pairs.image == 0) & (pairs.caption == 5)
    assert not both.any() and 5 not in wrong_of(pairs, 0)
    assert wrong_of(pairs, 0) == wrong_of(pairs, 5) != set()


def test_what_a_copy_says_is_not_wrong_for_the_other():
    """Image 0 and its copy 8 say different things, and an image of the cell both."""
    captions = ["first", "x", "y", "z", "q", "r", "s", "t", "second"]
    seed = seed_with({0, 1, 2, 3})
    captions[1] = "second"
    pairs, _ = made(
        [1] * 9, others=3, units=[*range(8), 0], captions=captions, seed=seed
    )
    assert wrong_of(pairs, 0) == wrong_of(pairs, 8) == {2, 3}


def seed_with(cell):
    """A seed for which these of 8 images are a cell."""
    for seed in range(1000):
        pairs, _ = made([1] * 8, others=3, seed=seed)
        if set(pairs.caption[pairs.image == min(cell)].tolist()) == cell:
            return seed
    raise AssertionError
