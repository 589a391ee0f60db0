"""Hugging Face's CLIPModel: its config.json and tensors (huggingface/transformers).

CLIPModel pools a text at its first `eos_token_id`. If the config says 2, as the first
published ones did, it pools at the largest id. We pool at the last token under the
mask. Both are equal if the tokenizer ends texts with that id and puts it nowhere else,
as CLIP's does.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from clipjax.models import two_tower
from clipjax.models.common import layers
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
    norm,
    rename_rules,
    transpose,
)
from clipjax.weights.value_checks import check_sizes

FORMAT = "hf_clip"
LEGACY_END = 2

# Defaults of what a config.json may leave out, from CLIPTextConfig and
# CLIPVisionConfig.
TOWER = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
TEXT = TOWER | {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
IMAGE = TOWER | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
}
PREPROCESSING = {
    "size": {"shortest_edge": 224},
    "crop_size": 224,
    "image_mean": layers.MEAN,
    "image_std": layers.STD,
}


def recognise(config: Mapping[str, Any] | None, names: Any) -> bool:
    return config is not None and config.get("model_type") == "clip"


def settings(
    config: Mapping[str, Any], shapes: Mapping[str, Any], folder: pathlib.Path
) -> Settings:
    """The settings that a config.json and the files beside it describe.

    Raises UserError if our towers cannot be what it describes.
    """
    origin = str(folder / hf_common.CONFIG)
    text = hf_common.section(config, "text", TEXT)
    image = hf_common.section(config, "vision", IMAGE)
    size = image["image_size"]
    image_origin, text_origin = f"{origin}: vision_config", f"{origin}: text_config"
    hf_common.check_channels(image, image_origin)
    check_sizes(text, hf_common.TEXT_SIZES, text_origin)
    check_sizes(text, ("eos_token_id",), text_origin, least=0)
    joint = {"projection_dim": 512, **config}
    check_sizes(joint, ("projection_dim",), origin)
    end = text["eos_token_id"]
    sizes = {"size": {"shortest_edge": size}, "crop_size": size}
    transform = preprocessing.of_hf_folder(folder, PREPROCESSING | sizes, size)
    return Settings(
        format=FORMAT,
        image="vit",
        image_options=hf_common.image_options(image, image_origin, shapes),
        text="transformer",
        text_options=hf_common.tower_options(text, text_origin, shapes),
        model_options={
            "embed_dim": joint["projection_dim"],
            "mean": transform.mean,
            "std": transform.std,
        },
        image_size=size,
        context_length=text["max_position_embeddings"],
        vocab_size=text["vocab_size"],
        end_id=text["vocab_size"] - 1 if end == LEGACY_END else end,
        **transform.as_settings(),
        **tokenizer_choice.choose_clip(folder, text["vocab_size"]),
    )


def table(model: two_tower.TwoTowerModel, layout: frozenset[str]) -> Table:
    """The rules for a model; this format does not use `layout`."""
    image, text = model.module.image, model.module.text
    rules = [
        Rule("logit_scale", "logit_scale"),
        Rule("visual_projection.weight", "image_projection/kernel", transpose),
        Rule("text_projection.weight", "text_projection/kernel", transpose),
        Rule("vision_model.embeddings.class_embedding", "image/class_token"),
        *norm("vision_model.pre_layrnorm", "image/pre_norm"),  # their spelling
        *rename_rules(hf_common.IMAGE_RULES, "vision_model.", "image/"),
        *rename_rules(hf_common.TEXT_RULES, "text_model.", "text/"),
        *hf_common.encoder("vision_model", "image", image.depth),
        *hf_common.encoder("text_model", "text", text.depth),
    ]
    return Table(FORMAT, tuple(rules), hf_common.IGNORED)


def config_json(model: two_tower.TwoTowerModel, ends: Ends) -> dict[str, Any]:
    """The config.json of a model.

    Raises UserError for an option that CLIPModel lacks.
    """
    target = "transformers' CLIPModel"
    module: Any = model.module
    image, text = module.image, module.text
    require_tower(image, VisionTransformer, "model.image", target)
    require_tower(text, TextTransformer, "model.text", target)
    require(image, "model.image", target, pool="cls", pre_norm=True, patch_bias=False)
    require(image, "model.image", target, post_norm=False, positions="learned")
    require(text, "model.text", target, causal=True, pool="eot", post_norm=False)
    require(module, "model", target, logit_bias_init=None)
    for side, kind in zip(("image", "text"), module.heads, strict=True):
        require_head(side, kind, target, ("linear",))
    if ends.end == LEGACY_END:
        raise UserError(
            f"data.tokenizer: texts end with token {LEGACY_END}, which marks old "
            f"files in {target}: it cannot be exported"
        )
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": module.embed_dim,
        "text_config": hf_common.text_json(text, ends)
        | {"model_type": "clip_text_model"},
        "vision_config": hf_common.image_json(image)
        | {"model_type": "clip_vision_model"},
    }
