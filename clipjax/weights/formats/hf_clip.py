"""Hugging Face's CLIPModel: its config.json and tensors (huggingface/transformers).

CLIPModel pools a text at its first `eos_token_id`, or, if the config says 2 as the
first ones published did, at its largest id. We pool at the last token under the mask:
the same if a tokenizer ends texts with that id and with no other of it inside, as
CLIP's does.
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
from clipjax.weights.model_description import Settings
from clipjax.weights.rename_table import (
    Rule,
    Table,
    dense,
    norm,
    patches,
    renamed,
    repeated,
    transpose,
)
from clipjax.weights.tower_description import patch_options
from clipjax.weights.value_checks import check_depth, check_positive, check_sizes

FORMAT = "hf_clip"
CONFIG = "config.json"
# Activations by their names there; the first of each of ours is the one written.
ACTIVATIONS = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
LEGACY_END = 2
SIZES = ("hidden_size", "intermediate_size", "num_attention_heads")
DEPTH = "num_hidden_layers"
TEXT_SIZES = ("vocab_size", "max_position_embeddings")

# What a config.json may leave out, as CLIPTextConfig and CLIPVisionConfig have it.
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

# Buffers of position numbers, which older versions saved.
IGNORED = (r"(text|vision)_model\.embeddings\.position_ids",)


def encoder(theirs: str, ours: str, depth: int) -> list[Rule]:
    """The blocks of either tower, of CLIP and SigLIP."""
    block = [
        *norm("layer_norm1", "norm_1"),
        *dense([f"self_attn.{part}_proj" for part in "qkv"], "attention/qkv"),
        *dense("self_attn.out_proj", "attention/out"),
        *norm("layer_norm2", "norm_2"),
        *dense("mlp.fc1", "mlp/fc1"),
        *dense("mlp.fc2", "mlp/fc2"),
    ]
    return repeated(
        block,
        depth,
        f"{theirs}.encoder.layers.{{i}}.",
        f"{ours}/transformer/block_{{i}}/",
    )


TEXT_RULES = [
    Rule("embeddings.token_embedding.weight", "token_embedding"),
    Rule("embeddings.position_embedding.weight", "positions"),
    *norm("final_layer_norm", "post_norm"),
]
IMAGE_RULES = [
    Rule("embeddings.patch_embedding.weight", "patch_embedding/kernel", patches),
    Rule("embeddings.position_embedding.weight", "positions"),
    *norm("post_layernorm", "post_norm"),
]


def recognise(config: Mapping[str, Any] | None, names: Any) -> bool:
    return config is not None and config.get("model_type") == "clip"


def settings(
    config: Mapping[str, Any], shapes: Mapping[str, Any], folder: pathlib.Path
) -> Settings:
    """The settings that a config.json, and the files beside it, describe.

    Raises UserError if it describes what our towers cannot be.
    """
    place = str(folder / CONFIG)
    text = section(config, "text", TEXT)
    image = section(config, "vision", IMAGE)
    size = image["image_size"]
    image_place, text_place = f"{place}: vision_config", f"{place}: text_config"
    check_channels(image, image_place)
    check_sizes(text, TEXT_SIZES, text_place)
    check_sizes(text, ("eos_token_id",), text_place, least=0)
    joint = {"projection_dim": 512, **config}
    check_sizes(joint, ("projection_dim",), place)
    end = text["eos_token_id"]
    given, file = preprocessing.read_hf(folder)
    usual = {"size": {"shortest_edge": size}, "crop_size": size}
    seen = preprocessing.from_hf(PREPROCESSING | usual | given, size, file)
    return Settings(
        format=FORMAT,
        image="vit",
        image_options=image_options(image, image_place, shapes),
        text="transformer",
        text_options=tower_options(text, text_place, shapes),
        model_options={
            "embed_dim": joint["projection_dim"],
            "mean": seen.mean,
            "std": seen.std,
        },
        image_size=size,
        context_length=text["max_position_embeddings"],
        vocab_size=text["vocab_size"],
        end_id=text["vocab_size"] - 1 if end == LEGACY_END else end,
        **seen.words(),
        **tokenizer_choice.choose_clip(folder, text["vocab_size"]),
    )


def section(
    config: Mapping[str, Any], tower: str, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a tower, with defaults.

    Old files have them twice; "text_config_dict" counts if it is there.
    """
    given = config.get(f"{tower}_config_dict") or config.get(f"{tower}_config") or {}
    return {**defaults, **given}


def image_options(
    image: Mapping[str, Any], place: str, shapes: Mapping[str, Any]
) -> dict[str, Any]:
    """Options of vit that CLIP's and SigLIP's vision_config share."""
    sizes = patch_options(image["patch_size"], image["image_size"])
    return tower_options(image, place, shapes) | sizes


def tower_options(
    tower: Mapping[str, Any], place: str, shapes: Mapping[str, Any]
) -> dict[str, Any]:
    """Options of a tower's transformer, whose file has tensors of these shapes.

    Raises UserError for an activation that we lack, and for what is no size.
    """
    check_sizes(tower, SIZES, place)
    check_depth(tower, DEPTH, shapes, place)
    check_positive(tower, ("layer_norm_eps",), place)
    activation = tower["hidden_act"]
    if activation not in ACTIVATIONS:
        raise UserError(
            f"{place}: hidden_act={activation!r}: clipjax has {', '.join(ACTIVATIONS)}"
        )
    return {
        "width": tower["hidden_size"],
        "depth": tower["num_hidden_layers"],
        "heads": tower["num_attention_heads"],
        "mlp_dim": tower["intermediate_size"],
        "norm_epsilon": tower["layer_norm_eps"],
        "activation": ACTIVATIONS[activation],
    }


def check_channels(image: Mapping[str, Any], place: str) -> None:
    if image["num_channels"] != 3:
        raise UserError(f"{place}: num_channels={image['num_channels']}: must be 3")
    for key in ("image_size", "patch_size"):
        if isinstance(image[key], list):
            raise UserError(f"{place}: {key}={image[key]}: clipjax takes squares only")
        check_sizes(image, (key,), place)


def table(model: two_tower.TwoTowerModel, layout: frozenset[str]) -> Table:
    """The rules for a model of these settings; `layout` has no meaning here."""
    image, text = model.module.image, model.module.text
    rules = [
        Rule("logit_scale", "logit_scale"),
        Rule("visual_projection.weight", "image_projection/kernel", transpose),
        Rule("text_projection.weight", "text_projection/kernel", transpose),
        Rule("vision_model.embeddings.class_embedding", "image/class_token"),
        *norm("vision_model.pre_layrnorm", "image/pre_norm"),  # their spelling
        *renamed(IMAGE_RULES, "vision_model.", "image/"),
        *renamed(TEXT_RULES, "text_model.", "text/"),
        *encoder("vision_model", "image", image.depth),
        *encoder("text_model", "text", text.depth),
    ]
    return Table(FORMAT, tuple(rules), IGNORED)


def config_json(model: two_tower.TwoTowerModel, ends: Ends) -> dict[str, Any]:
    """The config.json of a model.

    Raises UserError for what CLIPModel cannot be.
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
            f"data.tokenizer: texts end with token {LEGACY_END}, which {target} takes "
            "for a mark of old files: it cannot be exported"
        )
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": module.embed_dim,
        "text_config": text_json(text, ends) | {"model_type": "clip_text_model"},
        "vision_config": image_json(image) | {"model_type": "clip_vision_model"},
    }


def text_json(tower: TextTransformer, ends: Ends) -> dict[str, Any]:
    """What CLIP's and SigLIP's text_config share."""
    return _tower_json(tower) | {
        "vocab_size": tower.vocab_size,
        "max_position_embeddings": tower.context_length,
        "bos_token_id": ends.begin,
        "eos_token_id": ends.end,
        "pad_token_id": ends.pad,
    }


def image_json(tower: VisionTransformer) -> dict[str, Any]:
    """What CLIP's and SigLIP's vision_config share."""
    sizes = {"image_size": tower.image_size, "patch_size": tower.patch}
    return _tower_json(tower) | sizes


def _tower_json(tower: Any) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    return {
        "hidden_size": tower.width,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.heads,
        "intermediate_size": tower.hidden,
        "hidden_act": names[tower.activation],
        "layer_norm_eps": tower.norm_epsilon,
    }
