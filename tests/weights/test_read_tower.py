"""Weights of single towers: what other libraries wrote, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re

import jax
import model_tools
import numpy as np
import pytest
import tower_tools
from tower_tools import assert_near, goldens, write

from clipjax.models import two_tower
from clipjax.models.image import resnet, vit
from clipjax.models.text import bert, distilbert, transformer
from clipjax.types import UserError
from clipjax.weights import read_tower, rename_table
from clipjax.weights.beside import tokenizer_files
from clipjax.weights.formats import hf_bert, hf_clip, resnets, vits

CASES = (
    *("bert", "bert_1", "distilbert", "hf_vit", "hf_resnet", "torch_resnet"),
    *("timm_vit", "timm_vit_map", "timm_vit_clip"),
)


@pytest.mark.parametrize("name", CASES)
def test_towers_of_other_libraries(name, tmp_path):
    assert sorted(goldens()) == sorted(CASES)
    case = goldens()[name]
    tower_tools.check(case, write(case, tmp_path))


@pytest.mark.parametrize("name", ["hf_vit", "hf_resnet", "torch_resnet", "timm_vit"])
def test_classifiers(name, tmp_path):
    case = goldens()[name]
    settings, model, variables = read_tower.read_classifier(write(case, tmp_path))
    assert settings.num_classes == model.module.num_classes == 5
    tower = read_tower.build(settings)
    # Their images are normalised already, which the model would do again.
    params = dict(variables["params"])
    head = params.pop("head")
    stats = variables.get("batch_stats", {}).get("image", {})
    inner = tower_tools.variables_of(params["image"], stats)
    pooled = tower_tools.apply(tower, inner, case.inputs["image"])["pooled"]
    logits = np.asarray(pooled) @ head["kernel"] + head["bias"]
    assert_near(logits, case.outputs["logits"])
    assert jax.tree.map(np.shape, rename_table.model_shapes(model)) == jax.tree.map(
        np.shape, variables
    )


def test_normalisation_is_the_released_one(tmp_path, caplog):
    def read(name, file="", content=None):
        case = goldens()[name]
        path = write(case, tmp_path)
        if file:
            (tmp_path / file).write_text(json.dumps(content))
        settings, *_ = read_tower.read_tower(path, "image")
        return settings.mean, settings.std

    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert read("timm_vit") == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert read("hf_resnet") == imagenet
    caplog.clear()
    assert read("hf_vit") == ((0.5,) * 3, (0.5,) * 3)
    (line,) = caplog.messages  # taken for granted, and said
    assert "preprocessor_config.json is missing: images are normalised by mean" in line
    caplog.clear()
    given = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}
    found = read("hf_vit", "preprocessor_config.json", given)
    assert found == ((0.1, 0.2, 0.3), (1, 2, 3)) and not caplog.messages
    (tmp_path / "config.json").unlink()
    assert read("torch_resnet") == imagenet


def test_names_of_old_files(tmp_path):
    """gamma and beta, and the prefix of BERT's training, as bert-base-uncased has."""
    case = goldens()["bert"]
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): array
        for name, array in case.tensors.items()
    }
    assert any(name.startswith("bert.") for name in old)
    old["bert.embeddings.position_ids"] = np.arange(11)[None]
    case = dataclasses.replace(case, tensors=old)
    tower_tools.check(case, write(case, tmp_path))


def write_tensors(folder, tensors, config):
    case = tower_tools.Case("", config, tensors, {}, {})
    return write(case, folder)


def refusal(name, side="image", options=None):
    with pytest.raises(UserError) as caught:
        read_tower.read_tower(str(name), side, options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta"])
def test_roberta_is_bert_whose_texts_start_later(kind, tmp_path):
    """tests/parity has transformers' results; the arrays are BERT's here."""
    case = goldens()["bert"]
    _, expected, _ = read_tower.read_tower(write(case, tmp_path), "text")
    tensors = {
        name.replace("bert.", "roberta.", 1): array
        for name, array in case.tensors.items()
        if name.startswith("bert.")
    }
    rows = len(tensors["roberta.embeddings.position_embeddings.weight"])
    config = {**(case.config or {}), "model_type": kind, "pad_token_id": 1}
    path = write_tensors(tmp_path, tensors, config)
    settings, params, _ = read_tower.read_tower(path, "text")
    assert (settings.options["first_position"], settings.size) == (2, rows - 2)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    again = read_tower.to_tensors(settings, params)
    for name, array in again.items():
        np.testing.assert_array_equal(array, tensors[name].astype("f4"), name)
    config["pad_token_id"] = -1
    assert "pad_token_id=-1" in refusal(
        write_tensors(tmp_path, tensors, config), "text"
    )


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("bert", "bert.encoder.layer.1.attention.self.key.weight"),
        ("bert", "bert.embeddings.word_embeddings.weight"),
        ("distilbert", "distilbert.transformer.layer.0.ffn.lin2.bias"),
        ("hf_vit", "vit.encoder.layer.0.attention.attention.query.bias"),
        ("hf_resnet", "resnet.encoder.stages.1.layers.0.shortcut.normalization.bias"),
        ("torch_resnet", "layer2.0.bn2.running_var"),
        ("timm_vit", "blocks.0.attn.proj.weight"),
        ("timm_vit_map", "attn_pool.kv.bias"),
    ],
)
def test_every_tensor_counts(name, key, tmp_path):
    case = goldens()[name]
    array = case.tensors[key]
    rest = {x: value for x, value in case.tensors.items() if x != key}
    path = write_tensors(tmp_path, rest, case.config)
    assert re.search(rf"lacks {re.escape(key)}\b", refusal(path, case.side))

    settings, *_ = read_tower.read_tower(write(case, tmp_path), case.side)
    (kind,) = (kind for kind in read_tower.FORMATS if kind.name == settings.format)
    tower = read_tower.build(settings)
    rules, shapes = (
        read_tower.table(kind, settings, tower),
        read_tower.tower_shapes(tower),
    )

    def message(name, value):
        with pytest.raises(UserError) as caught:
            rename_table.to_ours(
                rules, rest | {key: array, name: value}, shapes, "here"
            )
        return str(caught.value)

    assert f"holds {key}.more" in message(f"{key}.more", array)
    wide = np.concatenate([array, array])
    expected = f"{key} has shape {wide.shape} and should have {array.shape}"
    assert expected in message(key, wide)
    assert f"{key} is of type int32" in message(key, array.astype("i4"))


def test_a_pooler_that_is_not_there(tmp_path):
    path = write(goldens()["distilbert"], tmp_path)
    assert "text.pool='pooler'" in refusal(path, "text", {"pool": "pooler"})
    case = goldens()["bert"]
    rest = {x: v for x, v in case.tensors.items() if "pooler" not in x}
    path = write_tensors(tmp_path, rest, case.config)
    assert "lacks bert.pooler.dense.weight" in refusal(path, "text", {"pool": "pooler"})
    read_tower.read_tower(path, "text")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("bert", {"is_decoder": True}, "is_decoder=True"),
        (
            "bert",
            {"position_embedding_type": "relative_key"},
            "position_embedding_type",
        ),
        ("bert", {"hidden_act": "relu"}, "hidden_act='relu'"),
        ("bert", {"model_type": "electra"}, "is no tower that clipjax reads"),
        ("bert", {"num_attention_heads": 5}, "text.heads=5"),
        ("bert", {"num_hidden_layers": "two"}, "num_hidden_layers='two': must be a"),
        ("hf_vit", {"qkv_bias": False}, "qkv_bias=False"),
        ("hf_vit", {"num_channels": 1}, "num_channels=1"),
        ("hf_resnet", {"downsample_in_bottleneck": True}, "downsample_in_bottleneck"),
        ("hf_resnet", {"hidden_sizes": [4, 8, 16, 48]}, "hidden_sizes"),
        ("timm_vit", {"model_args": {"init_values": 1}}, "init_values"),
        ("timm_vit", {"model_args": {"act_layer": "silu"}, "global_pool": ""}, "heads"),
        ("timm_vit", {"model_args": {"num_heads": 3, "act_layer": "silu"}}, "silu"),
        ("timm_vit", {"model_args": {"global_pool": "avg"}}, "with a class token"),
        ("torch_resnet", {"architecture": "resnetblur50"}, "plain ResNets"),
        ("torch_resnet", {"architecture": "resnet50", "model_args": {"x": 1}}, "has x"),
    ],
)
def test_what_our_towers_cannot_be(name, changes, message, tmp_path):
    case = goldens()[name]
    path = write_tensors(tmp_path, case.tensors, (case.config or {}) | changes)
    found = refusal(path, case.side)
    assert message in found and str(tmp_path) in found


def test_what_a_bare_file_does_not_say(tmp_path):
    def message(name):
        return refusal(write_tensors(tmp_path, goldens()[name].tensors, None))

    assert "how many heads its tower of width 12" in message("timm_vit")
    assert "which activation" in message("timm_vit_clip")
    assert "is no tower that clipjax reads" in message("bert")


def test_sides(tmp_path):
    path = write(goldens()["hf_vit"], tmp_path)
    assert "image" in refusal(path, "text")
    assert "side='audio'" in refusal(path, "audio")


def test_a_tower_that_computes_otherwise(tmp_path):
    path = write(goldens()["hf_vit"], tmp_path)
    settings, *_ = read_tower.read_tower(path, "image")

    def message(tower):
        with pytest.raises(UserError) as caught:
            read_tower.check_same(tower, settings, path)
        return str(caught.value)

    sizes = {"width": 12, "depth": 1, "heads": 3, "mlp_dim": 20}
    plain = sizes | {"pre_norm": False, "patch_bias": True, "norm_epsilon": 1e-12}
    free = {"dropout": 0.1, "patch_dropout": 0.5, "remat": True}
    read_tower.check_same(vit.make(24, variant="B/4", **plain, **free), settings, path)
    for option, value in {
        "variant": "B/2",
        "heads": 4,
        "mlp_dim": 24,
        "pool": "mean",
        "activation": "quick_gelu",
        "norm_epsilon": 1e-6,
    }.items():
        tower = vit.make(24, **{"variant": "B/4", **plain, option: value})
        assert f"image.{option}:" in message(tower)
    assert "model.image: 'ResNet' does not fit" in message(resnet.make(24))
    path = write(goldens()["bert"], tmp_path)
    assert "text.depth: 1 does not" in refusal(path, "text", {"depth": 1})


def test_half_of_a_two_tower_model(tmp_path):
    image = vit.make(12, variant="B/4", width=16, depth=1, heads=2)
    text = transformer.make(60, 7, width=12, depth=2, heads=3)
    model = two_tower.make(image, text, embed_dim=8)
    variables = model_tools.init(model)
    described = hf_clip.config_json(model, tokenizer_files.Ends(0, 1, 1))
    tensors = rename_table.to_theirs(hf_clip.table(model, frozenset()), variables)
    path = write_tensors(tmp_path, tensors, described)
    for side, tower in (("image", image), ("text", text)):
        settings, params, stats = read_tower.read_tower(path, side)
        assert read_tower.build(settings) == tower and stats == {}
        jax.tree.map(np.testing.assert_array_equal, params, variables["params"][side])
        with pytest.raises(UserError, match="no files of single towers"):
            read_tower.to_tensors(settings, params)
    assert settings.vocab_size == 60 and settings.mean == ()
    with pytest.raises(UserError, match="holds no classifier"):
        read_tower.read_classifier(path)


def test_what_a_config_leaves_out():
    """The defaults of transformers' configs are the published models."""

    def tower(kind, model_type):
        shapes = {str(i): () for i in range(99)}  # which only are counted
        found = kind.settings({"model_type": model_type}, shapes, pathlib.Path(), "")
        return read_tower.build(found)

    assert tower(hf_bert.BERT, "bert") == bert.make(30522, 512)
    assert tower(hf_bert.DISTILBERT, "distilbert") == distilbert.make(30522, 512)
    assert tower(resnets.HUGGING_FACE, "resnet") == resnet.make(224, variant="50")
    plain = {"pre_norm": False, "patch_bias": True, "norm_epsilon": 1e-12}
    assert tower(vits.HUGGING_FACE, "vit") == vit.make(224, variant="B/16", **plain)


@pytest.mark.parametrize(
    ("name", "changes", "activation", "heads"),
    [
        ("vit_so400m_patch16_siglip_256", {}, "gelu_tanh", 3),
        ("vit_large_patch16_siglip_gap_512", {}, "gelu_tanh", 3),
        ("vit_base_patch16_siglip_224", {}, "gelu", 3),
        ("vit_base_patch32_clip_224", {}, "gelu", 3),
        ("vit_base_patch32_clip_quickgelu_224", {}, "quick_gelu", 3),
        ("vit_base_patch16_gap_224", {"num_heads": None}, "gelu", 16),
        ("vit_base_patch16_gap_224", {"act_layer": "gelu_tanh"}, "gelu_tanh", 3),
    ],
)
def test_what_the_name_of_a_timm_model_says(name, changes, activation, heads):
    config = {"architecture": name, "model_args": {"num_heads": 3} | changes}
    shapes = {x: v.shape for x, v in goldens()["timm_vit_map"].tensors.items()}
    options = vits.TIMM.settings(config, shapes, pathlib.Path(), "").options
    assert (options["activation"], options["heads"]) == (activation, heads)
