"""Weights: files that could be taken for what they are not, and hostile ones."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import zipfile

import numpy as np
import pytest
import torch_tools
from tower_tools import goldens, write
from weights_tools import MODELS, assert_equal, made, write_hf, write_open_clip

from clipjax.types import UserError
from clipjax.weights import model_description, read_model, read_tower, write_model
from clipjax.weights.formats import open_clip
from clipjax.weights.tensors import tensor_files, torch_zip, zip_npz

# Names by other programs.


@pytest.mark.parametrize("word", ["clip.", "student.net.", "ema._orig_mod."])
def test_words_before_all_names_of_a_model(word, tmp_path):
    write_open_clip(tmp_path)
    expected = read_model.read_model(str(tmp_path))
    path = tmp_path / "open_clip_model.safetensors"
    tensors = tensor_files.read(path)
    tensor_files.write_safetensors(
        path, {word + name: tensors[name] for name in tensors}
    )
    found, read = read_model.read_model(str(tmp_path))
    assert found == expected[0]
    assert_equal(read, expected[1])
    # Of two models in one file none is chosen.
    both = {side + name: tensors[name] for name in tensors for side in ("a.", "b.")}
    tensor_files.write_safetensors(path, both)
    with pytest.raises(UserError, match=r"no 'logit_scale'; .* called 'a\.ln_final"):
        read_model.read_model(str(tmp_path))


def test_words_before_all_names_of_a_tower(tmp_path):
    for name in ("timm_vit", "torch_resnet"):
        case = goldens()[name]
        expected, params, _ = read_tower.read_tower(write(case, tmp_path), "image")
        odd = {f"student.net.{name}": case.tensors[name] for name in case.tensors}
        path = write(dataclasses.replace(case, tensors=odd), tmp_path)
        found, read, _ = read_tower.read_tower(path, "image")
        assert found == expected
        assert_equal(read, params)
        (tmp_path / "config.json").unlink(missing_ok=True)


@pytest.mark.parametrize("form", ["index", "lone shards", "elsewhere"])
def test_shards_of_open_clip(form, tmp_path):
    write_open_clip(tmp_path)
    expected = read_model.read_model(str(tmp_path))
    path = tmp_path / "open_clip_model.safetensors"
    tensors = tensor_files.read(path)
    path.unlink()
    shards = [f"open_clip_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    if form == "elsewhere":
        shards = ["model.safetensors", "other.safetensors"]
    for i, shard in enumerate(shards):
        part = dict([*tensors.items()][i::2])
        tensor_files.write_safetensors(tmp_path / shard, part)
    if form == "index":
        listed = {name: shards[i % 2] for i, name in enumerate(tensors)}
        index = path.with_name(f"{path.name}.index.json")
        index.write_text(json.dumps({"weight_map": listed}))
        assert_equal(read_model.read_model(str(tmp_path))[1], expected[1])
        return
    with pytest.raises(UserError, match="no weight file by a name") as caught:
        read_model.read_model(str(tmp_path))
    held = shards[0] if form == "elsewhere" else "2 files open_clip_model-*-of-*"
    assert held in str(caught.value)


# A file named directly.


def halve(path):
    """The same tensors in half precision, as OpenAI's are."""
    tensors = tensor_files.read(path)
    half = {name: array.astype(np.float16) for name, array in tensors.items()}
    tensor_files.write_safetensors(path, half)


@pytest.mark.parametrize("name", ["open_clip_model", "epoch_5"])
def test_a_file_is_read_by_the_settings_beside_it(name, tmp_path):
    """GELU and heads that are not 64 wide, which a bare file would not say."""
    write_open_clip(tmp_path)
    path = tmp_path / "open_clip_model.safetensors"
    halve(path)
    expected, variables = read_model.read_model(str(tmp_path))
    path = path.rename(path.with_stem(name))
    found, read = read_model.read_model(str(path))
    assert found == expected and found.text_options["activation"] == "gelu"
    assert model_description.build(found) == MODELS["open_clip"][1]
    assert_equal(read, variables)


def test_a_file_in_a_folder_with_two_kinds_of_settings(tmp_path):
    write_open_clip(write_hf(tmp_path))
    for name, kind in (("model", "clip"), ("open_clip_model", "open_clip")):
        found, read = read_model.read_model(str(tmp_path / f"{name}.safetensors"))
        assert model_description.build(found) == MODELS[kind][1]
        assert_equal(read, made(kind)[2])


def test_float16_does_not_make_a_file_openais(tmp_path):
    write_open_clip(tmp_path)
    path = tmp_path / "open_clip_model.safetensors"
    halve(path)
    (tmp_path / open_clip.CONFIG).unlink()
    with pytest.raises(UserError, match="does not say which activation the model has"):
        read_model.read_model(str(path))


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
                    read_tower.read_tower(str(place), "image")
            else:
                found, _, _ = read_tower.read_tower(str(place), "image")
                assert (found.mean, found.std) == ((0.5,) * 3, (0.25,) * 3)


def test_settings_of_another_model_are_named(tmp_path):
    """A file of torchvision's beside a config.json that is not its own."""
    write(goldens()["torch_resnet"], tmp_path)
    path = str(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(UserError, match="with the config.json beside it is no tower"):
        read_tower.read_tower(path, "image")
    with pytest.raises(
        UserError, match="and the settings beside it: model_type='gpt2'"
    ):
        read_model.read_model(path)
    # A run's is nothing that describes it.
    (tmp_path / "config.json").write_text(json.dumps({"model": {}, "evals": {}}))
    read_tower.read_tower(path, "image")


# What a processor of transformers 5 saves.


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_processor_config(name, tmp_path):
    """As transformers 5.13 writes it; it counts before preprocessor_config.json."""
    write_hf(tmp_path, name)
    seen = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    old = {"image_mean": [0.9] * 3, "image_std": [0.8] * 3}

    def save(file, content):
        (tmp_path / file).write_text(json.dumps(content))
        return read_model.read_model(str(tmp_path))[0]

    def assert_normalises(found, expected):
        options = found.model_options
        assert options["mean"] == tuple(expected["image_mean"])
        assert options["std"] == tuple(expected["image_std"])

    whole = {"processor_class": "SomeProcessor"}
    found = save("processor_config.json", whole | {"image_processor": seen})
    assert_normalises(found, seen)
    assert_normalises(save("preprocessor_config.json", old), seen)
    # Older ones do not have the image's settings inside.
    assert_normalises(save("processor_config.json", whole), old)
    with pytest.raises(UserError, match="processor_config.json: image_processor=None"):
        save("processor_config.json", whole | {"image_processor": None})
    # Whose transform cannot be ours is told by the file that says so.
    odd = whole | {"image_processor": seen | {"do_resize": False}}
    found = save("processor_config.json", odd)
    assert f"{tmp_path}/processor_config.json: do_resize" in found.no_preprocess


@pytest.mark.parametrize("name", ["hf_vit", "hf_resnet"])
def test_processor_config_of_a_tower(name, tmp_path):
    place = write(goldens()[name], tmp_path)
    seen = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    whole = json.dumps({"image_processor": seen})
    (tmp_path / "processor_config.json").write_text(whole)
    found, _, _ = read_tower.read_tower(place, "image")
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


# Settings that lie.

NO_SIZES = (None, 0, -1, 2.0, "2", True, [], {}, float("inf"), 10**9)


def changed(path, key, value):
    """Writes a JSON file anew with another value; key: "text_config/hidden_size"."""
    content = json.loads(path.read_text())
    *sections, last = key.split("/")
    inner = content
    for section in sections:
        inner = inner[section]
    inner[last] = value
    path.write_text(json.dumps(content))


def assert_refused(read, path, key, values):
    """Each value gets one line with the file, the key and the value."""
    before = path.read_text()
    for value in values:
        changed(path, key, value)
        with pytest.raises(UserError) as caught:
            read()
        message = str(caught.value)
        assert str(path) in message and "\n" not in message
        assert key.split("/")[-1] in message and f"={value!r}" in message, message
        path.write_text(before)


HF_KEYS = [
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    "layer_norm_eps",
]
TEXT_KEYS = ["vocab_size", "max_position_embeddings"]


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_sizes_of_hugging_face(name, tmp_path):
    write_hf(tmp_path, name)
    path = tmp_path / "config.json"
    for section, more in (("text", TEXT_KEYS), ("vision", ["patch_size"])):
        for key in HF_KEYS + more:
            values = NO_SIZES
            if key == "layer_norm_eps":
                values = (None, 0, -1, "2", True, [], float("inf"), float("nan"))
            assert_refused(
                lambda: read_model.read_model(str(tmp_path)),
                path,
                f"{section}_config/{key}",
                values,
            )
    if name == "clip":
        keys = ("projection_dim", NO_SIZES), ("text_config/eos_token_id", (None, -1))
        for key, values in keys:
            assert_refused(
                lambda: read_model.read_model(str(tmp_path)), path, key, values
            )


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("bert", [*HF_KEYS[:4], *TEXT_KEYS]),
        ("distilbert", ["dim", "hidden_dim", "n_layers", "n_heads", *TEXT_KEYS]),
        ("hf_vit", [*HF_KEYS[:4], "patch_size"]),
        ("hf_resnet", ["embedding_size"]),
    ],
)
def test_sizes_of_towers(name, keys, tmp_path):
    case = goldens()[name]
    place = write(case, tmp_path)
    path = tmp_path / "config.json"
    for key in keys:
        assert_refused(
            lambda: read_tower.read_tower(place, case.side), path, key, NO_SIZES
        )
    if name == "hf_resnet":
        changed(path, "depths", [1, 1, 0, 1])
        with pytest.raises(UserError, match=r"depths\[2\]=0: must be an integer"):
            read_tower.read_tower(place, case.side)


def test_sizes_of_open_clip(tmp_path):
    write_open_clip(tmp_path)
    path = tmp_path / "open_clip_config.json"
    sizes = {
        "vision_cfg": ("width", "layers", "patch_size", "head_width", "image_size"),
        "text_cfg": ("context_length", "vocab_size", "width", "heads", "layers"),
    }
    for section, keys in sizes.items():
        for key in keys:
            # A list of layers or a square is something else.
            values = [x for x in NO_SIZES if type(x) is not list]
            if (section, key) == ("vision_cfg", "layers"):
                values = (0, -1, 10**9)
            assert_refused(
                lambda: read_model.read_model(str(tmp_path)),
                path,
                f"model_cfg/{section}/{key}",
                values,
            )
    more = {
        "embed_dim": (None, 0, "2", []),
        "vision_cfg/mlp_ratio": (None, 0, "2", []),
        "text_cfg/eos_id": (None, -1, 2.0),
        "text_cfg/pad_id": (None, -1, 2.0),
    }
    for key, values in more.items():
        assert_refused(
            lambda: read_model.read_model(str(tmp_path)),
            path,
            f"model_cfg/{key}",
            values,
        )


def test_more_layers_than_tensors(tmp_path):
    """They would be built for hours before one is missed."""
    write_hf(tmp_path)
    path = tmp_path / "config.json"
    changed(path, "text_config/num_hidden_layers", 1_000_000)
    count = len(tensor_files.read(tmp_path / "model.safetensors"))
    with pytest.raises(UserError, match=f"=1000000: its weights are {count} tensors"):
        read_model.read_model(str(tmp_path))


NOT_THREE = ([0.5, 0.5], 0.5, ["a"] * 3, [float("nan")] * 3, [1e400] * 3, [True] * 3)


def test_means_and_deviations(tmp_path):
    hf, ours, tower = (tmp_path / name for name in ("hf", "open_clip", "tower"))
    for folder in (hf, ours, tower):
        folder.mkdir()
    write_hf(hf)
    write_open_clip(ours)
    (ours / "open_clip_config.json").write_text(
        json.dumps(
            json.loads((ours / "open_clip_config.json").read_text())
            | {"preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
        )
    )
    case = goldens()["hf_vit"]
    write(case, tower)
    for folder in (hf, tower):
        text = json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
        (folder / "preprocessor_config.json").write_text(text)
    reads = {
        hf / "preprocessor_config.json": lambda: read_model.read_model(str(hf)),
        ours / "open_clip_config.json": lambda: read_model.read_model(str(ours)),
        tower / "preprocessor_config.json": lambda: read_tower.read_tower(
            str(tower), case.side
        ),
    }
    for path, read in reads.items():
        before = "preprocess_cfg/" if path.parent == ours else "image_"
        assert_refused(read, path, f"{before}mean", NOT_THREE)
        odd = (*NOT_THREE, [0.5, 0.0, 0.5], [0.5, -1, 0.5])
        assert_refused(read, path, f"{before}std", odd)


# Hostile archives.


def zipped(path, entries, how=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def refusal(path, match):
    with pytest.raises(UserError, match=match) as caught:
        tensor_files.read(path)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "put", [b"r\xff\xff\x00\x00", b"r\xff\xff\xff\x7f", b"p2147483647\n"]
)
def test_a_memo_beyond_the_pickle_is_refused_unread(put, tmp_path, monkeypatch):
    """The largest would make the unpickler allocate tens of gigabytes."""
    monkeypatch.setattr(torch_zip._Reader, "load", lambda self: pytest.fail("was read"))
    pickled = b"\x80\x02N" + put + b"."
    path = zipped(tmp_path / "memo.pt", {"archive/data.pkl": pickled})
    refusal(path, "asks for a memo of [0-9,]+ entries")


def test_compressed_parts_of_a_torch_file_are_refused(tmp_path):
    weight = np.zeros(1000, np.float32)
    whole = torch_tools.plain_file({"w": weight})
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    plain = zipped(tmp_path / "plain.pt", entries)
    np.testing.assert_array_equal(tensor_files.read(plain)["w"], weight)
    for name in ("archive/data.pkl", "archive/byteorder", "archive/data/0"):
        path = zipped(tmp_path / "squeezed.pt", entries)
        with zipfile.ZipFile(path, "w") as archive:
            for key, content in entries.items():
                kind = zipfile.ZIP_DEFLATED if key == name else zipfile.ZIP_STORED
                archive.writestr(key, content, kind)
        refusal(path, f"refused: {name} is compressed")


def test_an_archive_that_unpacks_to_far_more_than_its_size(tmp_path):
    path = tmp_path / "zeros.npz"
    np.savez_compressed(path, w=np.zeros(1000, np.float32))
    assert tensor_files.read(path)["w"].shape == (1000,)
    np.savez_compressed(path, w=np.zeros(17 << 20, np.float32))
    refusal(path, "would unpack to 71,303,[0-9]+ bytes, over 100 times its size")


def test_too_little_memory_names_the_file(tmp_path, monkeypatch):
    path = zipped(tmp_path / "w.npz", {"w.npy": b""})

    def exhausted(archive, place):
        raise MemoryError

    monkeypatch.setattr(zip_npz, "read_npz", exhausted)
    refusal(path, "needs more memory than this machine has")


def test_export_to_where_nothing_can_be_written(tmp_path):
    """A disk that fills up keeps nothing; a name may be as long as a disk takes."""
    out = tmp_path / ("x" * 250)
    with pytest.raises(UserError, match="cannot write .*: free space, or name") as got:
        with write_model._folder(out) as folder:
            (folder / "half").write_text("x")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(out) in str(got.value) and "No space left on device" in str(got.value)
    assert not [*tmp_path.iterdir()]
    with write_model._folder(out) as folder:
        (folder / "whole").touch()
    assert [str(at.relative_to(out)) for at in out.iterdir()] == ["whole"]
