"""open_clip's EVA trunks, which timm names: "eva02_base_patch16_clip_224".

Source: huggingface/pytorch-image-models, models/eva.py. The names below are those after
"visual.".
"""

from __future__ import annotations

import re
from typing import Any

from clipjax.models.image.eva import Eva
from clipjax.weights.formats.vits import class_token, patch_rules
from clipjax.weights.rename_table import (
    Rule,
    dense,
    lead,
    norm,
    rename_rules,
    repeat_rules,
    transpose,
)
from clipjax.weights.tower_description import Shapes, count, shape_of

# Its size in timm's name -> (our variant's, heads).
SIZES = {
    "eva02_base": ("B", 12),
    "eva02_large": ("L", 16),
    "eva02_enormous": ("E", 16),
    "eva_giant": ("g", 16),
}
NAMES = re.compile(rf"({'|'.join(SIZES)})_patch\d+(_clip)?_\d+")
POOL = "token"
# Tables that follow from the sizes, and the keys' biases of zero.
IGNORED = (r"visual\.trunk\.rope\..*", r"visual\.trunk\.blocks\.\d+\.attn\.k_bias")


def options(name: str, shapes: Shapes, origin: str) -> dict[str, Any]:
    """Options of our eva for a trunk whose name matches NAMES.

    Raises UserError if a tensor that gives a size is missing.
    """
    match = NAMES.fullmatch(name)
    assert match is not None
    variant, heads = SIZES[match[1]]
    trunk = "visual.trunk."
    width, _, _, patch = shape_of(shapes, f"{trunk}patch_embed.proj.weight", 4, origin)
    hidden = shape_of(shapes, f"{trunk}blocks.0.mlp.fc2.weight", 2, origin)[1]
    return {
        "variant": f"{variant}/{patch}",
        "width": width,
        "depth": count(shapes, r"visual\.trunk\.blocks\.(\d+)\."),
        "heads": heads,
        "mlp_dim": hidden,
    }


def rules(tower: Eva) -> list[Rule]:
    """The rules of the trunk, without a head."""
    products = tuple(f"attn.{part}_proj.weight" for part in "qkv")
    biases = ("attn.q_proj.bias", "attn.v_proj.bias")
    first = dense(["mlp.fc1_g", "mlp.fc1_x"], "mlp/fc1")
    inner = [*norm("attn.norm", "attention/norm"), *norm("mlp.norm", "mlp/norm")]
    if tower.block != "eva02":
        products, biases = ("attn.qkv.weight",), ("attn.q_bias", "attn.v_bias")
        first, inner = dense("mlp.fc1", "mlp/fc1"), []
    block = [
        *norm("norm1", "norm_1"),
        Rule(products, "attention/qkv/kernel", transpose),
        Rule(biases[0], "attention/query_bias"),
        Rule(biases[1], "attention/value_bias"),
        *dense("attn.proj", "attention/out"),
        *norm("norm2", "norm_2"),
        *first,
        *dense("mlp.fc2", "mlp/fc2"),
        *inner,
    ]
    return rename_rules(
        [
            *patch_rules("patch_embed.proj"),
            Rule("cls_token", "class_token", class_token),
            Rule("pos_embed", "positions", lead),
            *repeat_rules(block, tower.depth, "blocks.{i}.", "block_{i}/"),
            *norm("norm", "post_norm"),
        ],
        "trunk.",
        "image/",
    )
