"""The evaluators of an evaluation, and how they run one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from clipjax import registry
from clipjax.evals.common.inputs import Inputs
from clipjax.types import EvalResult, Evaluator, Summary, UserError, Variables


class Evaluators(dict[str, Evaluator]):
    """Evaluators by label.

    inputs: the inputs per label; evaluators of one source share an object. summaries:
    by label, those of these evaluators' results. order: of all labels.
    """

    def __init__(
        self,
        evaluators: Mapping[str, Evaluator],
        inputs: Mapping[str, Inputs],
        summaries: Mapping[str, Summary],
        order: Sequence[str],
    ):
        super().__init__(evaluators)
        self.inputs = inputs
        self.summaries = summaries
        self._order = order

    def costs(self) -> list[str]:
        """A line per evaluator whose work is much more than encoding its source."""
        told = {x: getattr(one, "cost", str)() for x, one in self.items()}
        return [f"evals.{label}: {cost}" for label, cost in told.items() if cost]

    def run(
        self,
        variables: Variables,
        progress: Callable[[str], Callable[[int, int], None]] | None = None,
        failed: dict[str, Exception] | None = None,
    ) -> dict[str, EvalResult]:
        """Runs each in order, the summaries last; `progress(label)` returns its
        callback. The results are in the order of all labels.

        failed: gets the errors of those that fail, by their labels; the others run all
        the same, but no summary then, which would be of fewer. None raises the first.
        """
        found: dict[str, EvalResult] = {}
        try:
            for label, evaluator in self.items():
                with _kept(failed, label):
                    part = progress(label) if progress else None
                    found[label] = evaluator.run(variables, part)
        finally:
            for inputs in self.inputs.values():
                inputs.forget()
        ready: dict[str, EvalResult] = {}
        lacking = list(failed or ())
        for label, summary in self.summaries.items():
            with _kept(failed, label):
                if lacking:
                    raise UserError(f"it is of others, and {lacking[0]} failed")
                ready[label] = summary.summarise(found)
        every = found | ready
        return {label: every[label] for label in self._order if label in every}

    def check_metric(self, name: str, option: str) -> None:
        """Raises UserError for the name of a metric, "retrieval/mean_recall@1", that an
        evaluator is known not to give.

        option: where the name comes from.
        """
        label, _, metric = name.partition("/")
        known = units({**self, **self.summaries}.get(label))
        if known is None or metric in known:
            return
        raise UserError(
            f"{option}={name!r}: {label} gives no metric {metric!r}."
            f"{registry.suggest(metric, known)} It gives {', '.join(known)}"
        )


@contextlib.contextmanager
def _kept(failed: dict[str, Exception] | None, label: str) -> Iterator[None]:
    """Puts an exception of the block into `failed`; raises it if that is None."""
    try:
        yield
    except Exception as error:
        if failed is None:
            raise
        failed[label] = error


def units(evaluator: Any) -> Mapping[str, str] | None:
    """An evaluator's metrics and their units; None if it does not say."""
    return getattr(evaluator, "metric_units", lambda: None)()
