"""Platt's scaling: the probability that a pair matches, from its similarity.

The probability is sigmoid(slope * similarity + intercept) (J. Platt 1999,
"Probabilistic outputs for support vector machines"). Right and wrong pairs weigh the
same in the fit, however many there are, so it is the probability under even odds.

Pairs that a threshold separates have no finite fit of maximum likelihood. Firth's
penalty gives them one, and takes the bias of few pairs off the others. Platt's own
remedy, targets a little inside 0 and 1, halves the slope of a few hundred pairs whose
similarities hardly overlap, as a good model's do.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from clipjax.probabilities import sigmoid

_ITERATIONS = 500
_CLOSE = 1e-12  # of the mean loss's largest derivative
_RIDGE = 1e-12  # on the second derivatives, for similarities that are all equal
_HALVINGS = 40
_EQUAL = 1e-12  # similarities that differ less are rounded sums of equal ones


class Sigmoid(NamedTuple):
    """similarity -> the probability of a match.

    >>> Sigmoid(slope=20.0, intercept=-5.0).probability(np.array([0.25, 1.0]))
    array([0.5       , 0.99999969])
    """

    slope: float
    intercept: float

    @property
    def threshold(self) -> float:
        """The similarity of probability 0.5; NaN if more of it is no better."""
        return -self.intercept / self.slope if self.slope > 0 else math.nan

    def probability(self, similarity: Any, prior: float = 0.5) -> np.ndarray:
        """float64 of the similarity's shape.

        prior: how often pairs match before one looks at them, in (0, 1); another one
        than 0.5 adds its log odds.
        """
        odds = math.log(prior) - math.log1p(-prior)
        return sigmoid(self.logits(similarity) + odds)

    def logits(self, similarity: Any) -> np.ndarray:
        """The log odds under even ones, float64."""
        return self.slope * np.asarray(similarity, np.float64) + self.intercept


class Errors(NamedTuple):
    """The standard errors of a fit, NaN of what the pairs do not determine."""

    slope: float
    intercept: float
    threshold: float


def fit(similarity: np.ndarray, match: np.ndarray) -> Sigmoid:
    """The slope and intercept of the least penalised cross entropy.

    It is the sum of the pairs' cross entropies, weighted so that right and wrong ones
    have the same sum and the mean weight is 1, minus half the log determinant of its
    information (D. Firth 1993; G. Heinze and M. Schemper 2002 on separation).

    Args:
      similarity: float [n], finite. match: bool [n], at least one of each kind.
    """
    problem = _Problem(similarity, match)
    parameters = problem.solve()
    slope, intercept = problem.jacobian @ parameters
    return Sigmoid(float(slope), float(intercept))


def errors(
    found: Sigmoid, similarity: np.ndarray, match: np.ndarray, groups: np.ndarray
) -> Errors:
    """The standard errors of `fit(similarity, match)` over draws of groups of pairs.

    They are the sandwich's of clustered data (K.-Y. Liang and S. Zeger 1986), and never
    below those of independent pairs, which few groups may show too small.

    Args:
      groups: int [n] from 0, the pairs that vary together; two groups or more.
    """
    problem = _Problem(similarity, match)
    if not problem.features[:, 0].any():
        return Errors(math.nan, math.nan, math.nan)
    x, odds = problem.features, found.logits(similarity)
    p = sigmoid(odds)
    spread = p * (1 - p)
    scores = (problem.weights * (problem.targets - p))[:, None] * x
    sums = np.stack([np.bincount(groups, column) for column in scores.T], axis=1)
    count = len(np.unique(groups))
    clustered = sums.T @ sums * count / (count - 1)
    alone = (x * (problem.weights**2 * spread)[:, None]).T @ x
    inverse = np.linalg.inv(_curvature(x, problem.weights * spread))
    shape = problem.jacobian @ inverse
    directions = [(1.0, 0.0), (0.0, 1.0), (math.nan, math.nan)]
    if found.slope > 0:
        directions[2] = (-found.threshold / found.slope, -1 / found.slope)
    return Errors(
        *(
            math.sqrt(max(along @ inner @ along for inner in (clustered, alone)))
            for along in (np.array(direction) @ shape for direction in directions)
        )
    )


def log_losses(found: Sigmoid, similarity: np.ndarray, match: np.ndarray) -> np.ndarray:
    """float64 [n]: each pair's cross entropy, in nats."""
    odds = found.logits(similarity)
    return np.logaddexp(0, np.where(match, -odds, odds))


class _Problem:
    """The pairs with their similarities shifted and scaled, for well-conditioned steps.

    features: float64 [n 2]. jacobian: [2 2], (slope, intercept) by the parameters.
    targets, weights: float64 [n].
    """

    def __init__(self, similarity: np.ndarray, match: np.ndarray):
        similarity, match = np.asarray(similarity, np.float64), np.asarray(match, bool)
        mean = similarity.mean()
        scaled = similarity - mean
        scale = float(np.abs(scaled).max())
        if scale <= _EQUAL:
            scaled, scale = np.zeros_like(scaled), 1.0
        scaled = scaled / scale
        self.features = np.stack([scaled, np.ones_like(scaled)], axis=1)
        self.jacobian = np.array([[1 / scale, 0.0], [-mean / scale, 1.0]])
        right, count = int(match.sum()), len(match)
        self.targets = match.astype(np.float64)
        self.weights = count / 2 / np.where(match, right, count - right)

    def solve(self) -> np.ndarray:
        """float64 [2], from zeros, by Fisher's scoring."""
        x, parameters = self.features, np.zeros(2)
        loss = self._loss(parameters)
        for _ in range(_ITERATIONS):
            p = sigmoid(x @ parameters)
            spread = self.weights * p * (1 - p)
            inverse = np.linalg.inv(_curvature(x, spread))
            leverages = spread * ((x @ inverse) * x).sum(axis=1)
            residuals = self.weights * (p - self.targets) - leverages * (0.5 - p)
            gradient = residuals @ x
            if np.abs(gradient).max() <= _CLOSE * len(x):
                break
            step = inverse @ gradient
            for halving in range(_HALVINGS):
                tried = parameters - step / 2**halving
                if (new := self._loss(tried)) < loss:
                    parameters, loss = tried, new
                    break
            else:  # float64 tells no lower loss
                break
        return parameters

    def _loss(self, parameters: np.ndarray) -> float:
        odds = self.features @ parameters
        p = sigmoid(odds)
        curvature = _curvature(self.features, self.weights * p * (1 - p))
        entropy = self.weights @ (np.logaddexp(0, odds) - self.targets * odds)
        return float(entropy) - np.linalg.slogdet(curvature)[1] / 2


def _curvature(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (features * weights[:, None]).T @ features + _RIDGE * np.eye(2)
