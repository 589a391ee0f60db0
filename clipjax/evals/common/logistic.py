"""Logistic regression over all images at once, by L-BFGS.

The problem is that of scikit-learn's LogisticRegression: the sum of the images' cross
entropies, plus l2 / 2 times the sum of squared weights. So l2 is 1 / C. The bias has no
penalty.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clipjax.pulse import pulse

ITERATIONS = 1000  # at most, as CLIP's paper
TOLERANCE = 1e-5  # of the mean loss's largest derivative
PATIENCE = 10  # iterations without a lower loss, at the end of float32's precision
EXPONENTS = tuple(-6 + i / 8 for i in range(97))  # of ten: the values of l2
COARSE = 16  # every so many of them are tried first


class Weights(NamedTuple):
    """A classifier of centred and scaled features; see `Problem`.

    weight: float32 [d classes]. bias: float32 [classes]. iterations: how many it took.
    """

    weight: np.ndarray
    bias: np.ndarray
    iterations: int

    def logits(self, scaled: np.ndarray) -> np.ndarray:
        """float32 [m classes] for features that `Problem.scaled` gave."""
        with np.errstate(invalid="ignore", over="ignore"):
            return scaled @ self.weight + self.bias


class Problem:
    """Labelled features on the device, for fits of several strengths and parts.

    Features are centred, and divided by one number. As the bias has no penalty and the
    weights' penalty is scaled too, the solution is that of the features as they are; it
    takes fewer iterations and loses less in float32.

    On several processes each solves the same problem by itself.

    scale: that number.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, classes: int):
        """features: float32 [n d], finite. labels: int [n], below `classes`."""
        self._shift = features.mean(axis=0, dtype=np.float64)
        centred = features - self._shift
        self.scale = float(np.sqrt(np.square(centred).mean())) or 1.0
        self._classes = classes
        self._features = jnp.asarray(centred / self.scale, jnp.float32)
        self._labels = jnp.asarray(labels, jnp.int32)

    def fit(self, l2: float, part: np.ndarray | None = None) -> Weights:
        """The classifier of all images, or of those that a bool [n] marks."""
        count = len(self._labels)
        taken = np.ones(count, bool) if part is None else part
        with pulse.working():  # other processes wait for a long fit
            weight, bias, iterations = _solve(
                self._features,
                self._labels,
                jnp.asarray(taken, jnp.float32),
                jnp.float32(l2 / self.scale**2),
                classes=self._classes,
            )
            return Weights(np.asarray(weight), np.asarray(bias), int(iterations))

    def scaled(self, features: np.ndarray) -> np.ndarray:
        """Features float32 [m d] as `Weights.logits` takes them."""
        with np.errstate(invalid="ignore", over="ignore"):
            return ((features - self._shift) / self.scale).astype(np.float32)

    def logits(self, weights: Weights, features: np.ndarray) -> np.ndarray:
        """float32 [m classes] for features [m d]; NaN where they are not finite."""
        return weights.logits(self.scaled(features))


def choose_l2(
    score: Callable[[float], tuple[float, float]],
    tried: Callable[[int], None] = lambda count: None,
) -> float:
    """The l2 of the best score, by the search of CLIP's paper (arXiv 2103.00020, A.3).

    Of 10 to the powers of EXPONENTS, every COARSE-th is tried first. Then the
    neighbours of the best are tried at half the distance, until that is one step. The
    paper allows 96 values between 1e-6 and 1e6.

    score: l2 -> (the better the higher, what decides between equals). tried: is called
    with the number of values that have been tried.
    """
    scores: dict[int, tuple[float, float]] = {}

    def best_of(places: Any) -> int:
        for place in places:
            if 0 <= place < len(EXPONENTS) and place not in scores:
                scores[place] = score(10 ** EXPONENTS[place])
                tried(len(scores))
        return max(scores, key=lambda place: (*scores[place], place))

    best = best_of(range(0, len(EXPONENTS), COARSE))
    step = COARSE // 2
    while step:
        best = best_of((best - step, best + step))
        step //= 2
    return 10 ** EXPONENTS[best]


def most_tries() -> int:
    """How many values `choose_l2` tries at most."""
    return len(range(0, len(EXPONENTS), COARSE)) + 2 * (COARSE.bit_length() - 1)


def mean_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean cross entropy of logits [n classes] and labels int [n]."""
    high = logits.max(axis=1, keepdims=True).astype(np.float64)
    total = high[:, 0] + np.log(np.exp(logits - high).sum(axis=1))
    return float((total - logits[np.arange(len(labels)), labels]).mean())


@functools.partial(jax.jit, static_argnames="classes")
def _solve(
    features: jax.Array,
    labels: jax.Array,
    taken: jax.Array,
    l2: jax.Array,
    *,
    classes: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(weight, bias, iterations) from zeros; taken: float [n], 0 or 1."""
    count = taken.sum()

    def loss(parameters: tuple[jax.Array, jax.Array]) -> jax.Array:
        weight, bias = parameters
        logits = jnp.matmul(features, weight, precision="highest") + bias[None]
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return ((taken * entropy).sum() + l2 / 2 * (weight**2).sum()) / count

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)
    width = features.shape[1]
    start = (jnp.zeros((width, classes)), jnp.zeros(classes))
    state = optimizer.init(start)
    first = loss(start)

    def goes_on(carry: Any) -> jax.Array:
        _, state, iterations, _, stale = carry
        largest = optax.tree.norm(optax.tree.get(state, "grad"), ord=jnp.inf)
        still = (iterations == 0) | (largest > TOLERANCE)
        return (iterations < ITERATIONS) & still & (stale < PATIENCE)

    def step(carry: Any) -> Any:
        parameters, state, iterations, lowest, stale = carry
        value, gradient = value_and_grad(parameters, state=state)
        updates, state = optimizer.update(
            gradient, state, parameters, value=value, grad=gradient, value_fn=loss
        )
        parameters = optax.apply_updates(parameters, updates)
        value = optax.tree.get(state, "value")
        stale = jnp.where(value < lowest, 0, stale + 1)
        return parameters, state, iterations + 1, jnp.minimum(value, lowest), stale

    carry = (start, state, jnp.int32(0), first, jnp.int32(0))
    (weight, bias), _, iterations, _, _ = jax.lax.while_loop(goes_on, step, carry)
    return weight, bias, iterations
