"""Configs to JSON and back, checked before a run, and compared for a resume."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from clipjax import config_limits, config_parts, registry
from clipjax.config_addresses import argument_word
from clipjax.config_keys import SHARED
from clipjax.config_parts import labels, losses
from clipjax.config_sections import field
from clipjax.types import Config, UserError

# Keys that may change when a run resumes without changing its result, except for the
# rounding of another device layout.
HOW_KEYS = (
    r"data\.(workers|threads|timeout)",
    r"data\.tokenizer\.(path|vocab)",  # the run stores their content
    r"data\.eval\..*",
    r"(log|mesh|checkpoint|early_stop|evals)\..*",
    r"train\.(eval_every|eval_ema|val_batches|max_bad_steps)",
    r"loss\.(\w+\.)?block",
)
LENGTH_KEYS = ("train.steps", "train.epochs")


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted path -> JSON value of every leaf, after a JSON round trip."""
    resolved: Any = config
    if isinstance(config, ConfigDict):
        resolved = resolved.copy_and_resolve_references().to_dict()
    leaves: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(f"{prefix}.{key}" if prefix else key, value)
        else:
            leaves[prefix] = node

    walk("", json.loads(json.dumps(resolved)))
    return leaves


def to_dict(config: Config) -> dict[str, Any]:
    """The resolved config as plain JSON values, to be saved with the run."""
    plain = config.copy_and_resolve_references().to_dict()
    return json.loads(json.dumps(plain))


# What a component did before it had an option whose default does something else.
UNTIL_ADDED = {
    ("data", "imagefolder", "class_names"): "raw",
    ("data", "tfds", "class_names"): "raw",
    ("optim", "muon", "flatten"): False,
}


def from_dict(saved: Mapping[str, Any]) -> Config:
    """A saved config as a ConfigDict, with its lists as tuples.

    Keys and options that are newer than the file get their defaults, which do not
    change a run, or what UNTIL_ADDED says.

    Raises UserError if it names an unknown component.
    """

    def convert(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: convert(value) for key, value in node.items()}
        if isinstance(node, list):
            return tuple(convert(value) for value in node)
        return node

    config: Any = ConfigDict(convert(dict(saved)))
    for name, keys in SHARED.items():
        if name:
            config[name] = config.get(name, ConfigDict())
        section = config[name] if name else config
        for key, value in keys.items():
            section[key] = section.get(key, value)
    for family, section, path in config_parts.sections(config):
        factory = registry.load(family, section.name)
        for key, option in registry.options(factory).items():
            before = UNTIL_ADDED.get((family, section.name, key), option.default)
            value = section.get(key, before)
            if key in section:
                del section[key]
            section[key] = field(value, option.annotation, f"{path}.{key}")
    return config.lock()


def differences(saved: Mapping[str, Any], config: Config) -> dict[str, tuple]:
    """Keys that change results and differ: path -> (saved value, config's value)."""
    return {
        path: values
        for path, values in changes(saved, config).items()
        if not any(re.fullmatch(pattern, path) for pattern in HOW_KEYS)
    }


def changes(
    before: Mapping[str, Any] | Config, after: Mapping[str, Any] | Config
) -> dict[str, tuple]:
    """All keys that differ: path -> (value before, value after)."""
    old, new = flat(before), flat(after)
    absent = "(absent)"
    return {
        path: (old.get(path, absent), new.get(path, absent))
        for path in sorted({*old, *new})
        if old.get(path, absent) != new.get(path, absent)
    }


def validate(config: Config, chosen: Config | None = None) -> None:
    """Checks a config's values before any device work.

    chosen: the same config before dotted flags, to refuse a component chosen by flag.
    Raises UserError with one line naming the key and the fix.
    """
    if chosen is not None:
        values = flat(config)
        for path, before in flat(chosen).items():
            if path.endswith(".name") and values[path] != before:
                kind = argument_word(path.removesuffix(".name"))
                raise UserError(
                    f"--config.{path}={values[path]}: components are chosen after the "
                    f"colon: --config FILE.py:{kind}={values[path]}"
                )
    config_parts.check(config)
    values = flat(config)
    config_limits.check(values)
    steps, epochs = values["train.steps"], values["train.epochs"]
    if (steps > 0) == (epochs > 0):
        raise UserError(
            f"train.steps={steps}, train.epochs={epochs}: set one of the two above 0 "
            "and leave the other at 0"
        )
    if not 0 <= values["train.ema"] < 1:
        raise UserError(f"train.ema={values['train.ema']}: must be in [0, 1)")
    limit = values["train.max_logit_scale"]
    if 0 < limit < 1:
        raise UserError(
            f"train.max_logit_scale={limit}: must be at least 1, or 0 for no limits"
        )
    if values["data.mixup"] + values["data.cutmix"] > 1:
        raise UserError(
            f"data.mixup={values['data.mixup']}, data.cutmix={values['data.cutmix']}: "
            "shares of the examples, together 1 at most"
        )
    for path in ("data.mixup_alpha", "data.cutmix_alpha"):
        if values[path] <= 0:
            raise UserError(f"{path}={values[path]}: must be above 0")
    for _, section, path in losses(config):
        weight = section.get("weight", 1.0)
        if not isinstance(weight, int | float) or weight < 0:
            raise UserError(f"{path}.weight={weight}: must be a number, 0 or more")
    if not any(section.get("weight", 1.0) for _, section, _ in losses(config)):
        raise UserError("loss: all weights are 0; set one of them above 0")
    if values["mesh.data"] == 0:
        raise UserError(f"mesh.data={values['mesh.data']}: must be -1 or at least 1")
    _check_metrics(config, values)
    if not 0 < values["optim.layer_decay"] <= 1:
        raise UserError(
            f"optim.layer_decay={values['optim.layer_decay']}: must be above 0, 1 at "
            "most; freeze by optim.groups"
        )
    for rule in config.optim.groups:
        _check_group(rule)
    _check_pattern("lora.on", values["lora.on"])
    _check_pattern("optim.no_decay", values["optim.no_decay"])
    for key in ("by_adam", "stacked"):
        _check_pattern(f"optim.{key}", values.get(f"optim.{key}", ""))


def _check_metrics(config: Config, values: Mapping[str, Any]) -> None:
    """What is said of metrics, as far as the config alone tells."""
    known = ["val_loss"] * (values["train.val_batches"] > 0)
    evaluators = labels(config.evals, "evals")
    listing = " or ".join([*known, *(f"{label}/METRIC" for label in evaluators)])
    for path in ("checkpoint.best", "early_stop.metric"):
        name = values[path]
        if not name or name in known or name.partition("/")[0] in evaluators:
            continue
        listing = listing or "empty: the run has no evaluators and no validation loss"
        raise UserError(f"{path}={name!r}: must be {listing}")
    patience, threshold = values["early_stop.patience"], values["early_stop.threshold"]
    if not patience:
        for key in ("min_delta", *["metric"] * (not threshold)):
            if value := values[f"early_stop.{key}"]:
                raise UserError(
                    f"early_stop.{key}={value!r} and early_stop.patience=0 end no run: "
                    "set early_stop.patience to the evaluations without a better value "
                    "that end it" + " or early_stop.threshold" * (key == "metric")
                )
        if not threshold:
            return
    if not listing:
        raise UserError(
            "early_stop: the run has no evaluators and no validation loss to go by: "
            "choose evals=, or set train.val_batches"
        )
    if not values["train.eval_every"]:
        raise UserError(
            "early_stop: with train.eval_every=0 the run is evaluated only at its end: "
            "set the steps between evaluations"
        )


def _check_group(rule: Any) -> None:
    form = "(pattern, lr factor, weight decay factor), e.g. ('^image/', 0.1, 1.0)"
    if not isinstance(rule, tuple) or len(rule) != 3:
        raise UserError(f"optim.groups: {rule!r} is not of the form {form}")
    pattern, *factors = rule
    _check_pattern("optim.groups", pattern)
    for factor in factors:
        if not isinstance(factor, int | float) or factor < 0:
            raise UserError(f"optim.groups: {rule!r} is not of the form {form}")


def _check_pattern(path: str, pattern: Any) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path}: {registry.short_repr(pattern)} is not a regular expression: "
            f"{error}"
        ) from error
