"""Made results of studies."""

import numpy as np

from clipjax.study_statistics.seed_table import SeedTable


def table(values, stages=None, compared=0):
    """The table of an array [cells seeds]."""
    values = np.array(values, float)
    names = tuple(f"cell {i}" for i in range(len(values)))
    seeds = tuple(range(values.shape[1]))
    stages = np.zeros(len(seeds), int) if stages is None else np.array(stages)
    return SeedTable(names, seeds, values, stages, compared or len(names))


def draws(count, cells, seeds, *, means=0.0, deviation=1.0, shared=0.0, seed=0):
    """Tables [count] of normal values; shared: the deviation of a seed's part."""
    rng = np.random.default_rng(seed)
    size = (count, cells, seeds)
    means, deviation = (
        np.broadcast_to(x, cells)[None, :, None] for x in (means, deviation)
    )
    part = shared * rng.normal(size=(count, 1, seeds))
    return means + part + deviation * rng.normal(size=size)
