"""For a model of open_clip's that clipjax cannot read: the nearest that it reads.

Only models with released weights are named, by open_clip's names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from clipjax.types import UserError


class Unread(UserError):
    """A tower, or a setting of one, that clipjax lacks; `nearest` says what it has."""


# Kind -> models of increasing size, as SIZES.
NEAREST = {
    "vit": ("ViT-B-16", "ViT-L-14", "ViT-H-14", "ViT-g-14", "ViT-bigG-14"),
    "convolutional": ("convnext_base_w", "convnext_large_d", "convnext_xxlarge"),
    "resnet": ("RN50",),
    "siglip": (
        "ViT-B-16-SigLIP",
        "ViT-L-16-SigLIP-256",
        "ViT-SO400M-14-SigLIP",
        "ViT-gopt-16-SigLIP2-256",
    ),
    "eva": ("EVA02-B-16", "EVA02-L-14", "EVA02-L-14", "EVA01-g-14", "EVA02-E-14"),
    "roberta": ("roberta-ViT-B-32",),
    "multilingual": ("xlm-roberta-base-ViT-B-32", "xlm-roberta-large-ViT-H-14"),
    "multilingual siglip": (
        "ViT-B-16-SigLIP-i18n-256",
        "ViT-SO400M-16-SigLIP-i18n-256",
    ),
}
# The largest width of open_clip's own ViTs, and words in timm's names, for each size
# but the last; the first that fits counts.
SIZES = (
    (896, r"tiny|small|medium|base|mci[0-3]"),
    (1024, r"(?<!x)large|mci4"),
    (1280, r"xlarge|huge|so\d+m"),
    (1408, r"giant"),
)
# The nearest to a model of transformers', by its model_type.
OF_MODEL_TYPE = {
    "align": "convnext_base_w",
    "altclip": "xlm-roberta-large-ViT-H-14",
    "blip": "coca_ViT-L-14",
    "chinese_clip": "xlm-roberta-base-ViT-B-32",
    "clipseg": "ViT-B-16",
    "flava": "ViT-B-16",
    "groupvit": "ViT-B-16",
    "jina_clip": "EVA02-L-14",
    "metaclip_2": "ViT-H-14-worldwide",
    "owlvit": "ViT-B-32",
    "vision-text-dual-encoder": "ViT-B-32",
    "xclip": "ViT-B-32",
}
CONVOLUTIONAL = re.compile(r"conv|swin|fastvit|mobile|efficient|resne|regnet|maxvit")


def nearest(vision: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    """The name of the nearest model that clipjax reads, by the kinds of its towers and
    its size, from a vision_cfg and text_cfg.
    """
    trunk = str(vision.get("timm_model_name") or "")
    kind = _image_kind(vision, trunk)
    size = _size(vision, trunk)
    theirs = str(text.get("hf_model_name") or "")
    if theirs:
        english = re.fullmatch(r"(.*/)?(distil)?(roberta|bert)-.*", theirs)
        kind = "multilingual siglip" if kind == "siglip" else "multilingual"
        kind = "roberta" if english else kind
    names = NEAREST[kind]
    name = names[min(size, len(names) - 1)]
    pixels = vision.get("image_size", 224)
    if name == "ViT-B-16" and vision.get("patch_size") == 32:
        return "ViT-B-32"
    if name == "ViT-L-14" and pixels == 336:
        return "ViT-L-14-336"
    return name


def _image_kind(vision: Mapping[str, Any], trunk: str) -> str:
    if not trunk:
        return "resnet" if isinstance(vision.get("layers"), list) else "vit"
    if "siglip" in trunk:
        return "siglip"
    if trunk.startswith("eva"):
        return "eva"
    return "convolutional" if CONVOLUTIONAL.search(trunk) else "vit"


def _size(vision: Mapping[str, Any], trunk: str) -> int:
    """0 for what is as large as ViT-B, or has no size, to 4 for ViT-bigG."""
    width = vision.get("width", 768)
    for size, (widest, words) in enumerate(SIZES):
        fits = re.search(words, trunk) if trunk else width <= widest
        if fits:
            return size
    return len(SIZES) if not trunk or re.search("giga|enormous", trunk) else 0
