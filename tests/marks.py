"""Which cases of a test run by default."""

import pytest


def mostly(cases, default, mark=pytest.mark.thorough):
    """All cases for `parametrize`, marked unless they are among the default ones.

    A case that is a tuple has a value per parameter.
    """
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=[] if case in default else [mark],
        )
        for case in cases
    ]
