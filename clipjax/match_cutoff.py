"""A model's match cut-off: what `evals=match` has fitted, found for the same model.

It lies in the results of an evaluation (clipjax/results.py), whose `meta` has the
model's identity. A cut-off of other weights, preprocessing or tokenizer is not used.
"""

from __future__ import annotations

import functools
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from clipjax import identity, paths, results
from clipjax.evals.common.platt import Sigmoid
from clipjax.results import Evaluation
from clipjax.types import UserError

EVALS = "match"
_HOW = "fit one on captioned data by python -m clipjax.evaluate"
Identity = Callable[[], Mapping[str, str]]  # which takes time for large weights


class Cutoff(NamedTuple):
    """sigmoid: similarity -> probability; None if there is none. origin: the folder of
    the evaluation, or why there is none and how to get one.
    """

    sigmoid: Sigmoid | None = None
    origin: str = f"this model has no match cut-off: {_HOW} --evals={EVALS}"

    def checked(self, prior: float) -> Sigmoid:
        """Raises UserError if there is none, or for a prior outside (0, 1)."""
        if self.sigmoid is None:
            raise UserError(self.origin)
        if not 0 < prior < 1:
            raise UserError(
                f"prior={prior!r}: give how often pairs match, above 0 and below 1"
            )
        return self.sigmoid


def of_run(run: str, now: Identity, flags: Sequence[str] = ()) -> Cutoff:
    """The cut-off of a run's newest evaluation by `evals=match` of this model.

    now: gives the model's identity. flags: of `evaluate`, for the same weights.
    """
    now = functools.cache(now)
    others = []
    for folder in sorted(results.folders(paths.local(run, "a run")), key=_age):
        try:
            evaluation = results.read(folder)
        except UserError as error:
            others.append(str(error))
            continue
        label = _label(evaluation)
        if label is not None:
            if why := _unfit(evaluation, label, now):
                others.append(f"{folder} {why}")
            else:
                return Cutoff(_sigmoid(evaluation, label), str(folder))
    more = f" for these weights ({others[0]})" if others else ""
    return Cutoff(
        None,
        f"{run} has no match cut-off{more}: {_HOW} --workdir "
        f"{' '.join([paths.shell(run), *flags])} --evals={EVALS}, and load the model "
        "again",
    )


def of_released(name: str) -> Cutoff:
    """None, and how to get one for a released model."""
    return Cutoff(
        None,
        f"{name} has no match cut-off: {_HOW} --model {paths.shell(name)} "
        f"--evals={EVALS} --data=captions --data.path=FOLDER --out DIR, and give "
        "clipjax.load match=DIR",
    )


def given(folder: str | os.PathLike[str], now: Identity) -> Cutoff:
    """The cut-off of an evaluation's folder.

    Raises UserError if it is none, has no results of `evals=match`, or they are of
    another model, naming what differs.
    """
    place = paths.local(folder, "an evaluation")
    evaluation = results.read(place)
    label = _label(evaluation)
    if label is None:
        raise UserError(
            f"match={folder} has no results of evals={EVALS}, but of "
            f"{', '.join(evaluation.results)}: name an evaluation that has"
        )
    if why := _unfit(evaluation, label, now):
        raise UserError(
            f"match={folder} {why}: give that model, or evaluate this one by "
            f"--evals={EVALS} again"
        )
    return Cutoff(_sigmoid(evaluation, label), str(place))


def _label(evaluation: Evaluation) -> str | None:
    """The first label of `evals=match`."""
    sections = evaluation.meta.get("evals")
    for label in evaluation.results:
        section: Any = sections.get(label) if isinstance(sections, Mapping) else None
        if isinstance(section, Mapping) and section.get("name") == EVALS:
            return label
    return None


def _unfit(evaluation: Evaluation, label: str, now: Identity) -> str:
    """Why the fit cannot be used; "" if it can."""
    meta = evaluation.meta
    stored = meta.get("identity")
    if not isinstance(stored, Mapping):
        return "does not say which model it is of"
    if other := identity.differences(stored, now()):
        return f"is of a model with other {other} (step {meta.get('step', 0)})"
    if not all(math.isfinite(x) for x in _sigmoid(evaluation, label)):
        return "has no finite fit"
    return ""


def _sigmoid(evaluation: Evaluation, label: str) -> Sigmoid:
    metrics = evaluation.results[label].metrics
    return Sigmoid(
        *(
            metrics[name].value if name in metrics else math.nan
            for name in Sigmoid._fields
        )
    )


def _age(folder: pathlib.Path) -> tuple[float, str]:
    """Sorts the newest first; what is gone by now, last."""
    try:
        return -(folder / results.FILE).stat().st_mtime, folder.name
    except OSError:
        return 0.0, folder.name
