"""Warnings about a run's numbers: collapse, no learning, non-finite values.

A step's metrics hold its non-finite values under NOT_FINITE, in the order of
computation: the model's outputs, then each parameter's gradient and update.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NOT_FINITE = "not_finite"

# Embeddings have collapsed if their effective rank is below this, from this step on:
# a fresh model's embeddings are nearly alike too.
COLLAPSE_RANK, COLLAPSE_STEP = 1.05, 200
SIDES = ("image", "text")
# A loss has not moved if its mean over WINDOW steps is this near to its start.
NEAR, WINDOW = 0.02, 10


def outputs_not_finite(outputs: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Name -> bool for the floating-point outputs."""
    return {
        name: ~jnp.isfinite(x).all()
        for name, x in outputs.items()
        if jnp.issubdtype(jnp.result_type(x), jnp.floating)
    }


def leaves_not_finite(tree: Any) -> jax.Array:
    """bool [leaves], in the tree's order."""
    return jnp.stack([~jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)])


class Watch:
    """Checks each step's numbers on the host."""

    def __init__(self, names: Sequence[str], total: int, say: Callable[[str], None]):
        """names: the parameters' paths, in the order of the tree's leaves."""
        self._names = names
        self._total = total
        self._say = say
        self._collapsed = False
        self._compared = False
        self._recent: collections.deque = collections.deque(maxlen=WINDOW)
        # The first of the bad steps in a row, and its fault.
        self._fault: tuple[int, str] | None = None

    def look(self, step: int, values: dict[str, Any]) -> None:
        """Checks a step's metrics and removes NOT_FINITE from `values`."""
        faults = values.pop(NOT_FINITE, {})
        if not int(values["bad_in_row"]):
            self._fault = None
        elif self._fault is None:
            self._fault = step, self._describe(faults, values)
        self._look_for_collapse(step, values)
        self._look_for_learning(step, values)

    def _look_for_collapse(self, step: int, values: Mapping[str, Any]) -> None:
        if self._collapsed or step < max(COLLAPSE_STEP, self._total // 10):
            return
        ranks = [float(values.get(f"{side}_effective_rank", 9)) for side in SIDES]
        self._collapsed = min(ranks) < COLLAPSE_RANK
        if self._collapsed:
            self._say(
                f"warning: at step {step} the embeddings are nearly alike "
                f"(effective rank of images {ranks[0]:.2f}, of texts {ranks[1]:.2f}): "
                "try a lower --config.optim.lr or another loss"
            )

    def _look_for_learning(self, step: int, values: Mapping[str, Any]) -> None:
        if self._compared or "uninformed_loss" not in values:
            return
        self._recent.append((float(values["loss"]), float(values["uninformed_loss"])))
        if step < self._total / 10 or len(self._recent) < WINDOW:
            return
        self._compared = True
        loss, start = np.mean(self._recent, axis=0)
        if abs(loss - start) <= NEAR * start:
            self._say(
                f"hint: at step {step}, after a tenth of the run, the loss (mean "
                f"{loss:.4f} of {WINDOW} steps) is within {NEAR:.0%} of {start:.4f}, "
                "that of a model that has learned nothing: try another "
                "--config.optim.lr, and see that captions or labels belong to their "
                "images"
            )

    def fault(self, step: int, bad: int) -> str:
        """Why the last `bad` steps, up to this one, were not finite."""
        assert self._fault is not None  # `look` saw this step
        first, fault = self._fault
        return (
            f"the training step was not finite in {bad} steps in a row, from step "
            f"{step - bad + 1} up to step {step}: at step {first} {fault}"
        )

    def _describe(self, faults: Mapping[str, Any], values: Mapping[str, Any]) -> str:
        """The first non-finite value in the order of computation."""
        outputs = [name for name, bad in faults.get("outputs", {}).items() if bad]
        numbers = f"loss {float(values['loss'])}, gradient norm "
        numbers += f"{float(values['grad_norm'])}"
        if "logit_scale" in values:
            numbers += f", logit scale {float(values['logit_scale']):.6g}"
        if outputs:
            return f"the model's {_few(outputs)} overflowed ({numbers})"
        if not math.isfinite(values["loss"]):
            return f"the loss overflowed, with finite embeddings or logits ({numbers})"
        for kind in ("gradient", "update"):
            flags = np.asarray(faults.get(kind, ()), bool)
            names = [n for n, bad in zip(self._names, flags, strict=False) if bad]
            if names:
                every = " (all)" if len(names) == len(self._names) else ""
                return f"the {kind} of {_few(names)}{every} overflowed ({numbers})"
            if kind == "gradient" and not math.isfinite(values["grad_norm"]):
                return f"the norm of the gradient overflowed ({numbers})"
        return f"the norm of the update overflowed ({numbers})"


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
