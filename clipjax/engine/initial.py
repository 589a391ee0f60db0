"""What a run starts from: another run's parameters, or a released model's."""

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
from clipjax.engine import assemble, resume
from clipjax.engine.state import TrainState
from clipjax.models.common import meaning
from clipjax.types import Config, Model, Tokenizer, UserError
from clipjax.weights import model_description, read_model, read_tower
from clipjax.weights.tensors import resize_positions

Say = Callable[[str], None]

# What two tokenizers of one vocabulary agree on.
PROBES = (
    "a photo of a dog",
    "two small birds fly over the sea at night",
    "A Dog in the Rain",
)
SIDES = {"init_from": "", "init_image_from": "image", "init_text_from": "text"}
# What may be absent there and then starts fresh: it is of this run's training.
FRESH = re.compile(r"(lora|image_expander|text_expander)/.*|logit_bias")


def starts(config: Config) -> dict[str, str]:
    """The keys of SIDES that a config sets, with what they name.

    Raises UserError if a whole model and a tower are both named.
    """
    found = {key: config[key] for key in SIDES if config[key]}
    if "init_from" in found and len(found) > 1:
        raise UserError(
            f"init_from={config.init_from} is a whole model: leave it empty to start "
            f"from towers by {' and '.join(sorted(found.keys() - {'init_from'}))}"
        )
    return found


def run_of_texts(config: Config) -> pathlib.Path | None:
    """The run whose text tower, and so whose tokenizer, a run starts with."""
    given = starts(config)
    name = given.get("init_from") or given.get("init_text_from")
    return paths.given(name) if name and not read_model.is_foreign(name) else None


@dataclasses.dataclass(frozen=True)
class Given:
    """Weights to start from, which fit the run's model.

    what: "KEY=NAME", key one of SIDES. place: of which save, for messages. side:
    "image" or "text" of a tower alone, "" of the whole.
    """

    what: str
    place: str
    side: str
    params: Mapping[str, Any]
    model_state: Mapping[str, Any]


def read(
    key: str, config: Config, model: Model, tokenizer: Tokenizer | None, say: Say
) -> Given:
    """The weights that a config names by a key of SIDES: host arrays.

    A run's are those of its best checkpoint, the moving average if it kept one. Said
    and not refused are images that were normalised or prepared otherwise, to which
    training adapts.

    model, tokenizer: the run's.

    Raises UserError if there are none, if they would mean something else in the
    model (see models/common/meaning.py), or if their tokenizer gives other ids.
    """
    name, side = config[key], SIDES[key]
    foreigner = read_model.is_foreign(name)
    for one in (side,) if side else ("image", "text") if foreigner else ():
        if not hasattr(meaning.module_of(model), one):
            raise UserError(f"{name}: this run's model has no {one} tower to start")
    reader = _released if foreigner else _saved
    return reader(f"{key}={name}", name, side, config, model, tokenizer, say)


def _saved(what, name, side, config, model, tokenizer, say) -> Given:
    """Of a run."""
    workdir = paths.local(name, "a model")
    saved = resume.load_config(workdir)
    words = assemble.saved_tokenizer(saved, workdir)
    theirs = assemble.model(saved, words)
    if side:
        tower = getattr(meaning.module_of(theirs), side, None)
        if tower is None:
            raise UserError(f"{what}: its model has no {side} tower")
        ours = getattr(meaning.module_of(model), side)
        meaning.check(ours, tower, what, f"model.{side}", alone=True)
    else:
        meaning.check(model, theirs, what)
    if side != "image" and tokenizer is not None and words is not None:
        check_same_ids(what, tokenizer, words)
    if side != "text":
        seen = saved.data.preprocess.to_dict()
        compare_images(config, model, theirs, seen, what, say)
    raw, step = assemble.load_state(workdir, "best")
    place = f"{name}, step {step}"
    if raw.get("ema"):  # what its evaluations were of
        raw, place = {**raw, **raw["ema"]}, f"{place} (moving average)"
    if side and "lora" in raw["params"]:
        raise UserError(
            f"{what}: its {side} tower is completed by LoRA, which is not taken along: "
            "export the run first, and start from the export"
        )
    return Given(what, place, side, raw["params"], raw["model_state"])


def _released(what, name, side, config, model, tokenizer, say) -> Given:
    """Of a model that others released."""
    if side:
        ours = getattr(meaning.module_of(model), side)
        # The only one of the tower's ways to pool that has parameters of its own.
        pooler = side == "text" and getattr(ours, "pool", "") == "pooler"
        options = {"pool": "pooler"} if pooler else None
        tower, params, stats = read_tower.read_tower(name, side, options)
        read_tower.check_same(ours, tower, what)
        if side == "image":
            compare_images(config, model, tower, tower.preprocess, what, say)
        return Given(what, name, side, {side: params}, {side: stats} if stats else {})
    found, variables = read_model.read_model(name)
    theirs = model_description.build(found)
    meaning.check(model, theirs, what)
    if tokenizer is not None and found.tokenizer:
        chosen = model_description.section(found, "tokenizer")
        check_same_ids(what, tokenizer, create("tokenizer", chosen, None, None))
    elif tokenizer is not None:
        say(f"{name}: {found.no_tokenizer}; the run's own is not compared")
    seen = model_description.section(found, "preprocess")
    if not seen:
        say(f"{found.no_preprocess}; the run's own data.preprocess is not compared")
    compare_images(config, model, theirs, seen, what, say)
    stats = variables.get("batch_stats", {})
    return Given(what, name, side, variables["params"], stats)


def take(given: Given, state: TrainState, template: TrainState, say: Say) -> TrainState:
    """The state with these weights as its parameters and model state.

    template: its shapes and shardings.

    Raises UserError if an array is missing, left over or of another shape.
    """
    for part in ("params", "model_state"):
        before, shapes = getattr(state, part), getattr(template, part)
        arrays = getattr(given, part)
        put_in = put(arrays, before, shapes, given.what, part, given.side, say)
        state = state.replace(**{part: put_in})
    if state.ema:
        # Copies, or donation would see one buffer twice.
        averages = {"params": state.params, "model_state": state.model_state}
        state = state.replace(ema=jax.tree.map(jnp.copy, averages))
    if given.side:
        say(
            f"starting the {given.side} tower from {given.place}; projections start "
            "fresh"
        )
    else:
        say(f"starting from the parameters of {given.place}")
    return state


def check_same_ids(what: str, ours: Tokenizer, theirs: Tokenizer) -> None:
    """Raises UserError, beginning with `what`, if two tokenizers differ on texts.

    Then every row of the embedding table would mean another word.
    """
    texts = [*PROBES, *_known_words(ours, theirs)]
    both = [one(texts) for one in (ours, theirs)]
    for place, text in enumerate(texts):
        rows = [ids[place][mask[place]] for ids, mask in both]
        length = min(map(len, rows))
        if not np.array_equal(rows[0][: length - 1], rows[1][: length - 1]):
            raise UserError(
                f"{what}: its tokenizer gives other ids than this run's "
                f"({list(rows[1][:5])} and {list(rows[0][:5])} for {text!r}): choose "
                "its own by tokenizer= and --config.data.tokenizer.path"
            )


def _known_words(ours: Tokenizer, theirs: Tokenizer) -> list[str]:
    """Words of both vocabularies, if they know few: the probes may be unknown to both,
    and then have the same ids."""
    both: list[Any] = [one for one in (ours, theirs) if hasattr(one, "unknown")]
    if type(ours) is not type(theirs) or not any(
        one.unknown(text) for one in both for text in PROBES
    ):
        return []
    states = " ".join(one.state() or "" for one in both)
    return [*dict.fromkeys(re.findall(r"\w{1,40}", states))]


def compare_images(
    config: Config,
    model: Model,
    theirs: Any,
    preprocess: Mapping[str, Any],
    what: str,
    say: Say,
) -> None:
    """Says where weights have seen images otherwise than the run shows them.

    theirs: what has their mean and std. preprocess: their section, {} if not known.
    """
    found = [*meaning.pixels(model, theirs)]
    ours = config.data.preprocess.to_dict()
    if preprocess and preprocess != ours:
        found.append(
            meaning.Difference("data.preprocess", *map(_words, (ours, preprocess)))
        )
    for option, here, there in found:
        say(f"warning: {option} is {here}, and {what} was trained with {there}")


def _words(section: Mapping[str, Any]) -> str:
    options = [f"{key}={value}" for key, value in section.items() if key != "name"]
    return section["name"] + (f" ({', '.join(options)})" if options else "")


def put(
    given: Any, state: Any, template: Any, what: str, part: str, side: str, say: Say
) -> Any:
    """A part of the state ("params", "model_state") with the arrays that are given.

    Position tables for another image size or context length are resized.

    Args:
      given: nested dicts of host arrays. template: the part's shapes and shardings.
      what: key and name of where they come from, for messages.
      side: take that tower only, "" for everything.

    Raises:
      UserError: where an array is missing, left over or of another shape.
    """
    prefix = f"{side}/" if side else ""
    wanted, arrays = param_paths.named(template), param_paths.named(given)
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
        some = {name.partition("/")[0] for name in arrays}
        names = (f"part of {x}" if x in some else x for x in groups)
        say(f"{what} has no {', '.join(names)}: starting fresh")
    names, structure = list(param_paths.named(template)), jax.tree.structure(template)
    leaves = []
    for name, leaf, old in zip(
        names, jax.tree.leaves(template), jax.tree.leaves(state), strict=True
    ):
        if name in arrays:
            old = jax.device_put(arrays[name].astype(leaf.dtype), leaf.sharding)
        leaves.append(old)
    return jax.tree.unflatten(structure, leaves)


def _resized(name: str, array: Any, shape: tuple[int, ...], what: str, say: Say) -> Any:
    """A position table of the wanted length; anything else as it is."""
    rows = shape[0] if shape else 0
    if not name.endswith("/positions") or array.shape[1:] != shape[1:]:
        return array
    if array.shape[0] == rows:
        return array
    say(f"{what}: {name} is resized from {array.shape[0]} to {rows} positions")
    if name.startswith("text/"):
        return resize_positions.resize_text(np.asarray(array), rows)
    return resize_positions.resize_image(np.asarray(array), rows, f"{what}: {name}")
