"""open_clip's image towers: its own ViT, OpenAI's ResNet, and timm's trunks.

Each kind has `*_options`, which turns a vision_cfg and shapes into our tower's options,
and `*_rules` for the tensors below "visual.".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from clipjax.models.image.convnext import ConvNeXt
from clipjax.models.image.modified_resnet import ModifiedResNet
from clipjax.models.image.vit import VisionTransformer
from clipjax.weights.formats import open_clip_eva, vits
from clipjax.weights.formats.open_clip_nearest import Unread
from clipjax.weights.rename_table import (
    Rule,
    batch_norm,
    conv,
    dense,
    norm,
    patches,
    rename_rules,
    repeat_rules,
    same,
    transpose,
)
from clipjax.weights.tower_description import Shapes, count, patch_options
from clipjax.weights.value_checks import check_positive, check_sizes

# timm's ViTs of SigLIP: heads by size.
SIGLIP = re.compile(r"vit_(base|large|so400m|giantopt)_patch(\d+)_siglip_(\d+)")
SIGLIP_HEADS = {"base": 12, "large": 16, "so400m": 16, "giantopt": 16}
CONVNEXT = re.compile(r"convnext_(tiny|small|base|large|xlarge|xxlarge)")

# What timm_proj=null is here: the trunk's own last layer makes the embedding.
OWN_HEAD = "null"

# The queries of the attention pooling; only the first makes the embedding.
QUERIES = "attn_pool.query"

# Settings of a vision_cfg or text_cfg that must have this value, because our towers
# have no other.
NEUTRAL = {
    "ls_init_value": None,
    "block_type": None,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
    "correct_cls_mask": False,
}


def check_neutral(section: Mapping[str, Any], path: str) -> None:
    """Raises UserError for a setting that our towers lack."""
    for key, value in NEUTRAL.items():
        if section.get(key, value) not in (value, None):
            raise Unread(f"{path}.{key}={section[key]!r}: clipjax's towers lack this")


def blocks(theirs: str, ours: str, depth: int) -> list[Rule]:
    """The rules for the residual blocks of open_clip's transformers."""
    block = [
        *norm("ln_1", "norm_1"),
        Rule("attn.in_proj_weight", "attention/qkv/kernel", transpose),
        Rule("attn.in_proj_bias", "attention/qkv/bias"),
        *dense("attn.out_proj", "attention/out"),
        *norm("ln_2", "norm_2"),
        *dense("mlp.c_fc", "mlp/fc1"),
        *dense("mlp.c_proj", "mlp/fc2"),
    ]
    return repeat_rules(
        block,
        depth,
        f"{theirs}transformer.resblocks.{{i}}.",
        f"{ours}/transformer/block_{{i}}/",
    )


def transformer_options(
    section: Mapping[str, Any], quick_gelu: bool, path: str
) -> dict[str, Any]:
    """Options of either tower's transformer, without depth and heads.

    Raises UserError for a setting that our blocks lack.
    """
    check_neutral(section, path)
    norms = section.get("norm_kwargs") or {}
    numbers = {"mlp_ratio": 4.0, **section, "eps": norms.get("eps", 1e-5)}
    check_sizes(numbers, ("width",), path)
    check_positive(numbers, ("mlp_ratio", "eps"), path)
    act = section.get("act_kwargs") or {}
    if act and (quick_gelu or act != {"approximate": "tanh"}):
        raise Unread(f"{path}.act_kwargs={act}: clipjax has approximate='tanh' only")
    if set(norms) - {"eps"}:
        raise Unread(f"{path}.norm_kwargs={norms}: clipjax has eps only")
    plain = "gelu_tanh" if act else "gelu"
    return {
        "width": section["width"],
        "mlp_dim": int(section["width"] * section.get("mlp_ratio", 4.0)),
        "norm_epsilon": norms.get("eps", 1e-5),
        "activation": "quick_gelu" if quick_gelu else plain,
    }


def vit_options(
    vision: Mapping[str, Any],
    size: int,
    embed_dim: int,
    quick_gelu: bool,
    origin: str,
) -> dict[str, Any]:
    path = f"{origin}: vision_cfg"
    options = transformer_options(vision, quick_gelu, path)
    vision = {"head_width": 64, "attn_pooler_heads": 8, "pool_type": "tok", **vision}
    check_sizes(vision, ("head_width", "attn_pooler_heads"), path)
    pool = vision.get("attentional_pool") or False
    known = ("tok",) if pool else ("tok", "avg")
    if vision["pool_type"] not in known:
        raise Unread(
            f"{path}.pool_type={vision['pool_type']!r}: clipjax reads "
            f"{' and '.join(map(repr, known))}{' with attentional_pool' * bool(pool)}"
        )
    if vision["pool_type"] == "avg":
        if vision.get("final_ln_after_pool"):
            raise Unread(
                f"{path}.final_ln_after_pool=True: clipjax normalises before the mean"
            )
        options |= {"pool": "mean", "class_token": True}
    if pool:
        if pool is not True:
            raise Unread(
                f"{path}.attentional_pool={pool!r}: clipjax reads true and false only"
            )
        if options["norm_epsilon"] != 1e-5:
            raise Unread(
                f"{path}.norm_kwargs={vision['norm_kwargs']}: with "
                "attentional_pool clipjax reads an eps of 1e-5 only"
            )
        options |= {
            "pool": "query",
            "pool_width": embed_dim,
            "pool_heads": vision["attn_pooler_heads"],
        }
    return options | {
        **patch_options(vision["patch_size"], size),
        "depth": vision["layers"],
        "heads": vision["width"] // vision["head_width"],
        "pre_norm": not vision.get("no_ln_pre", False),
        "patch_dropout": float(vision.get("patch_dropout", 0.0)),
    }


def vit_rules(tower: VisionTransformer) -> list[Rule]:
    rules = [
        Rule("conv1.weight", "image/patch_embedding/kernel", patches),
        Rule("class_embedding", "image/class_token"),
        Rule("positional_embedding", "image/positions"),
        *blocks("", "image", tower.depth),
    ]
    if tower.pre_norm:
        rules += norm("ln_pre", "image/pre_norm")
    if tower.pool != "query":
        return rules + norm("ln_post", "image/post_norm")
    # torch stores the three products as one if their widths are equal.
    if tower.pool_width == tower.width:
        ours = ("query/kernel", "key_value/kernel")
        products = [Rule("in_proj_weight", ours, transpose)]
    else:
        both = ("k_proj_weight", "v_proj_weight")
        products = [
            Rule("q_proj_weight", "query/kernel", transpose),
            Rule(both, "key_value/kernel", transpose),
        ]
    attention = [
        *products,
        Rule("in_proj_bias", ("query/bias", "key_value/bias")),
        *dense("out_proj", "out"),
    ]
    return [
        *rules,
        Rule(QUERIES, "image/query/probe"),
        *rename_rules(attention, "attn_pool.attn.", "image/query/"),
        *norm("attn_pool.ln_q", "image/query/probe_norm"),
        *norm("attn_pool.ln_k", "image/post_norm"),
        *norm("ln_post", "image/query/norm"),
    ]


def resnet_options(
    vision: Mapping[str, Any], embed_dim: int, path: str
) -> dict[str, Any]:
    vision = {"head_width": 64, **vision}
    check_sizes(vision, ("head_width",), path)
    width = vision["width"]
    return {
        "width": width,
        "depths": tuple(vision["layers"]),
        "heads": width * 32 // vision["head_width"],
        "output_dim": embed_dim,
    }


def resnet_rules(tower: ModifiedResNet) -> list[Rule]:
    three = []
    for i in (1, 2, 3):
        three.append(Rule(f"conv{i}.weight", f"conv_{i}/kernel", conv))
        three += batch_norm(f"bn{i}", f"norm_{i}")
    shortcut = [
        Rule("downsample.0.weight", "shortcut_conv/kernel", conv),
        *batch_norm("downsample.1", "shortcut_norm"),
    ]
    rules = rename_rules(three, "", "image/stem/")
    for stage, depth in enumerate(tower.depths):
        theirs, ours = f"layer{stage + 1}.", f"image/stage_{stage}/block_"
        rules += repeat_rules(three, depth, f"{theirs}{{i}}.", f"{ours}{{i}}/")
        rules += rename_rules(shortcut, f"{theirs}0.", f"{ours}0/")
    rules.append(Rule("attnpool.positional_embedding", "image/pool/positions"))
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "c_proj": "out"}
    for theirs, ours in names.items():
        rules += dense(f"attnpool.{theirs}", f"image/pool/{ours}")
    return rules


def timm_options(
    vision: Mapping[str, Any], size: int, shapes: Shapes, origin: str
) -> tuple[str, dict[str, Any], str]:
    """Returns (our tower's name, its options, the name of the embedding's head).

    Raises UserError for a trunk or pooling that clipjax lacks.
    """
    name, path = vision["timm_model_name"], f"{origin}: vision_cfg"
    pool, proj = vision.get("timm_pool", "avg"), vision.get("timm_proj", "linear")
    heads = {
        ("none", False): "none",
        ("linear", False): "linear",
        ("linear", True): "affine",
        ("mlp", False): "mlp",
    }
    siglip, convnext = SIGLIP.fullmatch(name), CONVNEXT.fullmatch(name)
    eva = open_clip_eva.NAMES.fullmatch(name)
    if not (siglip or convnext or eva):
        raise Unread(
            f"{path}.timm_model_name={name!r}: of timm's trunks clipjax reads "
            "ConvNeXt, SigLIP's ViT and EVA"
        )
    if eva:
        pools = (open_clip_eva.POOL,)
        heads[OWN_HEAD, False] = "affine"
    else:
        pools = ("map",) if siglip else ("", "avg")
    biased = bool(vision.get("timm_proj_bias", False)) and proj in ("linear", "mlp")
    projection = (proj or OWN_HEAD, biased)
    if pool not in pools or projection not in heads:
        raise Unread(
            f"{path}: timm_pool={pool!r} and timm_proj={proj!r} of {name}: clipjax "
            f"reads the pooling {pools[-1]!r} and the projections "
            f"{', '.join(sorted({kind for kind, _ in heads}))}"
        )
    if eva:
        return "eva", open_clip_eva.options(name, shapes, origin), heads[projection]
    if convnext:
        drop_path = float(vision.get("timm_drop_path") or 0.0)
        stem = shapes.get("visual.trunk.stem.0.weight", (None,))
        options = {"variant": convnext[1], "width": stem[0], "drop_path": drop_path}
        depths = [
            count(shapes, rf"visual\.trunk\.stages\.{i}\.blocks\.(\d+)\.")
            for i in range(4)
        ]
        return "convnext", options | {"depths": tuple(depths)}, heads[projection]
    assert siglip is not None
    positions = shapes.get("visual.trunk.pos_embed", (1, 1, 0))
    hidden = shapes.get("visual.trunk.blocks.0.mlp.fc1.weight", (0, 0))
    options = {
        **patch_options(int(siglip[2]), size),
        "width": positions[-1],
        "depth": count(shapes, r"visual\.trunk\.blocks\.(\d+)\."),
        "heads": SIGLIP_HEADS[siglip[1]],
        "mlp_dim": hidden[0],
        "pool": "map",
        "pre_norm": False,
        "patch_bias": True,
        "norm_epsilon": 1e-6,
        "activation": "gelu_tanh" if vits.SIGLIP_TANH.fullmatch(name) else "gelu",
    }
    return "vit", options, heads[projection]


def timm_vit_rules(tower: VisionTransformer) -> list[Rule]:
    return rename_rules(vits.timm_rules(tower, frozenset()), "trunk.", "image/")


def convnext_rules(tower: ConvNeXt) -> list[Rule]:
    def convolution(theirs: str, ours: str) -> list[Rule]:
        return [
            Rule(f"{theirs}.weight", f"{ours}/kernel", conv),
            Rule(f"{theirs}.bias", f"{ours}/bias", same),
        ]

    block = [
        *convolution("conv_dw", "conv_1"),
        *norm("norm", "norm_1"),
        *dense("mlp.fc1", "fc1"),
        *dense("mlp.fc2", "fc2"),
        Rule("gamma", "layer_scale"),
    ]
    rules = [
        *convolution("trunk.stem.0", "image/stem/conv_1"),
        *norm("trunk.stem.1", "image/stem/norm_1"),
        *norm("trunk.head.norm", "image/post_norm"),
    ]
    for stage, depth in enumerate(tower.depths):
        theirs, ours = f"trunk.stages.{stage}.", f"image/stage_{stage}/"
        if stage:
            rules += norm(f"{theirs}downsample.0", f"{ours}downsample_norm")
            rules += convolution(f"{theirs}downsample.1", f"{ours}downsample_conv")
        rules += repeat_rules(
            block, depth, f"{theirs}blocks.{{i}}.", f"{ours}block_{{i}}/"
        )
    return rules


def timm_head_rules(head: str, trunks_own: bool = False) -> list[Rule]:
    """The rules from a timm trunk to the embedding; see OWN_HEAD."""
    ours = "image_projection"
    if head == "mlp":
        return [
            *dense("head.mlp.fc1", f"{ours}/fc1"),
            Rule("head.mlp.fc2.weight", f"{ours}/fc2/kernel", transpose),
        ]
    if head == "affine":
        return dense("trunk.head" if trunks_own else "head.proj", ours)
    if head == "linear":
        return [Rule("head.proj.weight", f"{ours}/kernel", transpose)]
    return []
