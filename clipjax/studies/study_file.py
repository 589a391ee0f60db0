"""The file of a study: `get_study` returns a Study."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from clipjax import user_files
from clipjax.studies.tuning_space import Choices, Range
from clipjax.types import UserError

METHODS = ("grid", "random", "tpe")
PRUNERS = ("none", "median", "hyperband")
FORM = "it needs a function get_study() that returns a clipjax.studies.Study"

# The values of an axis: a word's or a key's, or names of changes of several of them.
Axis = Sequence[Any] | Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How each cell's hyper-parameters are found, with the same budget for every cell.

    space: key -> clipjax.studies.log_range(...) and the like; "optim=sgd" -> such a
      dict, for the cells that have this component.
    trials: runs per cell. method: "tpe" (Optuna's), "random" or "grid", whose trials
      are all combinations of choices.
    length: of a trial, as a part of a run.
    pruner: "median" or "hyperband" stop trials that fall behind, by the evaluations of
      train.eval_every; "none".
    seed: of the trials; one that no run has if None.
    per_seed: tunes for each seed by itself, so that the spread between seeds holds
      that of tuning.
    untuned_too: runs the cells as their configs are, too.
    """

    space: Mapping[str, Any]
    trials: int = 0
    method: str = "tpe"
    length: float = 1.0
    pruner: str = "none"
    seed: int | None = None
    per_seed: bool = False
    untuned_too: bool = False


@dataclasses.dataclass(frozen=True)
class Screen:
    """A second stage: the `keep` best cells by Study.seeds get `seeds` more."""

    keep: int
    seeds: int | Sequence[int]


@dataclasses.dataclass(frozen=True)
class Study:
    """What is compared.

    config: as --config takes it, "configs/quickstart.py:optim=sgd".
    axes: a component's word or a dotted key -> its values; or a name of your own ->
      {name of a value: {word or key: value}}. Every combination is a cell.
    seeds: a number of them, or the seeds.
    metric: as an evaluator gives it, "retrieval/mean_recall@1", or "val_loss".
    mode: which is better, "max" or "min"; empty: "min" for val_loss, else "max".
    options: words and dotted keys of all cells.
    steps, epochs: of each run; the config's if both are None.
    tuning, screen: None without.
    paired: whether runs of one seed are compared with each other.
    control: a cell's name, with which all others are compared.
    minutes: of a run, as far as known; spread: standard deviation between seeds that
      is assumed; wanted: a difference that the study should find. All three are for
      what is said before it starts.
    """

    config: str
    axes: Mapping[str, Axis]
    metric: str
    seeds: int | Sequence[int] = 3
    mode: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps: int | None = None
    epochs: float | None = None
    tuning: Tuning | None = None
    screen: Screen | None = None
    paired: bool = False
    control: str = ""
    minutes: float | None = None
    spread: float | None = None
    wanted: float | None = None

    @property
    def higher_is_better(self) -> bool:
        if self.mode:
            return self.mode == "max"
        return self.metric != "val_loss"

    @property
    def first_seeds(self) -> tuple[int, ...]:
        """The seeds that every cell gets."""
        return _seeds(self.seeds, ())

    @property
    def more_seeds(self) -> tuple[int, ...]:
        """Those that the finalists get; () without a second stage."""
        return _seeds(self.screen.seeds, self.first_seeds) if self.screen else ()

    @property
    def tuning_seed(self) -> int:
        assert self.tuning is not None
        if self.tuning.seed is not None:
            return self.tuning.seed
        return max(self.first_seeds + self.more_seeds) + 1


def load(file: str | os.PathLike[str]) -> Study:
    """The study of a file.

    Raises UserError if there is none, it does not run, or the study is impossible as
    far as that can be said without its config.
    """
    label = str(file)
    path = user_files.find(label, os.fspath(file), "a study")
    get_study = user_files.function(label, path, "get_study", FORM)
    with user_files.of_users(label, path):
        study = get_study()
    if not isinstance(study, Study):
        raise UserError(f"{label}: get_study returned {type(study).__name__}: {FORM}")
    try:
        check(study)
    except UserError as error:
        raise UserError(f"{label}: {error}") from error
    return study


def check(study: Study) -> None:
    """Raises UserError for what cannot be, whatever the config."""
    for name, kind in _KINDS.items():
        value = getattr(study, name)
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise UserError(f"{name}={value!r} is no {_WORDS[kind]}")
    if not study.axes:
        raise UserError("axes={}: name one or more, such as {'loss': ('clip',)}")
    for name, axis in study.axes.items():
        if name == "seed":
            raise UserError("axes: seed is no axis: every cell gets the study's seeds")
        _check_axis(name, axis)
    _check_seeds("seeds", study.seeds)
    if not study.metric:
        raise UserError('metric="": name one, such as "retrieval/mean_recall@1"')
    if study.mode not in ("", "max", "min"):
        raise UserError(f"mode={study.mode!r}: use max or min")
    if study.steps is not None and study.epochs is not None:
        raise UserError("steps and epochs are both given: give one of them")
    for name in ("steps", "epochs", "minutes", "spread", "wanted"):
        value = getattr(study, name)
        if value is not None and not _is_above_0(value):
            raise UserError(f"{name}={value!r}: must be a number above 0")
    if study.steps is not None and not isinstance(study.steps, int):
        raise UserError(f"steps={study.steps!r}: must be a whole number")
    if study.tuning is not None:
        _check_tuning(study.tuning)
    if study.screen is not None:
        _check_screen(study)


def _check_axis(name: str, axis: Axis) -> None:
    if isinstance(axis, str) or not isinstance(axis, Sequence | Mapping) or not axis:
        raise UserError(
            f"axes: {name}={axis!r} has no values: write ('a', 'b'), or "
            "{'name': {'optim.lr': 0.1}, ...}"
        )
    if isinstance(axis, Mapping):
        for value, changes in axis.items():
            if not isinstance(changes, Mapping):
                raise UserError(f"axes: {name}: {value}={changes!r} is no dict")
    elif len({repr(value) for value in axis}) < len(axis):
        raise UserError(f"axes: {name} has a value twice: {axis!r}")


def _check_tuning(tuning: Tuning) -> None:
    if tuning.method not in METHODS:
        raise UserError(
            f"tuning.method={tuning.method!r}: use {', '.join(METHODS)}, or tuning=None"
        )
    if tuning.pruner not in PRUNERS:
        raise UserError(f"tuning.pruner={tuning.pruner!r}: use {', '.join(PRUNERS)}")
    if not tuning.space:
        raise UserError("tuning.space is empty: name a key, or leave tuning out")
    for space in spaces(tuning):
        for key, of in space.items():
            if not isinstance(of, Choices | Range):
                raise UserError(
                    f"tuning.space: {key}={of!r}: use log_range(1e-4, 1e-2) or the "
                    "like of clipjax.studies"
                )
            if tuning.method == "grid" and isinstance(of, Range):
                raise UserError(
                    f"tuning.space: {key}: a grid takes choices(...) or factors(...)"
                )
    if tuning.method != "grid" and tuning.trials < 1:
        raise UserError(
            f"tuning.trials={tuning.trials}: the budget of each cell must be 1 or more"
        )
    if tuning.method == "grid" and tuning.trials:
        raise UserError("tuning.trials: a grid has as many trials as combinations")
    if not _is_above_0(tuning.length) or tuning.length > 1:
        raise UserError(
            f"tuning.length={tuning.length!r}: must be above 0, and 1 at most"
        )


def spaces(tuning: Tuning) -> list[Mapping[str, Any]]:
    """The space of all cells, and those of some."""
    common = {k: x for k, x in tuning.space.items() if not isinstance(x, Mapping)}
    return [common, *(x for x in tuning.space.values() if isinstance(x, Mapping))]


def _check_screen(study: Study) -> None:
    screen = study.screen
    assert screen is not None
    _check_seeds("screen.seeds", screen.seeds)
    if screen.keep < 2:
        raise UserError(f"screen.keep={screen.keep}: keep 2 cells or more")
    both = set(study.first_seeds) & set(study.more_seeds)
    if both:
        raise UserError(f"screen.seeds: {sorted(both)[0]} is one of seeds: give others")


def _check_seeds(name: str, seeds: int | Sequence[int]) -> None:
    whole = [seeds] if isinstance(seeds, int) else list(seeds)
    if not all(isinstance(x, int) and not isinstance(x, bool) for x in whole):
        raise UserError(f"{name}={seeds!r}: give a number of seeds, or whole numbers")
    if not whole or (isinstance(seeds, int) and seeds < 1):
        raise UserError(f"{name}={seeds!r}: give one seed or more")
    if min(whole) < 0 or len(set(whole)) < len(whole):
        raise UserError(f"{name}={seeds!r}: seeds are 0 or more, each given once")


def _seeds(given: int | Sequence[int], before: Sequence[int]) -> tuple[int, ...]:
    if isinstance(given, int):
        first = max(before, default=-1) + 1
        return tuple(range(first, first + given))
    return tuple(given)


def _is_above_0(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf


_KINDS = {
    "config": str,
    "axes": Mapping,
    "metric": str,
    "options": Mapping,
    "paired": bool,
    "control": str,
}
_WORDS = {str: "text", Mapping: "dict", bool: "True or False"}
