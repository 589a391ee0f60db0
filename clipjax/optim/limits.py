"""Values with which no optimizer or schedule works, refused at the start."""

from __future__ import annotations

import numpy as np

from clipjax.types import UserError

# Means of the past: 1 would never learn, and Adam divides by 1 - b ** step.
SHARES = ("b1", "b2", "momentum")
# Adam divides by the root of a mean that may be 0, plus this.
ABOVE_ZERO = ("eps",)


def check(section: str = "optim", **values: float) -> None:
    """Raises UserError, naming the option, for a value outside its range.

    In [0, 1) are b1, b2 and momentum, above 0 is eps, and 0 or more all others, each as
    the float32 that the device has.

    section: of the config, for the message.

    >>> check(b1=1.5)
    Traceback (most recent call last):
    clipjax.types.UserError: optim.b1=1.5: ...
    """
    for name, value in values.items():
        with np.errstate(over="ignore"):
            number = np.float32(value)
        if name in SHARES:
            right, rule = 0 <= number < 1, "at least 0 and, as a float32, less than 1"
        elif name in ABOVE_ZERO:
            # What is smaller the device takes for 0.
            least = np.finfo(np.float32).tiny
            right, rule = least <= number < np.inf, f"above {least:.2g}"
        else:
            right, rule = 0 <= number < np.inf, "a finite number of at least 0"
        if not right:
            raise UserError(f"{section}.{name}={value}: must be {rule}")
