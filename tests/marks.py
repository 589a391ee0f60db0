"""Which cases of a test run by default."""

import pytest
from hypothesis import given, settings


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


def some_examples(count, most, /, **strategies):
    """`given`, of `count` examples by default and of `most` in the thorough tests."""

    def decorate(test):
        @pytest.mark.parametrize("examples", mostly([count, most], [count]))
        def of_examples(examples):
            settings(max_examples=examples, deadline=None)(given(**strategies)(test))()

        of_examples.__name__, of_examples.__doc__ = test.__name__, test.__doc__
        return of_examples

    return decorate
