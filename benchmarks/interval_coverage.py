"""How often the 95 % intervals of evaluators' metrics hold the truth, on made data.

    python benchmarks/interval_coverage.py
    python benchmarks/interval_coverage.py --images 200 --draws 1000

A draw makes the hits of --images images by a true rate. The table has the share of
draws whose interval holds it. Images differ: their rates follow a beta distribution,
whose intra-class correlation says how alike an image's captions are (0: not at all, 1:
they hit or miss together). `share` is a recall over an image's captions, `mean` that of
both directions, where the image itself is a query that hits at its own rate. `classes`
is mean_class_recall over --classes classes whose recalls differ by the correlation;
their sizes are equal or, in `uneven`, from 2 images to many. Ranks are of log-normal
images and captions, with half of the variance each; their truth is that of 4,000,000.
Drops are those of evals=corruptions: 60 corruptions keep a share of the right answers,
which differs between images, and turn a hundredth of the wrong ones right.

Pairs are two models of equal quality on the same images (`alike`: an image is as hard
for both; `own`: for each by itself). Their table has the share of draws in which
clipjax.compare finds a difference, at p < 0.05 and by an interval without 0, and then
with a second model whose true share is --gain points above.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from clipjax.comparison.paired_tests import Pairs, share_interval, sign_flips
from clipjax.evals.common.bootstrap import mean_and_median, ratios_over_images
from clipjax.evals.common.intervals import Hits, class_mean, mean, share
from clipjax.types import Metric

TRUTHS = (0.001, 0.01, 0.05, 0.25, 0.5, 0.9, 0.99, 0.999)
CORRELATIONS = (0.1, 0.3, 0.6, 0.9)
CAPTIONS = 5
CLEAN, KEPT = (0.02, 0.1, 0.5, 0.9), (0.1, 0.5, 0.9)  # of drops
CORRUPTIONS, TURNED = 60, 0.01
RANKS = ((3.5, 0.7), (60.0, 1.5))  # the median, the deviation of the logarithm

Rng = np.random.Generator


def rates(rng: Rng, truth: float, correlation: float, count: int) -> np.ndarray:
    """float [count] of mean `truth` and variance correlation * truth * (1 - truth)."""
    size = 1 / correlation - 1
    return rng.beta(truth * size, (1 - truth) * size, count)


def holds(metric: Metric, truth: float) -> bool:
    assert metric.low is not None and metric.high is not None
    return metric.low <= truth <= metric.high


def of_share(rng: Rng, truth: float, correlation: float, images: int) -> bool:
    own = rates(rng, truth, correlation, images).repeat(CAPTIONS)
    groups = np.arange(images).repeat(CAPTIONS)
    found = share(Hits((rng.random(len(own)) < own).astype(float), groups))
    return holds(found, truth)


def of_single(rng: Rng, truth: float, _: float, images: int) -> bool:
    found = share(Hits((rng.random(images) < truth).astype(float)))
    return holds(found, truth)


def of_mean(rng: Rng, truth: float, correlation: float, images: int) -> bool:
    own = rates(rng, truth, correlation, images)
    groups = np.arange(images).repeat(CAPTIONS)
    one = (rng.random(images) < own).astype(float)
    many = (rng.random(len(groups)) < own[groups]).astype(float)
    found = mean([Hits(one), Hits(many, groups)])
    return holds(found, truth)


def of_classes(classes: int, uneven: bool) -> Callable[[Rng, float, float, int], bool]:
    def of_these(rng: Rng, truth: float, correlation: float, images: int) -> bool:
        sizes = np.full(classes, images // classes)
        if uneven:  # from 2 images to as many as leaves the total
            weights = np.geomspace(1, 30, classes)
            sizes = np.maximum(2, weights / weights.sum() * images).astype(int)
        recalls = rates(rng, truth, correlation, classes)
        labels = np.arange(classes).repeat(sizes)
        hits = (rng.random(len(labels)) < recalls[labels]).astype(float)
        found = class_mean(hits, labels, 1 / classes)
        return holds(found, float(recalls.mean()))  # of these classes

    return of_these


def pair(
    rng: Rng, truth: float, correlation: float, images: int, captions: int, own: bool
) -> Pairs:
    """The hits of two models of one true share."""
    groups = np.arange(images).repeat(captions)
    first = rates(rng, truth, correlation, images)[groups]
    second = rates(rng, truth, correlation, images)[groups] if own else first
    hits = (rng.random((2, len(groups))) < [first, second]).astype(float)
    return Pairs(*hits, np.full(len(groups), 1 / len(groups)), groups)


def gained(rng: Rng, found: Pairs, truth: float, gain: float) -> Pairs:
    """The second model's misses turn into hits so often that its share gains this."""
    turned = rng.random(len(found.first)) < gain / (1 - truth)
    return found._replace(second=np.maximum(found.second, turned))


def pair_cases() -> Iterator[tuple[str, int, bool, float]]:
    for captions in (1, CAPTIONS):
        for own in (False, True) if captions > 1 else (False,):
            for correlation in CORRELATIONS:
                name = f"{captions} caption{'s' * (captions > 1)}, "
                yield name + ("own" if own else "alike"), captions, own, correlation


def print_pairs(console: Console, images: int, draws: int, gain: float) -> None:
    table = Table(box=None, header_style="")
    table.add_column("pairs", no_wrap=True)
    table.add_column("corr.", justify="right")
    for truth in TRUTHS:
        table.add_column(f"{100 * truth:g} %", justify="right")
    table.add_column("most", justify="right")
    table.add_column(f"+{100 * gain:g} at 50 %", justify="right")
    for name, captions, own, correlation in pair_cases():
        rng = np.random.default_rng(0)
        cells, most, found = [], 0.0, 0
        for truth in TRUTHS:
            sure = outside = 0
            for _ in range(draws):
                equal = pair(rng, truth, correlation, images, captions, own)
                low, high = share_interval(equal)
                sure += sign_flips(equal) < 0.05
                outside += not low <= 0 <= high
                if truth == 0.5:
                    better = gained(rng, equal, truth, gain)
                    found += sign_flips(better) < 0.05
            shares = 100 * sure / draws, 100 * outside / draws
            cells.append(" ".join(f"{share:.1f}" for share in shares))
            most = max(most, *shares)
        power = f"{100 * found / draws:.0f}"
        table.add_row(name, f"{correlation:g}", *cells, f"{most:.1f}", power)
    console.print(
        f"Percentage of pairs of equals that differ, by p and by the interval "
        f"({draws:,} draws for each truth):"
    )
    console.print(table)


def ranks(
    rng: Rng, images: int, captions: int, median: float, spread: float
) -> tuple[np.ndarray, np.ndarray]:
    """(float [images * captions], int, the image of each)."""
    half, groups = spread / math.sqrt(2), np.arange(images).repeat(captions)
    logs = rng.normal(math.log(median), half, images)[groups]
    return 1 + np.floor(np.exp(logs + rng.normal(0, half, len(groups)))), groups


def drop_held(rng: Rng, images: int, clean: float, kept: float) -> tuple[bool, bool]:
    """Whether the intervals of a ratio to the clean share, and of the mean share over
    corruptions, hold theirs.
    """
    right = rng.random(images) < clean
    own = np.where(right, rates(rng, kept, 0.3, images), TURNED)
    hits = (rng.random((CORRUPTIONS, images)) < own).astype(float)
    truth = clean * kept + (1 - clean) * TURNED
    held = holds(mean([Hits(one) for one in hits]), truth)
    if not right.any():
        return True, held  # no ratio
    values = hits.mean(axis=0)[:, None]
    ((low, high),) = ratios_over_images(values, right.astype(float))
    return low <= truth / clean <= high, held


def print_drops(console: Console, images: int, draws: int) -> None:
    table = Table(box=None, header_style="")
    table.add_column("kept")
    for clean in CLEAN:
        table.add_column(f"clean {100 * clean:g} %", justify="right")
    for kept in KEPT:
        cells = []
        for clean in CLEAN:
            rng = np.random.default_rng(0)
            held = [drop_held(rng, images, clean, kept) for _ in range(draws)]
            cells.append(" ".join(f"{x:.1f}" for x in 100 * np.mean(held, axis=0)))
        table.add_row(f"{100 * kept:g} %", *cells)
    console.print(
        f"Relative drop, mean over {CORRUPTIONS} corruptions ({draws} draws):"
    )
    console.print(table)


def cases(classes: int) -> Iterator[tuple[str, Callable, float]]:
    yield "share, 1 caption", of_single, 0.0
    for correlation in CORRELATIONS:
        yield f"share, {CAPTIONS} captions", of_share, correlation
    for correlation in CORRELATIONS:
        yield f"mean, {CAPTIONS} captions", of_mean, correlation
    for correlation in CORRELATIONS[:3]:
        yield f"classes, {classes}", of_classes(classes, False), correlation
        yield f"classes, {classes} uneven", of_classes(classes, True), correlation


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument(
        "--draws", type=int, default=4000, help="per truth; 0: only ranks"
    )
    parser.add_argument("--rank_draws", type=int, default=400, help="0: no ranks")
    parser.add_argument("--drop_draws", type=int, default=200, help="0: no drops")
    parser.add_argument(
        "--pair_draws", type=int, default=2000, help="per truth; 0: no pairs"
    )
    parser.add_argument("--gain", type=float, default=0.05, help="of a better model")
    flags = parser.parse_args()
    console = Console(width=130)

    table = Table(box=None, header_style="")
    table.add_column("metric")
    table.add_column("corr.", justify="right")
    for truth in TRUTHS:
        table.add_column(f"{100 * truth:g} %", justify="right")
    table.add_column("mean", justify="right")
    table.add_column("least", justify="right")
    start = time.monotonic()
    for name, draw, correlation in cases(flags.classes) if flags.draws else ():
        rng = np.random.default_rng(0)
        held = [
            100
            * np.mean(
                [
                    draw(rng, truth, correlation, flags.images)
                    for _ in range(flags.draws)
                ]
            )
            for truth in TRUTHS
        ]
        table.add_row(
            name,
            f"{correlation:g}",
            *(f"{x:.1f}" for x in (*held, np.mean(held), min(held))),
        )
    console.print(
        f"Percentage of draws of {flags.images:,} images whose interval holds the truth"
    )
    if flags.draws:
        console.print(f"({flags.draws:,} draws for each truth):")
        console.print(table)
    for captions in (1, CAPTIONS) if flags.rank_draws else ():
        for median, spread in RANKS:
            rng = np.random.default_rng(0)
            every, _ = ranks(rng, 4_000_000, 1, median, spread)
            truths = np.array([every.mean(), np.median(every)])
            held = []
            for _ in range(flags.rank_draws):
                own, groups = ranks(rng, flags.images, captions, median, spread)
                low, high = np.array(mean_and_median(own, groups)).T
                held.append((low <= truths) & (truths <= high))
            of_mean_rank, of_median_rank = 100 * np.mean(held, axis=0)
            console.print(
                f"ranks, captions {captions}, mean {truths[0]:.1f}, median "
                f"{truths[1]:.0f} ({flags.rank_draws} draws): mean "
                f"{of_mean_rank:.1f}, median {of_median_rank:.1f}"
            )
    if flags.drop_draws:
        print_drops(console, flags.images, flags.drop_draws)
    if flags.pair_draws:
        print_pairs(console, flags.images, flags.pair_draws, flags.gain)
    console.print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
