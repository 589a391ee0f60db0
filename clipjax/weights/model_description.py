"""The description of a foreign model by names and options of a clipjax config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from clipjax import config, registry
from clipjax.models import two_tower
from clipjax.types import Config, UserError

STATE_PREPROCESS = (
    "Put the model's own file there, or state how it prepares images: preprocess=clip "
    "(resize, then crop), squash or openai in clipjax.load, --preprocess=NAME of "
    "evaluate and export, --config.model.preprocess=NAME of model=released"
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """A two-tower model as its files describe it.

    format: the files' format, "hf_clip" for example.
    image, text, preprocess, tokenizer: names of components, with the options that
      differ from their defaults. preprocess and tokenizer are empty if none fits;
      no_preprocess and no_tokenizer say why.
    end_id: the id at which the text tower pools, None if it pools elsewhere. Ours pools
      at a text's last token, which is the same if the tokenizer ends texts with that
      id; see `check_tokenizer`.
    pad_id: the id that the text tower takes for padding, None if it uses the
      tokenizer's mask.
    layout: variations of the file's tensors that the model does not imply, for the
      format's table.
    """

    format: str
    image: str
    image_options: Mapping[str, Any]
    text: str
    text_options: Mapping[str, Any]
    model_options: Mapping[str, Any]
    image_size: int
    context_length: int
    vocab_size: int
    end_id: int | None = None
    pad_id: int | None = None
    layout: frozenset[str] = frozenset()
    preprocess: str = "clip"
    preprocess_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    no_preprocess: str = ""
    tokenizer: str = ""
    tokenizer_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    no_tokenizer: str = ""


def build(settings: Settings) -> two_tower.TwoTowerModel:
    """The model; raises UserError if our towers have no such sizes."""
    make_image = registry.load("image", settings.image)
    image = make_image(settings.image_size, **settings.image_options)
    make_text = registry.load("text", settings.text)
    text = make_text(
        settings.vocab_size, settings.context_length, **settings.text_options
    )
    return two_tower.make(image, text, **settings.model_options)


def stated(settings: Settings, name: str, origin: str) -> Settings:
    """The settings with a component of `preprocess` that the user names, if any.

    Mean and std stay those of the model's files, or of its kind.

    Raises UserError for an unknown name, and for one that contradicts the files.
    """
    if not name:
        return settings
    registry.load("preprocess", name)
    if settings.preprocess and settings.preprocess != name:
        raise UserError(
            f"preprocess={name}: {origin} says preprocess={settings.preprocess}: "
            "leave it out"
        )
    return dataclasses.replace(settings, preprocess=name, no_preprocess="")


def to_config(settings: Settings, origin: str) -> Config:
    """The config of a run with this model; training length and data are not yet set.

    origin: the model's name or path, for the message.

    Raises UserError if no tokenizer or image transform of ours fits.
    """
    problems = []
    if not settings.preprocess:
        problems.append(f"{settings.no_preprocess}. {STATE_PREPROCESS}")
    if not settings.tokenizer:
        problems.append(f"{origin}: {settings.no_tokenizer}")
    if problems:
        raise UserError("; ".join(problems))
    return config.base(
        None,
        model="two_tower",
        image=settings.image,
        text=settings.text,
        preprocess=settings.preprocess,
        tokenizer=settings.tokenizer,
        options={
            "model=two_tower": settings.model_options,
            f"model.image={settings.image}": settings.image_options,
            f"model.text={settings.text}": settings.text_options,
            f"data.preprocess={settings.preprocess}": settings.preprocess_options,
            f"data.tokenizer={settings.tokenizer}": _tokenizer_options(settings),
            "data": {"image_size": settings.image_size},
        },
    )


def section(settings: Settings, family: str) -> dict[str, Any]:
    """The config's section for the "preprocess" or "tokenizer" family, {} for none."""
    name, options = settings.preprocess, settings.preprocess_options
    if family == "tokenizer":
        name, options = settings.tokenizer, _tokenizer_options(settings)
    if not name:
        return {}
    known = registry.options(registry.load(family, name))
    values = {key: options.get(key, option.default) for key, option in known.items()}
    return {"name": name, **values}


def _tokenizer_options(settings: Settings) -> dict[str, Any]:
    return {"context_length": settings.context_length, **settings.tokenizer_options}


def check_tokenizer(settings: Settings, tokenizer: Any, origin: str) -> None:
    """Raises UserError if a tokenizer does not match this model.

    A tokenizer may have fewer ids than the model, not more. It must end texts with the
    token at which the model pools, and use the model's padding token for padding only.
    """
    if tokenizer.vocab_size > settings.vocab_size:
        raise UserError(
            f"{origin}: its tokenizer {settings.tokenizer} has {tokenizer.vocab_size} "
            f"ids and its text tower {settings.vocab_size}: they do not match"
        )
    ids, mask = tokenizer(["a"])
    if settings.pad_id is not None and ((ids != settings.pad_id) != mask).any():
        raise UserError(
            f"{origin}: its text tower hides token {settings.pad_id} as padding and "
            f"its tokenizer {settings.tokenizer} pads with {tokenizer.pad_id}, or has "
            "that token in texts: they do not match"
        )
    if settings.end_id is None:
        return
    last = int(ids[0, mask[0].sum() - 1])
    if last != settings.end_id:
        raise UserError(
            f"{origin}: its text tower pools at token {settings.end_id} and its "
            f"tokenizer {settings.tokenizer} ends texts with {last}: they do not "
            "match"
        )
