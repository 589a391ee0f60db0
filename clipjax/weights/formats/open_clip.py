"""open_clip's models and OpenAI's state dicts, which use the same names.

Source: mlfoundations/open_clip, openai/CLIP. CoCa's two towers are read. A file without
an open_clip_config.json is read only if it is OpenAI's, because the activation is known
then. Texts are pooled at the end token, the model's largest id; ours pool at the last
token, which is the same under the model's own tokenizer.
"""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.models import two_tower
from clipjax.models.common import layers
from clipjax.models.image.convnext import ConvNeXt
from clipjax.models.image.eva import Eva
from clipjax.models.image.modified_resnet import ModifiedResNet
from clipjax.models.image.vit import VisionTransformer
from clipjax.models.text.bert import Bert
from clipjax.types import UserError
from clipjax.weights import value_checks
from clipjax.weights.beside import preprocessing, tokenizer_choice
from clipjax.weights.formats import open_clip_eva, open_clip_hf_text
from clipjax.weights.formats import open_clip_towers as towers
from clipjax.weights.formats.open_clip_nearest import Unread, nearest
from clipjax.weights.model_description import Settings
from clipjax.weights.rename_table import (
    Rule,
    Table,
    dense,
    lead,
    norm,
    rename_rules,
    same,
)

FORMAT = "open_clip"
CONFIG = "open_clip_config.json"
DEFAULTS = preprocessing.Preprocessing("clip", layers.MEAN, layers.STD)

# Layouts of a file: the text tower lies below "text."; logit_scale has shape [1].
CUSTOM_TEXT = "custom_text"
NONSCALAR = "nonscalar"
# A timm trunk's own last layer makes the embedding.
TRUNK_HEAD = "trunk_head"
OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
IGNORED = (
    *OPENAI_MARKS,
    r"(text\.)?attn_mask",
    r"text_decoder\..*",  # CoCa's caption decoder
    r"visual\..*\.num_batches_tracked",
    *open_clip_eva.IGNORED,
    *open_clip_hf_text.IGNORED,
)
# open_clip's text pooling -> ours.
POOLS = {"argmax": "eot", "eos": "eot", "last": "last", "first": "cls"}


def recognise(config: Mapping[str, Any] | None, names: Any) -> bool:
    if config is not None:
        model = config.get("model_cfg", config)
        return "vision_cfg" in model and "text_cfg" in model
    return "logit_scale" in names and any(x.startswith("visual.") for x in names)


def settings(
    config: Mapping[str, Any],
    shapes: towers.Shapes,
    folder: pathlib.Path | None,
    origin: str = "",
) -> Settings:
    """The settings that an open_clip_config.json describes.

    folder: may hold the tokenizer's files. origin: for messages, by default the
    config's path.

    Raises UserError if our towers cannot be what it describes; it names the nearest
    model that they can be.
    """
    model = config.get("model_cfg", config)
    try:
        return _settings(config, shapes, folder, origin or f"{folder}/{CONFIG}")
    except Unread as error:
        name = nearest(model["vision_cfg"], model["text_cfg"])
        message = f"{error}. The nearest model that it reads is {name}"
        raise UserError(message) from error


def _settings(
    config: Mapping[str, Any],
    shapes: towers.Shapes,
    folder: pathlib.Path | None,
    origin: str,
) -> Settings:
    model = config.get("model_cfg", config)
    vision, text = model["vision_cfg"], model["text_cfg"]
    text = {"context_length": 77, "vocab_size": 49408, **text}
    quick_gelu = model.get("quick_gelu", False)
    size = vision.get("image_size", 224)
    if isinstance(size, list) and len({*size}) == 1:
        size = size[0]
    elif isinstance(size, list):
        raise Unread(f"{origin}: vision_cfg.image_size={size}: clipjax reads squares")
    image_path = f"{origin}: vision_cfg"
    value_checks.check_sizes({"image_size": size}, ("image_size",), image_path)
    value_checks.check_sizes(model, ("embed_dim",), origin)
    embed_dim = model["embed_dim"]
    image_head = "linear"
    if vision.get("timm_model_name"):
        image, image_options, image_head = towers.timm_options(
            vision, size, shapes, origin
        )
    elif isinstance(vision.get("layers", 12), int):
        vision = {"layers": 12, "width": 768, "patch_size": 16, **vision}
        image = "vit"
        value_checks.check_sizes(vision, ("patch_size",), image_path)
        value_checks.check_depth(vision, "layers", shapes, image_path)
        image_options = towers.vit_options(vision, size, embed_dim, quick_gelu, origin)
        image_head = "linear" if "visual.proj" in shapes else "none"
    else:
        image, image_head = "modified_resnet", "none"
        vision = {"width": 64, **vision}
        value_checks.check_sizes(vision, ("width",), image_path)
        depths = {f"layers[{i}]": depth for i, depth in enumerate(vision["layers"])}
        for key in depths:
            value_checks.check_depth(depths, key, shapes, image_path)
        image_options = towers.resnet_options(vision, embed_dim, image_path)
    transform = preprocessing.from_open_clip(
        config.get("preprocess_cfg") or {}, DEFAULTS, origin
    )
    bias = {}
    if "logit_bias" in shapes:
        start = model.get("init_logit_bias")
        bias["logit_bias_init"] = -10.0 if start is None else float(start)
    component, end_id, pad_id, layout = "transformer", None, None, set()
    if text.get("hf_model_name"):
        component, pad_id = "bert", open_clip_hf_text.PAD_ID
        text_options, text_head, vocab_size = open_clip_hf_text.options(
            text, shapes, origin
        )
        value_checks.check_sizes(text, ("context_length",), f"{origin}: text_cfg")
        text = {**text, "vocab_size": vocab_size}
    else:
        text_options, end_id = _text_options(text, quick_gelu, shapes, origin)
        prefix = "text." if "text.token_embedding.weight" in shapes else ""
        text_head = _text_head(shapes, f"{prefix}text_projection")
        if prefix:
            layout.add(CUSTOM_TEXT)
        if text_options["pool"] == "appended":
            pad_id = text.get("pad_id", 0)
    if "visual.trunk.head.weight" in shapes:
        layout.add(TRUNK_HEAD)
    if shapes.get("logit_scale") == (1,):
        layout.add(NONSCALAR)
    return Settings(
        format=FORMAT,
        image=image,
        image_options=image_options,
        text=component,
        text_options=text_options,
        model_options={
            "embed_dim": embed_dim,
            "image_head": image_head,
            "text_head": text_head,
            "mean": transform.mean,
            "std": transform.std,
            **bias,
        },
        image_size=size,
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        end_id=end_id,
        pad_id=pad_id,
        layout=frozenset(layout),
        **transform.as_settings(),
        **tokenizer_choice.choose_open_clip(folder, text),
    )


def _text_options(
    text: Mapping[str, Any], quick_gelu: bool, shapes: towers.Shapes, origin: str
) -> tuple[dict[str, Any], int | None]:
    """Options of our text transformer, and the id at which it pools, if any."""
    path = f"{origin}: text_cfg"
    defaults = {"width": 512, "heads": 8, "layers": 12, "eos_id": 2, "pad_id": 0}
    text = {**defaults, **text}
    value_checks.check_sizes(text, ("context_length", "vocab_size", "heads"), path)
    value_checks.check_sizes(text, ("eos_id", "pad_id"), path, least=0)
    value_checks.check_depth(text, "layers", shapes, path)
    pool = text.get("pool_type", "argmax")
    if pool not in POOLS:
        raise Unread(f"{path}.pool_type={pool!r}: clipjax reads {', '.join(POOLS)}")
    pool = "appended" if text.get("embed_cls") else pool
    causal = not text.get("no_causal_mask", False)
    options = towers.transformer_options(text, quick_gelu, path) | {
        "depth": text["layers"],
        "heads": text["heads"],
        "causal": causal,
        # Without a causal mask texts see the padding, unless they have a class token.
        "masked": causal or pool == "appended",
        "pool": POOLS.get(pool, pool),
    }
    ends = {"argmax": text["vocab_size"] - 1, "eos": text["eos_id"]}
    return options, ends.get(pool)


def _text_head(shapes: towers.Shapes, name: str) -> str:
    if name in shapes:
        return "linear"
    return "affine" if f"{name}.weight" in shapes else "none"


def settings_of_file(tensors: Mapping[str, np.ndarray], origin: str) -> Settings:
    """The settings of one of OpenAI's files, which has no open_clip_config.json.

    Raises UserError if the file lacks the three numbers that OpenAI's have beside their
    weights. Float16, names and shapes prove nothing, because open_clip has models of
    the same sizes with GELU.
    """
    if not all(mark in tensors for mark in OPENAI_MARKS):
        raise UserError(
            f"{origin} does not say which activation the model has (quick_gelu in "
            f"OpenAI's, gelu in most others): put it in a folder with its {CONFIG}"
        )
    shapes = {name: array.shape for name, array in tensors.items()}
    return settings(openai_config(shapes, origin), shapes, None, origin)


def openai_config(shapes: towers.Shapes, origin: str) -> dict[str, Any]:
    """The config of one of OpenAI's models, from its shapes; heads are 64 wide.

    Raises UserError if a tensor that gives a size is missing.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise UserError(
                f"{origin} lacks {name}: it is not one of OpenAI's CLIP models"
            )
        return shapes[name]

    def count(pattern: str) -> int:
        matches = (re.match(pattern, name) for name in shapes)
        return len({match[1] for match in matches if match})

    width = shape("ln_final.weight")[0]
    text = {
        "context_length": shape("positional_embedding")[0],
        "vocab_size": shape("token_embedding.weight")[0],
        "width": width,
        "heads": width // 64,
        "layers": count(r"transformer\.resblocks\.(\d+)\."),
    }
    if "visual.layer1.0.conv1.weight" in shapes:
        grid = math.isqrt(shape("visual.attnpool.positional_embedding")[0] - 1)
        vision: dict[str, Any] = {
            "layers": [count(rf"visual\.layer{i}\.(\d+)\.") for i in (1, 2, 3, 4)],
            "width": shape("visual.layer1.0.conv1.weight")[0],
            "image_size": grid * 32,
        }
    else:
        kernel = shape("visual.conv1.weight")
        grid = math.isqrt(shape("visual.positional_embedding")[0] - 1)
        vision = {
            "layers": count(r"visual\.transformer\.resblocks\.(\d+)\."),
            "width": kernel[0],
            "patch_size": kernel[-1],
            "image_size": grid * kernel[-1],
        }
    return {
        "embed_dim": shape("text_projection")[1],
        "quick_gelu": True,
        "vision_cfg": vision,
        "text_cfg": text,
    }


def table(model: two_tower.TwoTowerModel, layout: frozenset[str]) -> Table:
    """The rules for a model and a file of this layout."""
    module = model.module
    image_head, text_head = module.heads
    scalar = lead if NONSCALAR in layout else same
    rules = [Rule("logit_scale", "logit_scale", scalar)]
    if module.logit_bias_init is not None:
        rules.append(Rule("logit_bias", "logit_bias", scalar))
    visual, timm_head = _visual_rules(module.image)
    if timm_head:
        visual += towers.timm_head_rules(image_head, TRUNK_HEAD in layout)
    elif image_head == "linear":
        visual.append(Rule("proj", "image_projection/kernel"))
    rules += rename_rules(visual, "visual.")
    rules += _text_rules(module.text, text_head, layout)
    return Table(FORMAT, tuple(rules), IGNORED, (f"visual.{towers.QUERIES}",))


def _text_rules(tower: Any, head: str, layout: frozenset[str]) -> list[Rule]:
    if isinstance(tower, Bert):
        return rename_rules(open_clip_hf_text.rules(tower, head), "text.")
    rules = [
        Rule("token_embedding.weight", "text/token_embedding"),
        Rule("positional_embedding", "text/positions"),
        *norm("ln_final", "text/post_norm"),
        *towers.blocks("", "text", tower.depth),
    ]
    if head == "linear":
        rules.append(Rule("text_projection", "text_projection/kernel"))
    elif head == "affine":
        rules += dense("text_projection", "text_projection")
    appended = tower.pool == "appended"
    if appended:
        rules.append(Rule("cls_emb", "text/class_token"))
    # Only open_clip's custom text tower appends a token.
    return rename_rules(rules, "text." if appended or CUSTOM_TEXT in layout else "")


def _visual_rules(tower: Any) -> tuple[list[Rule], bool]:
    """The rules of an image tower, and whether timm's head follows it."""
    if isinstance(tower, ModifiedResNet):
        return towers.resnet_rules(tower), False
    if isinstance(tower, ConvNeXt):
        return towers.convnext_rules(tower), True
    if isinstance(tower, Eva):
        return open_clip_eva.rules(tower), True
    assert isinstance(tower, VisionTransformer)
    if tower.pool == "map":
        return towers.timm_vit_rules(tower), True
    return towers.vit_rules(tower), False
