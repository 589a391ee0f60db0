"""What `evaluate` is asked for, and its parts: read, made and checked once."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from clipjax import (
    config,
    config_parts,
    data_flags,
    evals_flags,
    identity,
    library,
    paths,
    results,
    stored_evaluation,
)
from clipjax.embeddings.stored import Embeddings
from clipjax.engine import (
    assemble,
    datasets,
    evaluation,
    initial,
    interpolate,
    lost_text_report,
    sharding,
)
from clipjax.engine import state as states
from clipjax.engine.evaluator_set import Evaluators
from clipjax.models.common import lora
from clipjax.types import Config, EvalResult, Model, UserError, Variables
from clipjax.weights import read_model


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


class Wanted(NamedTuple):
    """A request whose names were looked up; nothing of the model was read.

    request: with the data of its embeddings, if it has some and names no data.
    what: the config with its evaluators and evaluation data.
    own: the run's config, and workdir: its folder; None of a released model.
    stored: its embeddings.
    """

    request: Request
    what: Config
    own: Config | None
    workdir: pathlib.Path | None
    stored: Embeddings | None


@dataclasses.dataclass
class Prepared:
    """The parts of an evaluation, for any weights of its model.

    model, variables: of `parts`; without LoRA if weights are mixed. start: what they
    are mixed with, else the same.
    """

    wanted: Wanted
    parts: library.Parts
    model: Model
    variables: Variables
    start: Variables
    evaluators: Evaluators
    mesh: jax.sharding.Mesh
    own_identity: Callable[[], dict[str, str]]

    def identity(self, variables: Variables) -> dict[str, str]:
        """The identity of this model with such weights, on the host."""
        parts = self.parts
        return identity.identity(parts.config, self.model, variables, parts.tokenizer)

    def tell(self, say: Callable[[str], None]) -> None:
        """Says which texts lose words, and what takes much more than encoding."""
        parts = self.parts
        lost_text_report.tell_evaluators(
            self.evaluators, parts.tokenizer, parts.config, say
        )
        for line in self.evaluators.costs():
            say(line)

    def run(
        self,
        variables: Variables,
        progress: Any,
        failed: dict[str, Exception] | None = None,
    ) -> dict[str, EvalResult]:
        """The evaluators' results; progress, failed: as `Evaluators.run` takes them."""
        placed = jax.device_put(variables, sharding.replicated(self.mesh))
        return self.evaluators.run(placed, progress, failed)

    def meta(self, step: int, found: Mapping[str, str] | None) -> dict[str, Any]:
        """What is evaluated; see `results.Evaluation`.

        found: the weights' identity; None of mixed ones.
        """
        request, what, _, workdir, stored = self.wanted
        facts: dict[str, Any] = {
            "workdir" if workdir else "model": str(workdir or request.model)
        }
        if stored is not None:
            facts["embeddings"] = str(paths.local(request.embeddings, "embeddings"))
        if found is not None:
            facts["identity"] = dict(found)
        averaged = (
            workdir is not None
            and request.ema
            and states.has_averages(self.parts.config)
        )
        return evaluation.facts(what, step, averaged, **facts)


def look_up(request: Request) -> Wanted:
    """Reads the configs of a request, and the folder of its embeddings.

    Raises UserError if there is no such run, evaluator, source or option.
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
    own = library.run_config(request.model) if workdir else None
    what = _wanted(request, own)
    if not config_parts.labels(what.evals, "evals"):
        raise UserError(
            f"{request.other_name or request.model} has no evaluators: name them by "
            "--evals=zeroshot or --evals=retrieval"
        )
    return Wanted(request, what, own, workdir, stored)


def prepare(
    wanted: Wanted,
    say: Callable[[str], None],
    *,
    weights: tuple[Variables, int] | None = None,
) -> Prepared:
    """Reads the model and the data, and makes the evaluators.

    weights: a run's variables and their step, if the caller reads these itself.

    Raises UserError if the model does not suit an evaluator, or the data or embeddings
    are not those that they were.
    """
    request, what, own, workdir, stored = wanted
    only_base = workdir and request.base and read_model.is_foreign(request.base)
    parts = library.read(
        request.model,
        request.checkpoint,
        request.ema,
        config=own,
        preprocess="" if only_base else request.preprocess,
        weights=weights,
    )
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1})
    model, variables = parts.model, parts.variables
    if request.base:  # LoRA's factors do not mix: their product is not linear in both
        model, variables = lora.merged(model, variables)
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
    who = functools.cache(
        functools.partial(
            identity.identity, parts.config, model, variables, parts.tokenizer
        )
    )
    kept = None
    if stored is not None:
        kept = stored_evaluation.check_stored(
            stored, request.embeddings, who(), what.data.eval, shared
        )
    evaluators = assemble.evaluators(what, encoder, shared, sources, kept)
    start = variables
    if request.base:
        start = _base(request, parts, model, variables, say)
    return Prepared(wanted, parts, model, variables, start, evaluators, mesh, who)


def folder_name(wanted: Wanted, step: int) -> str:
    """The name of the results' folder: what of the evaluation is not the run's own."""
    request, what = wanted.request, wanted.what
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
    their_model, start = lora.merged(theirs.model, theirs.variables)
    what = f"--interpolate={request.base}"
    interpolate.check_same_model(what, (their_model, start), (model, variables))
    seen = theirs.config.data.preprocess.to_dict()
    initial.compare_images(parts.config, model, their_model, seen, what, say)
    if parts.tokenizer is not None and theirs.tokenizer is not None:
        initial.check_same_ids(what, parts.tokenizer, theirs.tokenizer)
    return start


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
