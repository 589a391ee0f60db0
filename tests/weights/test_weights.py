"""Foreign weights: tables, what files may say, positions, export and the hub."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import sys
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tokenizer_tools
from hypothesis import HealthCheck, given, strategies
from hypothesis import settings as effort
from weights_tools import (
    COCA,
    LENGTH,
    MODELS,
    SIGLIP,
    VOCAB,
    assert_equal,
    made,
    make_model,
    noise,
    write_hf,
    write_open_clip,
)

from clipjax import config
from clipjax.data.tokenizers import hf_json
from clipjax.models import two_tower
from clipjax.models.common import layers, lora
from clipjax.models.image import vit
from clipjax.models.text import transformer
from clipjax.types import UserError
from clipjax.weights import (
    model_description,
    read_model,
    read_tower,
    rename_table,
    write_model,
)
from clipjax.weights.beside import preprocessing
from clipjax.weights.formats import hf_clip, hf_siglip, open_clip
from clipjax.weights.tensors import hub as known_hub
from clipjax.weights.tensors import resize_positions, tensor_files

GOLDENS = pathlib.Path(__file__).parents[1] / "parity" / "goldens"


@pytest.mark.parametrize("name", MODELS)
def test_tables_there_and_back(name):
    its_table, shapes, variables, tensors = made(name)
    assert_equal(rename_table.to_ours(its_table, tensors, shapes, "x"), variables)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        half = {key: array.astype(dtype) for key, array in tensors.items()}
        read = rename_table.to_ours(its_table, half, shapes, "x")
        assert {leaf.dtype for leaf in jax.tree.leaves(read)} == {np.dtype("float32")}
        again = rename_table.to_theirs(its_table, read, dict.fromkeys(half, dtype))
        for key, array in half.items():
            assert again[key].dtype == array.dtype
            assert again[key].tobytes() == array.tobytes()


def test_a_table_that_is_not_the_models_is_a_defect():
    its_table, _, variables, tensors = made("clip")
    shapes = rename_table.model_shapes(make_model(learnable_scale=False))
    with pytest.raises(TypeError, match="params/logit_scale"):
        rename_table.to_ours(its_table, tensors, shapes, "x")
    params = {**variables["params"], "image_expander": variables["params"]["text"]}
    with pytest.raises(
        UserError,
        match="does not fit this model: only one of them has params/image_expander/",
    ):
        rename_table.to_theirs(its_table, {"params": params})
    with pytest.raises(UserError, match="dtype=int8: must be one of float32"):
        rename_table.to_theirs(its_table, variables, "int8")


def test_what_the_changes_do():
    """Against torch's own meaning of its layouts, written out."""
    draw = np.random.default_rng(0)
    kernel, image = draw.standard_normal((5, 3, 4, 4)), draw.standard_normal((8, 8, 3))
    ours = rename_table.patches.to_ours(kernel)
    cut = np.asarray(layers.patches(jnp.asarray(image[None]), 4))[0]
    # The convolution at the second row, first column: a sum over channels and places.
    window = image[4:8, 0:4].transpose(2, 0, 1)
    expected = [(kernel[out] * window).sum() for out in range(5)]
    np.testing.assert_allclose((cut @ ours)[2], expected, rtol=1e-5)
    np.testing.assert_array_equal(rename_table.patches.to_theirs(ours), kernel)
    assert rename_table.conv.to_ours(kernel)[1, 2, 0, 4] == kernel[4, 0, 1, 2]

    # Three of theirs, one of ours: q first, and each of them the other way round.
    rule = rename_table.Rule(("q", "k", "v"), "qkv", rename_table.transpose)
    q, k, v = draw.standard_normal((3, 4, 2)).astype("f4")
    shapes = {"params": {"qkv": np.zeros((2, 12))}}
    read = rename_table.to_ours(
        rename_table.Table("t", (rule,)), {"q": q, "k": k, "v": v}, shapes, "x"
    )
    x = draw.standard_normal(2)
    expected = np.concatenate([q @ x, k @ x, v @ x])
    np.testing.assert_allclose(x @ read["params"]["qkv"], expected, rtol=1e-5)


@given(strategies.data())
@effort(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_wrong_tensor_is_named(data):
    its_table, shapes, _, tensors = made(data.draw(strategies.sampled_from([*MODELS])))
    name = data.draw(strategies.sampled_from(sorted(tensors)))
    array = tensors[name]
    changed = dict(tensors)
    kind = data.draw(strategies.sampled_from(["drop", "rename", "shape", "type"]))
    del changed[name]
    if kind == "rename":
        changed[f"{name}_"] = array
    elif kind == "shape":
        changed[name] = np.zeros((*array.shape, 2), np.float32)
    elif kind == "type":
        changed[name] = np.zeros(array.shape, np.int8)
    with pytest.raises(UserError) as caught:
        rename_table.to_ours(its_table, changed, shapes, "some.file")
    words = str(caught.value).replace(",", " ").split()
    assert any(word.rstrip(".:") == name for word in words)
    assert str(caught.value).startswith("some.file") and len(str(caught.value)) < 600
    if kind == "rename":
        assert f"Nearest: '{name}_'" in str(caught.value)


def test_harmless_tensors_are_passed_over():
    its_table, shapes, variables, tensors = made("clip")
    extra = {"text_model.embeddings.position_ids": np.arange(3)[None]}
    assert_equal(
        rename_table.to_ours(its_table, tensors | extra, shapes, "x"), variables
    )
    its_table, shapes, variables, tensors = made("resnet")
    extra = {
        "visual.layer2.0.bn1.num_batches_tracked": np.int64(3),
        "attn_mask": np.zeros((2, 2)),
        "input_resolution": np.int64(32),
    }
    assert_equal(
        rename_table.to_ours(its_table, tensors | extra, shapes, "x"), variables
    )
    extra = {"visual.layer9.0.bn1.weight": np.zeros(2)}
    with pytest.raises(UserError, match=r"layer9\.0\.bn1\.weight, .*Nearest: 'visual"):
        rename_table.to_ours(its_table, tensors | extra, shapes, "x")


# Folders.


def test_a_folder_of_either_kind(tmp_path):
    found, variables = read_model.read_model(str(write_hf(tmp_path)))
    assert found.format == "hf_clip" and found.end_id == 1
    assert model_description.build(found) == MODELS["clip"][1]
    assert_equal(variables, made("clip")[2])
    # open_clip's own file first, as its models on the hub have both.
    found, variables = read_model.read_model(str(write_open_clip(tmp_path)))
    assert found.format == "open_clip"
    assert model_description.build(found) == MODELS["open_clip"][1]
    assert_equal(variables, made("open_clip")[2])


def test_coca_folder(tmp_path):
    """Its decoder, and its queries but the first, are left out."""
    whole = {"multimodal_cfg": {"width": 4}, "vision_cfg__attn_pooler_queries": 3}
    folder = write_open_clip(tmp_path, "coca", **whole)
    path, query = folder / "open_clip_model.safetensors", "visual.attn_pool.query"
    tensors = dict(made("coca")[3])
    tensors[query] = np.concatenate([tensors[query], noise(np.zeros((2, 8)), 7)])
    tensors["text_decoder.ln_final.weight"] = np.ones(4, np.float32)
    tensor_files.write_safetensors(path, tensors)
    found, variables = read_model.read_model(str(folder))
    assert model_description.build(found) == MODELS["coca"][1]
    assert (found.pad_id, found.end_id) == (5, None)
    assert_equal(variables, made("coca")[2])
    other = transformer.make(VOCAB, LENGTH, width=12, depth=1, heads=3)
    with pytest.raises(UserError, match="text.pool: 'eot' does not fit .* 'appended'"):
        read_tower.check_same(other, read_model.tower_of(found, "text"), str(folder))
    for wrong in (np.zeros(8), np.zeros(()), np.zeros((0, 8))):
        tensor_files.write_safetensors(path, tensors | {query: wrong.astype("f4")})
        with pytest.raises(
            UserError, match=r"attn_pool.query has shape \(.* have \(1, 8\)"
        ):
            read_model.read_model(str(folder))


def test_siglip_folder(tmp_path):
    found, variables = read_model.read_model(str(write_hf(tmp_path, "siglip")))
    assert model_description.build(found).module == dataclasses.replace(
        MODELS["siglip"][1].module, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    assert found.preprocess == "squash" and found.end_id is None
    assert_equal(variables, made("siglip")[2])


TENSORS = {str(i): () for i in range(99)}  # for settings that only count them


def test_defaults_of_configs_are_those_of_transformers():
    """Sizes of openai/clip-vit-base-patch32 and google/siglip-base-patch16-224."""
    found = hf_clip.settings({"model_type": "clip"}, TENSORS, pathlib.Path("gone"))
    model = model_description.build(found)
    assert model.module.image == vit.make(
        224, variant="B/32", activation="quick_gelu"
    ).clone(parent=None)
    assert model.module.text == transformer.make(
        49408, 77, variant="B", activation="quick_gelu"
    )
    found = hf_siglip.settings({"model_type": "siglip"}, TENSORS, pathlib.Path("gone"))
    model = model_description.build(found)
    assert model.module.image == vit.make(
        224, variant="B/16", activation="gelu_tanh", **SIGLIP
    )
    assert (model.module.text.width, model.module.text.vocab_size) == (768, 32000)
    # Old files say everything twice, and the second counts.
    twice = {"text_config": {"hidden_size": 1}, "text_config_dict": {"hidden_size": 8}}
    found = hf_clip.settings(
        {"model_type": "clip", **twice}, TENSORS, pathlib.Path("gone")
    )
    assert found.text_options["width"] == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "blip"}, "model_type='blip' is of no format .* a folder with"),
        ({"model_type": "siglip2"}, "NaFlex"),
        ({"vision_config__hidden_act": "relu"}, "hidden_act='relu': clipjax has gelu,"),
        ({"vision_config__num_channels": 1}, "num_channels=1: must be 3"),
        (
            {"vision_config__image_size": 16},
            r"positions|embedding.weight has shape \(10, 16\)",
        ),
        ({"vision_config__patch_size": [4, 4]}, "squares only"),
        (
            {"projection_dim": 17},
            r"visual_projection.weight has shape \(16, 16\) and should have ",
        ),
        ({"text_config": 3}, "damaged or of an unknown form .TypeError"),
        ({"text_config__hidden_size": "x"}, "damaged|unknown form|must"),
    ],
)
def test_bad_hf_configs(tmp_path, changes, message):
    folder = write_hf(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        read_model.read_model(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_cfg__ls_init_value": 0.1}, "vision_cfg.ls_init_value=0.1: .*lack"),
        ({"text_cfg__qk_norm": True}, "text_cfg.qk_norm=True"),
        ({"text_cfg__hf_model_name": "roberta-base"}, "lacks text.transformer.embed"),
        (
            {"vision_cfg__attentional_pool": "parallel"},
            "vision_cfg.attentional_pool='parallel': clipjax reads true and false only",
        ),
        ({"vision_cfg__attentional_pool": True}, "lacks visual.attn_pool.query"),
        (
            {
                "vision_cfg__attentional_pool": True,
                "vision_cfg__norm_kwargs": {"eps": 1e-6},
            },
            "norm_kwargs=.'eps': 1e-06.: with attentional_pool .* an eps of 1e-5 only",
        ),
        ({"text_cfg__correct_cls_mask": True}, "text_cfg.correct_cls_mask=True"),
        (
            {"vision_cfg__pool_type": "none"},
            "pool_type='none': clipjax reads 'tok' and 'avg'[.] The nearest",
        ),
        (
            {"vision_cfg__pool_type": "avg", "vision_cfg__attentional_pool": True},
            "pool_type='avg': clipjax reads 'tok' with attentional_pool",
        ),
        (
            {"vision_cfg__pool_type": "avg", "vision_cfg__final_ln_after_pool": True},
            "final_ln_after_pool=True: clipjax normalises before the mean",
        ),
        ({"text_cfg__pool_type": "none"}, "pool_type='none': clipjax reads argmax"),
        ({"vision_cfg__timm_model_name": "resnet50"}, "timm_model_name='resnet50'"),
        ({"vision_cfg__image_size": [12, 16]}, "clipjax reads squares"),
        ({"vision_cfg__act_kwargs": {"negative_slope": 1}}, "approximate='tanh' only"),
        ({"vision_cfg__norm_kwargs": {"elementwise": 1}}, "clipjax has eps only"),
        ({"vision_cfg__layers": 3}, "lacks visual.transformer.resblocks.2"),
        ({"config": {"model_cfg": {"vision_cfg": {}, "text_cfg": {}}}}, "'embed_dim'"),
    ],
)
def test_bad_open_clip_configs(tmp_path, changes, message):
    folder = write_open_clip(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        read_model.read_model(str(folder))


@pytest.mark.parametrize(
    "name",
    [
        *("model.fp16.safetensors", "model.bf16.safetensors", "pytorch_model.bin"),
        *("pytorch_model.fp16.bin", "model.safetensors.index.json"),
        *("pytorch_model.bin.index.json", "model.safetensors.index.fp16.json"),
    ],
)
def test_names_that_weights_have(tmp_path, name):
    """Read by content, so that one form stands for all."""
    write_hf(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    tensors = {f"_orig_mod.{key}": value for key, value in made("clip")[3].items()}
    if not name.endswith(".json"):
        tensor_files.write_safetensors(tmp_path / name, tensors)
    else:
        halves = sorted(tensors)[::2], sorted(tensors)[1::2]
        shard_of = {}
        for number, names in enumerate(halves):
            part = {key: tensors[key] for key in names}
            tensor_files.write_safetensors(tmp_path / f"part{number}", part)
            shard_of |= dict.fromkeys(names, f"part{number}")
        (tmp_path / name).write_text(json.dumps({"weight_map": shard_of}))
    _, variables = read_model.read_model(str(tmp_path))
    assert_equal(variables, made("clip")[2])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(tmp_path, value):
    write_hf(tmp_path)
    path, tensors = tmp_path / "model.safetensors", {**made("clip")[3]}
    name = "text_projection.weight"
    tensors[name] = np.array(tensors[name])
    tensors[name].flat[:3] = value
    tensor_files.write_safetensors(path, tensors)
    count = rf"holds 3 of {tensors[name].size} numbers that are NaN or infinite: fetch"
    with pytest.raises(UserError, match=f"model.safetensors: {name} {count}"):
        read_model.read_model(str(tmp_path))
    tensors["logit_scale"] = np.float32(value)
    tensor_files.write_safetensors(path, tensors)
    with pytest.raises(UserError, match=r"infinite \(and 1 more tensors do\)"):
        read_tower.read_tower(str(tmp_path), "image")


def test_folders_without_a_model(tmp_path):
    with pytest.raises(UserError, match="reads; it reads a folder with config.json of"):
        read_model.read_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(
        UserError, match="no weight file by a name .*it holds config.json"
    ):
        read_model.read_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        UserError, match=r"config.json is damaged \(.*\): fetch it again"
    ):
        read_model.read_model(str(tmp_path))
    with pytest.raises(UserError, match="gone.bin does not exist"):
        read_model.read_model(str(tmp_path / "gone.bin"))


def test_a_file_of_openai(tmp_path):
    """Without settings: sizes by shapes, heads of 64, and its own activation."""
    image = vit.make(
        12, variant="B/4", width=64, heads=1, depth=2, activation="quick_gelu"
    )
    text = transformer.make(
        49408, 5, width=64, depth=1, heads=1, activation="quick_gelu"
    )
    model = two_tower.make(image, text, embed_dim=8)
    variables = noise(rename_table.model_shapes(model))
    tensors = rename_table.to_theirs(open_clip.table(model, frozenset()), variables)
    path = tmp_path / "ViT.safetensors"
    tensor_files.write_safetensors(path, tensors)
    with pytest.raises(UserError, match="which activation .* open_clip_config.json"):
        read_model.read_model(str(path))
    for mark in ("input_resolution", "context_length", "vocab_size"):
        tensors[mark] = np.int64(12)
    tensor_files.write_safetensors(path, tensors)
    found, read = read_model.read_model(str(path))
    assert model_description.build(found) == model
    assert_equal(read, variables)
    chosen = model_description.to_config(found, str(path))
    assert chosen.data.tokenizer.name == "clip_bpe"
    assert chosen.data.tokenizer.context_length == 5


def test_a_residual_network_of_openai(tmp_path):
    kind, model = MODELS["resnet"]
    half = {k: v.astype(np.float16) for k, v in made("resnet")[3].items()}
    path = tmp_path / "RN.safetensors"
    half |= {mark: np.int64(32) for mark in open_clip.OPENAI_MARKS}
    tensor_files.write_safetensors(path, half)
    found, read = read_model.read_model(str(path))
    # Its heads are 64 wide, ours above were not.
    assert found.image_options == {
        "width": 4,
        "depths": (1, 2, 1, 1),
        "heads": 2,
        "output_dim": 8,
    }
    assert found.text_options["activation"] == "quick_gelu"
    assert "batch_stats" in read


# Tokenizers and images.


def test_which_tokenizer_goes_with_a_folder(tmp_path):
    folder = write_hf(tmp_path)
    found, _ = read_model.read_model(str(folder))
    with pytest.raises(UserError, match="no tokenizer fits: it holds no tokenizer"):
        model_description.to_config(found, str(folder))
    (folder / "tokenizer.json").write_text(tokenizer_tools.clip_json())
    token = {"pad_token": {"content": "<|endoftext|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(token))
    found, _ = read_model.read_model(str(folder))
    chosen = model_description.to_config(found, str(folder)).data.tokenizer
    assert (chosen.name, chosen.pad_token) == ("hf_json", "<|endoftext|>")
    tokenizer = config.create("tokenizer", chosen, None, None)
    assert tokenizer.context_length == LENGTH
    with pytest.raises(UserError, match="has .* ids and its text tower 60"):
        model_description.check_tokenizer(found, tokenizer, str(folder))
    larger = dataclasses.replace(found, vocab_size=5000)
    model_description.check_tokenizer(larger, tokenizer, str(folder))
    other = dataclasses.replace(larger, end_id=2)
    with pytest.raises(UserError, match="pools at token 2 and .* ends texts with 1"):
        model_description.check_tokenizer(other, tokenizer, str(folder))
    for pad in (0, 1):  # one begins texts, the other ends them too
        other = dataclasses.replace(larger, pad_id=pad)
        with pytest.raises(UserError, match=f"hides token {pad} .* pads with 1, or"):
            model_description.check_tokenizer(other, tokenizer, str(folder))
    tokenizer = hf_json.make(
        None, tokenizer_tools.clip_json(), pad_token="!", context_length=LENGTH
    )
    other = dataclasses.replace(larger, pad_id=tokenizer.pad_id)
    model_description.check_tokenizer(other, tokenizer, str(folder))


def test_siglips_tokenizers(tmp_path):
    folder = write_hf(tmp_path, "siglip")
    (folder / "tokenizer.json").write_text("{}")
    found, _ = read_model.read_model(str(folder))
    assert found.tokenizer == "hf_json" and found.tokenizer_options["lowercase"]
    (folder / "spiece.model").write_bytes(b"x")
    found, _ = read_model.read_model(str(folder))
    assert found.tokenizer == "sentence_piece"


CANONICAL = {"tokenizer_kwargs": {"clean": "canonicalize"}}


@pytest.mark.parametrize(
    ("text", "tokenizer", "why"),
    [
        ({"vocab_size": 49408}, "clip_bpe", ""),
        ({"vocab_size": 60}, "", "60 ids are not CLIP's own"),
        ({"vocab_size": 49408, "tokenizer_kwargs": {"clean": "x"}}, "", "clean='x'"),
        (CANONICAL | {"vocab_size": 49408}, "clip_bpe", ""),
        ({"vocab_size": 9, "hf_tokenizer_name": "a"}, "", "holds no tokenizer.json"),
        (CANONICAL | {"hf_tokenizer_name": "a"}, "", "holds no tokenizer.json"),
        ({"vocab_size": 9, "tokenizer_mode": "clips"}, "", "no tokenizer with clips"),
    ],
)
def test_tokenizers_of_open_clip(tmp_path, text, tokenizer, why):
    from clipjax.weights.beside import tokenizer_choice

    chosen = tokenizer_choice.choose_open_clip(tmp_path, text)
    assert chosen.get("tokenizer", "") == tokenizer
    assert why in chosen.get("no_tokenizer", "")


CLIP_IMAGES = {
    "do_center_crop": True,
    "size": 224,
    "crop_size": 224,
    "resample": 3,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [1, 2, 3],
}


def test_image_transforms_of_transformers():
    read = preprocessing.from_hf(CLIP_IMAGES, 224, "x")
    assert read == ("clip", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "", {})
    new = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    assert preprocessing.from_hf(CLIP_IMAGES | new, 224, "x") == read
    for name, options in (
        ("clip", {}),
        ("squash", {}),
        ("squash", {"interpolation": "bilinear"}),
    ):
        section = {"name": name, **options}
        written = preprocessing.to_hf(section, 32, (0.5,) * 3, (0.25,) * 3)
        again = preprocessing.from_hf(written, 32, "x")
        assert again == (name, (0.5,) * 3, (0.25,) * 3, "", options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resample": 2}, "resample=2: clipjax has bicubic (3) here"),
        ({"size": 256}, "size=256: clipjax resizes to the model's size, 224"),
        ({"crop_size": {"height": 224, "width": 200}}, "crop_size="),
        ({"do_center_crop": False}, "crop"),
        ({"do_normalize": False}, "do_normalize=False"),
        ({"rescale_factor": 1.0}, "divides by 255"),
        ({"size": {"height": 224, "width": 200}}, "size="),
    ],
)
def test_image_transforms_that_we_lack(changes, message):
    read = preprocessing.from_hf(CLIP_IMAGES | changes, 224, "x")
    assert read.name == "" and read.mean == (0.1, 0.2, 0.3)
    assert read.why.startswith("x: ") and message in read.why


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"resize_mode": "longest"},
            "resize_mode='longest': clipjax has shortest and",
        ),
        ({"interpolation": "bilinear"}, "'bilinear': clipjax has bicubic"),
    ],
)
def test_weights_are_read_whatever_the_image_transform(tmp_path, changes, message):
    folder = write_open_clip(tmp_path, config={"preprocess_cfg": changes})
    found, variables = read_model.read_model(str(folder))
    assert_equal(variables, made("open_clip")[2])
    with pytest.raises(UserError, match=message):
        model_description.to_config(found, str(folder))


# Positions.


def test_positions_are_resized_as_open_clip_does():
    with np.load(GOLDENS / "positions.npz") as file:
        table_ = file["table"]
        for name in file:
            kind, _, size = name.partition("/")
            if kind == "image":
                side = int(size)
                whole = resize_positions.resize_image(table_, side**2 + 1, "x")
                np.testing.assert_array_equal(whole[0], table_[0])
                np.testing.assert_allclose(whole[1:], file[name], atol=2e-6)
                grid = resize_positions.resize_image(table_[1:], side**2, "x")
                np.testing.assert_array_equal(grid, whole[1:])
            elif kind == "text":
                found = resize_positions.resize_text(table_, int(size))
                np.testing.assert_allclose(found, file[name], atol=1e-5)
    np.testing.assert_array_equal(resize_positions.resize_text(table_, 7), table_[:7])
    assert resize_positions.resize_image(table_, 17, "x").dtype == np.float32
    with pytest.raises(UserError, match="^y: 50 positions cannot become 16: both must"):
        resize_positions.resize_image(table_, 16, "y")


# Export.


@pytest.fixture
def words():
    """A small tokenizer, and the config of a run that has it."""
    tokenizer = hf_json.make(
        None,
        tokenizer_tools.clip_json(),
        pad_token="<|endoftext|>",
        context_length=LENGTH,
    )
    chosen = config.base(
        None,
        tokenizer="hf_json",
        preprocess="clip",
        options={"data.tokenizer=hf_json": {"lowercase": True}},
    )
    return tokenizer, chosen


@pytest.mark.parametrize("target", write_model.FORMATS)
def test_export_and_back(tmp_path, words, target):
    tokenizer, chosen = words
    model = make_model(vocab=tokenizer.vocab_size)
    variables = noise(rename_table.model_shapes(model))
    out = tmp_path / "out"
    write_model.write(out, target, chosen, model, variables, tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    found, read = read_model.read_model(str(out))
    assert model_description.build(found) == model
    assert_equal(read, variables)
    again = model_description.to_config(found, str(out)).data.tokenizer
    again = config.create("tokenizer", again, None, None)
    texts = ["A red dog", "<|endoftext|>"]
    lower = [text.lower() for text in texts]
    for one, other in zip(again(texts), tokenizer(lower), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match="out already exists: name another folder"):
        write_model.write(out, target, chosen, model, variables, tokenizer)


def test_export_of_what_training_adds(tmp_path, words):
    """LoRA is merged, expanders are left out, a fixed temperature becomes a number."""
    tokenizer, chosen = words
    vocab = tokenizer.vocab_size
    plain = make_model(vocab=vocab)
    model = make_model(vocab=vocab, learnable_scale=False, expander=(8, 8))
    model = lora.add(model, rank=2, alpha=1.0, on="image/.*/qkv/kernel$")
    variables = noise(rename_table.model_shapes(model))
    write_model.write(
        tmp_path / "out", "hf", chosen, model, variables, tokenizer, "float16"
    )
    found, read = read_model.read_model(str(tmp_path / "out"))
    merged = model.merge(variables)["params"]
    ours = read["params"]["image"]["transformer"]["block_1"]["attention"]["qkv"]
    theirs = merged["image"]["transformer"]["block_1"]["attention"]["qkv"]
    np.testing.assert_allclose(ours["kernel"], theirs["kernel"], rtol=1e-3, atol=1e-3)
    assert read["params"]["logit_scale"] == np.float16(np.log(1 / 0.07))
    assert model_description.build(found).module.image == plain.module.image


@pytest.mark.parametrize(
    ("target", "image", "text", "options", "message"),
    [
        ("hf", {"pool": "mean"}, {}, {}, r"model.image.pool='mean' .* has 'cls' only"),
        ("hf", {"patch_bias": True}, {}, {}, r"model.image.patch_bias=True"),
        ("hf", {}, {"causal": False}, {}, r"model.text.causal=False"),
        ("hf", {}, {}, {"logit_bias_init": -1.0}, r"model.logit_bias_init=-1.0"),
        ("hf", {}, {}, {"text_head": "mlp"}, r"model.text_head='mlp'"),
        ("hf", {"pool": "map"}, {}, {}, r"model.image.pre_norm=True"),
        (
            "open_clip",
            {"pool": "mean", "patch_bias": True},
            {},
            {},
            r"model.image.patch_bias=True",
        ),
        ("open_clip", {"pool": "mean"}, {}, {"image_head": "mlp"}, r"image_head='mlp'"),
        (
            "open_clip",
            {},
            {"causal": False, "pool": "last"},
            {},
            r"model.text.masked=True",
        ),
        (
            "open_clip",
            {},
            {"pool": "mean"},
            {},
            r"pads with token 1, which also .* model.text.pool='mean' hides it",
        ),
        (
            "open_clip",
            {},
            {"pool": "mean", "norm_pooled": True},
            {},
            r"model.text.pool='mean'",
        ),
        ("open_clip", {"post_norm": True}, {}, {}, r"model.image.post_norm=True"),
        ("open_clip", {"activation": "quick_gelu"}, {}, {}, r"either both towers"),
        ("open_clip", SIGLIP, {}, {}, r"in SigLIP's sizes only"),
        (
            "hf",
            {"pool": "query"},
            {},
            {},
            r"model.image.pool='query' .* has 'cls' only",
        ),
        ("hf", {}, {"pool": "appended"}, {}, r"pool='appended' .* has 'eot' only"),
        ("open_clip", COCA, {}, {}, r"model.image.pool_width=8 .* has 16 only"),
        ("open_clip", {"pool": "query", "norm_epsilon": 1e-6}, {}, {}, r"has 1e-05 on"),
        (
            "open_clip",
            {},
            {"pool": "appended"},
            {},
            r"pads with token 1, which also begins",
        ),
        ("open_clip", {}, {"pool": "appended", "masked": False}, {}, r"masked=False"),
        ("pickle", {}, {}, {}, r"--format=pickle: must be one of hf, open_clip"),
    ],
)
def test_export_refuses(tmp_path, words, target, image, text, options, message):
    tokenizer, chosen = words
    model = make_model(image, text, vocab=tokenizer.vocab_size, **options)
    variables = noise(rename_table.model_shapes(model))
    with pytest.raises(UserError, match=message):
        write_model.write(tmp_path / "out", target, chosen, model, variables, tokenizer)
    assert not list(tmp_path.iterdir())
    if target in write_model.FORMATS:  # the same is known before anything is trained
        assert re.search(message, write_model.limits(chosen, model, tokenizer)[target])


def test_what_a_run_says_of_exports(words):
    tokenizer, chosen = words
    vocab = tokenizer.vocab_size

    def told(model):
        return write_model.describe_limits(chosen, model, tokenizer)

    plain = make_model(vocab=vocab)
    assert told(plain) == "export: to hf and open_clip"
    assert told(lora.add(plain, rank=2, alpha=1.0, on="qkv/kernel$")) == told(plain)
    mean = make_model({"pool": "mean", "positions": "sincos"}, vocab=vocab)
    assert told(mean) == (
        "export: to open_clip; not to hf: model.image.pool='mean' cannot be "
        "exported: transformers' CLIPModel has 'cls' only"
    )
    chosen.data.preprocess.name = "mine"
    assert told(plain) == (
        "export: not to hf or open_clip: data.preprocess=mine: other formats have "
        "clip, openai, squash only"
    )
    own = types.SimpleNamespace()
    assert told(own) == (
        "export: not to hf or open_clip: this model (SimpleNamespace) cannot be "
        "exported: only two-tower models can"
    )


def test_export_refuses_unknown_tokenizers(tmp_path, words):
    tokenizer, chosen = words
    model = make_model(vocab=tokenizer.vocab_size)
    variables = noise(rename_table.model_shapes(model))
    chosen.data.tokenizer.name = "mine"
    for target in write_model.FORMATS:
        with pytest.raises(UserError, match="name='mine' cannot be exported"):
            write_model.write(
                tmp_path / "x", target, chosen, model, variables, tokenizer
            )
    assert not list(tmp_path.iterdir())


# The hub.


class Hub(types.ModuleType):
    """A hub with the files of one folder; counts what is fetched."""

    def __init__(self, source, cache):
        super().__init__("huggingface_hub")
        self.source, self.cache, self.fetched = source, cache, []

    def snapshot_download(self, repository, allow_patterns):
        assert repository in ("org/name", *known_hub.KNOWN.values())
        for path in self.source.iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                self.fetched.append(path.name)
                (self.cache / path.name).write_bytes(path.read_bytes())
        return str(self.cache)


def test_a_model_of_the_hub(tmp_path, monkeypatch):
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir(), cache.mkdir()
    write_hf(source)
    (source / "pytorch_model.bin").touch()
    hub = Hub(source, cache)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    _, variables = read_model.read_model("hf-hub:org/name")
    assert_equal(variables, made("clip")[2])
    names = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(hub.fetched) == names


def test_errors_of_the_hub(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route\nto host")

    with pytest.raises(UserError, match="written hf-hub:ORG/NAME"):
        read_model.read_model("hf-hub:name")
    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download = offline
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(
        UserError, match=r"not in the cache \(OSError: no route to host"
    ):
        read_model.read_model("hf-hub:org/name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[hf\]'"):
        read_model.read_model("hf-hub:org/name")


def test_well_known_names(tmp_path, monkeypatch):
    """The hub's, unless a folder has that name; offline, one line says what to do."""
    monkeypatch.chdir(tmp_path)
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir(), cache.mkdir()
    write_hf(source)
    hub = Hub(source, cache)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    for name in ("ViT-B-32", "ViT-L/14@336px", "openai/clip-vit-base-patch32"):
        assert read_model.is_foreign(name)
        assert_equal(read_model.read_model(name)[1], made("clip")[2])
    assert read_model.short_name("ViT-B-32") == "clip-vit-base-patch32"
    assert read_model.is_foreign("laion/CLIP-ViT-B-32") and not read_model.is_foreign(
        "runs/x"
    )
    (tmp_path / "openai" / "clip-vit-base-patch32").mkdir(parents=True)
    assert not read_model.is_foreign("openai/clip-vit-base-patch32")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError) as error:
        read_model.read_model("ViT-B-32")
    said = str(error.value)
    assert said.startswith("hf-hub:openai/clip-vit-base-patch32 needs the huggingface")
    assert "put its model.safetensors, config.json, " in said
    assert "into a folder such as clip-vit-base-patch32/, and give that folder" in said
