"""How embeddings lie on the sphere: gap, alignment, uniformity, effective rank.

Each number comes with its value by image (`Estimate`), whose mean it is, so that one
bootstrap over images serves all of them. A number that is no mean is linearised: an
image's value is the number, plus n times what it changes if the image weighs a little
more (its pseudo-value; Efron 1982, doi:10.1137/1.9781611970319, chapter 6). Drawing the
embeddings themselves again would not do: copies lower an effective rank.

Rows are float32 of unit norm, finite, an image's captions together and at least one.
Products of rows are float32, all sums float64, and memory grows with the rows by a few
numbers each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.special

from clipjax.evals.common.ranking import spread

BLOCK = 4096  # rows at a time
TERMS = 2**23  # pairs at a time, 32 MiB
ALIKE = 1e-12  # variance of unit vectors that float32 does not tell from none
SCALE = 2.0  # t of exp(-t |x - y|^2), as Wang and Isola


class Estimate(NamedTuple):
    """A number of n images. by_image: float64 [n], of this mean."""

    value: float
    by_image: np.ndarray


class Gap(NamedTuple):
    """noise: the expectation of the gap's square if the true means were equal: the
    variance of the difference of the means of so many images.
    """

    estimate: Estimate
    noise: float


class Uniformity(NamedTuple):
    """potential: float64 [n], each image's mean of exp(-2 |x - y|^2) to the rows of
    other images that it is compared with, NaN if there are none.
    """

    estimate: Estimate
    potential: np.ndarray


def modality_gap(images: np.ndarray, texts: np.ndarray, owner: np.ndarray) -> Gap:
    """|mean image - mean text| (Liang et al., arXiv 2203.02053).

    An image's value is the part of its difference along the gap.

    Args:
      images: [n e]. texts: [m e]. owner: int [m], each text's image, in order.
    """
    n, m = len(images), len(texts)
    middles = [rows.mean(axis=0, dtype=np.float64) for rows in (images, texts)]
    difference = middles[0] - middles[1]
    value = float(np.linalg.norm(difference))
    along = difference / value if value else difference
    by_image, squares = np.empty(n), 0.0
    for part, own in _image_blocks(n, owner):
        starts = np.searchsorted(owner[own], np.arange(part.start, part.stop))
        moved = np.add.reduceat(texts[own] - middles[1], starts, axis=0) * (n / m)
        moved = images[part] - middles[0] - moved
        by_image[part] = value + moved @ along
        squares += float((moved**2).sum())
    return Gap(Estimate(value, by_image), squares / n / max(n - 1, 1))


def own_pairs(
    images: np.ndarray, texts: np.ndarray, owner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances and inner products of captions and their images, each [m]."""
    distances, products = np.empty(len(owner)), np.empty(len(owner))
    for part in _blocks(len(owner)):
        one, other = images[owner[part]].astype(float), texts[part].astype(float)
        distances[part] = np.square(one - other).sum(axis=1)
        products[part] = (one * other).sum(axis=1)
    return distances, products


def mean_over_texts(values: np.ndarray, owner: np.ndarray, images: int) -> Estimate:
    """The mean of values of texts, such as alignment of squared distances.

    values: [m]. owner: int [m], each text's image.
    """
    mean = float(values.mean())
    change = np.bincount(owner, values - mean, images)
    return Estimate(mean, mean + change * (images / len(values)))


def uniformity(
    rows: np.ndarray, owner: np.ndarray, images: int, references: int
) -> Uniformity:
    """log mean exp(-2 |x - y|^2) over pairs of rows of different images (Wang and
    Isola, arXiv 2005.10242).

    Args:
      rows: [m e], of two images or more. owner: int [m], each row's image, in order.
      references: the most rows, evenly spread, that all rows are compared with; if m is
        not above, these are all pairs.
    """
    chosen = spread(len(rows), references)
    others, other_owner = rows[chosen], owner[chosen]
    sums = np.empty(len(rows))
    other_sums = np.zeros(len(chosen))
    low = np.searchsorted(other_owner, owner, side="left")
    own = np.searchsorted(other_owner, owner, side="right") - low
    for part in _blocks(len(rows), max(1, TERMS // len(chosen))):
        terms = rows[part] @ others.T
        np.minimum(terms, 1, out=terms)  # rounding
        terms -= 1
        terms *= 2 * SCALE
        np.exp(terms, out=terms)
        count = own[part]  # of references to the row's own image, the first at `low`
        first = np.repeat(low[part] - (np.cumsum(count) - count), count)
        lines = np.repeat(np.arange(len(terms)), count)
        terms[lines, first + np.arange(len(lines))] = 0
        sums[part] = terms.sum(axis=1, dtype=np.float64)
        other_sums += terms.sum(axis=0, dtype=np.float64)
    counts = (len(chosen) - own).astype(float)
    pairs = counts.sum()
    with np.errstate(invalid="ignore"):
        potential = np.bincount(owner, sums, images)
        potential /= np.bincount(owner, counts, images)
    mean = sums.sum() / pairs
    other_counts = len(rows) - np.bincount(owner, minlength=images)[other_owner]
    change = np.bincount(owner, sums - mean * counts, images)
    change += np.bincount(other_owner, other_sums - mean * other_counts, images)
    value = float(np.log(mean))
    by_image = value + change * (images / pairs / mean)
    return Uniformity(Estimate(value, by_image), potential)


def effective_rank(rows: np.ndarray, owner: np.ndarray, images: int) -> Estimate:
    """exp of the entropy of the covariance's eigenvalues, as shares of their sum (Roy
    and Vetterli, EUSIPCO 2007): of k directions of equal variance it is k.

    0 if all rows are alike.

    Args:
      rows: [m e]. owner: int [m], each row's image.
    """
    middle = rows.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((rows.shape[1], rows.shape[1]))
    for part in _blocks(len(rows)):
        centred = rows[part] - middle
        covariance += centred.T @ centred
    values, directions = np.linalg.eigh(covariance / len(rows))
    values = np.maximum(values, 0)
    total = float(values.sum())
    if total <= ALIKE:
        return Estimate(0.0, np.zeros(images))
    shares = values / total
    entropy = float(-scipy.special.xlogy(shares, shares).sum())
    # An eigenvalue changes by the square of the row's part along its direction.
    logs = np.log(np.maximum(shares, np.finfo(np.float32).tiny))
    weighted = (directions * np.sqrt(np.maximum(-logs, 0))).astype(np.float32)
    changes = np.empty(len(rows))
    for part in _blocks(len(rows)):
        centred = (rows[part] - middle).astype(np.float32)
        changes[part] = np.square(centred @ weighted).sum(axis=1, dtype=np.float64)
        changes[part] -= entropy * np.square(centred).sum(axis=1, dtype=np.float64)
    changes -= changes.mean()  # zero but for rounding
    value = float(np.exp(entropy))
    change = np.bincount(owner, changes, images) * (images / len(rows) / total)
    return Estimate(value, value + value * change)


def random_uniformity(width: int) -> float:
    """The uniformity of vectors drawn from the whole sphere.

    Their inner product t has E exp(4 t) = 0F1(; width / 2; 4).
    """
    return float(np.log(scipy.special.hyp0f1(width / 2, SCALE**2)) - 2 * SCALE)


def random_rank(rows: int, width: int) -> float:
    """About the effective rank of rows drawn from the whole sphere: by the mean entropy
    of the eigenvalues of a complex Wishart matrix (Page, arXiv gr-qc/9305007), of as
    many degrees of freedom as rows around their mean have.
    """
    small, large = sorted((rows - 1, width))
    entropy = scipy.special.digamma(small * large + 1)
    entropy -= scipy.special.digamma(large + 1) + (small - 1) / (2 * large)
    return float(np.exp(entropy))


def _blocks(count: int, size: int = 0) -> Iterator[slice]:
    size = size or BLOCK
    return (slice(at, min(at + size, count)) for at in range(0, count, size))


def _image_blocks(count: int, owner: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Images, and their captions."""
    for part in _blocks(count):
        ends = np.searchsorted(owner, [part.start, part.stop])
        yield part, slice(*ends.tolist())
