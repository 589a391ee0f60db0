"""Shared by the formats of Hugging Face's transformers: towers, sizes, settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipjax.models.image.vit import VisionTransformer
from clipjax.models.text.transformer import TextTransformer
from clipjax.types import UserError
from clipjax.weights.beside.tokenizer_files import Ends
from clipjax.weights.rename_table import (
    Rule,
    dense,
    norm,
    patches,
    repeat_rules,
)
from clipjax.weights.tower_description import patch_options
from clipjax.weights.value_checks import check_depth, check_positive, check_sizes

CONFIG = "config.json"

# transformers' activations -> ours. The first name of each of ours is written.
ACTIVATIONS = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}

SIZES = ("hidden_size", "intermediate_size", "num_attention_heads")

DEPTH = "num_hidden_layers"

TEXT_SIZES = ("vocab_size", "max_position_embeddings")

# Buffers of position numbers, saved by older versions.
IGNORED = (r"(text|vision)_model\.embeddings\.position_ids",)


def encoder(theirs: str, ours: str, depth: int) -> list[Rule]:
    """The rules of a tower's blocks, in CLIP and SigLIP."""
    block = [
        *norm("layer_norm1", "norm_1"),
        *dense([f"self_attn.{part}_proj" for part in "qkv"], "attention/qkv"),
        *dense("self_attn.out_proj", "attention/out"),
        *norm("layer_norm2", "norm_2"),
        *dense("mlp.fc1", "mlp/fc1"),
        *dense("mlp.fc2", "mlp/fc2"),
    ]
    return repeat_rules(
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


def section(
    config: Mapping[str, Any], tower: str, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """A tower's settings, with defaults.

    Old files have them twice; "text_config_dict" takes precedence.
    """
    values = config.get(f"{tower}_config_dict") or config.get(f"{tower}_config") or {}
    return {**defaults, **values}


def image_options(
    image: Mapping[str, Any], origin: str, shapes: Mapping[str, Any]
) -> dict[str, Any]:
    """Options of vit for a vision_config of CLIP or SigLIP."""
    sizes = patch_options(image["patch_size"], image["image_size"])
    return tower_options(image, origin, shapes) | sizes


def tower_options(
    tower: Mapping[str, Any], origin: str, shapes: Mapping[str, Any]
) -> dict[str, Any]:
    """Options of a tower's transformer; shapes: those of the file's tensors.

    Raises UserError for an activation that clipjax lacks and for an invalid size.
    """
    check_sizes(tower, SIZES, origin)
    check_depth(tower, DEPTH, shapes, origin)
    check_positive(tower, ("layer_norm_eps",), origin)
    activation = tower["hidden_act"]
    if activation not in ACTIVATIONS:
        raise UserError(
            f"{origin}: hidden_act={activation!r}: clipjax has {', '.join(ACTIVATIONS)}"
        )
    return {
        "width": tower["hidden_size"],
        "depth": tower["num_hidden_layers"],
        "heads": tower["num_attention_heads"],
        "mlp_dim": tower["intermediate_size"],
        "norm_epsilon": tower["layer_norm_eps"],
        "activation": ACTIVATIONS[activation],
    }


def check_channels(image: Mapping[str, Any], origin: str) -> None:
    if image["num_channels"] != 3:
        raise UserError(f"{origin}: num_channels={image['num_channels']}: must be 3")
    for key in ("image_size", "patch_size"):
        if isinstance(image[key], list):
            raise UserError(f"{origin}: {key}={image[key]}: clipjax takes squares only")
        check_sizes(image, (key,), origin)


def text_json(tower: TextTransformer, ends: Ends) -> dict[str, Any]:
    """The keys that CLIP's and SigLIP's text_config share."""
    return _tower_json(tower) | {
        "vocab_size": tower.vocab_size,
        "max_position_embeddings": tower.context_length,
        "bos_token_id": ends.begin,
        "eos_token_id": ends.end,
        "pad_token_id": ends.pad,
    }


def image_json(tower: VisionTransformer) -> dict[str, Any]:
    """The keys that CLIP's and SigLIP's vision_config share."""
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
