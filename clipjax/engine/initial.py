"""Initial weights: another run's parameters, or a released model's."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax import param_paths, paths
from clipjax.config import create
from clipjax.engine import architecture, assemble, fitting, resume
from clipjax.engine.state import TrainState
from clipjax.models.common import meaning
from clipjax.types import Config, Model, Tokenizer, UserError, Variables
from clipjax.weights import model_description, read_model, read_tower
from clipjax.weights.model_description import Settings
from clipjax.weights.tensors import resize_positions

Say = Callable[[str], None]

# Texts for which tokenizers of one vocabulary give the same ids.
PROBES = (
    "a photo of a dog",
    "two small birds fly over the sea at night",
    "A Dog in the Rain",
)
SIDES = {"init_from": "", "init_image_from": "image", "init_text_from": "text"}
# Parameters of this run's own training: if absent from the source, they start fresh.
FRESH = re.compile(r"(lora|image_expander|text_expander)/.*|logit_bias")


def starts(config: Config) -> dict[str, str]:
    """The keys of SIDES that a config sets, with their values.

    Raises UserError if it sets both a whole model and a tower.
    """
    names = {key: config[key] for key in SIDES if config[key]}
    if "init_from" in names and len(names) > 1:
        raise UserError(
            f"init_from={config.init_from} is a whole model: leave it empty to start "
            f"from towers by {' and '.join(sorted(names.keys() - {'init_from'}))}"
        )
    return names


def run_of_texts(config: Config) -> pathlib.Path | None:
    """The run from which a run takes its text tower, and so its tokenizer."""
    names = starts(config)
    name = names.get("init_from") or names.get("init_text_from")
    return paths.expand(name) if name and not read_model.is_foreign(name) else None


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """Weights to start from, which fit the run's model.

    what: "KEY=NAME", key one of SIDES. origin: the save that holds them, for messages.
    side: "image" or "text" for one tower, "" for the whole model.
    """

    what: str
    origin: str
    side: str
    params: Mapping[str, Any]
    model_state: Mapping[str, Any]


def read(
    key: str, config: Config, model: Model, tokenizer: Tokenizer | None, say: Say
) -> InitialWeights:
    """The weights that a config names by a key of SIDES: host arrays.

    A run gives the weights of its best checkpoint, or their moving average if it has
    one. If its images were normalised or prepared otherwise, `say` gets a warning,
    because training adapts to that.

    model, tokenizer: the run's.

    Raises UserError if there are none, if they would mean something else in the
    model (see models/common/meaning.py), or if their tokenizer gives other ids.
    """
    name, side = config[key], SIDES[key]
    foreign = read_model.is_foreign(name)
    for tower in (side,) if side else ("image", "text") if foreign else ():
        if not hasattr(meaning.module_of(model), tower):
            raise UserError(f"{name}: this run's model has no {tower} tower to start")
    reader = _released if foreign else _saved
    return reader(f"{key}={name}", name, side, config, model, tokenizer, say)


def _saved(what, name, side, config, model, tokenizer, say) -> InitialWeights:
    """A run's weights."""
    workdir = paths.local(name, "a model")
    saved = resume.load_config(workdir)
    their_tokenizer = assemble.saved_tokenizer(saved, workdir)
    theirs = assemble.model(saved, their_tokenizer)
    if side:
        tower = getattr(meaning.module_of(theirs), side, None)
        if tower is None:
            raise UserError(f"{what}: its model has no {side} tower")
        ours = getattr(meaning.module_of(model), side)
        meaning.check(ours, tower, what, f"model.{side}", alone=True)
        if side != "image" and tokenizer is not None and their_tokenizer is not None:
            check_same_ids(what, tokenizer, their_tokenizer)
    else:
        _check_whole(what, config, model, tokenizer, theirs, their_tokenizer, saved)
    if side != "text":
        preprocess = saved.data.preprocess.to_dict()
        compare_images(config, model, theirs, preprocess, what, say)
    raw, step = assemble.load_state(workdir, "best")
    origin = f"{name}, step {step}"
    if raw.get("ema"):  # its evaluations took the moving average
        raw, origin = {**raw, **raw["ema"]}, f"{origin} (moving average)"
    if side and "lora" in raw["params"]:
        raise UserError(
            f"{what}: its {side} tower needs the run's LoRA parameters, which are not "
            "copied: export the run first, and start from the export"
        )
    return InitialWeights(what, origin, side, raw["params"], raw["model_state"])


def _released(what, name, side, config, model, tokenizer, say) -> InitialWeights:
    """A released model's weights."""
    if side:
        ours = getattr(meaning.module_of(model), side)
        # The only pooling of the tower that has parameters.
        pooler = side == "text" and getattr(ours, "pool", "") == "pooler"
        options = {"pool": "pooler"} if pooler else None
        tower, params, stats = read_tower.read_tower(name, side, options)
        read_tower.check_same(ours, tower, what)
        if side == "image":
            compare_images(config, model, tower, tower.preprocess, what, say)
        state = {side: stats} if stats else {}
        return InitialWeights(what, name, side, {side: params}, state)
    description, variables = read_model.read_model(name)
    their_tokenizer = None
    if tokenizer is not None and description.tokenizer:
        chosen = model_description.section(description, "tokenizer")
        their_tokenizer = create("tokenizer", chosen, None, None)
        description, variables = _without_spare_ids(
            description, variables, their_tokenizer.vocab_size
        )
    elif tokenizer is not None:
        say(f"{name}: {description.no_tokenizer}; the run's is not compared")
    theirs = model_description.build(description)
    their_config = model_description.to_config(
        dataclasses.replace(
            description,
            tokenizer=description.tokenizer or "clip_bpe",
            preprocess=description.preprocess or "clip",
        ),
        name,
    )
    _check_whole(what, config, model, tokenizer, theirs, their_tokenizer, their_config)
    preprocess = model_description.section(description, "preprocess")
    if not preprocess:
        say(f"{description.no_preprocess}; the run's data.preprocess is not compared")
    compare_images(config, model, theirs, preprocess, what, say)
    stats = variables.get("batch_stats", {})
    return InitialWeights(what, name, side, variables["params"], stats)


def _check_whole(
    what: str,
    config: Config,
    model: Model,
    tokenizer: Tokenizer | None,
    theirs: Model,
    their_tokenizer: Tokenizer | None,
    their_config: Config,
) -> None:
    """Raises UserError, with every difference and the flags that fit, if a model's
    weights would mean something else in the run's."""
    problems = []
    if tokenizer is not None and their_tokenizer is not None:
        try:
            check_same_ids(what, tokenizer, their_tokenizer)
        except UserError as error:
            problems.append(str(error))
    with_tokenizer = bool(problems)
    if told := meaning.describe_differences(model, theirs, what):
        problems.insert(0, told)
    if not problems:
        return
    fitting_flags = fitting.flags(config, their_config, with_tokenizer)
    name = what.partition("=")[2]
    advice = f" What fits: --config FILE.py{fitting_flags}" if fitting_flags else ""
    if fitting_flags and not fitting_flags.startswith(":"):
        advice = f" What fits: {fitting_flags}"
    if read_model.is_foreign(name):
        advice += (
            " The whole model as it is: --config FILE.py:model=released "
            f"--config.{architecture.KEY}={name}"
        )
    raise UserError("; ".join(problems) + "." + advice)


def _without_spare_ids(
    description: Settings, variables: Variables, count: int
) -> tuple[Settings, Variables]:
    """A model without the rows of ids that its tokenizer never gives, the last.

    count: the tokenizer's ids.
    """
    params = variables["params"]
    table = params["text"].get("token_embedding")
    if table is None or count >= description.vocab_size:
        return description, variables
    text = {**params["text"], "token_embedding": table[:count]}
    kept = {**variables, "params": {**params, "text": text}}
    return dataclasses.replace(description, vocab_size=count), kept


def take(
    weights: InitialWeights, state: TrainState, template: TrainState, say: Say
) -> TrainState:
    """The state with these weights as its parameters and model state.

    template: the state's shapes and shardings.

    Raises UserError if an array is missing, left over or of another shape.
    """
    for part in ("params", "model_state"):
        before, shapes = getattr(state, part), getattr(template, part)
        arrays = getattr(weights, part)
        filled = put(arrays, before, shapes, weights.what, part, weights.side, say)
        state = state.replace(**{part: filled})
    if state.ema:
        # Copied because donation may not see one buffer twice.
        averages = {"params": state.params, "model_state": state.model_state}
        state = state.replace(ema=jax.tree.map(jnp.copy, averages))
    if weights.side:
        say(
            f"starting the {weights.side} tower from {weights.origin}; projections "
            "start fresh"
        )
    else:
        say(f"starting from the parameters of {weights.origin}")
    return state


def check_same_ids(what: str, ours: Tokenizer, theirs: Tokenizer) -> None:
    """Raises UserError, beginning with `what`, if two tokenizers give other ids.

    Rows of the embedding table would then mean other words.
    """
    texts = [*PROBES, *_known_words(ours, theirs)]
    both = [tokenizer(texts) for tokenizer in (ours, theirs)]
    for index, text in enumerate(texts):
        rows = [ids[index][mask[index]] for ids, mask in both]
        length = min(map(len, rows))
        if not np.array_equal(rows[0][: length - 1], rows[1][: length - 1]):
            raise UserError(
                f"{what}: its tokenizer gives other ids than this run's "
                f"({list(rows[1][:5])} and {list(rows[0][:5])} for {text!r}): choose "
                "its own by tokenizer= and --config.data.tokenizer.path"
            )


def _known_words(ours: Tokenizer, theirs: Tokenizer) -> list[str]:
    """Words of both vocabularies if the PROBES have unknown ones, whose ids are equal
    in any two small vocabularies."""
    both: list[Any] = [x for x in (ours, theirs) if hasattr(x, "unknown")]
    if type(ours) is not type(theirs) or not any(
        tokenizer.unknown(text) for tokenizer in both for text in PROBES
    ):
        return []
    states = " ".join(tokenizer.state() or "" for tokenizer in both)
    return [*dict.fromkeys(re.findall(r"\w{1,40}", states))]


def compare_images(
    config: Config,
    model: Model,
    theirs: Any,
    preprocess: Mapping[str, Any],
    what: str,
    say: Say,
) -> None:
    """Warns if weights were trained on images prepared otherwise than the run's.

    theirs: a model or tower with their mean and std. preprocess: their section, {} if
    unknown.
    """
    differences = [*meaning.pixels(model, theirs)]
    ours = config.data.preprocess.to_dict()
    if preprocess and preprocess != ours:
        differences.append(
            meaning.Difference("data.preprocess", *map(_describe, (ours, preprocess)))
        )
    for option, here, there in differences:
        say(f"warning: {option} is {here}, and {what} was trained with {there}")


def _describe(section: Mapping[str, Any]) -> str:
    options = [f"{key}={value}" for key, value in section.items() if key != "name"]
    return section["name"] + (f" ({', '.join(options)})" if options else "")


def put(
    source: Any, state: Any, template: Any, what: str, part: str, side: str, say: Say
) -> Any:
    """A part of the state ("params", "model_state") with the source's arrays.

    Position tables for another image size or context length are resized.

    Args:
      source: nested dicts of host arrays. template: the part's shapes and shardings.
      what: the source's key and name, for messages.
      side: the only tower to take, "" for everything.

    Raises:
      UserError: an array is missing, left over or of another shape.
    """
    arrays = _fitted(source, template, what, part, side, say)
    names, structure = list(param_paths.flatten(template)), jax.tree.structure(template)
    leaves = []
    for name, leaf, old in zip(
        names, jax.tree.leaves(template), jax.tree.leaves(state), strict=True
    ):
        if name in arrays:
            old = jax.device_put(arrays[name].astype(leaf.dtype), leaf.sharding)
        leaves.append(old)
    return jax.tree.unflatten(structure, leaves)


def check_arrays(weights: InitialWeights, template: TrainState) -> None:
    """Raises UserError as `take` would, before anything is compiled."""
    for part in ("params", "model_state"):
        arrays, shapes = getattr(weights, part), getattr(template, part)
        _fitted(arrays, shapes, weights.what, part, weights.side, lambda _: None)


def _fitted(
    source: Any, template: Any, what: str, part: str, side: str, say: Say
) -> dict[str, Any]:
    """The source's arrays by name in the template's shapes; see `put`."""
    prefix = f"{side}/" if side else ""
    wanted, arrays = param_paths.flatten(template), param_paths.flatten(source)
    wanted = {name: leaf for name, leaf in wanted.items() if name.startswith(prefix)}
    arrays = {name: leaf for name, leaf in arrays.items() if name.startswith(prefix)}
    fresh = [n for n in wanted if n not in arrays and FRESH.fullmatch(n)]
    for name in sorted({*wanted, *arrays} - {*fresh}):
        if name in wanted and name in arrays:
            arrays[name] = _resized(name, arrays[name], wanted[name].shape, what, say)
        ours = wanted[name].shape if name in wanted else "absent"
        theirs = arrays[name].shape if name in arrays else "absent"
        if ours != theirs:
            raise UserError(
                f"{what}: {part}/{name} is {theirs} there and {ours} in this config's "
                "model"
            )
    if fresh:
        groups = sorted({name.partition("/")[0] for name in fresh})
        partial = {name.partition("/")[0] for name in arrays}
        names = (f"part of {x}" if x in partial else x for x in groups)
        say(f"{what} has no {', '.join(names)}: starting fresh")
    return arrays


def _resized(name: str, array: Any, shape: tuple[int, ...], what: str, say: Say) -> Any:
    """A position table of the wanted length; any other array unchanged."""
    rows = shape[0] if shape else 0
    if not name.endswith("/positions") or array.shape[1:] != shape[1:]:
        return array
    if array.shape[0] == rows:
        return array
    say(f"{what}: {name} is resized from {array.shape[0]} to {rows} positions")
    if name.startswith("text/"):
        return resize_positions.resize_text(np.asarray(array), rows)
    return resize_positions.resize_image(np.asarray(array), rows, f"{what}: {name}")
