"""Quantiles of the largest of several Student t values, by numerical integration.

Two kinds are needed: the largest difference of k means (the studentized range, as of
scipy.stats.studentized_range, whose quantiles take seconds each), and the largest of k
means or of their differences from a control (Dunnett's). All average a normal
probability over the estimated standard deviation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize, special, stats

_TAIL = 1e-12  # of the standard deviation's distribution that is left out
_NODES = 64
_REACH = 8.5  # standard deviations over which a normal density is integrated


def range_cdf(q: float, count: int, df: float) -> float:
    """The probability that the range of `count` independent normal means, over their
    estimated standard error, is at most q.

    df: degrees of freedom of the estimate; infinite if it is known.
    """
    sizes, weights = _deviations(df)
    z, at = _normal()
    width = q * sizes[:, None]
    inside = special.ndtr(z) - special.ndtr(z - width)
    return float(count * (weights @ (np.maximum(inside, 0) ** (count - 1) @ at)))


def range_p(q: float, count: int, df: float) -> float:
    """The probability of a range above q."""
    return min(1.0, max(0.0, 1 - range_cdf(q, count, df)))


@functools.lru_cache(maxsize=4096)
def range_quantile(share: float, count: int, df: float) -> float:
    """The q that `range_cdf` gives this share; tables call it q(count, df).

    >>> round(range_quantile(0.95, 3, 10), 3)
    3.877
    """
    return _solve(lambda q: range_cdf(q, count, df), share)


def range_quantiles(share: float, count: int, dfs: np.ndarray) -> np.ndarray:
    """`range_quantile` of many dfs of 1 or more, to five digits."""
    return np.exp(_logs_of_ranges(share, count)(1 / np.asarray(dfs, float)))


@functools.lru_cache(maxsize=64)
def _logs_of_ranges(share: float, count: int) -> np.polynomial.Chebyshev:
    """The logarithm of the quantile as a polynomial of 1 / df."""

    def log(x: np.ndarray) -> np.ndarray:
        return np.log([range_quantile(share, count, float(1 / one)) for one in x])

    return np.polynomial.Chebyshev.interpolate(log, 16, [0, 1])


def extreme_cdf(c: float, loads: Sequence[float], df: float) -> float:
    """The probability that all of |t_1|, ... are at most c.

    loads: the t values' parts in a common one, so that i and j correlate by
    loads[i] * loads[j]: 0 for independent means, sqrt(n_i / (n_i + n_0)) for
    differences from a control of n_0 values (C. Dunnett 1955).
    """
    sizes, weights = _deviations(df)
    z, at = _normal()
    inside = np.ones((len(sizes), len(z)))
    for load in loads:
        rest = math.sqrt(1 - load**2)
        edge = c * sizes[:, None] / rest
        shift = load * z / rest
        inside *= special.ndtr(edge + shift) - special.ndtr(shift - edge)
    return float(weights @ (inside @ at))


@functools.lru_cache(maxsize=4096)
def extreme_quantile(share: float, loads: tuple[float, ...], df: float) -> float:
    """The c that `extreme_cdf` gives this share.

    >>> round(extreme_quantile(0.95, (0.0,), 10), 3)  # Student's t
    2.228
    """
    return _solve(lambda c: extreme_cdf(c, loads, df), share)


def _solve(cdf: Callable[[float], float], share: float) -> float:
    low, high = 0.0, 4.0
    while cdf(high) < share:
        low, high = high, 2 * high
        if high > 1e9:  # so few degrees of freedom bound nothing
            return math.inf
    return root(lambda x: cdf(x) - share, low, high)


def root(of: Callable[[float], float], low: float, high: float) -> float:
    """Where a function is 0; its signs at both ends must differ."""
    return float(optimize.brentq(of, low, high, xtol=1e-9))  # pyright: ignore


@functools.lru_cache(maxsize=256)
def _deviations(df: float) -> tuple[np.ndarray, np.ndarray]:
    """Estimated standard deviations over the true one, and their probabilities."""
    if math.isinf(df):
        return np.ones(1), np.ones(1)
    ends = np.array([stats.chi2.ppf(_TAIL, df), stats.chi2.isf(_TAIL, df)])
    low, high = 0.5 * np.log(ends / df)
    x, w = np.polynomial.legendre.leggauss(_NODES)
    logs = low + (high - low) * (x + 1) / 2
    sizes = np.exp(logs)
    density = stats.chi2.pdf(df * sizes**2, df) * 2 * df * sizes**2  # of the logarithm
    weights = density * w * (high - low) / 2
    return sizes, weights / weights.sum()


@functools.lru_cache(maxsize=1)
def _normal() -> tuple[np.ndarray, np.ndarray]:
    x, w = np.polynomial.legendre.leggauss(_NODES)
    z = _REACH * x
    at = w * _REACH * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return z, at
