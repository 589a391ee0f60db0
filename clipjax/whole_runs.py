"""Training and evaluation as functions: what the commands do, for Python programs."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from rich.console import Console

from clipjax import (
    atomic_files,
    data_flags,
    evals_flags,
    evaluation_request,
    result_tables,
    results,
    setup_check,
)
from clipjax.engine import (
    distributed,
    evaluation,
    interpolate,
    loop,
)
from clipjax.engine.activity import Activity
from clipjax.engine.compilation import enable_cache
from clipjax.engine.loop import Outcome
from clipjax.multihost import on_primary
from clipjax.types import (
    Config,
    EvalResult,
    UserError,
)

# Share of a model's own weights -> its evaluators' results by label.
Sweep = dict[float, dict[str, EvalResult]]


def train_model(
    config: Config,
    workdir: str | pathlib.Path,
    *,
    extend: bool = False,
    console: Console | None = None,
) -> Outcome:
    """Trains a config's model in a run folder, or resumes the run there.

    Args:
      config: of `clipjax.config.base`, whose `train.steps` or `train.epochs` is set.
      workdir: the run's folder, as --workdir of `python -m clipjax.train`.
      extend: whether a run there may go on to a new, longer length.
      console: where it says what it does; standard output if None.

    Returns the steps done and the evaluators' last results.

    Raises:
      UserError: for anything that the user can fix: bad config, missing data, a run
        of another config in workdir, a loss that stays non-finite.
    """
    distributed.initialise(config.mesh.timeout)
    return loop.train(config, workdir, extend=extend, console=console)


def evaluate_model(
    model: str | pathlib.Path,
    *,
    evals: str = "",
    evals_options: Mapping[str, Mapping[str, Any]] | None = None,
    data: str = "",
    data_options: Mapping[str, Any] | None = None,
    split: str = "",
    checkpoint: str | int = "best",
    ema: bool = True,
    preprocess: str = "",
    embeddings: str | pathlib.Path = "",
    out: str | pathlib.Path = "",
    console: Console | None = None,
) -> dict[str, EvalResult]:
    """Evaluates a run, or a released model.

    Args:
      model: as `clipjax.load` takes it.
      evals: the evaluators, "retrieval+zeroshot"; the run's if empty.
      evals_options: options by evaluator, {"zeroshot": {"ks": (1, 3)}}.
      data: the source of evaluators that have none of their own, "imagefolder"; the
        run's evaluation data if empty.
      data_options: options of that source, {"path": "flowers"}.
      split: of that source; "val" if it is named here, else the run's.
      checkpoint: a run's: "best" (the latest if none is best), "latest" or a step.
      ema: whether to take a run's moving average of the parameters, if it has one.
      preprocess: a released model's, as `clipjax.load` takes it.
      embeddings: a folder of `embed_data` by this model, whose images and captions are
        taken in place of encoding them; without `data` its data are those of `data`.
      out: a new folder for the results, for `clipjax.results.read`; none if empty.
      console: where to print what is evaluated, and the table; nowhere if None.

    Returns the results by the evaluators' labels, with their rows.

    Raises:
      UserError: if there is no such model, evaluator, source or option, or the model
        does not suit the evaluator; for a released model also without evals or data;
        if the embeddings are of another model or of other data, or are damaged.
    """
    options = evals_options or {}
    values = {
        f"{of}.{key}": x for of, ones in options.items() for key, x in ones.items()
    }
    request = evaluation_request.Request(
        model=os.fspath(model),
        checkpoint=str(checkpoint),
        ema=ema,
        preprocess=preprocess,
        evals=evals_flags.EvalsFlags(evals, values),
        data=data_flags.DataFlags(data, data_options or {}, split),
        embeddings=os.fspath(embeddings),
    )
    place = results.new_folder(out) if out else None
    return evaluate(request, place, console or Console(quiet=True), keep=False)[1.0]


def evaluate(
    request: evaluation_request.Request,
    out: pathlib.Path | None,
    printed: Console | None = None,
    *,
    keep: bool = True,
) -> Sweep:
    """Prints a table, and writes a folder of results; see clipjax/results.py.

    out: the folder; None with `keep`: one in `evaluations` of the run's folder, for a
    released model of the working directory. printed: None: the first process's standard
    output.

    Raises UserError as `evaluate_model`.
    """
    wanted = evaluation_request.look_up(request)
    workdir = wanted.workdir
    distributed.initialise((wanted.own or wanted.what).mesh.timeout)
    distributed.compare(request.other or wanted.own or wanted.what)
    console = printed or Console(
        quiet=jax.process_index() > 0, highlight=False, markup=False
    )
    top = (workdir or pathlib.Path.cwd()) / results.FOLDER
    if out or keep:
        on_primary(lambda: _check_writable(out.parent if out else top))

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    enable_cache(say)
    with Activity(console) as activity:
        with activity.doing("reading the model and the data"):
            ready = evaluation_request.prepare(wanted, say)
        step = ready.parts.step
        say(f"evaluating {f'{workdir}, step {step}' if workdir else request.model}")
        ready.tell(say)
        sweep: Sweep = {}
        # Of one model that is evaluated to be kept, no result is lost to an evaluator
        # that fails after it. Processes must do the same, so that several end at once.
        alone = keep and not request.base and jax.process_count() == 1
        failed: dict[str, Exception] | None = {} if alone else None
        for share in request.shares:
            mixed = interpolate.mix(ready.start, ready.variables, share)
            what = f"evaluating share {share:g}" if request.base else "evaluating"
            with activity.doing(what) as task:
                sweep[share] = ready.run(mixed, task.part, failed)
    if failed and not sweep[1.0]:
        raise next(iter(failed.values()))
    if request.base:
        console.print(result_tables.sweep_table(sweep))
    else:
        console.print(result_tables.table(sweep[1.0]))
        if request.classes:
            console.print(result_tables.class_tables(sweep[1.0]))
    checked: dict[str, Any] = {}
    try:
        if not request.base and (out or keep or not console.quiet):
            checked = _check_setup(ready, sweep[1.0], console)
    finally:  # an interrupt there loses nothing
        if (out or keep) and jax.process_index() == 0:
            own_identity = None if request.base else ready.own_identity()
            meta = checked | ready.meta(step, own_identity)
            if failed:
                meta["failed"] = {label: str(why) for label, why in failed.items()}
            written = {"": (sweep[1.0], meta)} if not request.base else {}
            if request.base:
                meta["interpolate"] = request.base
                for share, found in sweep.items():
                    written[f"share-{share:.15g}"] = found, {**meta, "share": share}
            place = out or top / evaluation_request.folder_name(wanted, step)
            say(evaluation.keep(place, written))
    _raise(failed or {}, len(ready.evaluators) + len(ready.evaluators.summaries))
    return sweep


def _raise(failed: Mapping[str, Exception], count: int) -> None:
    """Raises one error for those of some of `count` evaluators, if there are any."""
    for error in failed.values():
        if not isinstance(error, UserError):
            raise error
    if failed:
        texts = [
            str(error) if f"evals={label}" in str(error) else f"evals.{label}: {error}"
            for label, error in failed.items()
        ]
        raise UserError(
            f"{len(failed)} of {count} evaluators failed, and the results lack them: "
            f"{'; '.join(texts)}"
        )


def _check_setup(
    ready: evaluation_request.Prepared, found: dict[str, EvalResult], console: Console
) -> dict[str, Any]:
    """Tries other settings of a released model that is near chance, and says what
    explains it; returns what results keep of it.
    """
    label = setup_check.suspect(ready, found)
    if not label:
        return {}
    what = f"{label} is near chance: trying other settings of the model on a few images"
    try:
        with Activity(console) as activity, activity.doing(what) as task:
            base, trials = setup_check.try_others(
                ready, label, found[label], task.part(label)
            )
    except Exception as error:  # the evaluation is done, and this only explains it
        why = " ".join(f"{type(error).__name__}: {error}".split())
        console.print(f"other settings could not be tried: {why}", soft_wrap=True)
        return {}
    for line in setup_check.told(label, base, trials):
        console.print(line, soft_wrap=True)
    return {"setup_check": setup_check.as_meta(label, base, trials)} if trials else {}


def _check_writable(folder: pathlib.Path) -> None:
    """Raises UserError, before the work, if results cannot be written."""
    try:
        atomic_files.check_place(folder)
    except OSError as error:
        raise evaluation.unwritten(folder, error) from error
