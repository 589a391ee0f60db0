"""big_vision's and vision_transformer's .npz files: ViTs and text transformers.

Source: google-research/big_vision, google-research/vision_transformer. An .npz holds
only names and shapes. The rest is as in the published models: GELU in its tanh form,
layer normalisations with 1e-6, images in [-1, 1], texts that see their padding and are
pooled at their last position.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.models.image.vit import VisionTransformer
from clipjax.models.text.transformer import TextTransformer
from clipjax.types import UserError
from clipjax.weights.formats.vits import BARE_CLASS, grid, token_rules
from clipjax.weights.rename_table import Change, Rule, lead, rename_rules, repeat_rules
from clipjax.weights.tower_description import (
    HALVES,
    Shapes,
    TowerFormat,
    TowerSettings,
    classes,
    count,
    prefix_of,
    shape_of,
)

# Prefixes of an image tower's names and a text tower's; older files have "opt/target".
IMAGE_PREFIXES = ("params/img/", "img/", "params/", "opt/target/")
TEXT_PREFIXES = ("params/txt/", "txt/", "params/")
IMAGE_BLOCKS, TEXT_BLOCKS = "Transformer/encoderblock", "Encoder_0/encoderblock"

# Layouts: all layers in one array; a block's parts numbered in one sequence, and
# positions inside the encoder (both as in vision_transformer).
STACKED = "stacked"
NUMBERED = "numbered"
INSIDE = "inside"
POSITIONS = {True: "Transformer/posembed_input/pos_embedding", False: "pos_embedding"}

SINCOS_SIZE = 224  # the image size if positions are fixed and do not give it
SHARED = {"norm_epsilon": 1e-6, "activation": "gelu_tanh"}


def pair(theirs: str, ours: str, leaf: str = "kernel") -> list[Rule]:
    """The rules for a layer's kernel (or another leaf) and bias."""
    return [Rule(f"{theirs}/{x}", f"{ours}/{x}") for x in (leaf, "bias")]


def _mlp(theirs: str) -> list[Rule]:
    return pair(f"{theirs}/Dense_0", "mlp/fc1") + pair(f"{theirs}/Dense_1", "mlp/fc2")


def _attention(theirs: str, heads: int, **ours: tuple[str, ...]) -> list[Rule]:
    """The rules for attention: kernels [d h e] into heads and [h e d] out of them.

    Ours have h and e in one axis. ours: our path -> their parts.
    """
    into = Change(
        lambda x: x.reshape(*x.shape[:-2], -1),
        lambda x: x.reshape(*x.shape[:-1], heads, -1),
    )
    out = Change(
        lambda x: x.reshape(-1, x.shape[-1]),
        lambda x: x.reshape(heads, -1, x.shape[-1]),
    )
    rules = [
        Rule(tuple(f"{theirs}/{x}/{leaf}" for x in parts), f"{path}/{leaf}", into)
        for path, parts in ours.items()
        for leaf in ("kernel", "bias")
    ]
    return [
        *rules,
        Rule(f"{theirs}/out/kernel", "out/kernel", out),
        Rule(f"{theirs}/out/bias", "out/bias"),
    ]


def _blocks(theirs: str, depth: int, heads: int, layout: frozenset[str]) -> list[Rule]:
    attention, norm_2, mlp = (1, 2, 3) if NUMBERED in layout else (0, 1, 0)
    attend = _attention(
        f"MultiHeadDotProductAttention_{attention}",
        heads,
        qkv=("query", "key", "value"),
    )
    block = [
        *pair("LayerNorm_0", "norm_1", "scale"),
        *rename_rules(attend, "", "attention/"),
        *pair(f"LayerNorm_{norm_2}", "norm_2", "scale"),
        *_mlp(f"MlpBlock_{mlp}"),
    ]
    ours = "transformer/block_{i}/"
    if STACKED not in layout:
        return repeat_rules(block, depth, f"{theirs}_{{i}}/", ours)
    rules = []
    for rule in rename_rules(block, f"{theirs}/", ours):
        (path,) = rule.ours
        paths = tuple(path.format(i=i) for i in range(depth))
        change = _stacked(rule.change, depth)
        order = _by_layer(len(rule.names), depth)
        rules.append(Rule(rule.theirs, paths, change, order))
    return rules


def _stacked(change: Change, depth: int) -> Change:
    """Changes each layer of a stack [depth ...] and joins the results side by side."""

    def to_ours(x: np.ndarray) -> np.ndarray:
        return np.concatenate([change.to_ours(layer) for layer in x], axis=-1)

    def to_theirs(x: np.ndarray) -> np.ndarray:
        layers = np.split(x, depth, axis=-1)
        return np.stack([change.to_theirs(layer) for layer in layers])

    return Change(to_ours, to_theirs)


def _by_layer(parts: int, depth: int) -> Change:
    """Reorders from part by part (all layers of each) to layer by layer (all parts)."""

    def swap(x: np.ndarray, first: int, second: int) -> np.ndarray:
        split = x.reshape(*x.shape[:-1], first, second, -1)
        return split.swapaxes(-3, -2).reshape(x.shape)

    return Change(lambda x: swap(x, parts, depth), lambda x: swap(x, depth, parts))


def _encoder(
    shapes: Shapes, blocks: str, origin: str
) -> tuple[dict[str, int], set[str]]:
    """An encoder's sizes as our options, and its layout.

    blocks: the names of its blocks up to and with "encoderblock".
    """
    layout, first = set(), f"{blocks}_0/"
    if any(name.startswith(f"{blocks}/") for name in shapes):
        layout, first = {STACKED}, f"{blocks}/"
    if any(name.startswith(f"{first}MlpBlock_3/") for name in shapes):
        layout.add(NUMBERED)
    stacked, numbered = STACKED in layout, NUMBERED in layout
    query = f"{first}MultiHeadDotProductAttention_{int(numbered)}/query/kernel"
    hidden = f"{first}MlpBlock_{3 * numbered}/Dense_0/kernel"
    *layers, width, heads, _ = shape_of(shapes, query, 3 + stacked, origin)
    depth = layers[0] if stacked else count(shapes, rf"{blocks}_(\d+)/")
    *_, mlp_dim = shape_of(shapes, hidden, 2 + stacked, origin)
    sizes = {"width": width, "depth": depth, "heads": heads, "mlp_dim": mlp_dim}
    return sizes, layout


def _is_image(config: Mapping[str, Any] | None, shapes: Shapes) -> bool:
    return any(f"{p}embedding/kernel" in shapes for p in (*IMAGE_PREFIXES, "")) or any(
        name.startswith((IMAGE_BLOCKS, *(p + IMAGE_BLOCKS for p in IMAGE_PREFIXES)))
        for name in shapes
    )


def image_settings(
    config: Mapping[str, Any] | None, shapes: Shapes, folder: pathlib.Path, origin: str
) -> TowerSettings:
    prefix = prefix_of(shapes, *(p for p in IMAGE_PREFIXES if _has(shapes, p)))
    kernel = f"{prefix}embedding/kernel"
    if len(shapes.get(kernel, ())) == 2:
        raise UserError(
            f"{origin}: {kernel} is {shapes[kernel]}, as in NaFlex, whose grids vary "
            "with the image: clipjax reads models of fixed resolution"
        )
    patch, *_ = shape_of(shapes, kernel, 4, origin)
    sizes, layout = _encoder(shapes, prefix + IMAGE_BLOCKS, origin)
    token = f"{prefix}cls" in shapes
    inside = prefix + POSITIONS[True] in shapes
    positions, side = prefix + POSITIONS[inside], SINCOS_SIZE // patch
    if inside:
        layout.add(INSIDE)
    if positions in shapes:
        _, rows, _ = shape_of(shapes, positions, 3, origin)
        side, bare = grid(rows, token, origin)
        if bare:
            layout.add(BARE_CLASS)
    attends = any(name.startswith(f"{prefix}MAPHead_0/") for name in shapes)
    mean, std = HALVES
    return TowerSettings(
        format="big_vision",
        side="image",
        component="vit",
        options={
            "variant": f"B/{patch}",
            **sizes,
            "pool": "map" if attends else "cls" if token else "mean",
            "positions": "learned" if positions in shapes else "sincos",
            "pre_norm": False,
            "patch_bias": True,
            **SHARED,
        },
        size=side * patch,
        num_classes=classes(shapes, f"{prefix}head/bias"),
        mean=mean,
        std=std,
        prefix=prefix,
        layout=frozenset(layout),
    )


def _has(shapes: Shapes, prefix: str) -> bool:
    return f"{prefix}embedding/kernel" in shapes or any(
        name.startswith(prefix + IMAGE_BLOCKS) for name in shapes
    )


def image_rules(tower: VisionTransformer, layout: frozenset[str]) -> list[Rule]:
    patches = Change(
        lambda x: x.reshape(-1, x.shape[-1]),
        lambda x: x.reshape(tower.patch, tower.patch, 3, -1),
    )
    rules = [
        Rule("embedding/kernel", "patch_embedding/kernel", patches),
        Rule("embedding/bias", "patch_embedding/bias"),
        *token_rules(tower, layout, "cls", POSITIONS[INSIDE in layout]),
        *pair("Transformer/encoder_norm", "post_norm", "scale"),
        *_blocks(IMAGE_BLOCKS, tower.depth, tower.heads, layout),
    ]
    if tower.pool == "map":
        pool = [
            Rule("probe", "probe", lead),
            *_attention(
                "MultiHeadDotProductAttention_0",
                tower.heads,
                query=("query",),
                key_value=("key", "value"),
            ),
            *pair("LayerNorm_0", "norm", "scale"),
            *_mlp("MlpBlock_0"),
        ]
        rules += rename_rules(pool, "MAPHead_0/", "map/")
    return rules


def _is_text(config: Mapping[str, Any] | None, shapes: Shapes) -> bool:
    return any(
        name.startswith((p + TEXT_BLOCKS, f"{p}Embed_0/"))
        for name in shapes
        for p in (*TEXT_PREFIXES, "")
    )


def text_settings(
    config: Mapping[str, Any] | None, shapes: Shapes, folder: pathlib.Path, origin: str
) -> TowerSettings:
    prefix = prefix_of(shapes, *TEXT_PREFIXES)
    vocab_size, _ = shape_of(shapes, f"{prefix}Embed_0/embedding", 2, origin)
    _, length, _ = shape_of(shapes, f"{prefix}pos_embedding", 3, origin)
    sizes, layout = _encoder(shapes, prefix + TEXT_BLOCKS, origin)
    padding = {"causal": False, "masked": False, "pool": "last"}
    return TowerSettings(
        format="big_vision_text",
        side="text",
        component="transformer",
        options={**sizes, **padding, **SHARED},
        size=length,
        vocab_size=vocab_size,
        prefix=prefix,
        layout=frozenset(layout),
    )


def text_rules(tower: TextTransformer, layout: frozenset[str]) -> list[Rule]:
    return [
        Rule("Embed_0/embedding", "token_embedding"),
        Rule("pos_embedding", "positions", lead),
        *pair("Encoder_0/encoder_norm", "post_norm", "scale"),
        *_blocks(TEXT_BLOCKS, tower.depth, tower.heads, layout),
    ]


# State of training beside the parameters.
IGNORED = (r"opt/(?!target/).*", r"(extra|chrono)/.*")
IMAGE = TowerFormat(
    name="big_vision",
    side="image",
    recognise=_is_image,
    settings=image_settings,
    rules=image_rules,
    head=pair("head", "head"),
    head_inside=True,
    ignored=IGNORED,
    heads=(
        r"(params/)?(txt/.*|t|b)",
        r"((params|img|opt/target)/)*(head|pre_logits)/.*",
    ),
)
TEXT = TowerFormat(
    name="big_vision_text",
    side="text",
    recognise=_is_text,
    settings=text_settings,
    rules=text_rules,
    ignored=IGNORED,
    heads=(r"(params/)?(img/.*|t|b)", r"((params|txt)/)*head/.*"),
)
FORMATS = (IMAGE, TEXT)
