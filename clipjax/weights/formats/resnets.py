"""Residual networks of torchvision and timm, and Hugging Face's ResNetModel.

Source: pytorch/vision, huggingface/pytorch-image-models (with torchvision's names),
huggingface/transformers. Networks whose layers differ from torchvision's are refused.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from clipjax.models.image.resnet import VARIANTS, ResNet
from clipjax.types import UserError
from clipjax.weights.formats import hf_common
from clipjax.weights.rename_table import (
    Rule,
    batch_norm,
    conv,
    dense,
    rename_rules,
    repeat_rules,
)
from clipjax.weights.tower_description import (
    IMAGENET,
    Shapes,
    TowerFormat,
    TowerSettings,
    classes,
    count,
    hf_normalisation,
    prefix_of,
    shape_of,
    timm_normalisation,
)
from clipjax.weights.value_checks import check_depth, check_sizes

# timm's ResNets that equal torchvision's, "resnet50.a1_in1k". Others have the same
# names but blur or average instead of striding.
TIMM = re.compile(r"(tv_|gluon_)?resnet\d+(\..*)?")
STAGES = 4
SIZE = 224
COUNTERS = r".*\.num_batches_tracked"
BASIC, BOTTLENECK = "18", "50"  # variants that have these blocks


def _options(bottleneck: bool, width: int, depths: tuple[int, ...]) -> dict[str, Any]:
    """A variant with these blocks and depths, else a variant and the depths."""
    block = VARIANTS[BOTTLENECK if bottleneck else BASIC][0]
    named = [name for name, parts in VARIANTS.items() if parts == (block, depths)]
    if named:
        return {"variant": named[0], "width": width}
    variant = BOTTLENECK if bottleneck else BASIC
    return {"variant": variant, "width": width, "depths": depths}


def _is_bottleneck(tower: ResNet) -> bool:
    return VARIANTS[tower.variant][0] is VARIANTS[BOTTLENECK][0]


def _is_torch(config: Mapping[str, Any] | None, shapes: Shapes) -> bool:
    if config is not None and "architecture" not in config:
        return False
    return any(name.startswith("layer1.0.conv") for name in shapes)


def _torch_settings(
    config: Mapping[str, Any] | None, shapes: Shapes, folder: pathlib.Path, origin: str
) -> TowerSettings:
    config = config or {}
    name = config.get("architecture", "resnet0")
    if not TIMM.fullmatch(name):
        raise UserError(
            f"{origin}: architecture={name!r}: clipjax reads timm's plain ResNets, "
            "such as resnet50, only"
        )
    changed = set(config.get("model_args") or {}) - {"num_classes", "global_pool"}
    if changed:
        raise UserError(
            f"{origin}: model_args has {', '.join(sorted(changed))}: clipjax reads "
            "plain ResNets only"
        )
    width = shape_of(shapes, "conv1.weight", 4, origin)[0]
    depths = tuple(
        count(shapes, rf"layer{stage + 1}\.(\d+)\.") for stage in range(STAGES)
    )
    shape = (config.get("pretrained_cfg") or config).get("input_size")
    size = {"input_size": shape[-1] if shape else SIZE}
    check_sizes(size, size, str(folder / hf_common.CONFIG))
    mean, std = timm_normalisation(config, str(folder / hf_common.CONFIG))
    return TowerSettings(
        format="torch_resnet",
        side="image",
        component="resnet",
        options=_options("layer1.0.conv3.weight" in shapes, width, depths),
        size=size["input_size"],
        num_classes=classes(shapes, "fc.bias"),
        mean=mean,
        std=std,
    )


def _torch_rules(tower: ResNet, layout: frozenset[str]) -> list[Rule]:
    def layer(i: int) -> list[Rule]:
        return [
            Rule(f"conv{i}.weight", f"conv_{i}/kernel", conv),
            *batch_norm(f"bn{i}", f"norm_{i}"),
        ]

    block = layer(1) + layer(2) + (layer(3) if _is_bottleneck(tower) else [])
    shortcut = [
        Rule("downsample.0.weight", "shortcut_conv/kernel", conv),
        *batch_norm("downsample.1", "shortcut_norm"),
    ]
    stem = rename_rules(layer(1), "", "stem/")
    return stem + _stages(tower, block, shortcut, [f"layer{i}." for i in (1, 2, 3, 4)])


def _stages(
    tower: ResNet, block: list[Rule], shortcut: list[Rule], names: list[str]
) -> list[Rule]:
    """The rules for all stages.

    A stage's first block has a shortcut with layers if the size changes.
    """
    rules = []
    for stage, (depth, theirs) in enumerate(zip(tower.depths, names, strict=True)):
        ours = f"stage_{stage}/block_"
        rules += repeat_rules(block, depth, f"{theirs}{{i}}.", f"{ours}{{i}}/")
        if stage or _is_bottleneck(tower):
            rules += rename_rules(shortcut, f"{theirs}0.", f"{ours}0/")
    return rules


def _is_hf(config: Mapping[str, Any] | None, shapes: Shapes) -> bool:
    return config is not None and config.get("model_type") == "resnet"


def _hf_settings(
    config: Mapping[str, Any] | None, shapes: Shapes, folder: pathlib.Path, origin: str
) -> TowerSettings:
    origin = str(folder / hf_common.CONFIG)
    values = {
        "embedding_size": 64,
        "hidden_sizes": (256, 512, 1024, 2048),
        "depths": (3, 4, 6, 3),
        "layer_type": "bottleneck",
        "num_channels": 3,
        **(config or {}),
    }
    width, bottleneck = values["embedding_size"], values["layer_type"] == "bottleneck"
    check_sizes(values, ("embedding_size",), origin)
    depths = {f"depths[{i}]": depth for i, depth in enumerate(values["depths"])}
    for key in depths:
        check_depth(depths, key, shapes, origin)
    plain = {
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        "num_channels": 3,
        "hidden_sizes": [
            width * 2**i * (4 if bottleneck else 1) for i in range(STAGES)
        ],
    }
    for key, value in plain.items():
        actual = values.get(key, value)
        if (list(actual) if isinstance(actual, tuple) else actual) != value:
            raise UserError(
                f"{origin}: {key}={values[key]!r}: clipjax's resnet has {value}"
            )
    mean, std = hf_normalisation(folder, IMAGENET)
    return TowerSettings(
        format="hf_resnet",
        side="image",
        component="resnet",
        options=_options(bottleneck, width, tuple(values["depths"])),
        size=SIZE,
        num_classes=classes(shapes, "classifier.1.bias"),
        mean=mean,
        std=std,
        prefix=prefix_of(shapes, "resnet."),
    )


def _hf_rules(tower: ResNet, layout: frozenset[str]) -> list[Rule]:
    def layer(theirs: str, conv_name: str, norm_name: str) -> list[Rule]:
        return [
            Rule(f"{theirs}.convolution.weight", f"{conv_name}/kernel", conv),
            *batch_norm(f"{theirs}.normalization", norm_name),
        ]

    block = []
    for i in range(3 if _is_bottleneck(tower) else 2):
        block += layer(f"layer.{i}", f"conv_{i + 1}", f"norm_{i + 1}")
    shortcut = layer("shortcut", "shortcut_conv", "shortcut_norm")
    stem = layer("embedder.embedder", "stem/conv_1", "stem/norm_1")
    names = [f"encoder.stages.{stage}.layers." for stage in range(STAGES)]
    return stem + _stages(tower, block, shortcut, names)


TORCH = TowerFormat(
    name="torch_resnet",
    side="image",
    recognise=_is_torch,
    settings=_torch_settings,
    rules=_torch_rules,
    head=dense("fc", "head"),
    ignored=(COUNTERS,),
)
HUGGING_FACE = TowerFormat(
    name="hf_resnet",
    side="image",
    recognise=_is_hf,
    settings=_hf_settings,
    rules=_hf_rules,
    head=dense("classifier.1", "head"),
    ignored=(COUNTERS,),
)
FORMATS = (HUGGING_FACE, TORCH)
