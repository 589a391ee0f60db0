"""Weights: files that could be taken for what they are not, and hostile ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_weights import MADE, MODELS, assert_equal, write_hf, write_open_clip
from tower_tools import goldens, write

from clipjax.types import UserError
from clipjax.weights import files, foreign, open_clip, settings, towers

# A file named directly.


def halve(path):
    """The same tensors in half precision, as OpenAI's are."""
    tensors = files.read(path)
    half = {name: array.astype(np.float16) for name, array in tensors.items()}
    files.write_safetensors(path, half)


@pytest.mark.parametrize("name", ["open_clip_model", "epoch_5"])
def test_a_file_is_read_by_the_settings_beside_it(name, tmp_path):
    """GELU and heads that are not 64 wide, which a bare file would not say."""
    write_open_clip(tmp_path)
    path = tmp_path / "open_clip_model.safetensors"
    halve(path)
    expected, variables = foreign.read_model(str(tmp_path))
    path = path.rename(path.with_stem(name))
    found, read = foreign.read_model(str(path))
    assert found == expected and found.text_options["activation"] == "gelu"
    assert settings.build(found) == MODELS["open_clip"][1]
    assert_equal(read, variables)


def test_a_file_in_a_folder_with_two_kinds_of_settings(tmp_path):
    write_open_clip(write_hf(tmp_path))
    for name, kind in (("model", "clip"), ("open_clip_model", "open_clip")):
        found, read = foreign.read_model(str(tmp_path / f"{name}.safetensors"))
        assert settings.build(found) == MODELS[kind][1]
        assert_equal(read, MADE[kind][2])


def test_float16_does_not_make_a_file_openais(tmp_path):
    write_open_clip(tmp_path)
    path = tmp_path / "open_clip_model.safetensors"
    halve(path)
    (tmp_path / open_clip.CONFIG).unlink()
    with pytest.raises(UserError, match="does not say which activation the model has"):
        foreign.read_model(str(path))


def test_a_tower_is_read_by_the_settings_beside_it(tmp_path):
    """timm's resnetaa50 has the tensors of resnet50, and averages before strides."""
    case = goldens()["torch_resnet"]
    config = {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    path = tmp_path / "model.safetensors"
    write(case, tmp_path)
    for name in ("resnet18", "resnetaa18"):
        text = json.dumps(config | {"architecture": name})
        (tmp_path / "config.json").write_text(text)
        for place in (tmp_path, path):
            if name == "resnetaa18":
                with pytest.raises(UserError, match="architecture='resnetaa18'"):
                    towers.read_tower(str(place), "image")
            else:
                found, _, _ = towers.read_tower(str(place), "image")
                assert (found.mean, found.std) == ((0.5,) * 3, (0.25,) * 3)


def test_settings_of_another_model_are_named(tmp_path):
    """A file of torchvision's beside a config.json that is not its own."""
    write(goldens()["torch_resnet"], tmp_path)
    path = str(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(UserError, match="with the config.json beside it is no tower"):
        towers.read_tower(path, "image")
    with pytest.raises(UserError, match="and the settings beside it: model_type='gpt2'"):
        foreign.read_model(path)
    # A run's is nothing that describes it.
    (tmp_path / "config.json").write_text(json.dumps({"model": {}, "evals": {}}))
    towers.read_tower(path, "image")
