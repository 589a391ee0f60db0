"""Configs: `base` builds one from components chosen by name.

Words after the colon choose components, `--config file.py:loss=clip,optim=sgd`; dotted
flags set values, `--config.optim.lr=3e-4`. A section holds its shared keys
(config_keys.py) and exactly the options of its component, which are the keyword-only
parameters of the component's factory. Every other key is an error.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from clipjax import config_options, registry
from clipjax.config_addresses import SECTIONS
from clipjax.config_keys import PLAIN, SHARED
from clipjax.config_sections import (
    chain,
    check_known,
    component,
    evals_section,
    losses_section,
    set_source,
    source_section,
)
from clipjax.types import Config, UserError

# The component words with their defaults, used if neither file nor argument sets them.
WORDS = {
    "model": "two_tower",
    "image": "vit",
    "text": "transformer",
    "tokenizer": "words",
    "preprocess": "clip",
    "augment": "none",  # several, in this order: crop+jitter+blur
    "text_augment": "none",  # several, in this order: word_dropout+paraphrase
    "loss": "clip",  # several: clip+cyclip, each with a weight
    "optim": "adamw",
    "schedule": "cosine",
    "data": "scenes",
    "eval_data": "",  # empty: the training source, with its own split
    "evals": "retrieval",  # several: retrieval+zeroshot; of other data: zeroshot@scenes
}

# Component words that need a tower.
TOWER_WORDS = dict(image="image", text="text", tokenizer="text", text_augment="text")


def word(arg: str | None, name: str, choices: Iterable[str]) -> str:
    """Returns the config argument's value of the file's own word, else choices[0].

    Raises UserError for a value that is not among the choices.

    >>> word("size=small,loss=siglip", "size", ["large", "small"])
    'small'
    """
    choices = list(choices)
    value = component_words(arg).get(name, choices[0])
    if value not in choices:
        hint = registry.suggest(value, choices)
        raise UserError(f"{name}={value}: unknown.{hint} Known: {', '.join(choices)}")
    return value


def base(
    arg: str | None,
    *,
    words: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    **defaults: str,
) -> Config:
    """Returns the locked config of a run.

    Args:
      arg: the text after --config's colon: "loss=clip,optim=sgd", or None.
      words: further words of `arg` that the config file reads itself with `word`.
      options: values by their flags' addresses. "SECTION": {...} holds keys that every
        config has ("train": {"steps": 100}, "data.eval": {"split": "test"}).
        "SECTION=COMPONENT": {...} holds options that apply only if that component is
        chosen and are always checked ("optim=adamw": {"b2": 0.98}, "model.image=vit",
        "data.train=webdataset", "evals.zeroshot.data=scenes"). A key outside sections
        stands alone: "seed": 3.
      **defaults: the file's choice of components (see WORDS), before `arg`.

    Raises:
      UserError: for unknown words, components, options, or values of a wrong type.

    >>> config = base("optim=sgd", words=["size"], options={"train": {"steps": 100}})
    >>> config.optim.name, config.train.steps, config.loss.name
    ('sgd', 100, 'clip')
    """
    default = {**WORDS, **check_known(defaults, WORDS, "component")}
    for key, value in default.items():
        registry.check_type(value, str, key)
    given = check_known(component_words(arg), [*WORDS, *words], "config argument")
    given = {name: value for name, value in given.items() if name in WORDS}
    name = given.get("model", default["model"])
    factory = registry.load("model", name)
    suited = registry.module_of(factory, "WORDS") or {}
    if name == default["model"]:
        suited = {word: suited[word] for word in suited if word not in defaults}
    default = {**default, **suited}
    chosen = {**default, **given}
    towers = registry.module_of(factory, "TOWERS") or ("image", "text")
    for word, tower in TOWER_WORDS.items():
        if word in given and tower not in towers:
            raise UserError(f"{word}={given[word]}: model={name} has no {tower} tower")
    values = config_options.read(options or {}, default, chosen["evals"])
    config = ConfigDict({"": None})
    del config[""]
    for key, value in _shared(values, "").items():
        config[key] = value
    _suit_model(chosen, values)
    _suit_training(chosen, values)
    model = component("model", "model", chosen["model"], values)
    for tower in towers:
        model[tower] = component(SECTIONS[tower], tower, chosen[tower], values)
    config.model = model
    config.data = _data(chosen, values)
    if "text" in towers:
        config.data.tokenizer = component(
            "data.tokenizer", "tokenizer", chosen["tokenizer"], values
        )
        if chosen["text_augment"] != "none":
            section = chain("text_augment", chosen["text_augment"], values)
            config.data.text_augment = section
    config.loss = losses_section(chosen["loss"], values)
    optim = component("optim", "optim", chosen["optim"], values)
    optim.update(_shared(values, "optim", beside=optim))
    optim["schedule"] = component(
        "optim.schedule", "schedule", chosen["schedule"], values
    )
    config.optim = optim
    for name in PLAIN:
        config[name] = ConfigDict(_shared(values, name))
    config.evals = evals_section(chosen["evals"], values)
    return config.lock()


def component_words(arg: str | None) -> dict[str, str]:
    """The words after the colon of --config, with their values.

    Raises UserError for one without a value.
    """
    pairs = {}
    for item in (arg or "").split(","):
        if not item.strip():
            continue
        name, equals, value = item.strip().partition("=")
        if not equals or not value:
            raise UserError(
                f"config argument {item.strip()!r}: write it as name=value, "
                "e.g. --config configs/quickstart.py:loss=clip,optim=sgd"
            )
        pairs[name] = value
    return pairs


def _shared(
    options: config_options.Options,
    section: str,
    beside: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The shared keys of a section with the file's values in place of defaults.

    beside: the section's component.
    """
    defaults, beside = SHARED[section], beside or {}
    for key in defaults:
        if key in beside:
            raise TypeError(f"option {section}.{key} collides with a shared key")
    given = options.get(section, {})
    for key in given:
        if key in beside and key != "name":
            name = f"{section}={beside['name']}"
            raise UserError(
                f"unknown key of {section} {key!r}: it belongs to a component: write "
                f'it below "{name}"'
            )
    given = check_known(given, defaults, f"key of {section or 'config'}")
    for key, value in given.items():
        path = f"{section}.{key}" if section else key
        given[key] = registry.check_type(value, type(defaults[key]), path)
    return {**defaults, **given}


def _data(chosen: Mapping[str, str], options: config_options.Options) -> Config:
    data = ConfigDict(_shared(options, "data"))
    data.train = source_section("data.train", chosen["data"], options, "train")
    eval_name = chosen["eval_data"] or chosen["data"]
    if eval_name != chosen["data"]:
        data.eval = source_section("data.eval", eval_name, options, "val")
    else:
        # The same source: flags that change it for training apply here too.
        data.eval = ConfigDict()
        for key in data.train:
            data.eval[key] = data.train.get_oneway_ref(key)
        data.eval.split = "val"
        set_source(data.eval, "data.eval", options)
    data.preprocess = component(
        "data.preprocess", "preprocess", chosen["preprocess"], options
    )
    data.augment = chain("augment", chosen["augment"], options)
    return data


def _suit_model(chosen: Mapping[str, str], options: dict[str, Any]) -> None:
    """Adds the model options that a loss requires, unless the file sets them."""
    key = f"model={chosen['model']}"
    known = inspect.signature(registry.load("model", chosen["model"])).parameters
    for name in chosen["loss"].split("+"):
        wanted = registry.module_of(registry.load("loss", name), "MODEL_OPTIONS")
        # The loss refuses a model that lacks one, and gives the reason.
        wanted = {k: v for k, v in (wanted or {}).items() if k in known}
        options[key] = {**wanted, **options.get(key, {})}


def _suit_training(chosen: Mapping[str, str], options: dict[str, Any]) -> None:
    """Adds the `train` keys that all chosen losses require, unless the file sets
    them."""
    losses = [registry.load("loss", name) for name in chosen["loss"].split("+")]
    wanted = [registry.module_of(loss, "TRAIN_OPTIONS") or {} for loss in losses]
    agreed = {k: v for k, v in wanted[0].items() if all(x.get(k) == v for x in wanted)}
    options["train"] = {**agreed, **options.get("train", {})}


def create(family: str, section: Mapping[str, Any], *args: Any, label: str = "") -> Any:
    """Calls the factory that a section names, with the section's options.

    label: this component's, if a section has several, for messages
    ("loss.cyclip.in_modal").
    """
    factory = registry.load(family, section["name"])
    chosen = {}
    for key in registry.options(factory):
        if key not in section:
            raise UserError(
                f"the config's {family} {section['name']!r} has no option {key!r}: "
                "another version of clipjax wrote it"
            )
        chosen[key] = section[key]
    try:
        return factory(*args, **chosen)
    except UserError as error:
        section_name = re.escape(SECTIONS[family])
        keys = "|".join(map(re.escape, chosen))
        if not label or not keys:
            raise
        address = rf"(?<![\w.])({section_name})\.(?=(?:{keys})\b)"
        message = re.sub(address, rf"\1.{label}.", str(error))
        raise type(error)(message) from error
