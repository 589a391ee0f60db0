"""Letters against their definition."""

import numpy as np
import pytest

from clipjax.study_statistics.letter_groups import letters


@pytest.mark.parametrize("seed", range(6))
def test_two_cells_share_a_letter_if_they_are_not_told_apart(seed):
    rng = np.random.default_rng(seed)
    apart = np.triu(rng.random((9, 9)) < 0.5, 1)
    apart |= apart.T
    found = letters(apart, rng.permutation(9))
    for i in range(9):
        for j in range(9):
            assert bool(set(found[i]) & set(found[j])) == (not apart[i, j])


def test_the_best_cell_has_the_first_letter():
    apart = np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]], bool)
    assert letters(apart, [1, 0, 2]) == ["b", "a", "a"]


def test_many_groups_have_letters():
    found = letters(~np.eye(60, dtype=bool), range(60))
    assert found[0] == "a" and found[59] == "h1" and len(set(found)) == 60
