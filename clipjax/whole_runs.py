"""Training and evaluation as functions: what the commands do, for Python programs."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from rich.console import Console

from clipjax import (
    atomic_files,
    config,
    config_parts,
    data_flags,
    evals_flags,
    identity,
    library,
    paths,
    result_tables,
    results,
    stored_evaluation,
)
from clipjax.engine import (
    assemble,
    datasets,
    distributed,
    evaluation,
    initial,
    interpolate,
    loop,
    lost_text_report,
    sharding,
)
from clipjax.engine.activity import Activity
from clipjax.engine.compilation import enable_cache
from clipjax.engine.loop import Outcome
from clipjax.multihost import on_primary
from clipjax.types import (
    Config,
    EvalResult,
    Model,
    UserError,
    Variables,
)
from clipjax.weights import read_model

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
    request = Request(
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


@dataclasses.dataclass(frozen=True)
class Request:
    """What to evaluate, and on what.

    model, checkpoint, ema, preprocess: as of `evaluate_model`.
    embeddings: a folder, as of `evaluate_model`.
    classes: whether to print the classes that are recognised least.
    other: a config whose evaluators and evaluation data to take in place of the run's.
    other_name: its file's, for the name of the results' file.
    base: a run or a released model to mix the weights with: 1 - share of it is taken
      for each of `shares` (arXiv 2109.01903).
    """

    model: str
    checkpoint: str = "best"
    ema: bool = True
    preprocess: str = ""
    evals: evals_flags.EvalsFlags = evals_flags.NONE
    data: data_flags.DataFlags = data_flags.NONE
    embeddings: str = ""
    classes: bool = False
    other: Config | None = None
    other_name: str = ""
    base: str = ""
    shares: tuple[float, ...] = (1.0,)


def evaluate(
    request: Request,
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
    stored = None
    if request.embeddings:
        if request.base:
            raise UserError(
                f"--embeddings={request.embeddings}: mixed weights have none; leave "
                "--interpolate out"
            )
        stored = stored_evaluation.open_stored(request.embeddings)
        if not request.data:
            data = stored_evaluation.data_of(stored)
            request = dataclasses.replace(request, data=data)
    foreign = read_model.is_foreign(request.model)
    workdir = None if foreign else paths.local(request.model, "a run")
    only_base = not foreign and request.base and read_model.is_foreign(request.base)
    own = library.run_config(request.model) if workdir else None
    what = _wanted(request, own)
    if not config_parts.labels(what.evals, "evals"):
        raise UserError(
            f"{request.other_name or request.model} has no evaluators: name them by "
            "--evals=zeroshot or --evals=retrieval"
        )
    distributed.initialise((own or what).mesh.timeout)
    distributed.compare(request.other or own or what)
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
            parts = library.read(
                request.model,
                request.checkpoint,
                request.ema,
                config=own,
                preprocess="" if only_base else request.preprocess,
            )
            mesh = sharding.make_mesh({"data": -1, "fsdp": 1})
            model, variables = parts.model, parts.variables
            if request.base:
                model, variables = interpolate.plain(model, variables)
            encoder = assemble.encoder(
                parts.config, model, parts.tokenizer, mesh, parts.classes
            )
            flag = "--config.data.eval." if request.other else data_flags.FLAG
            shared = datasets.eval_source(what, val_loss=False, flag=flag)
            flag = "--config." if request.other else "--config FILE.py --config."
            sources = datasets.own_sources(what, shared, flag)
            if workdir and request.other is None:
                unchanged = None if request.data else shared
                found = datasets.eval_fingerprints(unchanged, sources)
                datasets.check_evaluation(workdir, found)
            kept = None
            who = functools.cache(
                functools.partial(
                    identity.identity, parts.config, model, variables, parts.tokenizer
                )
            )
            if stored is not None:
                kept = stored_evaluation.check_stored(
                    stored, request.embeddings, who(), what.data.eval, shared
                )
            evaluators = assemble.evaluators(what, encoder, shared, sources, kept)
            start = variables
            if request.base:
                start = _base(request, parts, model, variables, say)
        title = f"{workdir}, step {parts.step}" if workdir else request.model
        say(f"evaluating {title}")
        lost_text_report.tell_evaluators(evaluators, parts.tokenizer, parts.config, say)
        for line in evaluators.costs():
            say(line)
        sweep: Sweep = {}
        for share in request.shares:
            mixed = interpolate.mix(start, variables, share)
            mixed = jax.device_put(mixed, sharding.replicated(mesh))
            what_share = f"evaluating share {share:g}" if request.base else "evaluating"
            with activity.doing(what_share) as task:
                sweep[share] = evaluators.run(mixed, task.part)
    if request.base:
        console.print(result_tables.sweep_table(sweep))
    else:
        console.print(result_tables.table(sweep[1.0]))
        if request.classes:
            console.print(result_tables.class_tables(sweep[1.0]))
    if (out or keep) and jax.process_index() == 0:
        averaged = workdir is not None and request.ema and parts.config.train.ema > 0
        name: dict[str, Any] = {
            "workdir" if workdir else "model": str(workdir or request.model)
        }
        if stored is not None:
            name["embeddings"] = str(paths.local(request.embeddings, "embeddings"))
        if not request.base:
            name["identity"] = who()
        meta = evaluation.facts(what, parts.step, averaged, **name)
        written = {"": (sweep[1.0], meta)} if not request.base else {}
        if request.base:
            meta["interpolate"] = request.base
            for share, found in sweep.items():
                written[f"share-{share:.15g}"] = found, {**meta, "share": share}
        place = out or top / _name(request, parts.step, what)
        say(evaluation.keep(place, written))
    return sweep


def _wanted(request: Request, own: Config | None) -> Config:
    """The config with the evaluators and evaluation data that are asked for.

    own: the run's, None of a released model.

    Raises UserError if a released model lacks either.
    """
    what = request.other or own
    if what is None:
        if not request.evals.names:
            raise UserError(
                f"{request.model} is a released model, which has no evaluators of its "
                "own: name them by --evals=zeroshot or --evals=retrieval"
            )
        what = config.base(None, evals="none")
    what = datasets.resolve(request.evals.put(what) if request.evals else what)
    shared = config_parts.with_shared_data(what)
    if own is None and request.other is None and shared and not request.data.name:
        raise UserError(
            f"{request.model} is a released model, which has no evaluation data of its "
            "own: name them by --data=imagefolder --data.path=FOLDER, or by another "
            "source"
        )
    if request.data:
        what = datasets.resolve(_with_data(what, request.data))
    return what


def _base(
    request: Request, parts: library.Parts, model: Model, variables: Variables, say
) -> Variables:
    """The weights to mix with; raises UserError unless they are of the same model."""
    stated = request.preprocess if read_model.is_foreign(request.base) else ""
    theirs = library.read(
        request.base, request.checkpoint, request.ema, preprocess=stated
    )
    their_model, start = interpolate.plain(theirs.model, theirs.variables)
    what = f"--interpolate={request.base}"
    interpolate.check_same_model(what, (their_model, start), (model, variables))
    seen = theirs.config.data.preprocess.to_dict()
    initial.compare_images(parts.config, model, their_model, seen, what, say)
    if parts.tokenizer is not None and theirs.tokenizer is not None:
        initial.check_same_ids(what, parts.tokenizer, theirs.tokenizer)
    return start


def _name(request: Request, step: int, what: Config) -> str:
    """The name of the results' folder: what of the evaluation is not the run's own."""
    foreign = read_model.is_foreign(request.model)
    words = [read_model.short_name(request.model) if foreign else str(step)]
    words += [request.other_name, "" if request.ema else "noema"]
    words += ["interpolated" if request.base else "", request.evals.words]
    if request.data:
        section = what.data.eval
        words.append(section.name)
        if foreign and section.get("path"):
            words.append(pathlib.PurePath(section.path).name)
        words.append(section.split)
    return results.folder_name(*words)


def _with_data(what: Config, given: data_flags.DataFlags) -> Config:
    """The config with other evaluation data.

    Raises UserError for an option that the source lacks, and if every evaluator has its
    own data.
    """
    if not config_parts.with_shared_data(what):
        raise UserError(
            "--data: every evaluator has data of its own; choose others by "
            "--evals=NAME, or by --config FILE.py:evals=NAME"
        )
    return given.put(what)


def _check_writable(folder: pathlib.Path) -> None:
    """Raises UserError, before the work, if results cannot be written."""
    try:
        atomic_files.check_place(folder)
    except OSError as error:
        raise evaluation.unwritten(folder, error) from error
