"""Every model that open_clip names is read, or refused with the nearest that is.

Their depths are cut, which leaves every kind of tensor and every width.
"""

from __future__ import annotations

import re

import pytest
from hf_clip import import_torch

from clipjax import param_paths
from clipjax.types import UserError
from clipjax.weights import model_description, rename_table
from clipjax.weights.formats import open_clip, open_clip_nearest

pytest.importorskip("torch")
import_torch()
reference = pytest.importorskip("open_clip")
pytest.importorskip("timm")
pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

# What is refused -> the nearest that is read. All others are read.
UNREAD = {
    "MobileCLIP-B": "ViT-B-16",
    "MobileCLIP-S1": "convnext_base_w",
    "MobileCLIP-S2": "convnext_base_w",
    "MobileCLIP2-B": "ViT-B-16",
    "MobileCLIP2-L-14": "ViT-L-14",
    "MobileCLIP2-S0": "convnext_base_w",
    "MobileCLIP2-S2": "convnext_base_w",
    "MobileCLIP2-S3": "convnext_base_w",
    "MobileCLIP2-S4": "convnext_large_d",
    "PE-Core-B-16": "ViT-B-16",
    "PE-Core-L-14-336": "ViT-L-14-336",
    "PE-Core-S-16-384": "ViT-B-16",
    "PE-Core-T-16-384": "ViT-B-16",
    "PE-Core-bigG-14-448": "ViT-bigG-14",
    "ViT-H-14-CLIPA": "ViT-H-14",
    "ViT-H-14-CLIPA-336": "ViT-H-14",
    "ViT-L-14-CLIPA": "ViT-L-14",
    "ViT-L-14-CLIPA-336": "ViT-L-14-336",
    "ViT-bigG-14-CLIPA": "ViT-bigG-14",
    "ViT-bigG-14-CLIPA-336": "ViT-bigG-14",
    "ViT-M-16-alt": "ViT-B-16",
    "mt5-base-ViT-B-32": "xlm-roberta-base-ViT-B-32",
    "mt5-xl-ViT-H-14": "xlm-roberta-large-ViT-H-14",
    "nllb-clip-base": "xlm-roberta-base-ViT-B-32",
    "nllb-clip-large": "xlm-roberta-large-ViT-H-14",
    "nllb-clip-base-siglip": "ViT-B-16-SigLIP-i18n-256",
    "nllb-clip-large-siglip": "ViT-SO400M-16-SigLIP-i18n-256",
    "swin_base_patch4_window7_224": "convnext_base_w",
    "vit_medium_patch16_gap_256": "ViT-B-16",
    "vit_relpos_medium_patch16_cls_224": "ViT-B-16",
}
ROBERTA = {"num_hidden_layers": 1, "max_position_embeddings": 514, "type_vocab_size": 1}
HF_SIZES = {
    "roberta-base": ("roberta", {}),
    "xlm-roberta-base": ("xlm-roberta", {"vocab_size": 250002}),
    "xlm-roberta-large": (
        "xlm-roberta",
        {
            "vocab_size": 250002,
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
        },
    ),
}


def hf_config(name, **_):
    import transformers

    kind, sizes = HF_SIZES[name]
    return transformers.AutoConfig.for_model(kind, **ROBERTA, **sizes)


def shallow(section):
    """A vision_cfg, text_cfg or multimodal_cfg of one block, or one a stage."""
    layers = section.get("layers", 12)
    cut = [1] * len(layers) if isinstance(layers, list) else 1
    return {**section, "layers": cut}


def is_unread(name):
    return name in UNREAD or name.startswith("ViTamin")


def shapes_of(config, monkeypatch):
    """The shapes of a model's tensors, of which none is made."""
    from open_clip import hf_model, timm_model

    named = timm_model.timm.create_model

    def create(name, **options):
        depth = {"depths": (1,) * 4} if "convnext" in name else {"depth": 1}
        return named(name, **options, **depth)

    monkeypatch.setattr(hf_model.AutoConfig, "from_pretrained", hf_config)
    monkeypatch.setattr(timm_model.timm, "create_model", create)
    config = dict(config)
    kind = reference.CLIP
    if config.pop("custom_text", False):
        kind = reference.CustomTextCLIP
    if "hf_model_name" in config["text_cfg"]:
        kind = reference.CustomTextCLIP
        text = {**config["text_cfg"], "hf_model_pretrained": False}
        config["text_cfg"] = text
    if "multimodal_cfg" in config:
        kind = reference.CoCa
    with import_torch().device("meta"):
        return {x: tuple(y.shape) for x, y in kind(**config).state_dict().items()}


@pytest.mark.parametrize("name", reference.list_models())
def test_every_model(name, monkeypatch):
    model_config = dict(reference.get_model_config(name))
    for key in {"vision_cfg", "text_cfg", "multimodal_cfg"} & {*model_config}:
        model_config[key] = shallow(model_config[key])
    config = {"model_cfg": model_config, "preprocess_cfg": {}}
    if is_unread(name):
        with pytest.raises(UserError) as caught:
            open_clip.settings(config, dict.fromkeys(map(str, range(99)), ()), None)
        message = str(caught.value)
        assert "\n" not in message
        near = re.search(r"The nearest model that it reads is (\S+)$", message)
        assert near is not None, message
        assert near[1] == UNREAD.get(name, near[1])
        assert not is_unread(near[1])
        assert near[1] in dict(reference.list_pretrained())  # its weights are released
        return
    shapes = shapes_of(model_config, monkeypatch)
    found = open_clip.settings(config, shapes, None)
    model = model_description.build(found)
    table = open_clip.table(model, found.layout)
    ours = param_paths.flatten(rename_table.model_shapes(model))
    expected = rename_table._their_shapes(table, ours)
    for queries in table.first_rows:
        if queries in expected:
            shapes[queries] = (1, *shapes[queries][1:])
    ignored = re.compile("|".join(table.ignored))
    theirs = {x: y for x, y in shapes.items() if not ignored.fullmatch(x)}
    assert theirs == expected


def test_every_nearest_model_is_read():
    names = [name for row in open_clip_nearest.NEAREST.values() for name in row]
    for name in (*names, "ViT-B-32", "ViT-L-14-336"):
        assert name in reference.list_models() and not is_unread(name)
