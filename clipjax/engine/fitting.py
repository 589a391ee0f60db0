"""The words and flags with which a config would take another model's weights."""

from __future__ import annotations

import shlex
from typing import Any

from ml_collections import ConfigDict

from clipjax import config_parts, registry
from clipjax.engine import architecture
from clipjax.models.common import meaning
from clipjax.types import Config, UserError

# Sections of components of which weights depend.
MODEL = {"model": "model", "image": "model.image", "text": "model.text"}
TOKENIZER = {"tokenizer": "data.tokenizer"}
# Weights are resized to these, or training adapts to them.
FREE = ("data.tokenizer.context_length", "model.mean", "model.std")


def flags(config: Config, theirs: Config, tokenizer: bool) -> str:
    """What to add to a config's command line, ":image=vit --config.model.embed_dim=8".

    theirs: the config of the model whose weights are wanted. tokenizer: whether its
    tokenizer is wanted too.

    "" if the models already fit.
    """
    sections = MODEL | (TOKENIZER if tokenizer else {})
    words = []
    wanted: dict[str, Any] = {}
    for word, path in sections.items():
        ours, other = (
            config_parts.section_at(config, path),
            config_parts.section_at(theirs, path),
        )
        if other is None:
            continue
        base = _values(ours)
        if ours is None or ours.name != other.name:
            words.append(f"{word}={other.name}")
            options = registry.options(registry.load(word, other.name))
            base = {key: option.default for key, option in options.items()}
        for key, value in _values(other).items():
            if base.get(key) != value and f"{path}.{key}" not in FREE:
                wanted[f"{path}.{key}"] = (base.get(key), value)
    needed = _needed(theirs, wanted)
    texts = [f":{','.join(words)}"] if words else []
    texts += [
        shlex.quote(f"--config.{key}={wanted[key][1]}")
        for key in wanted
        if key in needed
    ]
    return " ".join(texts)


def _needed(theirs: Config, wanted: dict[str, Any]) -> set[str]:
    """The keys without which weights would mean something else."""
    needed = set(wanted)
    model = architecture.build_model(theirs)
    candidate = theirs
    for key, (own, _) in wanted.items():
        if not key.startswith("model."):
            continue
        tried = candidate.copy_and_resolve_references()
        place, _, name = key.rpartition(".")
        with tried.unlocked():
            section = config_parts.section_at(tried, place)
            del section[name]
            section[name] = own
        try:
            fits = not any(meaning.differences(architecture.build_model(tried), model))
        except UserError:  # with the rest of theirs the value is impossible
            fits = False
        if fits:
            candidate = tried
            needed.discard(key)
    return needed


def _values(section: Any) -> dict[str, Any]:
    """The options of a section; values of its inner sections are left out."""
    if section is None:
        return {}
    values = section.copy_and_resolve_references().to_dict()
    return {
        key: value
        for key, value in values.items()
        if key != "name" and not isinstance(section[key], ConfigDict)
    }
