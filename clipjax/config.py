"""Configs: `base` builds one from components chosen by name.

*Which* component is said after the colon of `--config file.py:loss=clip,optim=sgd`;
*how much* by dotted flags, `--config.optim.lr=3e-4`. A section holds the shared keys
listed at SHARED plus exactly the options of the component chosen for it, which are the
keyword-only parameters of its factory; every other word is an error.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from clipjax import registry
from clipjax.config_sections import (
    chain,
    component,
    evals_section,
    losses_section,
    only_known,
    set_keys,
    source_section,
)
from clipjax.types import Config, UserError

# The component words and what they choose when neither file nor argument says.
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

# Keys every run has, with their defaults. Comments are the user's documentation.
SHARED: dict[str, dict[str, Any]] = {
    "": {
        "seed": 0,  # of initialisation, data order, augmentation and dropout
        # A run whose parameters to start from, or a released model: a folder, a file,
        # hf-hub:ORG/NAME.
        "init_from": "",
        "init_image_from": "",  # the same for the image tower alone
        "init_text_from": "",
    },
    "data": {
        "image_size": 224,  # pixels a side
        "batch_size": 128,  # of all devices and hosts together
        "label_set": "",  # labels of a classifier; empty: the data's only ones
        # Shares of a classifier's examples that are mixed with another in either way.
        "mixup": 0.0,  # blended
        "mixup_alpha": 0.2,  # by a share from Beta(alpha, alpha)
        "cutmix": 0.0,  # one patch is the other's
        "cutmix_alpha": 1.0,  # the rest's share is from Beta(alpha, alpha)
        "unit": "image",  # an epoch visits every image once, or every "pair"
        # Lengths, as (8, 16, 24): texts are padded to the shortest of them that holds a
        # batch, or to the whole context; empty: always that.
        "text_buckets": (),
        "workers": 0,  # processes that read and decode; 0: threads of this one
        "threads": 1,  # decoding threads where workers is 0
        "timeout": 600.0,  # seconds that a batch is awaited at most; 0: no limit
        "on_broken": "replace",  # or "raise": what an unreadable example does
    },
    "optim": {
        "clip_norm": 1.0,  # global gradient norm; 0: no clipping
        # Never decayed, beside every parameter of fewer than two dimensions.
        "no_decay": r"(^|/)(positions|class_token|logit_scale|logit_bias)$",
        # (pattern, lr factor, weight decay factor); first match wins; 0 lr freezes.
        "groups": (),
        # Each block's lr factor, times that of the block after it; 1: all the same.
        "layer_decay": 1.0,
    },
    "lora": {
        "rank": 0,  # of the additions to frozen kernels; 0: none, the kernels train
        "alpha": 16.0,  # the additions are scaled by alpha / rank
        "on": r"/(qkv|query|key_value|out|fc1|fc2)/kernel$",  # which kernels
    },
    "train": {
        "steps": 0,  # the run's length: steps, or
        "epochs": 0.0,  # epochs; one of the two is 0
        "micro_batches": 1,  # parts in which the towers take a batch, to save memory
        "norm_in_parts": False,  # let batch normalisation see a micro-batch at a time
        "ema": 0.0,  # decay of the moving average of parameters; 0: none
        # The inverse temperature stays between 1 and this; 0: no limits.
        "max_logit_scale": 100.0,
        "max_bad_steps": 10,  # non-finite steps in a row that end the run
        "eval_every": 0,  # steps; 0: only at the end
        "eval_ema": True,  # evaluate the moving average where there is one
        "val_batches": 8,  # of validation loss at each evaluation; 0: none
    },
    "checkpoint": {
        "every": 0,  # steps between saves; 0: one save an epoch
        "keep": 2,  # latest saves kept
        "keep_every": 0,  # additionally kept for ever, in steps; 0: none
        # Metric whose best save is kept ("retrieval/mean_recall@1", "val_loss"); empty:
        # the primary metric of the first evaluator.
        "best": "",
        "best_mode": "",  # "max" or "min"; empty: min for val_loss and ranks, else max
    },
    "log": {
        "every": 10,  # steps between metric rows
        "tensorboard": True,
    },
    "mesh": {
        "data": -1,  # devices along the batch; -1: all that are left
        "fsdp": 1,  # devices that share each parameter
        # Seconds that a process of several may be absent, silent or without progress;
        # 0: for ever.
        "timeout": 300.0,
    },
}


def word(arg: str | None, name: str, choices: Iterable[str]) -> str:
    """Returns what the config argument says of the file's own word, else choices[0].

    Raises UserError for a value that is not among the choices.
    """
    choices = list(choices)
    value = _parse(arg).get(name, choices[0])
    if value not in choices:
        hint = registry.suggest(value, choices)
        raise UserError(f"{name}={value}: unknown.{hint} Known: {', '.join(choices)}")
    return value


def base(
    arg: str | None,
    *,
    words: Iterable[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **defaults: str,
) -> Config:
    """Returns the locked config of a run.

    Args:
      arg: what stands after the colon of --config: "loss=clip,optim=sgd", or None.
      words: further words of `arg` that the config file reads itself with `word`.
      options: values by section ("train": {"steps": 100}) or by component
        ("optim.adamw": {"b2": 0.98}); those of components that are not chosen are
        checked and dropped. "data.eval" and "evals.LABEL.data" set keys of those
        sources alone, where the source is the one that the file chooses.
      **defaults: the file's choice of components (see WORDS), before `arg`.

    Raises:
      UserError: for unknown words, components, options, or values of a wrong type.
    """
    default = {**WORDS, **only_known(defaults, WORDS, "component")}
    for key, value in default.items():
        registry.typed(value, str, key)
    for key, value in (options or {}).items():
        if not isinstance(key, str) or not isinstance(value, Mapping):
            form = "a section's name, and its keys with their values"
            raise UserError(f"options: {registry.shown({key: value})} is not {form}")
    given = only_known(_parse(arg), [*WORDS, *words], "config argument")
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
    options = dict(options or {})
    config = ConfigDict({"": None})
    del config[""]
    for key, value in _shared(options, "").items():
        config[key] = value
    _suit_model(chosen, options)
    _suit_training(chosen, options)
    model = component("model", chosen["model"], options)
    for tower in towers:
        model[tower] = component(tower, chosen[tower], options)
    config.model = model
    config.data = _data(chosen, default, options)
    if "text" in towers:
        tokenizer = component("tokenizer", chosen["tokenizer"], options)
        config.data.tokenizer = tokenizer
        if chosen["text_augment"] != "none":
            section = chain("text_augment", chosen["text_augment"], options)
            config.data.text_augment = section
    config.loss = losses_section(chosen["loss"], options)
    optim = component("optim", chosen["optim"], options)
    optim.update(_shared(options, "optim", beside=optim))
    optim["schedule"] = component("schedule", chosen["schedule"], options)
    config.optim = optim
    for name in ("lora", "train", "checkpoint", "log", "mesh"):
        config[name] = ConfigDict(_shared(options, name))
    config.evals = evals_section(chosen["evals"], default["evals"], options)
    for key in options:
        if key not in _eval_data_keys(default["evals"]):
            _component_options(key, options[key])
    return config.lock()


def _parse(arg: str | None) -> dict[str, str]:
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


def _shared(options, section: str, beside: Iterable[str] = ()) -> dict[str, Any]:
    """The shared keys of a section with the file's values in place of defaults."""
    defaults = SHARED[section]
    for key in defaults:
        if key in beside:
            raise TypeError(f"option {section}.{key} collides with a shared key")
    given = only_known(
        options.pop(section, {}), defaults, f"key of {section or 'config'}"
    )
    for key, value in given.items():
        given[key] = registry.typed(value, type(defaults[key]), f"{section}.{key}")
    return {**defaults, **given}


def _data(chosen: Mapping[str, str], default: Mapping[str, str], options) -> Config:
    data = ConfigDict(_shared(options, "data"))
    given = options.pop("data.eval", {})
    data.train = source_section(chosen["data"], options, "train")
    eval_name = chosen["eval_data"] or chosen["data"]
    if eval_name != chosen["data"]:
        data.eval = source_section(eval_name, options, "val")
    else:
        # The same source: what a flag changes for training holds here too.
        data.eval = ConfigDict()
        for key in data.train:
            data.eval[key] = data.train.get_oneway_ref(key)
        data.eval.split = "val"
    if eval_name == (default["eval_data"] or default["data"]):
        set_keys(data.eval, given, "data.eval")
    data.preprocess = component("preprocess", chosen["preprocess"], options)
    data.augment = chain("augment", chosen["augment"], options)
    return data


def _suit_model(chosen: Mapping[str, str], options: dict[str, Any]) -> None:
    """Adds the model options that a loss asks for, where the file sets none."""
    key = f"model.{chosen['model']}"
    known = inspect.signature(registry.load("model", chosen["model"])).parameters
    for name in chosen["loss"].split("+"):
        wanted = registry.module_of(registry.load("loss", name), "MODEL_OPTIONS")
        # A model that lacks one is refused by the loss, in words that say why.
        wanted = {k: v for k, v in (wanted or {}).items() if k in known}
        options[key] = {**wanted, **options.get(key, {})}


def _suit_training(chosen: Mapping[str, str], options: dict[str, Any]) -> None:
    """Adds the keys of `train` that all chosen losses ask for, where the file sets
    none."""
    modules = [registry.load("loss", name) for name in chosen["loss"].split("+")]
    wanted = [registry.module_of(one, "TRAIN_OPTIONS") or {} for one in modules]
    agreed = {k: v for k, v in wanted[0].items() if all(x.get(k) == v for x in wanted)}
    options["train"] = {**agreed, **options.get("train", {})}


def _eval_data_keys(default: str) -> set[str]:
    """The keys "evals.LABEL.data" a file may use, for evaluators chosen or not."""
    names = [item.partition("@")[0].rpartition(".")[2] for item in default.split("+")]
    return {f"evals.{label}.data" for label in [*names, *registry.names("evals")]}


def _component_options(key: str, given: Mapping[str, Any]) -> None:
    """Checks options of a component, chosen or not; raises UserError if wrong."""
    family, _, name = key.partition(".")
    if family not in registry.FAMILIES or not name:
        known = [*filter(None, SHARED), *(f"{f}.NAME" for f in registry.FAMILIES)]
        raise UserError(f"options[{key!r}]: no such section. Known: {', '.join(known)}")
    known = registry.options(registry.load(family, name))
    only_known(given, known, f"option of {key}")


def create(family: str, section: Mapping[str, Any], *args: Any) -> Any:
    """Calls the factory that a section names, with the section's options."""
    factory = registry.load(family, section["name"])
    chosen = {}
    for key in registry.options(factory):
        if key not in section:
            raise UserError(
                f"the config's {family} {section['name']!r} has no option {key!r}: "
                "another version of clipjax wrote it"
            )
        chosen[key] = section[key]
    return factory(*args, **chosen)
