"""SigLIP and similar models of big_vision: both towers in one .npz.

Source: google-research/big_vision, models/proj/image_text/two_towers.py. The .npz has
no tokenizer: put spiece.model (or SigLIP 2's tokenizer.json) in its folder.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.models import two_tower
from clipjax.types import UserError
from clipjax.weights.beside import preprocessing, tokenizer_choice
from clipjax.weights.formats import big_vision
from clipjax.weights.model_description import Settings
from clipjax.weights.rename_table import Rule, Table, lead, rename_rules

FORMAT = "big_vision_siglip"
IMAGE, TEXT = "params/img/", "params/txt/"
# Marks the layouts of the text tower; layouts without it are the image tower's.
TEXT_LAYOUT = "text_"


def recognise(config: Mapping[str, Any] | None, names: Any) -> bool:
    return (
        config is None
        and f"{IMAGE}embedding/kernel" in names
        and any(name.startswith(TEXT) for name in names)
    )


def settings_of_file(tensors: Mapping[str, np.ndarray], origin: str) -> Settings:
    """The settings that follow from a file's shapes.

    Raises UserError if our towers cannot have these shapes.
    """
    shapes = {name: array.shape for name, array in tensors.items()}
    folder = pathlib.Path(origin).parent
    image = big_vision.image_settings(None, shapes, folder, origin)
    text = big_vision.text_settings(None, shapes, folder, origin)
    image_head = "affine" if f"{IMAGE}head/bias" in shapes else "none"
    text_head = "affine" if f"{TEXT}head/bias" in shapes else "none"
    (embed_dim,) = shapes.get(f"{TEXT}head/bias", (text.options["width"],))
    if "params/t" not in shapes:
        raise UserError(
            f"{origin} lacks params/t, the temperature of a two-tower model"
        )
    bias = {"logit_bias_init": -10.0} if "params/b" in shapes else {}
    return Settings(
        format=FORMAT,
        image=image.component,
        image_options=image.options,
        text=text.component,
        text_options=text.options,
        model_options={
            "embed_dim": embed_dim,
            "image_head": image_head,
            "text_head": text_head,
            "mean": preprocessing.HALF,
            "std": preprocessing.HALF,
            **bias,
        },
        image_size=image.size,
        context_length=text.size,
        vocab_size=text.vocab_size,
        layout=image.layout | {TEXT_LAYOUT + name for name in text.layout},
        preprocess="squash",
        **tokenizer_choice.choose_siglip(folder),
    )


def table(model: two_tower.TwoTowerModel, layout: frozenset[str]) -> Table:
    """The rules for a model and a file of this layout."""
    module: Any = model.module
    text_layout = {
        name.removeprefix(TEXT_LAYOUT)
        for name in layout
        if name.startswith(TEXT_LAYOUT)
    }
    # The parameter t is the logarithm of the inverse temperature, as is ours.
    rules = [Rule("params/t", "logit_scale", lead)]
    if module.logit_bias_init is not None:
        rules.append(Rule("params/b", "logit_bias", lead))
    for prefix, side, kind in zip(
        (IMAGE, TEXT), ("image", "text"), module.heads, strict=True
    ):
        if kind == "affine":
            rules += big_vision.pair(f"{prefix}head", f"{side}_projection")
    rules += rename_rules(big_vision.image_rules(module.image, layout), IMAGE, "image/")
    rules += rename_rules(
        big_vision.text_rules(module.text, frozenset(text_layout)), TEXT, "text/"
    )
    return Table(FORMAT, tuple(rules), big_vision.IGNORED)
