"""Our evaluators hold to their contract, and a faulty one is told what it must do."""

import dataclasses

import numpy as np
import pytest

from clipjax import registry, testing
from clipjax.evals.common.inputs import Inputs
from clipjax.types import EvalResult, Metric

QUICK = {"corruptions": {"severities": (3,)}}  # options of those that take long


@pytest.mark.parametrize("name", [*registry.names("evals"), "examples.alignment"])
def test_contract(name):
    testing.check_evaluator(name, **QUICK.get(name, {}))


@dataclasses.dataclass
class Faulty:
    """Mean similarity of pictures to one text, with one fault."""

    inputs: Inputs
    fault: str
    kept: list = dataclasses.field(default_factory=list)

    def run(self, variables, progress=None):
        indices = range(0 if self.fault != "uncounted" else 1, len(self.inputs.source))
        seen = self.inputs.images(variables, indices)
        text = self.inputs.texts(variables, ["a star"])
        value = float((seen.embed @ text.T).mean())
        self.kept.append(value)
        if progress is not None:
            progress(3, 2 if self.fault == "progress" else 3)
        if self.fault == "number":
            return value
        value = {
            "impure": self.kept[0],
            "constant": 0.5,
            "percent": 100 * abs(value) + 2,
            "infinite": float("nan"),
        }.get(self.fault, value)
        unit = "fraction" if self.fault == "percent" else ""
        rank = Metric(0.0 if self.fault == "rank" else 1.0, unit="rank")
        broken = 0 if self.fault == "uncounted" else len(seen.broken)
        count = int(seen.valid.sum())
        metrics = {"mean": Metric(value, unit=unit, n=count), "rank": rank}
        rows = {"key": [key for key in seen.keys if key]}
        rows["score"] = seen.embed[seen.valid] @ text[0]
        altered = {
            "objects": {"odd": [object()] * 12},
            "mixed": {"odd": [[1, "a"]] * 12},
            "array": {"odd": np.array([None] * 12)},
            "few": {"key": rows["key"][:3], "score": rows["score"][:3]},
            "strange": {"key": ["nowhere", *rows["key"][1:]]},
            "drifting": {"odd": [len(self.kept)] * 12},
        }.get(self.fault, {})
        return EvalResult(metrics, "mean", "13 pictures", broken, rows | altered)

    def metric_units(self):
        wrong = self.fault == "units"
        unit = "fraction" if self.fault == "percent" else ""
        return {"mean": unit, "rank" + "s" * wrong: "rank"}

    def texts(self):
        items = ["a star"] if self.fault == "bare texts" else [("a star",)]
        return {"text": (iter(items * (1 + (self.fault == "count"))), 1)}


def make(inputs: Inputs, *, fault: str = "") -> Faulty:
    """A faulty evaluator.

    Args:
      fault: which.
    """
    return Faulty(inputs, fault)


def test_one_without_a_fault():
    testing.check_evaluator(make)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("number", "run gives float: it must give a clipjax.types.EvalResult"),
        ("percent", "mean: value=.* is no fraction"),
        ("rank", "rank: value=0.0 is no rank"),
        ("infinite", "the primary metric is nan"),
        ("objects", r"rows\['odd'\] fits no column of JSON or Parquet"),
        ("mixed", r"rows\['odd'\] fits no column"),
        ("array", r"rows\['odd'\] is object\[12\]: give numbers"),
        ("few", "rows: 3, and every metric is over 12 or more"),
        ("strange", r"rows: \['nowhere'\] is no key of the source"),
        ("drifting", "rows differ: run is not pure"),
        ("uncounted", "broken=0: 1 of the pictures"),
        ("impure", "four models give the same numbers|run is not pure"),
        ("constant", "four models give the same numbers"),
        ("progress", r"progress\[\(3, 2\)\]: done is not within total"),
        ("bare texts", "each item must be several texts"),
        ("units", r"metric_units\(\) and the result's metrics differ in .*'rank'"),
        ("count", "2 items, and it says 1"),
    ],
)
def test_faults_are_named(fault, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_evaluator(make, fault=fault)
