"""Limits of the options of optimizers and schedules, checked at the start."""

from __future__ import annotations

import numpy as np

from clipjax.types import UserError

# Decays of running means: 1 would never learn, and Adam divides by 1 - b ** step.
SHARES = ("b1", "b2", "b3", "momentum")
# Adam adds it to the root of a mean, which may be 0, and divides by the sum; an
# estimated rate grows from its first value by factors.
ABOVE_ZERO = ("eps", "d0", "d_factor", "gamma", "clip", "radius", "regular", "end")
# 0 would never learn.
PARTS = ("slow_step", "b2_cap")
COUNTS = ("sync_every", "every", "min_dim", "max_dim", "memory", "least")


def check(section: str = "optim", **values: float) -> None:
    """Raises UserError, naming the option, for a value outside its range.

    SHARES are in [0, 1), ABOVE_ZERO above 0, PARTS in (0, 1], COUNTS at least 1, all
    others 0 or more; each after rounding to float32.

    section: the config's section, for the message.

    >>> check(b1=1.5)
    Traceback (most recent call last):
    clipjax.types.UserError: optim.b1=1.5: ...
    """
    for name, value in values.items():
        with np.errstate(over="ignore"):
            number = np.float32(value)
        if name in SHARES:
            valid, rule = 0 <= number < 1, "at least 0 and, as a float32, less than 1"
        elif name in ABOVE_ZERO:
            # The device rounds smaller numbers to 0.
            least = np.finfo(np.float32).tiny
            valid, rule = least <= number < np.inf, f"above {least:.2g}"
        elif name in PARTS:
            valid, rule = 0 < number <= 1, "above 0 and at most 1"
        elif name in COUNTS:
            valid, rule = 1 <= number < np.inf, "at least 1"
        else:
            valid, rule = 0 <= number < np.inf, "a finite number of at least 0"
        if not valid:
            raise UserError(f"{section}.{name}={value}: must be {rule}")
