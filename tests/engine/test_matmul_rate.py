"""The rate of products of matrices, by a clock whose times are known."""

import itertools

import jax
import pytest

from clipjax.engine import matmul_rate


def on_a_clock(monkeypatch, *seconds):
    """Products take these times, five of each; returns the rate."""
    matmul_rate.measured.cache_clear()
    ticks = [t for x in seconds for t in (0.0, x) * 5]
    clock = itertools.chain(ticks, itertools.repeat(0.0))
    monkeypatch.setattr(matmul_rate.time, "perf_counter", lambda: next(clock))
    try:
        return matmul_rate.measured(jax.devices("cpu")[0], "float32")
    finally:
        matmul_rate.measured.cache_clear()


def test_a_product_that_takes_long_enough(monkeypatch):
    # n^3 products and as many sums.
    assert on_a_clock(monkeypatch, 0.5) == 2 * 512**3 / 0.5


def test_a_larger_one_until_it_does(monkeypatch):
    assert on_a_clock(monkeypatch, 0.02, 0.125) == 2 * 1024**3 / 0.125


def test_published_rates_are_without_sparsity():
    for each in matmul_rate.PUBLISHED.values():
        assert each["bfloat16"] == pytest.approx(2 * each["float32"])
    h100 = matmul_rate.PUBLISHED["NVIDIA H100 80GB HBM3"]
    # Dense products per clock and multiprocessor of Hopper: 2 x 4 x 512, at 1.83 GHz.
    assert h100["bfloat16"] == pytest.approx(2 * 4 * 512 * 132 * 1.83e9, rel=0.01)
