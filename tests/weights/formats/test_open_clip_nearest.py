"""Models of open_clip that cannot be read: one line, with the nearest that can."""

from __future__ import annotations

import pytest
from weights_tools import write_hf, write_open_clip

from clipjax.types import UserError
from clipjax.weights import read_model
from clipjax.weights.formats import open_clip

SHAPES = {str(i): () for i in range(99)}  # for settings that only count them
TEXT = {"width": 64, "heads": 1, "layers": 2}
VIT = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16}


def timm(name, **options):
    return {"timm_model_name": name, "timm_pool": "token", "image_size": 224, **options}


@pytest.mark.parametrize(
    ("vision", "text", "names", "near"),
    [
        # Towers that clipjax lacks.
        (timm("fastvit_mci2"), {}, "fastvit_mci2", "convnext_base_w"),
        (timm("fastvit_mci4"), {}, "fastvit_mci4", "convnext_large_d"),
        (timm("swin_large_patch4"), {}, "swin_large", "convnext_large_d"),
        (timm("convnextv2_xlarge"), {}, "convnextv2_xlarge", "convnext_xxlarge"),
        (timm("vitamin_large_336", image_size=336), {}, "vitamin", "ViT-L-14-336"),
        (timm("vitamin_xlarge_384"), {}, "vitamin_xlarge", "ViT-H-14"),
        (timm("vit_pe_core_tiny_patch16_384"), {}, "vit_pe_core", "ViT-B-16"),
        (timm("vit_pe_core_gigantic_patch14"), {}, "gigantic", "ViT-bigG-14"),
        (timm("a_tower_of_mine"), {}, "a_tower_of_mine", "ViT-B-16"),
        (VIT, {"hf_model_name": "google/mt5-base"}, "mt5", "xlm-roberta-base-ViT-B-32"),
        (
            VIT | {"width": 1280, "layers": 32},
            {"hf_model_name": "facebook/nllb-200-distilled-1.3B"},
            "nllb",
            "xlm-roberta-large-ViT-H-14",
        ),
        (
            timm("vit_base_patch16_siglip_384", timm_pool="map", timm_proj="none"),
            {"hf_model_name": "facebook/nllb-200-distilled-600M"},
            "nllb",
            "ViT-B-16-SigLIP-i18n-256",
        ),
        (VIT, {"hf_model_name": "bert-base-uncased"}, "bert-base", "roberta-ViT-B-32"),
        # Settings of towers that it has.
        (
            timm("eva02_large_patch14_clip_224", timm_pool="avg"),
            {},
            "timm_pool='avg'",
            "EVA02-L-14",
        ),
        (
            timm("vit_so400m_patch14_siglip_384", timm_pool="avg"),
            {},
            "timm_pool='avg'",
            "ViT-SO400M-14-SigLIP",
        ),
        (VIT | {"pool_type": "none"}, {}, "pool_type='none'", "ViT-B-16"),
        (
            VIT | {"pool_type": "avg", "final_ln_after_pool": True},
            {},
            "final_ln_after_pool=True",
            "ViT-B-16",
        ),
        (VIT | {"patch_size": 32, "qk_norm": True}, {}, "qk_norm=True", "ViT-B-32"),
        (VIT | {"width": 1024, "qk_norm": True}, {}, "qk_norm=True", "ViT-L-14"),
        (VIT | {"width": 2048, "scale_fc": True}, {}, "scale_fc", "ViT-bigG-14"),
        (VIT, {"ls_init_value": 0.1}, "ls_init_value=0.1", "ViT-B-16"),
        (
            {"layers": [1, 2, 1, 1], "width": 64, "image_size": [9, 12]},
            {},
            r"image_size=\[9, 12\]",
            "RN50",
        ),
        (
            VIT,
            {"hf_model_name": "xlm-roberta-base", "hf_pooler_type": "max_pooler"},
            "hf_pooler_type='max_pooler'",
            "xlm-roberta-base-ViT-B-32",
        ),
    ],
)
def test_the_nearest_is_named(vision, text, names, near):
    model = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": {**TEXT, **text}}
    with pytest.raises(UserError, match=names) as caught:
        open_clip.settings({"model_cfg": model}, SHAPES, None, "settings")
    message = str(caught.value)
    assert message.endswith(f". The nearest model that it reads is {near}")
    assert "\n" not in message


def test_a_folder_that_cannot_be_read(tmp_path):
    folder = write_open_clip(tmp_path, vision_cfg__timm_model_name="vitamin_base_224")
    with pytest.raises(UserError, match="vitamin_base_224.* reads is ViT-B-16$"):
        read_model.read_model(str(folder))


def test_a_value_that_cannot_be_has_no_nearest():
    model = {"embed_dim": -1, "vision_cfg": VIT, "text_cfg": TEXT}
    with pytest.raises(UserError, match="embed_dim=-1") as caught:
        open_clip.settings({"model_cfg": model}, SHAPES, None, "settings")
    assert "nearest" not in str(caught.value)


def test_a_model_of_transformers_that_cannot_be_read(tmp_path):
    folder = write_hf(tmp_path, model_type="chinese_clip")
    with pytest.raises(UserError, match="model_type='chinese_clip'") as caught:
        read_model.read_model(str(folder))
    near = "reads is open_clip's xlm-roberta-base-ViT-B-32"
    assert str(caught.value).endswith(near)
    # A model of texts alone has none.
    folder = write_hf(tmp_path, model_type="gpt2")
    with pytest.raises(UserError, match="model_type='gpt2'") as caught:
        read_model.read_model(str(folder))
    assert "nearest" not in str(caught.value)
