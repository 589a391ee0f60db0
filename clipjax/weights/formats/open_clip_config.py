"""Writes a model's open_clip_config.json, for the layout of formats/open_clip.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from clipjax.models import two_tower
from clipjax.models.image import convnext
from clipjax.models.image.convnext import ConvNeXt
from clipjax.models.image.modified_resnet import SHRINKS, ModifiedResNet
from clipjax.models.image.vit import VisionTransformer
from clipjax.models.text.transformer import TextTransformer
from clipjax.types import UserError
from clipjax.weights.beside import preprocessing
from clipjax.weights.beside.tokenizer_files import Ends
from clipjax.weights.export_limits import require, require_head, require_tower
from clipjax.weights.formats.vits import SIGLIP_TANH

TARGET = "open_clip"
# timm's ViTs of SigLIP: size -> (width, depth, heads, MLP width), and below the
# released (patch size, image size) pairs.
SIGLIP_SIZES = {
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giantopt": (1536, 40, 16, 6144),
}
SIGLIP_NAMES = {
    "base": ((32, 256), (16, 224), (16, 256), (16, 384), (16, 512)),
    "large": ((16, 256), (16, 384), (16, 512)),
    "so400m": ((14, 224), (14, 378), (14, 384), (16, 256), (16, 384), (16, 512)),
    "giantopt": ((16, 256), (16, 384)),
}
PROJECTIONS = {
    "none": {"timm_proj": "none"},
    "linear": {"timm_proj": "linear"},
    "affine": {"timm_proj": "linear", "timm_proj_bias": True},
    "mlp": {"timm_proj": "mlp"},
}


def config_json(
    model: two_tower.TwoTowerModel,
    ends: Ends,
    preprocess: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
) -> dict[str, Any]:
    """The open_clip_config.json of a model.

    preprocess: its image transform, data.preprocess of a config. tokenizer: the
      tokenizer's keys in text_cfg.

    Raises UserError for an option that open_clip's models lack.
    """
    module: Any = model.module
    image, text = module.image, module.text
    require_tower(text, TextTransformer, "model.text", TARGET)
    require_tower(
        image, (VisionTransformer, ModifiedResNet, ConvNeXt), "model.image", TARGET
    )
    quick = text.activation == "quick_gelu"
    config: dict[str, Any] = {"embed_dim": module.embed_dim, "quick_gelu": quick}
    if isinstance(image, ModifiedResNet):
        config["vision_cfg"] = _resnet(image, module.heads[0])
    elif isinstance(image, ConvNeXt):
        config["vision_cfg"] = _convnext(image, module.heads[0])
    elif image.pool == "map":
        config["vision_cfg"] = _timm_vit(image, module.heads[0])
    else:
        config["vision_cfg"] = _vit(image, module, quick)
    config["text_cfg"] = _text(text, module.heads[1], ends) | dict(tokenizer)
    if text.pool == "appended":
        config["custom_text"] = True
    if module.logit_bias_init is not None:
        config["init_logit_bias"] = module.logit_bias_init
    return {
        "model_cfg": config,
        "preprocess_cfg": {
            "size": image.image_size,
            "mode": "RGB",
            "mean": list(module.mean),
            "std": list(module.std),
            "interpolation": preprocessing.interpolation(preprocess),
            "resize_mode": preprocessing.resize_mode(preprocess["name"]),
        },
    }


def _transformer(tower: Any) -> dict[str, Any]:
    section: dict[str, Any] = {"width": tower.width, "layers": tower.depth}
    ratio = tower.hidden / tower.width
    # open_clip rounds width * ratio down.
    while int(tower.width * ratio) < tower.hidden:
        ratio = math.nextafter(ratio, math.inf)
    section["mlp_ratio"] = ratio
    if tower.activation == "gelu_tanh":
        section["act_kwargs"] = {"approximate": "tanh"}
    if tower.norm_epsilon != 1e-5:
        section["norm_kwargs"] = {"eps": tower.norm_epsilon}
    return section


def _text(tower: TextTransformer, head: str, ends: Ends) -> dict[str, Any]:
    path = "model.text"
    require(tower, path, TARGET, post_norm=False)
    require_head("text", head, TARGET, ("linear", "affine", "none"))
    section = _transformer(tower) | {
        "heads": tower.heads,
        "vocab_size": tower.vocab_size,
        "context_length": tower.context_length,
        "proj_bias": head == "affine",
    }
    if head == "none":
        section["proj_type"] = "none"
    if not tower.causal:
        section["no_causal_mask"] = True
    if not tower.causal or tower.pool == "appended":
        require(tower, path, TARGET, masked=tower.pool == "appended")
    if tower.pool == "appended":
        if ends.pad in (ends.begin, ends.end):
            raise UserError(
                f"data.tokenizer pads with token {ends.pad}, which also begins or ends "
                f"texts, and {path}.pool='appended' hides it in {TARGET}: it cannot be "
                "exported"
            )
        return section | {"embed_cls": True, "pad_id": ends.pad}
    pools = {"eot": "eos", "last": "last", "cls": "first"}
    if tower.pool not in pools:
        require(tower, path, TARGET, pool="eot")
    if tower.pool == "eot" and ends.end == tower.vocab_size - 1:
        return section | {"pool_type": "argmax"}  # as in the published models
    if tower.pool == "eot":
        section["eos_id"] = ends.end
    return section | {"pool_type": pools[tower.pool]}


def _vit(tower: VisionTransformer, module: Any, quick: bool) -> dict[str, Any]:
    path = "model.image"
    require(tower, path, TARGET, post_norm=False, patch_bias=False)
    require(tower, path, TARGET, positions="learned")
    require_head("image", module.heads[0], TARGET, ("linear",))
    pool: dict[str, Any] = {}
    if tower.pool == "mean" and tower.class_token:
        pool = {"pool_type": "avg"}
    elif tower.pool == "query":
        require(tower, path, TARGET, pool_width=module.embed_dim, norm_epsilon=1e-5)
        pool = {
            "attentional_pool": True,
            "attn_pooler_queries": 1,
            "attn_pooler_heads": tower.pool_heads,
        }
    else:
        require(tower, path, TARGET, pool="cls")
    if quick != (tower.activation == "quick_gelu"):
        raise UserError(
            f"{path}.activation={tower.activation!r} cannot be exported: in {TARGET} "
            "either both towers have quick_gelu or none"
        )
    return _transformer(tower) | {
        "image_size": tower.image_size,
        "patch_size": tower.patch,
        "head_width": tower.width // tower.heads,
        "no_ln_pre": not tower.pre_norm,
        **pool,
    }


def _resnet(tower: ModifiedResNet, head: str) -> dict[str, Any]:
    require_head("image", head, TARGET, ("none",))
    return {
        "image_size": tower.image_size,
        "layers": list(tower.depths),
        "width": tower.width,
        "head_width": tower.width * SHRINKS // tower.heads,
        "patch_size": None,
    }


def _timm(name: str, size: int, pool: str, head: str) -> dict[str, Any]:
    return {
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "image_size": size,
        **PROJECTIONS[head],
    }


def _timm_vit(tower: VisionTransformer, head: str) -> dict[str, Any]:
    path, target = "model.image", "timm's ViT with attention pooling"
    require(tower, path, target, post_norm=False, pre_norm=False, patch_bias=True)
    require(tower, path, target, positions="learned", norm_epsilon=1e-6)
    sizes = (tower.width, tower.depth, tower.heads, tower.hidden)
    patch_and_image = (tower.patch, tower.image_size)
    names = [
        f"vit_{size}_patch{tower.patch}_siglip_{tower.image_size}"
        for size, released in SIGLIP_SIZES.items()
        if sizes == released and patch_and_image in SIGLIP_NAMES[size]
    ]
    if not names:
        raise UserError(
            f"{path}: pool='map' cannot be exported with width {tower.width}, depth "
            f"{tower.depth}, patch {tower.patch} and image_size {tower.image_size}: "
            f"{TARGET} has it in SigLIP's sizes only"
        )
    (name,) = names
    activation = "gelu_tanh" if SIGLIP_TANH.fullmatch(name) else "gelu"
    require(tower, path, f"timm's {name}", activation=activation)
    return _timm(name, tower.image_size, "map", head)


def _convnext(tower: ConvNeXt, head: str) -> dict[str, Any]:
    for variant, sizes in convnext.VARIANTS.items():
        epsilon = 1e-5 if variant == "xxlarge" else 1e-6
        if sizes == (tower.width, tower.depths) and tower.epsilon == epsilon:
            return _timm(f"convnext_{variant}", tower.image_size, "", head)
    raise UserError(
        f"model.image: a ConvNeXt of width {tower.width} and depths {tower.depths} "
        f"cannot be exported: {TARGET} has the published sizes only"
    )
