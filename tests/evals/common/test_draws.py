"""Random parts of labelled images have their share of each class."""

import numpy as np
import pytest

from clipjax.evals.common import draws

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 4], [50, 7, 2, 1]))


@pytest.mark.parametrize(
    ("share", "counts"),
    [(0.2, [10, 1, 1, 0, 0]), (0.01, [1, 1, 1, 0, 0]), (0.99, [49, 6, 1, 0, 0])],
)
def test_each_class_has_its_share_and_keeps_one(share, counts):
    out = draws.held_out(LABELS, share, 0)
    assert np.bincount(LABELS[out], minlength=5).tolist() == counts
    assert (out == draws.held_out(LABELS, share, 0)).all()


def test_seeds_choose_others_and_all_are_chosen():
    outs = np.stack([draws.held_out(LABELS, 0.2, seed) for seed in range(60)])
    assert len({out.tobytes() for out in outs}) == 60
    several = np.isin(LABELS, (0, 1, 2))
    assert outs[:, several].any(axis=0).all()


def test_shots_number_each_class_through():
    order = draws.shots(LABELS, 3)
    for label in (0, 1, 2, 4):
        own = order[label == LABELS]
        assert sorted(own) == list(range(len(own)))
    first = np.array([draws.shots(LABELS, seed)[LABELS == 0] for seed in range(40)])
    assert (first == 0).any(axis=0).sum() > 20  # not always the same image
