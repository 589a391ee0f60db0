"""Our towers with others' weights against the others: 1e-4 of the largest value."""

from __future__ import annotations

import json

import foreign_models
import hf_clip
import make_weight_goldens
import model_tools
import numpy as np
import pytest
from foreign_models import CASES
from marks import mostly

from clipjax import config
from clipjax.data.tokenizers import clip_bpe
from clipjax.encoder import Encoder
from clipjax.loaded import Loaded
from clipjax.models.common import meaning
from clipjax.models.image import convnext
from clipjax.types import UserError
from clipjax.weights import model_description, read_model, rename_table, write_model
from clipjax.weights.beside import tokenizer_files
from clipjax.weights.formats import open_clip, open_clip_config
from clipjax.weights.tensors import tensor_files


def assert_near(ours, theirs):
    for name in ("image_features", "text_features", "logits"):
        expected = theirs[name]
        assert ours[name].shape == expected.shape, name
        worst = np.abs(ours[name] - expected).max() / np.abs(expected).max()
        assert worst < 1e-4, f"{name}: off by {worst:.1e} of the largest value"


def golden(name):
    with np.load(make_weight_goldens.PATH) as file:
        found = {
            key.partition("/")[2]: file[key]
            for key in file
            if key.partition("/")[0] == name
        }
    return json.loads(str(found.pop("shapes"))), found


@pytest.mark.parametrize("name", make_weight_goldens.OFTEN)
def test_goldens(tmp_path, name):
    shapes, expected = golden(name)
    # Logits that hardly differ would hide an error.
    assert np.ptp(expected["logits"]) > 0.5
    foreign_models.write(tmp_path, CASES[name], shapes)
    assert_near(foreign_models.our_results(tmp_path), expected)


@pytest.mark.parametrize("name", mostly(["hf_clip_legacy", "hf_siglip"], ["hf_siglip"]))
def test_the_library_gives_the_goldens_too(tmp_path, name):
    """One by one and together, whatever the batches and texts are padded to."""
    shapes, expected = golden(name)
    foreign_models.write(tmp_path, CASES[name], shapes)
    found, variables = read_model.read_model(str(tmp_path))
    model = model_description.build(found)
    given = foreign_models.inputs(found.image_size)

    class Numbers:
        """Texts are the numbers of the golden ones."""

        context_length, vocab_size, pad_id = foreign_models.LENGTH, 0, 0

        def __call__(self, texts):
            rows = [int(text or 0) for text in texts]
            return given["text"][rows], given["mask"][rows]

    tokenizer = Numbers()
    encoder = Encoder(
        model,
        tokenizer,
        lambda image: image if image.shape[0] > 8 else given["image"][0],
        few_sizes=True,
        padding_invariant=meaning.ignores_padding(model),
    )
    clip = Loaded(None, model, variables, tokenizer, lambda x: x, encoder, 0)
    images, texts = given["image"], ["0", "1", "2", "3"]
    sides = [
        (clip.encode_image, images, expected["image_features"]),
        (clip.encode_text, texts, expected["text_features"]),
    ]
    for encode, items, rows in sides:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_allclose(encode(items), rows, atol=1e-4)
        many = encode([items[i % len(rows)] for i in range(11)])
        np.testing.assert_allclose(many[: len(rows)], rows, atol=1e-4)
        for item, row in zip(items, rows, strict=True):
            np.testing.assert_allclose(encode(item), row, atol=1e-4)
    logits = clip.similarity(images, texts) * clip.logit_scale
    expected_logits = expected["logits"] - variables["params"].get("logit_bias", 0)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-3, atol=1e-2)


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_live(tmp_path, name):
    skip_without_references()
    case, folder = CASES[name], tmp_path / "theirs"
    folder.mkdir()
    model = foreign_models.live(case, folder)
    foreign_models.save(case, model, folder)
    given, seen = model_of(folder)
    expected = foreign_models.their_results(model, given["image"], given["text"], *seen)
    assert_near(foreign_models.our_results(folder), expected)
    trunk = getattr(getattr(model, "visual", None), "trunk", None)
    if trunk is not None:
        # Named, not in the config; too small for the results above to tell.
        theirs = getattr(trunk, "norm", trunk.head.norm if name[0] == "c" else None)
        tower = model_description.build(
            read_model.read_model(str(folder))[0]
        ).module.image
        ours = getattr(tower, "epsilon", None) or tower.norm_epsilon
        assert ours == theirs.eps


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float32") for name in CASES),
        *(("hf_clip", "float16"), ("resnet", "float16"), ("vit", "bfloat16")),
    ],
)
def test_reading_and_writing_keeps_every_byte(tmp_path, name, dtype):
    """Of the files as their projects write them, names and shapes included."""
    skip_without_references()
    model = foreign_models.live(CASES[name], tmp_path)
    foreign_models.save(CASES[name], model, tmp_path, dtype)
    found, variables = read_model.read_model(str(tmp_path))
    kind = {kind.FORMAT: kind for kind in read_model.FORMATS}[found.format]
    table_of = kind.table(model_description.build(found), found.layout)
    ours = rename_table.to_theirs(table_of, variables, dtype)
    theirs = tensor_files.read(next(tmp_path.glob("*.safetensors")))
    others = [x for x in theirs if "num_batches_tracked" in x or "text_decoder." in x]
    assert sorted([*ours, *others]) == sorted(theirs)
    decoders = ("coca", "coca_wide", "coca_roberta")
    assert bool(others) == (name in ("resnet", *decoders))
    if "visual.attn_pool.query" in theirs:
        theirs["visual.attn_pool.query"] = theirs["visual.attn_pool.query"][:1]
    for key, array in ours.items():
        assert array.dtype == theirs[key].dtype and array.shape == theirs[key].shape
        assert array.tobytes() == theirs[key].tobytes(), key


TEXTS = [
    "a red dog",
    "the cat sat on a mat, and it's big!",
    "x",
    "A photo of 2 birds & trees in the evening sun near the lake by the old house",
]


@pytest.mark.parity
@pytest.mark.parametrize("target", ["hf", "open_clip"])
@pytest.mark.parametrize("name", foreign_models.WITH_WORDS)
def test_texts_and_export(tmp_path, shared_data, monkeypatch, name, target):
    """From texts to logits: theirs, ours, and theirs again from what we export."""
    skip_without_references()
    vocabulary = shared_data / "clip_vocab" / clip_bpe.FILE
    monkeypatch.setattr(clip_bpe, "_find", lambda: str(vocabulary))
    folder, out = tmp_path / "theirs", tmp_path / "ours"
    folder.mkdir()
    model, tokenize = foreign_models.WITH_WORDS[name](folder)
    found, variables = read_model.read_model(str(folder))
    chosen = model_description.to_config(found, str(folder))
    tokenizer = config.create("tokenizer", chosen.data.tokenizer, None, None)
    model_description.check_tokenizer(found, tokenizer, str(folder))
    ids, mask = tokenizer(TEXTS)
    theirs = tokenize(TEXTS)
    np.testing.assert_array_equal(np.where(mask, ids, 0), np.where(mask, theirs, 0))
    image = foreign_models.inputs(found.image_size)["image"]
    seen = found.model_options["mean"], found.model_options["std"]
    expected = foreign_models.their_results(model, image, theirs, *seen)
    assert np.ptp(expected["logits"]) > 0.5
    assert_near(foreign_models.our_results(folder, image, ids, mask), expected)

    made = model_description.build(found)
    if (name, target) in foreign_models.NOT_EXPRESSIBLE:
        wanted = foreign_models.NOT_EXPRESSIBLE[name, target]
        with pytest.raises(UserError, match=wanted):
            write_model.write(out, target, chosen, made, variables, tokenizer)
        assert not out.exists()
        return
    write_model.write(out, target, chosen, made, variables, tokenizer)
    model, tokenize = foreign_models.load(out, target, found.context_length)
    again = foreign_models.their_results(model, image, tokenize(TEXTS), *seen)
    assert_near(again, expected)


@pytest.mark.parity
@pytest.mark.parametrize("target", ["hf", "open_clip"])
@pytest.mark.parametrize("name", ["words", "char", "bpe"])
def test_export_with_our_own_tokenizers(tmp_path, name, target):
    """From texts to logits with a tokenizer that other libraries do not have."""
    skip_without_references()
    chosen = config.base(None, tokenizer=name, preprocess="clip")
    chosen.data.tokenizer.context_length = 14
    tokenizer = config.create("tokenizer", chosen.data.tokenizer, lambda: TEXTS, None)
    model = model_tools.make_model(vocab=tokenizer.vocab_size, length=14)
    variables = model_tools.init(model)
    write_model.write(tmp_path / "out", target, chosen, model, variables, tokenizer)
    theirs, tokenize = foreign_models.load(tmp_path / "out", target, 14)
    image = foreign_models.inputs(model_tools.SIZE)["image"]
    seen = model.module.mean, model.module.std
    ids, mask = tokenizer(TEXTS)
    expected = model_tools.run(
        model, variables, {"image": image, "text": ids, "text_mask": mask}
    )
    found = foreign_models.their_results(theirs, image, tokenize(TEXTS), *seen)
    image, text = expected["image_embed"], expected["text_embed"]
    logits = np.asarray(image @ text.T * expected["logit_scale"])
    assert np.ptp(logits) > 0.5
    assert np.abs(logits - found["logits"]).max() < 1e-5 * np.abs(logits).max()


BOTH_WAYS, QUICK = {"causal": False}, {"activation": "quick_gelu"}


@pytest.mark.parity
@pytest.mark.parametrize(
    ("image", "text", "options"),
    [
        # As configs/flickr8k_vit.py:size=cpu.
        (
            {"pool": "mean", "positions": "sincos", "depth": 2},
            {"pool": "mean", "depth": 2} | BOTH_WAYS,
            {},
        ),
        ({"pool": "mean", "pre_norm": False}, BOTH_WAYS, {"text_head": "affine"}),
        ({}, {"pool": "mean"}, {"text_head": "affine"}),
        ({"pool": "mean", "activation": "quick_gelu"}, QUICK | BOTH_WAYS, {}),
        ({"positions": "sincos"}, {"pool": "cls"} | BOTH_WAYS, {}),
    ],
)
def test_export_of_means_and_masks(tmp_path, image, text, options):
    """open_clip's logits of towers that it has at twice the width only."""
    skip_without_references()
    chosen = config.base(None, tokenizer="words", preprocess="clip")
    chosen.data.tokenizer.context_length = 20
    tokenizer = config.create("tokenizer", chosen.data.tokenizer, lambda: TEXTS, None)
    model = model_tools.make_model(
        image, text, vocab=tokenizer.vocab_size, length=20, **options
    )
    variables = model_tools.init(model)
    write_model.write(
        tmp_path / "out", "open_clip", chosen, model, variables, tokenizer
    )
    theirs, tokenize = foreign_models.load(tmp_path / "out", "open_clip", 20)
    given = foreign_models.inputs(model_tools.SIZE)["image"]
    ids, mask = tokenizer(TEXTS)
    assert {mask.all(axis=1).any(), (~mask[:, -2:]).any()} == {True}  # full and not
    expected = model_tools.run(
        model, variables, {"image": given, "text": ids, "text_mask": mask}
    )
    seen = model.module.mean, model.module.std
    found = foreign_models.their_results(theirs, given, tokenize(TEXTS), *seen)
    image_embed, text_embed = expected["image_embed"], expected["text_embed"]
    logits = np.asarray(image_embed @ text_embed.T * expected["logit_scale"])
    assert np.ptp(logits) > 0.5
    assert np.abs(logits - found["logits"]).max() < 1e-4 * np.abs(logits).max()


@pytest.mark.parity
@pytest.mark.parametrize("name", ["timm_siglip", "convnext", "resnet"])
def test_export_of_named_towers(tmp_path, monkeypatch, name):
    """As open_clip loads them, with timm's named sizes made small on both sides."""
    skip_without_references()
    sizes = {"base": (24, 2, 12, 96)}
    monkeypatch.setattr(open_clip_config, "SIGLIP_SIZES", sizes)
    monkeypatch.setattr(open_clip_config, "SIGLIP_NAMES", {"base": ((16, 48),)})
    monkeypatch.setitem(convnext.VARIANTS, "base", (8, (1, 2, 1, 1)))
    case, folder, out = CASES[name], tmp_path / "theirs", tmp_path / "ours"
    folder.mkdir()
    model = foreign_models.live(case, folder)
    foreign_models.save(case, model, folder)
    found, variables = read_model.read_model(str(folder))
    made = model_description.build(found)
    ends = tokenizer_files.Ends(1, found.vocab_size - 1, 0)
    written = open_clip_config.config_json(made, ends, {"name": "clip"}, {})
    vision = written["model_cfg"]["vision_cfg"]
    if name == "timm_siglip":
        # The only name that these sizes have, for want of a small one.
        assert vision["timm_model_name"] == "vit_base_patch16_siglip_48"
        vision["timm_model_name"] = "vit_base_patch16_siglip_224"
    out.mkdir()
    table_of = open_clip.table(made, frozenset())
    tensors = rename_table.to_theirs(table_of, variables)
    tensor_files.write_safetensors(out / "open_clip_model.safetensors", tensors)
    again = foreign_models.live(
        foreign_models.Case(written, case.sizes), out, weights=False
    )
    given, seen = model_of(folder)
    image, text = given["image"], given["text"]
    assert_near(
        foreign_models.their_results(again, image, text, *seen),
        foreign_models.their_results(model, image, text, *seen),
    )


@pytest.mark.parity
def test_positions_are_resized_as_open_clip_does():
    skip_without_references()
    with np.load(make_weight_goldens.POSITIONS) as file:
        for name, values in make_weight_goldens.positions().items():
            np.testing.assert_allclose(values, file[name], atol=1e-6)


def model_of(folder):
    """Inputs for the model of a folder, and how it normalises images."""
    found, _ = read_model.read_model(str(folder))
    options = found.model_options
    given = foreign_models.inputs(found.image_size, found.pad_id or 0)
    return given, (options["mean"], options["std"])


def skip_without_references():
    pytest.importorskip("torch")
    hf_clip.import_torch()  # or torchvision might not import
    for module in ("transformers", "open_clip", "timm"):
        pytest.importorskip(module)
