"""Weights: files that could be taken for what they are not, and hostile ones."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile

import numpy as np
import pytest
import torch_tools
from test_weights import MADE, MODELS, assert_equal, write_hf, write_open_clip
from tower_tools import goldens, write

from clipjax.types import UserError
from clipjax.weights import (
    archives,
    files,
    foreign,
    open_clip,
    release,
    settings,
    torch_zip,
    towers,
)

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
    with pytest.raises(
        UserError, match="and the settings beside it: model_type='gpt2'"
    ):
        foreign.read_model(path)
    # A run's is nothing that describes it.
    (tmp_path / "config.json").write_text(json.dumps({"model": {}, "evals": {}}))
    towers.read_tower(path, "image")


# Hostile archives.


def zipped(path, entries, how=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def refusal(path, match):
    with pytest.raises(UserError, match=match) as caught:
        files.read(path)
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
    np.testing.assert_array_equal(files.read(plain)["w"], weight)
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
    assert files.read(path)["w"].shape == (1000,)
    np.savez_compressed(path, w=np.zeros(17 << 20, np.float32))
    refusal(path, "would unpack to 71,303,[0-9]+ bytes, over 100 times its own")


def test_too_little_memory_names_the_file(tmp_path, monkeypatch):
    path = zipped(tmp_path / "w.npz", {"w.npy": b""})

    def exhausted(archive, place):
        raise MemoryError

    monkeypatch.setattr(archives, "read_npz", exhausted)
    refusal(path, "asks for more memory than there is")


def test_export_to_where_nothing_can_be_written(tmp_path):
    """The scratch folder's name would be longer than a file system takes."""
    out = tmp_path / ("x" * 250)
    with pytest.raises(UserError, match="cannot write .*: free space, or give") as got:
        with release._folder(out):
            pytest.fail("nothing can be written there")
    assert str(out) in str(got.value) and "\n" not in str(got.value)
    assert not [*tmp_path.iterdir()]
    # Nor does a disk that fills up leave anything.
    with pytest.raises(UserError, match="No space left on device"):
        with release._folder(tmp_path / "out") as folder:
            (folder / "half").write_text("x")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not [*tmp_path.iterdir()]
