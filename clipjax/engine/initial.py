"""What a run starts from: another run's parameters, or a released model's."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from clipjax import trees
from clipjax.config import create
from clipjax.types import Config, Model, Tokenizer, UserError
from clipjax.weights import foreign, positions, settings, towers

Say = Callable[[str], None]

# What two tokenizers of one vocabulary agree on.
PROBES = ("a photo of a dog", "two small birds fly over the sea at night")
SIDES = {"init_from": "", "init_image_from": "image", "init_text_from": "text"}
# What may be absent there and then starts fresh: it is of this run's training.
FRESH = re.compile(r"(lora|image_expander|text_expander)/.*|logit_bias")


def starts(config: Config) -> dict[str, str]:
    """The keys of SIDES that a config sets, with what they name.

    Raises UserError where a whole model and a tower are both named.
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
    return pathlib.Path(name) if name and not foreign.is_foreign(name) else None


def released(
    name: str, side: str, model: Model, say: Say, tokenizer: Tokenizer | None = None
) -> dict[str, Any]:
    """The "params" and "model_state" of a model that others released.

    side: "image" or "text" for a tower alone, "" for the whole. tokenizer: the run's.

    Raises UserError where the model is of other settings than this run's, or its own
    tokenizer gives other ids than the run's.
    """
    module = module_of(model)
    for one in (side,) if side else ("image", "text"):
        if not hasattr(module, one):
            raise UserError(f"{name}: this run's model has no {one} tower to start")
    if side:
        # The only one of the tower's ways to pool that has parameters of its own.
        pooler = side == "text" and getattr(module.text, "pool", "") == "pooler"
        options = {"pool": "pooler"} if pooler else None
        tower, params, stats = towers.read_tower(name, side, options)
        towers.check_same(getattr(module, side), tower, name)
        if side == "image":
            _compare_pixels(module, tower.mean, tower.std, name, say)
        return {
            "params": {side: params},
            "model_state": {side: stats} if stats else {},
        }
    found, variables = foreign.read_model(name)
    for one in ("image", "text"):
        half = foreign.half(found, one)
        towers.check_same(getattr(module, one), half, name)
    pool = found.text_options.get("pool", "eot")
    if module.text.pool != pool:
        raise UserError(
            f"model.text.pool={module.text.pool!r} does not fit {name}, which has "
            f"{pool!r}"
        )
    if tokenizer is not None and found.tokenizer:
        chosen = settings.to_config(found, name).data.tokenizer
        own = create("tokenizer", chosen, None, None)
        check_same_ids(f"init_from={name}", tokenizer, own)
    elif tokenizer is not None:
        say(f"{name}: {found.no_tokenizer}; the run's own is not compared")
    options = found.model_options
    _compare_pixels(module, options["mean"], options["std"], name, say)
    return {
        "params": variables["params"],
        "model_state": variables.get("batch_stats", {}),
    }


def check_same_ids(what: str, ours: Tokenizer, theirs: Tokenizer) -> None:
    """Raises UserError, beginning with `what`, where two tokenizers differ on texts.

    Then every row of the embedding table would mean another word.
    """
    for text in PROBES:
        rows = []
        for one in (ours, theirs):
            ids, mask = one([text])
            rows.append(ids[0][mask[0]])
        length = min(map(len, rows))
        if not np.array_equal(rows[0][: length - 1], rows[1][: length - 1]):
            raise UserError(
                f"{what}: its tokenizer gives other ids than this run's "
                f"({list(rows[1][:5])} and {list(rows[0][:5])} for {text!r}): choose "
                "its own by tokenizer= and --config.data.tokenizer.path"
            )


def module_of(model: Any) -> Any:
    """The Linen module inside whatever training has put around a model."""
    while not hasattr(model, "module"):
        model = model.model
    return model.module


def _compare_pixels(module: Any, mean: Any, std: Any, name: str, say: Say) -> None:
    for option, theirs in (("mean", mean), ("std", std)):
        ours = getattr(module, option)
        if theirs and not np.allclose(ours, theirs, atol=1e-4):
            say(f"model.{option} is {ours}, and {name} was trained with {theirs}")


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
    wanted, arrays = trees.named(template), trees.named(given)
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
        say(f"{what} has no {', '.join(groups)}: starting fresh")
    names, structure = list(trees.named(template)), jax.tree.structure(template)
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
        return positions.resize_text(np.asarray(array), rows)
    return positions.resize_image(np.asarray(array), rows, f"{what}: {name}")
