"""`model=released`: a released model's settings in place of a config's own.

    made = load_file("FILE.py:model=released")
    begin(made, "clip-vit-base-patch32/", workdir)    # flags can now name its options
    before = made.copy_and_resolve_references()
    ...                                               # flags are set
    config = settle(made, before)                     # an ordinary config

A run keeps the ordinary config, and starts from the weights by `init_from`. So what
resumes or loads it needs the released model no more.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping

from ml_collections import ConfigDict

from clipjax import config_check, config_parts, registry
from clipjax.config import create
from clipjax.engine import resume
from clipjax.engine.checkpoint.step_folder import Store
from clipjax.models.common import meaning
from clipjax.types import Config, Model, UserError
from clipjax.weights import model_description, read_model

NAME, PLAIN = "released", "two_tower"
KEY, PREPROCESS_KEY = "model.path", "model.preprocess"
# Words after the colon that the model answers itself, and the sections they choose.
WORDS = {
    "image": "model.image",
    "text": "model.text",
    "tokenizer": "data.tokenizer",
    "preprocess": "data.preprocess",
}
OWN = ("tokenizer", "preprocess", "image_size")  # keys of `data`
VOCAB = 1000  # of models that are only compared

logger = logging.getLogger(__name__)


def begin(
    config: Config,
    path: str,
    workdir: pathlib.Path,
    words: Mapping[str, str] | None = None,
    preprocess: str = "",
) -> None:
    """Replaces a config's settings by the released model's, in place.

    If the model cannot be read, a run in workdir that started from it and has a
    checkpoint gives them.

    path: the released model. words: what was said after the colon of --config.
    preprocess: how the model prepares images if its files do not say so.

    Raises UserError if there is no such model, it lacks a tokenizer or preprocessing
    that clipjax has, or a word contradicts it.
    """
    if not path:
        raise UserError(
            f"model={NAME}: name the model by --config.{KEY}=MODEL: a folder, a file, "
            "or hf-hub:ORG/NAME"
        )
    theirs = _theirs(path, preprocess, workdir)
    model = ConfigDict(theirs.model.to_dict())
    model.name, model.path, model.preprocess = NAME, path, preprocess
    for _, section, _ in config_parts.losses(config):
        wanted = registry.module_of(
            registry.load("loss", section.name), "MODEL_OPTIONS"
        )
        for key, value in (wanted or {}).items():
            if key in model and model.get(key) is None:
                model[key] = value
    with config.unlocked():
        config.model = model
        for key in OWN:
            section = theirs.data[key]
            copied = section if key == "image_size" else ConfigDict(section.to_dict())
            config.data[key] = copied
    for word, section in WORDS.items():
        chosen = config_parts.section_at(config, section).name
        if words and words.get(word, chosen) != chosen:
            raise UserError(
                f"{word}={words[word]}: {path} has {word}={chosen}, and model={NAME} "
                "takes the whole model: leave it out"
            )


def settle(config: Config, before: Config | None = None) -> Config:
    """The config of `begin` as one of two towers that starts from the model's weights.

    before: as `begin` left it, before flags were set; None: no flags.

    Raises UserError for every flag that contradicts the model.
    """
    path = config.model.path
    for key in ("init_from", "init_image_from", "init_text_from"):
        if config[key] not in ("", path):
            raise UserError(
                f"{key}={config[key]}: model={NAME} starts from {path}: leave one out"
            )
    if before is not None:
        _check_flags(config, before)
    settled = config.copy_and_resolve_references()
    with settled.unlocked():
        settled.init_from = path
        settled.model.name = PLAIN
        del settled.model["path"], settled.model["preprocess"]
    return settled.lock()


def with_released_settings(config: Config, workdir: pathlib.Path) -> Config:
    """A config as it is, or with a released model's settings if it asks for them."""
    if config.model.get("name") != NAME:
        return config
    made = config.copy_and_resolve_references()
    begin(made, made.model.path, workdir, preprocess=made.model.preprocess)
    return settle(made)


def build_model(config: Config) -> Model:
    """A config's model, with a vocabulary of VOCAB: its settings can be compared."""
    model: Config = ConfigDict(config.model.to_dict())
    model.name = PLAIN if model.name == NAME else model.name
    towers = []
    if "image" in model:
        towers.append(create("image", model.image, config.data.image_size))
    if "text" in model:
        length = config.data.tokenizer.context_length
        towers.append(create("text", model.text, VOCAB, length))
    return create("model", model, *towers)


def _theirs(path: str, preprocess: str, workdir: pathlib.Path) -> Config:
    """The model's own settings; a run's that started from it, if it is gone."""
    try:
        return _read(path, preprocess)
    except UserError as error:
        kept = _kept(path, workdir)
        if kept is None:
            raise
        logger.warning(
            "the settings of %s are those that the run saved, with what flags then set "
            "for training, because it cannot be read: %s",
            path,
            error,
        )
        return kept


def _kept(path: str, workdir: pathlib.Path) -> Config | None:
    """The config of a run in workdir that goes on and started from the same model."""
    if not (workdir / "config.json").exists():
        return None
    if not Store(workdir, lambda _: None).candidates():
        return None
    saved = resume.load_config(workdir)
    return saved if saved.init_from == path else None


def _read(path: str, preprocess: str) -> Config:
    if not read_model.is_foreign(path):
        known = pathlib.Path(path).exists()
        raise UserError(
            f"--config.{KEY}={path}: "
            + (
                "this is no released model; start from a run by --config.init_from"
                if known
                else "there is no such folder or file"
            )
        )
    description = model_description.stated(read_model.describe(path), preprocess, path)
    config = model_description.to_config(description, path)
    tokenizer = create("tokenizer", config.data.tokenizer, None, None)
    model_description.check_tokenizer(description, tokenizer, path)
    return config


def _check_flags(config: Config, before: Config) -> None:
    """Raises UserError for values that were changed and change what weights mean."""
    old, new = config_check.flat(before), config_check.flat(config)
    sections = ("model.", "data.tokenizer.", "data.preprocess.")
    changed = {
        key: value
        for key, value in old.items()
        if (key.startswith(sections) or key == "data.image_size") and new[key] != value
    }
    theirs = build_model(before)
    wrong = [
        f"--config.{key}={new[key]} (it has {value})"
        for key, value in changed.items()
        if not key.startswith("model.")
        or key in (KEY, "model.mean", "model.std")
        or any(meaning.differences(build_model(_with(before, key, config)), theirs))
    ]
    if wrong:
        raise UserError(
            f"model={NAME} takes {before.model.path} as it is: leave out "
            f"{', '.join(wrong)}; another architecture or size can start from it by "
            f"--config.init_from={before.model.path}"
        )


def _with(config: Config, key: str, other: Config) -> Config:
    """The config with one value of another."""
    changed = config.copy_and_resolve_references()
    place, _, name = key.rpartition(".")
    with changed.unlocked():
        config_parts.section_at(changed, place)[name] = config_parts.section_at(
            other, place
        )[name]
    return changed
