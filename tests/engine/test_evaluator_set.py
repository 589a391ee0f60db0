"""Evaluators that run one after another, of which some fail."""

import pytest

from clipjax.engine.evaluator_set import Evaluators
from clipjax.types import EvalResult, Metric, UserError

RESULT = EvalResult({"top1": Metric(0.5)}, "top1", "2 images")


class Inputs:
    forgotten = False

    def forget(self):
        self.forgotten = True


class Made:
    """An evaluator that gives RESULT, or raises."""

    def __init__(self, error=None):
        self.error = error

    def run(self, variables, progress=None):
        if self.error:
            raise self.error
        return RESULT


class Count:
    """A summary: how many results there are."""

    def __init__(self, error=None):
        self.error = error

    def summarise(self, results):
        if self.error:
            raise self.error
        metrics = {"count": Metric(len(results))}
        return EvalResult(metrics, "count", f"of {', '.join(results)}")


def evaluators(summary=None, **made):
    inputs = {label: Inputs() for label in made}
    order = ["count", *made]
    return Evaluators(made, inputs, {"count": summary or Count()}, order)


@pytest.mark.parametrize("error", [UserError("no train images"), ValueError("a bug")])
def test_one_that_fails_leaves_the_results_of_the_others(error):
    made = evaluators(first=Made(), second=Made(error), third=Made())
    failed = {}
    assert list(made.run({}, failed=failed)) == ["first", "third"]
    assert all(one.forgotten for one in made.inputs.values())
    # A mean of fewer would pass for that of all.
    assert failed["second"] is error
    assert str(failed["count"]) == "it is of others, and second failed"
    with pytest.raises(type(error), match=str(error)):
        made.run({})


def test_a_summary_that_fails_leaves_all_others():
    error = UserError("units differ")
    made = evaluators(Count(error), first=Made(), second=Made())
    failed = {}
    assert list(made.run({}, failed=failed)) == ["first", "second"]
    assert failed == {"count": error}
    with pytest.raises(UserError, match="units differ"):
        made.run({})


def test_results_come_in_the_order_of_the_labels():
    found = evaluators(first=Made(), second=Made()).run({}, failed={})
    assert list(found) == ["count", "first", "second"]
    assert found["count"].size == "of first, second"
