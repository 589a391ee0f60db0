"""Hugging Face's SiglipModel: SigLIP, and SigLIP 2 of fixed resolution.

Both are "siglip" in a config.json; "siglip2" is NaFlex, whose images keep their aspect.
The text tower sees its padding and pools at the last position. Texts must therefore be
padded to the whole context, as our tokenizers do.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from clipjax.models import two_tower
from clipjax.models.image.vit import VisionTransformer
from clipjax.models.text.transformer import TextTransformer
from clipjax.types import UserError
from clipjax.weights.beside import preprocessing, tokenizer_choice
from clipjax.weights.beside.tokenizer_files import Ends
from clipjax.weights.export_limits import require, require_head, require_tower
from clipjax.weights.formats import hf_common
from clipjax.weights.model_description import Settings
from clipjax.weights.rename_table import (
    Rule,
    Table,
    dense,
    lead,
    norm,
    rename_rules,
    transpose,
)
from clipjax.weights.value_checks import check_sizes

FORMAT = "hf_siglip"

# Defaults of what a config.json may leave out, from SiglipTextConfig and
# SiglipVisionConfig.
TOWER = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
TEXT = TOWER | {"vocab_size": 32000, "max_position_embeddings": 64}
IMAGE = TOWER | {
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "vision_use_head": True,
}

HEAD_RULES = [
    Rule("probe", "probe", lead),
    Rule("attention.in_proj_weight", ("query/kernel", "key_value/kernel"), transpose),
    Rule("attention.in_proj_bias", ("query/bias", "key_value/bias")),
    *dense("attention.out_proj", "out"),
    *norm("layernorm", "norm"),
    *dense("mlp.fc1", "mlp/fc1"),
    *dense("mlp.fc2", "mlp/fc2"),
]


def recognise(config: Mapping[str, Any] | None, names: Any) -> bool:
    return config is not None and config.get("model_type") in ("siglip", "siglip2")


def settings(
    config: Mapping[str, Any], shapes: Mapping[str, Any], folder: pathlib.Path
) -> Settings:
    """The settings that a config.json and the files beside it describe.

    Raises UserError if our towers cannot be what it describes.
    """
    origin = str(folder / hf_common.CONFIG)
    if config["model_type"] == "siglip2":
        raise UserError(
            f"{origin}: model_type='siglip2' is NaFlex, whose grids vary with the "
            "image; clipjax reads the fixed-resolution models of SigLIP 2, whose "
            "model_type is 'siglip'"
        )
    text = hf_common.section(config, "text", TEXT)
    image = hf_common.section(config, "vision", IMAGE)
    size, width = image["image_size"], image["hidden_size"]
    image_origin, text_origin = f"{origin}: vision_config", f"{origin}: text_config"
    hf_common.check_channels(image, image_origin)
    check_sizes(text, hf_common.TEXT_SIZES, text_origin)
    if not image["vision_use_head"]:
        raise UserError(
            f"{origin}: vision_use_head=False: an image embedding needs the head"
        )
    defaults = {
        "size": {"height": size, "width": size},
        "image_mean": preprocessing.HALF,
        "image_std": preprocessing.HALF,
    }
    transform = preprocessing.of_hf_folder(folder, defaults, size)
    fixed = {"pool": "map", "pre_norm": False, "patch_bias": True}
    return Settings(
        format=FORMAT,
        image="vit",
        image_options=hf_common.image_options(image, image_origin, shapes) | fixed,
        text="transformer",
        text_options=hf_common.tower_options(text, text_origin, shapes)
        | {"causal": False, "masked": False, "pool": "last"},
        model_options={
            "embed_dim": width,
            "image_head": "none",
            "text_head": "affine",
            "logit_bias_init": -10.0,
            "mean": transform.mean,
            "std": transform.std,
        },
        image_size=size,
        context_length=text["max_position_embeddings"],
        vocab_size=text["vocab_size"],
        **transform.as_settings(),
        **tokenizer_choice.choose_siglip(folder),
    )


def table(model: two_tower.TwoTowerModel, layout: frozenset[str]) -> Table:
    """The rules for a model; this format does not use `layout`."""
    image, text = model.module.image, model.module.text
    rules = [
        Rule("logit_scale", "logit_scale", lead),
        Rule("logit_bias", "logit_bias", lead),
        Rule(
            "vision_model.embeddings.patch_embedding.bias", "image/patch_embedding/bias"
        ),
        *rename_rules(hf_common.IMAGE_RULES, "vision_model.", "image/"),
        *rename_rules(HEAD_RULES, "vision_model.head.", "image/map/"),
        *rename_rules(hf_common.TEXT_RULES, "text_model.", "text/"),
        *dense("text_model.head", "text_projection"),
        *hf_common.encoder("vision_model", "image", image.depth),
        *hf_common.encoder("text_model", "text", text.depth),
    ]
    return Table(FORMAT, tuple(rules), hf_common.IGNORED)


def config_json(model: two_tower.TwoTowerModel, ends: Ends) -> dict[str, Any]:
    """The config.json of a model.

    Raises UserError for an option that SiglipModel lacks.
    """
    target = "transformers' SiglipModel"
    module: Any = model.module
    image, text = module.image, module.text
    require_tower(image, VisionTransformer, "model.image", target)
    require_tower(text, TextTransformer, "model.text", target)
    require(image, "model.image", target, pool="map", pre_norm=False, patch_bias=True)
    require(image, "model.image", target, post_norm=False, positions="learned")
    require(text, "model.text", target, causal=False, masked=False, pool="last")
    require(text, "model.text", target, post_norm=False)
    require_head("image", module.heads[0], target, ("none",))
    require_head("text", module.heads[1], target, ("affine",))
    if module.logit_bias_init is None:
        raise UserError(
            f"model.logit_bias_init=None cannot be exported: {target} has a bias"
        )
    text_keys = {"model_type": "siglip_text_model", "projection_size": module.embed_dim}
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "text_config": hf_common.text_json(text, ends) | text_keys,
        "vision_config": hf_common.image_json(image)
        | {"model_type": "siglip_vision_model"},
    }
