"""Starting from other models, loading released ones, and the export command."""

from __future__ import annotations

import functools
import json
import pathlib

import jax
import numpy as np
import pytest
import tokenizer_tools
import tower_tools
from model_tools import jit

import clipjax
from clipjax import config_check, export
from clipjax.data.tokenizers import words
from clipjax.engine import assemble, initial
from clipjax.engine.state import TrainState
from clipjax.models import classifier, two_tower
from clipjax.models.common import lora
from clipjax.models.common.frozen import freeze
from clipjax.models.image import vit
from clipjax.models.text import transformer
from clipjax.types import UserError
from clipjax.weights import read_model, read_tower, rename_table
from clipjax.weights.beside import tokenizer_files
from clipjax.weights.formats import hf_clip
from clipjax.weights.tensors import tensor_files
from run_tools import tiny

IMAGE = {"variant": "B/4", "width": 16, "depth": 1, "heads": 2, "patch_dropout": 0.0}
TEXT = {"width": 12, "depth": 1, "heads": 3}
SPEC = tokenizer_tools.clip_json()
VOCAB = len(json.loads(SPEC)["model"]["vocab"])
ENDS = tokenizer_files.Ends(0, 1, 1)


def make_model(image=None, text=None, size=12, length=9, **options):
    return two_tower.make(
        vit.make(size, **IMAGE | (image or {})),
        transformer.make(VOCAB, length, **TEXT | (text or {})),
        embed_dim=8,
        **options,
    )


@functools.cache
def shapes_of(model):
    return rename_table.model_shapes(model)


def noise(model, seed):
    draw = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: draw.standard_normal(leaf.shape, np.float32),
        shapes_of(model),
    )


RELEASED = make_model()
VARIABLES = noise(RELEASED, 0)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder as transformers would leave it."""
    folder = tmp_path_factory.mktemp("released")
    described = hf_clip.config_json(RELEASED, ENDS)
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "preprocessor_config.json").write_text("{}")  # the kind's own values
    tensors = rename_table.to_theirs(hf_clip.table(RELEASED, frozenset()), VARIABLES)
    tensor_files.write_safetensors(folder / "model.safetensors", tensors)
    (folder / "tokenizer.json").write_text(SPEC)
    token = {"pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(token))
    return str(folder)


def state_of(model, ema=False):
    """A state with a model's parameters, and what a run knows of their shapes."""

    def state(variables):
        params, stats = variables["params"], variables.get("batch_stats", {})
        averages = {"params": params, "model_state": stats} if ema else {}
        return TrainState(0, params, stats, None, None, averages, 0, 0, None)

    return state(noise(model, 1)), state(shapes_of(model))


def take(name, model, side="", ema=False, tokenizer=None, preprocess="clip"):
    """The parameters after and before, and what was said."""
    state, shapes = state_of(model, ema)
    said = []
    key = f"init_{side}_from" if side else "init_from"
    config = tiny(f"preprocess={preprocess}", **{key: name})
    given = initial.read(key, config, model, tokenizer, said.append)
    found = initial.take(given, state, shapes, said.append)
    for one, leaf in zip(
        jax.tree.leaves(found.params), jax.tree.leaves(shapes.params), strict=True
    ):
        assert one.shape == leaf.shape and one.dtype == leaf.dtype
    return found, state, said


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_whole_model(released):
    found, _, said = take(released, RELEASED, ema=True)
    assert_equal(found.params, VARIABLES["params"])
    assert_equal(found.ema["params"], VARIABLES["params"])
    assert said == [f"starting from the parameters of {released}"]


@pytest.mark.parametrize("side", ["image", "text"])
def test_one_tower(released, side):
    found, before, said = take(released, RELEASED, side)
    assert_equal(found.params[side], VARIABLES["params"][side])
    for name in found.params.keys() - {side}:
        assert_equal(found.params[name], before.params[name])
    assert said == [
        f"starting the {side} tower from {released}; projections start fresh"
    ]


def test_a_tokenizer_that_gives_other_ids_is_refused(released):
    own = clipjax.load(released).tokenizer
    others = words.make(lambda: iter(["a photo of a dog"]), None, context_length=9)
    take(released, RELEASED, tokenizer=own)
    with pytest.raises(UserError, match="its tokenizer gives other ids than this run"):
        take(released, RELEASED, tokenizer=others)


@pytest.mark.parametrize("pool", ["cls", "pooler"])
def test_bert_as_the_text_tower(pool, tmp_path):
    path = tower_tools.write(tower_tools.goldens()["bert"], tmp_path)
    settings, params, _ = read_tower.read_tower(path, "text", {"pool": pool})
    assert ("pooler" in params) == (pool == "pooler")
    image = vit.make(12, **IMAGE)
    model = two_tower.make(image, read_tower.build(settings), embed_dim=8)
    found, _, _ = take(str(path), model, "text")
    assert_equal(found.params["text"], params)


def test_an_image_tower_for_a_classifier(released):
    model = classifier.make(vit.make(12, **IMAGE), num_classes=3)
    found, before, _ = take(released, model, "image")
    assert_equal(found.params["image"], VARIABLES["params"]["image"])
    assert_equal(found.params["head"], before.params["head"])
    with pytest.raises(UserError, match="this run's model has no text tower"):
        take(released, model, "text")
    with pytest.raises(UserError, match="this run's model has no text tower"):
        take(released, model)


def test_larger_images_and_longer_texts(released):
    found, _, said = take(released, make_model(size=20, length=11))
    assert said[:2] == [
        f"init_from={released}: image/positions is resized from 10 to 26 positions",
        f"init_from={released}: text/positions is resized from 9 to 11 positions",
    ]
    theirs = VARIABLES["params"]["image"]["positions"]
    ours = np.asarray(found.params["image"]["positions"])
    np.testing.assert_array_equal(ours[0], theirs[0])
    # The middle of the grid stays the middle.
    np.testing.assert_allclose(ours[1 + 12], theirs[1 + 4], atol=0.2)
    _, _, said = take(released, make_model(size=20), "image")
    assert said[0].startswith(f"init_image_from={released}: image/positions is resized")


def test_what_training_adds_starts_fresh(released):
    model = make_model(expander=(4, 4), logit_bias_init=-3.0)
    model = freeze(lora.add(model, rank=1, alpha=1.0, on="qkv"), frozenset({"x"}))
    found, before, said = take(released, model)
    fresh = "image_expander, logit_bias, lora, text_expander"
    assert said[0] == f"init_from={released} has no {fresh}: starting fresh"
    assert_equal(found.params["lora"], before.params["lora"])
    assert_equal(found.params["image"], VARIABLES["params"]["image"])


@pytest.mark.parametrize(
    ("model", "side", "message"),
    [
        (
            make_model({"activation": "quick_gelu"}),
            "",
            "model.image.activation: 'quick",
        ),
        (make_model({"heads": 4}), "image", "model.image.heads: 4 does not fit"),
        (make_model(text={"norm_epsilon": 1e-3}), "text", "model.text.norm_epsilon"),
        (make_model(text={"pool": "last"}), "", "model.text.pool: 'last' does not fit"),
        (make_model(text={"pool": "appended"}), "text", "model.text.pool: 'appended'"),
        (make_model({"depth": 2}), "", "model.image.depth: 2"),
        (make_model(image_head="mlp"), "", "model.image_head: 'mlp' does not fit"),
        (
            make_model(learnable_scale=False),
            "",
            "model.learnable_scale: False does not fit",
        ),
    ],
)
def test_models_that_do_not_fit(released, model, side, message):
    with pytest.raises(UserError, match=message):
        take(released, model, side)


def test_other_pixels_are_said(released):
    model = make_model(mean=(0.5,) * 3)
    for side in ("", "image"):
        _, _, said = take(released, model, side)
        assert said[0].startswith("warning: model.mean is (0.5, 0.5, 0.5), and init")
        _, _, said = take(released, RELEASED, side, preprocess="squash")
        key = "init_image_from" if side else "init_from"
        assert said[0] == (
            "warning: data.preprocess is squash (exif=True, interpolation=bicubic), "
            f"and {key}={released} was trained with clip"
        )
    assert len(take(released, model, "text", preprocess="squash")[2]) == 1


def test_what_a_config_starts_from(released, tmp_path):
    assert initial.starts(tiny()) == {}
    chosen = tiny(init_image_from="a", init_text_from=str(tmp_path))
    assert initial.starts(chosen) == {
        "init_image_from": "a",
        "init_text_from": str(tmp_path),
    }
    # A run's texts need its tokenizer, a released model's are the config's matter.
    assert initial.run_of_texts(chosen) == tmp_path
    assert initial.run_of_texts(tiny(init_from="runs/x")) == pathlib.Path("runs/x")
    assert initial.run_of_texts(tiny(init_image_from="runs/x")) is None
    assert initial.run_of_texts(tiny(init_text_from=released)) is None
    with pytest.raises(
        UserError, match="leave it empty to start from towers by init_i"
    ):
        initial.starts(tiny(init_from="a", init_image_from="b"))


def test_runs_and_released_models_are_told_apart(released, tmp_path):
    assert read_model.is_foreign(released) and read_model.is_foreign("hf-hub:org/name")
    assert not read_model.is_foreign(str(tmp_path)) and not read_model.is_foreign(
        "gone"
    )
    saved = config_check.to_dict(tiny())
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert not read_model.is_foreign(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    assert not read_model.is_foreign(str(tmp_path))
    with pytest.raises(UserError, match="config.json is damaged"):
        clipjax.load(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "vit_tiny"}')
    assert read_model.is_foreign(str(tmp_path))


def test_load(released):
    loaded = clipjax.load(released)
    assert loaded.model == RELEASED and loaded.step == 0
    assert_equal(loaded.variables, VARIABLES)
    assert np.isclose(loaded.logit_scale, np.exp(VARIABLES["params"]["logit_scale"]))
    image = np.full((30, 40, 3), 90, np.uint8)
    image[:, 20:] = 200
    embed = loaded.encode_image([image])
    pixels = loaded.preprocess(image)[None]
    expected = jit(RELEASED.encode_image)(VARIABLES, pixels)["image_embed"]
    np.testing.assert_allclose(embed, expected, atol=1e-5)
    assert loaded.encode_text(["a red dog"]).shape == (1, 8)
    # The config makes the same model again, after a save.
    again = config_check.from_dict(config_check.to_dict(loaded.config))
    assert assemble.model(again, loaded.tokenizer) == RELEASED


def test_a_tokenizer_of_another_model(released, tmp_path):
    folder = pathlib.Path(released)
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    described = json.loads((tmp_path / "config.json").read_text())
    described["text_config"]["eos_token_id"] = 5
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="pools at token 5"):
        clipjax.load(tmp_path)


@pytest.mark.parametrize("target", ["hf", "open_clip"])
def test_export_command(released, tmp_path, capsys, target):
    out = tmp_path / "out"
    argv = ["export", f"--model={released}", f"--format={target}", f"--out={out}"]
    assert export.main(argv) == 0
    assert f"written to {out}" in capsys.readouterr().out.replace("\n", "")
    assert_equal(clipjax.load(out).variables, VARIABLES)
    with pytest.raises(UserError, match="already exists"):
        export.main(argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no --model given: a run, e.g. runs/quickstart, or a released model"),
        (["--workdir=x", "--model=y"], "--model=y and --workdir=x both name"),
        (["--workdir=x"], "no --format given: hf or open_clip"),
        (["--workdir=x", "--format=hf"], "no --out given"),
        (["--workdir=gone", "--format=hf", "--out=y"], "gone is no run directory"),
        (["--formt=hf"], "unknown flag '--formt=hf'. Did you mean 'format'"),
    ],
)
def test_mistakes_of_the_command(argv, message):
    with pytest.raises(UserError, match=message):
        export.main(["export", *argv])


def test_help(capsys):
    assert export.main(["export", "--help"]) == 0
    assert "--format open_clip" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_from_a_released_model_and_its_export(released, tmp_path):
    """Train on, from the towers and from the whole, and export the run."""
    from run_tools import one_device, train

    loaded = clipjax.load(released)
    with one_device():
        for key in ("init_from", "init_image_from"):
            config = tiny(train__steps=2, **{key: released})
            with config.unlocked():
                config.model = loaded.config.model
                config.data.tokenizer = loaded.config.data.tokenizer
            config.data.image_size = 12
            workdir = tmp_path / key
            said = train(config, workdir)
            assert str(released) in said
            out = tmp_path / f"{key}_out"
            argv = [f"--workdir={workdir}", "--format=hf", f"--out={out}"]
            assert export.main(["export", *argv]) == 0
            ours, theirs = clipjax.load(workdir), clipjax.load(out)
            assert_equal(ours.variables, theirs.variables)
            image = np.zeros((12, 12, 3), np.uint8)
            np.testing.assert_array_equal(
                ours.encode_image([image]), theirs.encode_image([image])
            )
            texts = ["a red dog", "x"]
            np.testing.assert_array_equal(
                ours.encode_text(texts), theirs.encode_text(texts)
            )


def test_words_of_one_vocabulary_only():
    """The probes are unknown to both; ids of other words differ."""

    def known(*names):
        return words.make(None, json.dumps({"words": names}))

    initial.check_same_ids("x", known("rot", "blau"), known("rot", "blau"))
    for other in (known("blau", "rot"), known("rot", "grün")):
        with pytest.raises(UserError, match="x: its tokenizer gives other ids .*"):
            initial.check_same_ids("x", known("rot", "blau"), other)
