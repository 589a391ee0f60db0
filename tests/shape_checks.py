"""How tests check the types on signatures; conftest.py installs it."""

import contextlib

import beartype
import jaxtyping

from clipjax import types

checked = beartype.beartype(
    conf=beartype.BeartypeConf(
        is_pep484_tower=True,  # an int serves as a float
        # clipjax.testing checks these contracts; tests have parts of them.
        hint_overrides=beartype.BeartypeHintOverrides(
            {types.Loss: object, types.Model: object}
        ),
    )
)


@contextlib.contextmanager
def unchecked():
    """As outside tests: a wrong type meets the code's own checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
