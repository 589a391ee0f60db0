"""Columns of rows as users' evaluators make them: what comes back, what is refused."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from clipjax import row_files
from clipjax.types import UserError

BFLOAT16 = np.array([1, 2, 0.5], ml_dtypes.bfloat16)


def there_and_back(column):
    rows = {"key": ["a", "b", "c"], "x": column}
    return row_files.decode(row_files.encode(rows, "mine"))["x"]


@pytest.mark.parametrize(
    ("column", "array"),
    [
        (np.uint8([0, 7, 255]), np.uint8([0, 7, 255])),
        (np.float16([0.1, 2, -3]), np.float16([0.1, 2, -3])),
        (BFLOAT16, np.float32([1, 2, 0.5])),
        (
            np.stack([BFLOAT16, BFLOAT16], axis=1),
            np.float32([[1, 1], [2, 2], [0.5] * 2]),
        ),
        (jnp.arange(3), np.int32([0, 1, 2])),
        (jnp.ones((3, 2), jnp.bfloat16), np.ones((3, 2), np.float32)),
        ([jnp.float32(0.5)] * 3, np.float64([0.5] * 3)),
        (np.array([1, 2, 3], ">i4"), np.int32([1, 2, 3])),
        (np.arange(12).reshape(3, 4)[:, ::2], np.array([[0, 2], [4, 6], [8, 10]])),
        (range(3), np.arange(3)),
        ([1.5, float("nan"), 2], np.array([1.5, np.nan, 2])),
    ],
)
def test_numbers_come_back_as_arrays(column, array):
    found = there_and_back(column)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (np.array(["a", "é", "c\udcff"]), ["a", "é", "c\\udcff"]),
        (np.array(["a", None, "c"], object), ["a", None, "c"]),
        ([1, None, 2**60 + 1], [1, None, 2**60 + 1]),
        ([True, None, False], [True, None, False]),
        ([None] * 3, [None] * 3),
        ([[], [], []], [[], [], []]),
        (np.zeros((3, 0)), [[], [], []]),
        ([np.arange(2), np.arange(1), jnp.arange(0)], [[0, 1], [0], []]),
        (np.arange(12).reshape(3, 2, 2), np.arange(12).reshape(3, 2, 2).tolist()),
    ],
)
def test_other_values_come_back_as_lists(column, values):
    assert there_and_back(column) == values


@pytest.mark.parametrize(
    "column",
    [
        np.zeros(3, complex),
        [1, "a", 2],
        np.array(["a", 1, None], object),
        [2**70] * 3,
        [object()] * 3,
    ],
)
def test_what_parquet_cannot_hold_is_named(column):
    with pytest.raises(UserError, match=r"^mine: column 'x' of its rows .*give an"):
        there_and_back(column)


def test_alike_is_equal_up_to_rounding():
    def rows(score, key="a", **more):
        table = {"key": [key, "b"], "score": np.float32([score, np.nan]), **more}
        return row_files.decode(row_files.encode(table, "mine"))

    assert row_files.are_alike(rows(0.25), rows(0.25 + 1e-6))
    for other in (rows(0.26), rows(0.25, "c"), rows(0.25, rank=[1, 2])):
        assert not row_files.are_alike(rows(0.25), other)
    # Whole numbers are compared exactly, and another dtype is another table.
    one, two, wide = (
        rows(0.25, rank=np.array(x, kind))
        for x, kind in (([7, 8], int), ([7, 9], int), ([7, 8], float))
    )
    assert row_files.are_alike(one, one)
    assert not row_files.are_alike(one, two)
    assert not row_files.are_alike(one, wide)


def test_damage():
    content = row_files.encode({"key": ["a"]}, "mine")
    for damaged in (b"", b"PAR1", content[:-20]):
        with pytest.raises(ValueError, match=r"\w"):
            row_files.decode(damaged)
