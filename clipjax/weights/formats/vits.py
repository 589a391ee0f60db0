"""Vision transformers of timm, Hugging Face (ViTModel) and torchvision.

Source: huggingface/pytorch-image-models, huggingface/transformers, pytorch/vision.
Files with registers, layer scales, rotary positions and the like are refused by name,
because no rule takes their tensors.
"""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.models.image.vit import VisionTransformer
from clipjax.types import UserError
from clipjax.weights.formats import hf_clip, hf_common
from clipjax.weights.rename_table import (
    Change,
    Rule,
    dense,
    lead,
    norm,
    patches,
    rename_rules,
    repeat_rules,
    transpose,
)
from clipjax.weights.tower_description import (
    HALVES,
    IMAGENET,
    QKV,
    Shapes,
    TowerFormat,
    TowerSettings,
    classes,
    count,
    hf_normalisation,
    prefix_of,
    shape_of,
    side_of_square,
    timm_normalisation,
)
from clipjax.weights.value_checks import check_sizes

# The layout of files whose class token has no position. Ours has one, read as zero; see
# read_tower.to_tensors for the way back.
BARE_CLASS = "bare_class"

# Width -> heads of the published sizes, used if no config gives the heads.
HEADS = {192: 3, 256: 4, 384: 6, 512: 8, 640: 10, 768: 12}
HEADS |= dict.fromkeys((1024, 1152, 1280, 1408, 1664), 16)
# timm's architectures whose heads do not follow from HEADS.
TIMM_HEADS = re.compile(r"vit_(base_patch16_gap_224|giantopt_patch16_siglip.*)"), 16
# [1 1 d] to [d].
class_token = Change(lambda x: x[0, 0], lambda x: x[None, None])
# [1 n d] to [n+1 d], with a row for the class token first.
bare_positions = Change(lambda x: np.pad(x[0], ((1, 0), (0, 0))), lambda x: x[None, 1:])

# SigLIP's ViTs with GELU's tanh form.
SIGLIP_TANH = re.compile(
    r"vit_(base_patch32|large_patch16_siglip_512|so400m_patch16|giantopt).*"
)
# timm's activations in model_args -> ours. Without one, the architecture's name says.
TIMM_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
# Keys that timm's model_args may have: shapes give them, or a lone tower lacks them.
TIMM_ARGS = {
    *("num_classes", "img_size", "patch_size", "embed_dim", "depth", "num_heads"),
    *("mlp_ratio", "class_token", "global_pool", "act_layer", "pre_norm", "fc_norm"),
    *("no_embed_class", "dynamic_img_size", "drop_path_rate", "strict_img_size"),
}


def patch_rules(theirs: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.weight", "patch_embedding/kernel", patches),
        Rule(f"{theirs}.bias", "patch_embedding/bias"),
    ]


def token_rules(
    tower: VisionTransformer, layout: frozenset[str], token: str, positions: str
) -> list[Rule]:
    """Rules of a class token, if there is one, and of learned positions."""
    rules = []
    if tower.pool == "cls":
        rules.append(Rule(token, "class_token", class_token))
    if tower.positions == "learned":
        change = bare_positions if BARE_CLASS in layout else lead
        rules.append(Rule(positions, "positions", change))
    return rules


def grid(rows: int, token: bool, origin: str) -> tuple[int, bool]:
    """(side of the square of patches, whether the class token lacks a position).

    rows: the position table's rows. token: whether the tower has a class token.

    Raises UserError if the patches do not form a square.
    """
    side = math.isqrt(rows)
    bare = token and side * side == rows
    return side_of_square(
        rows - (token and not bare), "the position table", origin
    ), bare


def heads_of(width: int, origin: str) -> int:
    """Heads of a tower of this width; raises UserError for an unpublished width."""
    if width not in HEADS:
        raise UserError(
            f"{origin} does not say how many heads its tower of width {width} has: put "
            "it in a folder with a timm config.json that has model_args.num_heads"
        )
    return HEADS[width]


def _is_timm(config: Mapping[str, Any] | None, shapes: Shapes) -> bool:
    if config is not None and "architecture" not in config:
        return False
    return any(name.startswith("blocks.0.attn.qkv.") for name in shapes)


def _timm_settings(
    config: Mapping[str, Any] | None, shapes: Shapes, folder: pathlib.Path, origin: str
) -> TowerSettings:
    config = config or {}
    args = config.get("model_args") or {}
    unknown = sorted(set(args) - TIMM_ARGS)
    if unknown:
        raise UserError(
            f"{origin}: model_args has {', '.join(unknown)}, which clipjax's vit "
            "may lack"
        )
    width, _, _, patch = shape_of(shapes, "patch_embed.proj.weight", 4, origin)
    token, attends = "cls_token" in shapes, "attn_pool.latent" in shapes
    pre_norm = "norm_pre.weight" in shapes
    _, rows, _ = shape_of(shapes, "pos_embed", 3, origin)
    side, bare = grid(rows, token, origin)
    pool = "map" if attends else "cls" if token else "mean"
    global_pool = args.get("global_pool", config.get("global_pool", ""))
    known = {"map": "map", "token": "cls", "avg": "mean", "": pool}
    if known.get(global_pool) != pool:
        raise UserError(
            f"{origin}: {global_pool=} with {'a' if token else 'no'} class "
            f"token: clipjax pools either the class token or patches without one"
        )
    name = config.get("architecture", "")
    if not name and (pre_norm or attends):
        raise UserError(
            f"{origin} does not say which activation the model has: put it in a folder "
            "with its config.json"
        )
    pattern, its_heads = TIMM_HEADS
    heads = args.get("num_heads")
    if heads is None:
        heads = its_heads if pattern.fullmatch(name) else heads_of(width, origin)
    else:
        check_sizes(args, ("num_heads",), f"{folder / hf_common.CONFIG}: model_args")
    mean, std = timm_normalisation(config, str(folder / hf_common.CONFIG))
    return TowerSettings(
        format="timm_vit",
        side="image",
        component="vit",
        options={
            "variant": f"B/{patch}",
            "width": width,
            "depth": count(shapes, r"blocks\.(\d+)\."),
            "heads": heads,
            "mlp_dim": shape_of(shapes, "blocks.0.mlp.fc1.weight", 2, origin)[0],
            "pool": pool,
            "pre_norm": pre_norm,
            "patch_bias": "patch_embed.proj.bias" in shapes,
            "norm_epsilon": 1e-5 if pre_norm else 1e-6,
            "activation": _timm_activation(args.get("act_layer"), name, origin),
        },
        size=side * patch,
        num_classes=classes(shapes, "head.bias"),
        mean=mean,
        std=std,
        layout=frozenset({BARE_CLASS} if bare else ()),
    )


def _timm_activation(act_layer: Any, name: str, origin: str) -> str:
    if act_layer is None:
        if "quickgelu" in name:
            return "quick_gelu"
        tanh = "siglip" in name and SIGLIP_TANH.match(name.replace("_gap", ""))
        return "gelu_tanh" if tanh else "gelu"
    if act_layer not in TIMM_ACTIVATIONS:
        known = ", ".join(TIMM_ACTIVATIONS)
        raise UserError(f"{origin}: {act_layer=}: clipjax has {known}")
    return TIMM_ACTIVATIONS[act_layer]


def timm_rules(tower: VisionTransformer, layout: frozenset[str]) -> list[Rule]:
    block = [
        *norm("norm1", "norm_1"),
        *dense("attn.qkv", "attention/qkv"),
        *dense("attn.proj", "attention/out"),
        *norm("norm2", "norm_2"),
        *dense("mlp.fc1", "mlp/fc1"),
        *dense("mlp.fc2", "mlp/fc2"),
    ]
    rules = [
        *patch_rules("patch_embed.proj")[: 1 + tower.patch_bias],
        *token_rules(tower, layout, "cls_token", "pos_embed"),
        *norm("norm", "post_norm"),
        *repeat_rules(block, tower.depth, "blocks.{i}.", "transformer/block_{i}/"),
    ]
    if tower.pre_norm:
        rules += norm("norm_pre", "pre_norm")
    if tower.pool == "map":
        pool = [
            Rule("latent", "probe", lead),
            *dense("q", "query"),
            *dense("kv", "key_value"),
            *dense("proj", "out"),
            *norm("norm", "norm"),
            *dense("mlp.fc1", "mlp/fc1"),
            *dense("mlp.fc2", "mlp/fc2"),
        ]
        rules += rename_rules(pool, "attn_pool.", "map/")
    return rules


def _is_hf(config: Mapping[str, Any] | None, shapes: Shapes) -> bool:
    return config is not None and config.get("model_type") == "vit"


def _hf_settings(
    config: Mapping[str, Any] | None, shapes: Shapes, folder: pathlib.Path, origin: str
) -> TowerSettings:
    origin = str(folder / hf_common.CONFIG)
    defaults = hf_clip.IMAGE | {
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "patch_size": 16,
        "qkv_bias": True,
    }
    values = {**defaults, **(config or {})}
    hf_common.check_channels(values, origin)
    if not values["qkv_bias"]:
        raise UserError(f"{origin}: qkv_bias=False: clipjax's vit has biases")
    mean, std = hf_normalisation(folder, HALVES)
    options = {"pre_norm": False, "patch_bias": True}
    return TowerSettings(
        format="hf_vit",
        side="image",
        component="vit",
        options=hf_common.image_options(values, origin, shapes) | options,
        size=values["image_size"],
        num_classes=classes(shapes, "classifier.bias"),
        mean=mean,
        std=std,
        prefix=prefix_of(shapes, "vit."),
    )


def _hf_rules(tower: VisionTransformer, layout: frozenset[str]) -> list[Rule]:
    block = [
        *norm("layernorm_before", "norm_1"),
        *dense([f"attention.attention.{x}" for x in QKV], "attention/qkv"),
        *dense("attention.output.dense", "attention/out"),
        *norm("layernorm_after", "norm_2"),
        *dense("intermediate.dense", "mlp/fc1"),
        *dense("output.dense", "mlp/fc2"),
    ]
    embeddings = [
        *patch_rules("patch_embeddings.projection"),
        *token_rules(tower, layout, "cls_token", "position_embeddings"),
    ]
    return [
        *rename_rules(embeddings, "embeddings."),
        *norm("layernorm", "post_norm"),
        *repeat_rules(
            block, tower.depth, "encoder.layer.{i}.", "transformer/block_{i}/"
        ),
    ]


def _is_torchvision(config: Mapping[str, Any] | None, shapes: Shapes) -> bool:
    return config is None and any(
        name.startswith("encoder.layers.encoder_layer_0.") for name in shapes
    )


def _torchvision_settings(
    config: Mapping[str, Any] | None, shapes: Shapes, folder: pathlib.Path, origin: str
) -> TowerSettings:
    width, _, _, patch = shape_of(shapes, "conv_proj.weight", 4, origin)
    _, rows, _ = shape_of(shapes, "encoder.pos_embedding", 3, origin)
    layer = "encoder.layers.encoder_layer_0."
    (hidden,) = shape_of(shapes, f"{layer}mlp.0.bias", 1, origin)
    mean, std = IMAGENET
    return TowerSettings(
        format="torchvision_vit",
        side="image",
        component="vit",
        options={
            "variant": f"B/{patch}",
            "width": width,
            "depth": count(shapes, r"encoder\.layers\.encoder_layer_(\d+)\."),
            "heads": heads_of(width, origin),
            "mlp_dim": hidden,
            "pre_norm": False,
            "patch_bias": True,
            "norm_epsilon": 1e-6,
        },
        size=side_of_square(rows - 1, "encoder.pos_embedding", origin) * patch,
        num_classes=classes(shapes, "heads.head.bias"),
        mean=mean,
        std=std,
    )


def _torchvision_rules(tower: VisionTransformer, layout: frozenset[str]) -> list[Rule]:
    block = [
        *norm("ln_1", "norm_1"),
        Rule("self_attention.in_proj_weight", "attention/qkv/kernel", transpose),
        Rule("self_attention.in_proj_bias", "attention/qkv/bias"),
        *dense("self_attention.out_proj", "attention/out"),
        *norm("ln_2", "norm_2"),
        *dense("mlp.0", "mlp/fc1"),
        *dense("mlp.3", "mlp/fc2"),
    ]
    return [
        *patch_rules("conv_proj"),
        *token_rules(tower, layout, "class_token", "encoder.pos_embedding"),
        *norm("encoder.ln", "post_norm"),
        *repeat_rules(
            block,
            tower.depth,
            "encoder.layers.encoder_layer_{i}.",
            "transformer/block_{i}/",
        ),
    ]


TIMM = TowerFormat(
    name="timm_vit",
    side="image",
    recognise=_is_timm,
    settings=_timm_settings,
    rules=timm_rules,
    head=dense("head", "head"),
)
HUGGING_FACE = TowerFormat(
    name="hf_vit",
    side="image",
    recognise=_is_hf,
    settings=_hf_settings,
    rules=_hf_rules,
    head=dense("classifier", "head"),
    # ViTModel's dense layer over the class token; its classifiers lack it.
    heads=(r"(vit\.)?pooler\.dense\..*",),
)
TORCHVISION = TowerFormat(
    name="torchvision_vit",
    side="image",
    recognise=_is_torchvision,
    settings=_torchvision_settings,
    rules=_torchvision_rules,
    head=dense("heads.head", "head"),
)
FORMATS = (HUGGING_FACE, TIMM, TORCHVISION)
