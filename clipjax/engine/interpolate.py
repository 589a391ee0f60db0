"""Weights between two runs of one model (WiSE-FT, arXiv 2109.01903)."""

from __future__ import annotations

import jax
import numpy as np

from clipjax import param_paths
from clipjax.models.common import meaning
from clipjax.types import Model, UserError, Variables


def check_same_model(
    what: str, base: tuple[Model, Variables], tuned: tuple[Model, Variables]
) -> None:
    """Raises UserError, naming `what`, if a setting or parameter of the models differs.

    One model's weights would then mean something else in the other.

    base, tuned: results of `lora.merged`.
    """
    ours, theirs = tuned[0], base[0]
    meaning.check(ours, theirs, what)
    for option, here, there in meaning.pixels(ours, theirs):
        raise UserError(f"{option}: {here} does not fit {what}, which has {there}")
    shapes = [param_paths.flatten(variables) for _, variables in (base, tuned)]
    for name in sorted({*shapes[0], *shapes[1]}):
        there, here = (
            np.shape(tree[name]) if name in tree else "absent" for tree in shapes
        )
        if there != here:
            raise UserError(
                f"{what}: {name} is {there} there and {here} in this run: give a run "
                "of the same model"
            )


def mix(base: Variables, tuned: Variables, share: float) -> Variables:
    """(1 - share) * base + share * tuned per array; host arrays, float32."""
    if share in (0.0, 1.0):
        return tuned if share else base
    return jax.tree.map(
        lambda a, b: np.asarray((1 - share) * a + share * b, np.float32), base, tuned
    )
