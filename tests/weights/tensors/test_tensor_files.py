"""Weight files: exact arrays or one clear refusal; nothing in a file is ever run."""

from __future__ import annotations

import io
import json
import os
import pathlib
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors
import torch_tools
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch_tools import call, name, script_object, tensor, value, whole

from clipjax.types import UserError
from clipjax.weights.tensors import tensor_files, wrappers

GOLDENS = pathlib.Path(__file__).parent / "goldens"


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype and found[key].shape == array.shape, key
        assert found[key].tobytes() == array.tobytes(), key


def refusal(path, match=None):
    """The message of reading a file that must be refused: one line with its name."""
    with pytest.raises(UserError, match=match) as caught:
        tensor_files.read(path)
    message = str(caught.value)
    assert pathlib.Path(path).name in message and "\n" not in message
    return message


def numbers(*shape, start=0):
    return np.arange(start, start + np.prod(shape, dtype=int), dtype="f4").reshape(
        shape
    )


# PyTorch: files that torch 2.13 wrote (tests/parity/make_torch_goldens.py)


BLOCK = {
    "scale": numbers(3, start=100).astype(np.float16),
    "count": np.array(7),
    "inner.weight": numbers(3, 2),
    "inner.bias": numbers(3, start=50),
}


@pytest.mark.parametrize("kind", ["training", "script"])
def test_torch_model(kind):
    found = tensor_files.read(GOLDENS / f"torch_{kind}.pt")
    assert_equal(dict(sorted(found.items())), dict(sorted(BLOCK.items())))


def test_torch_views_of_one_storage():
    base = numbers(4, 5)
    thirds = (np.arange(1, 4).astype(ml_dtypes.bfloat16) / 3).astype(ml_dtypes.bfloat16)
    expected = {
        "base": base,
        "transposed": base.T,
        "inside": base[1:3, 1::2],
        "row": base[2],
        "expanded": np.zeros((3, 4), np.float32),
        "last": base[3, 4],
        "none": base[:0],
        "parameter": numbers(2, start=30),
        "bfloat16": thirds,
        "mask": np.array([True, False]),
    }
    assert_equal(tensor_files.read(GOLDENS / "torch_plain.pt"), expected)


# PyTorch: files put together by hand


def test_torch_types(tmp_path):
    path = tmp_path / "types.bin"
    path.write_bytes(torch_tools.plain_file(torch_tools.arrays()))
    assert_equal(tensor_files.read(path), torch_tools.arrays())


def archive_at(path, content, *storages, **more):
    path.write_bytes(torch_tools.archive(content, dict(enumerate(storages)), **more))
    return path


W = numbers(2, 3)


@pytest.mark.parametrize(
    "content, expected",
    [
        ({"w": whole("0", W)}, ["w"]),
        ({"a": {"b": {"w": whole("0", W)}}, "n": None, "s": [1, "x"]}, ["a.b.w"]),
        ({"a": [whole("0", W), {"b": whole("0", W)}]}, ["a.0", "a.1.b"]),
        ({"state_dict": {"w": whole("0", W)}, "x": whole("0", W)}, ["w"]),
        ({"model": {"module.w": whole("0", W)}, "epoch": 3}, ["w"]),
        ({"module.w": whole("0", W), "v": whole("0", W)}, ["module.w", "v"]),
        (script_object("M", model=script_object("N", w=whole("0", W))), ["w"]),
        ({"model_state_dict": {"w": whole("0", W)}, "step": 3}, ["w"]),
        ({"model": {"state_dict": {"module.w": whole("0", W)}}}, ["w"]),
        ({"state_dict": {"model.a.w": whole("0", W)}, "model": 3}, ["a.w"]),
        ({"": {"w": whole("0", W)}}, [".w"]),
        (whole("0", W), [""]),
    ],
)
def test_torch_names(tmp_path, content, expected):
    path = archive_at(tmp_path / "x.pt", content, W)
    assert_equal(tensor_files.read(path), dict.fromkeys(expected, W))


def test_torch_shared_parts(tmp_path):
    """A module used twice counts twice; endless and exploding dicts are refused."""
    shared = value({"w": whole("0", W)}) + b"q\x01"  # kept, fetched by h\x01
    path = archive_at(tmp_path / "x.pt", {"a": shared, "b": b"h\x01"}, W)
    assert_equal(tensor_files.read(path), {"a.w": W, "b.w": W})
    endless = b"}q\x01X\x01\x00\x00\x00ah\x01s"
    archive_at(path, endless, W)
    refusal(path, "nested")
    laughs = b"]q\x00"
    for i in range(60):
        laughs += b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1])
    archive_at(path, laughs, W)
    refusal(path, "nested")


@pytest.mark.parametrize(
    "content, match",
    [
        (tensor("0", "FloatStorage", 6, 0, (7,), (1,)), "beyond its storage"),
        (tensor("0", "FloatStorage", 6, 1, (6,), (1,)), "beyond its storage"),
        (tensor("0", "FloatStorage", 6, 0, (2, 3), (4, 1)), "beyond its storage"),
        (tensor("0", "FloatStorage", 6, 10**30, (1,), (1,)), "beyond its storage"),
        (tensor("0", "FloatStorage", 6, -1, (2,), (1,)), "invalid shape or offset"),
        (tensor("0", "FloatStorage", 6, 5, (2,), (-1,)), "invalid shape or offset"),
        (tensor("0", "FloatStorage", 6, 0, (-2,), (1,)), "invalid shape or offset"),
        (tensor("0", "FloatStorage", 6, "0", (2,), (1,)), "invalid shape or offset"),
        (tensor("0", "FloatStorage", 6, 0, (2, 3), (1,)), "damaged"),
        (tensor("0", "FloatStorage", 6, 0, (1,), (10**30,)), "damaged"),
        (tensor("0", "FloatStorage", 6, 0, (0, 10**30), (1, 1)), "damaged"),
        (tensor("0", "FloatStorage", 7, 0, (7,), (1,)), "wrong size"),
        (tensor("0", "FloatStorage", 5, 0, (5,), (1,)), "wrong size"),
        (tensor("1", "FloatStorage", 6, 0, (6,), (1,)), "is missing"),
        (tensor("../0", "FloatStorage", 6, 0, (6,), (1,)), "is missing"),
        (tensor("0", "ComplexFloatStorage", 3, 0, (3,), (1,)), "ComplexFloat"),
        (tensor("0", "float32", 6, 0, (6,), (1,)), "damaged"),
        (call("torch._utils", "_rebuild_tensor_v2", 1, 0, (1,), (1,)), "invalid shape"),
        (value(("storage", "FloatStorage", "0", "cpu", "6")) + b"Q", "damaged"),
        (value(("module", "FloatStorage", "0", "cpu", 6)) + b"Q", "damaged"),
        (b"\x80\x05\x8c", "damaged"),
        (b"h\x09", "damaged"),
        (b"N", "holds no tensors"),
        (name("__torch__", "M") + b")\x81" + value((1, whole("0", W))) + b"b", "code"),
    ],
)
def test_torch_tensors_that_are_not_inside(tmp_path, content, match):
    refusal(archive_at(tmp_path / "x.pt", {"w": content}, W), match)


def test_torch_odd_archives(tmp_path):
    path = archive_at(tmp_path / "x.pt", {"epoch": 3, "name": "x"}, W)
    refusal(path, "holds no tensors")
    two = {"a.b": whole("0", W), "a": {"b": whole("0", W)}}
    refusal(archive_at(path, two, W), "two tensors called 'a.b'")
    swapped = {"byteorder": b"big"}
    refusal(archive_at(path, {"w": whole("0", W)}, W, **swapped), "byte order")
    for root in ("", "any name/"):
        archive_at(path, {"w": whole("0", W)}, W, root=root)
        assert_equal(tensor_files.read(path), {"w": W})


# PyTorch: a file that wants to run something


class Runs:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def harmful(target):
    """Pickles that make the file `target` where they are loaded."""
    opens = f"open({str(target)!r}, 'w').close()"
    shell = f"touch {target}"
    for protocol in (0, 2, 4, 5):
        yield pickle.dumps(Runs(os.system, shell), protocol)
        yield pickle.dumps(Runs(eval, opens), protocol)
        yield pickle.dumps({"w": Runs(exec, opens)}, protocol)
    yield f"(S'{shell}'\nios\nsystem\n.".encode()  # INST
    yield b"(cos\nsystem\n" + value(shell) + b"o."  # OBJ
    yield b"\x80\x04" + name("torch._utils", "os.system") + value((shell,)) + b"R."
    yield b"\x80\x04" + name("torch", "Size.__class__") + value((shell,)) + b"R."
    yield name("os", "system") + b"."  # asked for, not even called
    yield name("pathlib", "Path") + value((str(target),)) + b"R."
    yield b"\x80\x02" + name("torch._utils", "_rebuild_parameter_v9") + b")R."


def test_harmful_pickles_do_harm_where_they_are_loaded(tmp_path):
    """Or the test below would prove nothing."""
    for data in [*harmful(tmp_path / "made")][:14]:
        pickle.loads(data)
        (tmp_path / "made").unlink()


def test_a_file_that_asks_to_run_something_is_refused(tmp_path):
    target, path = tmp_path / "made", tmp_path / "x.pt"
    for data in harmful(target):
        path.write_bytes(
            zipped({"archive/data.pkl": data, "archive/data/0": W.tobytes()})
        )
        refusal(path, "refused: the file asks to run '.*', which weights do not need")
        path.write_bytes(data)  # no zip archive at all
        refusal(path, "bare pickle|is not a weight file")
        assert not target.exists()
    archive_at(path, {"w": call("posix", "system", f"touch {target}")}, W)
    refusal(path, r"asks to run 'posix.system'.*torch.load")
    assert not target.exists()


def test_arrays_of_objects_are_refused(tmp_path):
    target, path = tmp_path / "made", tmp_path / "x.npz"
    harm = np.array([Runs(os.system, f"touch {target}")], dtype=object)
    np.savez(path, fine=W, harm=harm)
    refusal(path, "harm.npy")
    assert not target.exists()


def test_one_file_cannot_change_how_the_next_is_read(tmp_path):
    """A pickle may set attributes of the functions and classes that it is given."""
    state = value({"__kwdefaults__": {"size": 1}, "__defaults__": (1, 2, 3, 4)})
    for what in [
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch", "FloatStorage"),
        ("torch", "Size"),
        ("collections", "OrderedDict"),
        ("__torch__", "M"),
    ]:
        for attributes in (state, b"N" + state + b"\x86"):
            poison = name(*what) + attributes + b"b"
            path = archive_at(tmp_path / "x.pt", {"p": poison, "w": whole("0", W)}, W)
            try:
                assert_equal(tensor_files.read(path), {"w": W})
            except UserError:
                pass
            assert_equal(tensor_files.read(GOLDENS / "torch_script.pt"), read_before)


read_before = tensor_files.read(GOLDENS / "torch_script.pt")


def test_legacy_files_are_refused_with_the_way_out():
    assert "torch.load" in refusal(GOLDENS / "torch_legacy.pt", "before 1.6")


# npz


def test_npz(tmp_path):
    arrays = {
        "params/img/kernel": np.asfortranarray(W),
        "params/t": np.float32(1.5),
        "none": np.zeros((0, 3), np.int8),
        "half": np.arange(3, dtype=np.float16),
        "complex": np.arange(3) * 1j,
        "far": np.arange(3, dtype=">i4"),
        "big_vision": np.arange(3).astype(ml_dtypes.bfloat16),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        found = tensor_files.read(tmp_path / "x.npz")
        arrays["far"] = arrays["far"].astype("i4")
        assert_equal(found, {key: np.asarray(x) for key, x in arrays.items()})
        arrays["far"] = arrays["far"].astype(">i4")


def zipped(members):
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        for path, content in members.items():
            file.writestr(path, content)
    return written.getvalue()


def npy(array, **header):
    """The bytes of an .npy file that says something else of its content."""
    written = io.BytesIO()
    described = np.lib.format.header_data_from_array_1_0(array) | header
    np.lib.format.write_array_header_1_0(written, described)
    return written.getvalue() + array.tobytes()


@pytest.mark.parametrize(
    "content",
    [
        npy(W, shape=(2, 4)),
        npy(W, shape=(1, 3)),
        npy(W, shape=(10**15,)),
        npy(W, shape=(10**15, 0)),
        npy(W, shape=(-2, -3)),
        npy(W, descr="<f8"),
        npy(W, descr="|O"),
        npy(W, descr="<U6"),
        npy(W, descr=[("a", "<f4")]),
        npy(W)[:20],
        b"\x93NUMPY\x09\x00" + npy(W)[8:],
        b"not npy",
        b"",
    ],
)
def test_npz_that_lies(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(zipped({"fine.npy": npy(W), "w.npy": content}))
    refusal(tmp_path / "x.npz", r"w\.npy|damaged")


# safetensors


def test_safetensors_types(tmp_path):
    path = tmp_path / "x.safetensors"
    arrays = {
        key: (numbers(2, 3) * 2).astype(dtype)
        for key, dtype in tensor_files.DTYPES.items()
    }
    arrays |= {"none": np.zeros((3, 0)), "one": np.array(3.0), "\u00e9/\U0001f436": W}
    tensor_files.write_safetensors(path, arrays)
    assert_equal(
        dict(sorted(tensor_files.read(path).items())), dict(sorted(arrays.items()))
    )
    path.rename(tmp_path / "without_suffix")
    assert len(tensor_files.read(tmp_path / "without_suffix")) == len(arrays)


def test_write_safetensors_is_deterministic(tmp_path):
    """Whatever the order, and of arrays that do not lie row by row in memory."""
    arrays = {"b": W.T, "a": W[:, ::2], "far": np.arange(3, dtype=">i4")}
    for i, order in enumerate((1, -1)):
        tensor_files.write_safetensors(
            tmp_path / f"{i}", dict([*arrays.items()][::order]), {"format": "pt"}
        )
    one, two = ((tmp_path / f"{i}").read_bytes() for i in range(2))
    assert one == two
    found = {"far": np.arange(3, dtype="i4"), "a": W[:, ::2], "b": W.T}
    assert_equal(
        dict(sorted(tensor_files.read(tmp_path / "0").items())),
        dict(sorted(found.items())),
    )
    with safetensors.safe_open(tmp_path / "0", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_write_safetensors_replaces_whole_files_only(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    tensor_files.write_safetensors(path, {"w": W})

    def full(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        tensor_files.write_safetensors(path, {"w": W + 1})
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    assert_equal(tensor_files.read(path), {"w": W})


@pytest.mark.parametrize(
    "tensors, match",
    [
        ({"w": np.zeros(2, "c16")}, "'w' of type complex128"),
        ({"w": np.array(["x"])}, "'w' of type"),
        ({"__metadata__": W}, "__metadata__"),
    ],
)
def test_write_safetensors_refuses(tmp_path, tensors, match):
    with pytest.raises(UserError, match=match):
        tensor_files.write_safetensors(tmp_path / "x", tensors)
    assert not [*tmp_path.iterdir()]


def test_safetensors_unknown_type(tmp_path):
    header = b'{"w":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"ab")
    refusal(path, "'w' has type F8_E4M3")


def sharded(folder, shards, weight_map=None):
    for shard, tensors in shards.items():
        tensor_files.write_safetensors(folder / shard, tensors)
    listed = {key: shard for shard, tensors in shards.items() for key in tensors}
    index = {"metadata": {}, "weight_map": listed | (weight_map or {})}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index), encoding="utf-8")
    return path


def test_sharded(tmp_path):
    shards = {"b.safetensors": {"z": W, "a": W + 1}, "a.safetensors": {"m": W + 2}}
    found = tensor_files.read(sharded(tmp_path, shards))
    assert_equal(found, {"m": W + 2, "a": W + 1, "z": W})

    path = sharded(tmp_path, shards, {"gone": "a.safetensors"})
    refusal(path, "a.safetensors.*the shard lacks 'gone'")
    sharded(tmp_path, shards, {"m": "b.safetensors"})
    refusal(path, "the shard lacks 'm'")
    tensor_files.write_safetensors(tmp_path / "a.safetensors", {"m": W, "more": W})
    (tmp_path / path.name).write_text(
        json.dumps({"weight_map": {"m": "a.safetensors"}}), encoding="utf-8"
    )
    refusal(path, "the index lacks 'more'")
    for outside in ("../a.safetensors", "/etc/a.safetensors", "c/a.pt"):
        refusal(sharded(tmp_path, shards, {"x": outside}), "not in its folder")
    archive_at(tmp_path / "c.bin", {"x": whole("0", W)}, W)
    found = tensor_files.read(sharded(tmp_path, shards, {"x": "c.bin"}))
    assert sorted(found) == ["a", "m", "x", "z"]
    sharded(tmp_path, shards, {"x": "c.safetensors"})
    with pytest.raises(UserError, match="c.safetensors does not exist"):
        tensor_files.read(path)
    for bad in ("{", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'):
        path.write_text(bad, encoding="utf-8")
        refusal(path, "damaged")
    path.write_text(json.dumps({"weight_map": {"a": path.name}}), encoding="utf-8")
    refusal(path, "damaged")  # without end
    path.write_text('{"weight_map": {}}', encoding="utf-8")
    refusal(path, "names no tensors")


# What training programs put around a model

NAMES = ("visual.proj", "logit_scale")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module."),
        *("state_dict.model.", "model_state_dict.", "model.module._orig_mod."),
    ],
)
def test_prefixes_of_all_names_are_dropped(tmp_path, suffix, prefix):
    path = tmp_path / f"x{suffix}"
    tensors = {prefix + name: W for name in NAMES}
    if suffix == ".npz":
        np.savez(path, **tensors)
    elif suffix == ".pt":
        archive_at(path, {name: whole("0", W) for name in tensors}, W)
    else:
        tensor_files.write_safetensors(path, tensors)
    assert sorted(tensor_files.read(path)) == sorted(NAMES)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.a", "head.b"], ["model.a", "head.b"]),  # a part of the model
        (["module.a", "module."], ["module.a", "module."]),
        (["visual._orig_mod.a", "b"], ["visual.a", "b"]),  # a part was compiled
        (["_orig_mod.a", "a"], ["_orig_mod.a", "a"]),  # or two would be one
        (["model.model.a", "model.model.b"], ["a", "b"]),
        (["models.a", "models.b"], ["models.a", "models.b"]),
        (["a._orig_mod.weight"], ["a.weight"]),
        (["_fsdp_wrapped_module.a", "b._fsdp_wrapped_module.c"], ["a", "b.c"]),
        (["a._checkpoint_wrapped_module.b"], ["a.b"]),
    ],
)
def test_other_names_stay(tmp_path, names, expected):
    np.savez(tmp_path / "x.npz", **dict.fromkeys(names, W))
    assert list(tensor_files.read(tmp_path / "x.npz")) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["student.clip.w", "student.clip.x.y"], ["w", "x.y"]),
        (["w", "student.x"], ["w", "student.x"]),
        (["student.clip.x"], ["student.clip.x"]),  # never known
        (["student", "student.w"], ["student", "student.w"]),
        ([], []),
    ],
)
def test_any_word_of_all_names(names, expected):
    found = wrappers.without_words(dict.fromkeys(names), lambda found: "w" in found)
    assert list(found) == expected


@pytest.mark.parametrize(
    "index", ["pytorch_model.bin.index.json", "pytorch_model.bin.index.fp16.json"]
)
def test_shards_of_pytorch_files(tmp_path, index):
    listed = {}
    for number in (1, 2):
        shard = f"pytorch_model-0000{number}-of-00002.bin"
        names = [f"module.{number}.{part}" for part in "ab"]
        archive_at(tmp_path / shard, {name: whole("0", W) for name in names}, W)
        listed |= dict.fromkeys(names, shard)
    path = tmp_path / index
    path.write_text(json.dumps({"weight_map": listed}), encoding="utf-8")
    assert sorted(tensor_files.read(path)) == ["1.a", "1.b", "2.a", "2.b"]
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(UserError, match="pytorch_model-00002-of-00002.bin does not ex"):
        tensor_files.read(path)


# What is no weight file


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".index.json", ""])
@pytest.mark.parametrize(
    "content, match",
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>\n<html>404</html>", "web page"),
        (b"  \n<html><body>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "not a weight file|damaged"),
        (b"a few words", "not a weight file|damaged"),
        (b"PK\x03\x04", "damaged"),
        (zipped({"readme.txt": b"hello"}), "neither NumPy's nor PyTorch's"),
        (zipped({"deep/er/data.pkl": b"N."}), "neither"),
        (zipped({}), "not a weight file|damaged"),
    ],
)
def test_foreign_files(tmp_path, suffix, content, match):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    refusal(path, match)


def test_no_file(tmp_path):
    refusal(tmp_path / "x.pt", "does not exist")
    refusal(tmp_path, "is a folder")


# Damage


GIVEN = {
    "a": numbers(2, 3),
    "b/c": numbers(4).astype(ml_dtypes.bfloat16),
    "d": np.array([True, False]),
}


def whole_files():
    """suffix -> the bytes of a good file, and what it holds."""
    written = io.BytesIO()
    np.savez(written, **GIVEN)
    packed = io.BytesIO()
    np.savez_compressed(packed, **GIVEN)
    return {
        ".npz": (written.getvalue(), GIVEN),
        "_packed.npz": (packed.getvalue(), GIVEN),
        ".pt": (torch_tools.plain_file(GIVEN), GIVEN),
        "_training.pt": ((GOLDENS / "torch_training.pt").read_bytes(), BLOCK),
        "_script.pt": ((GOLDENS / "torch_script.pt").read_bytes(), BLOCK),
    }


WHOLE = whole_files()


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damage_is_seen(tmp_path, data):
    """Zip archives carry sums: the exact arrays, or a refusal that names the file."""
    suffix = data.draw(st.sampled_from(sorted(WHOLE)))
    content, expected = WHOLE[suffix]
    changed = bytearray(content)
    if data.draw(st.booleans(), "cut"):
        del changed[data.draw(st.integers(0, len(changed) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            # The list at the end, where every byte matters, as often as the rest.
            low = data.draw(st.sampled_from([0, len(changed) * 3 // 4]))
            place = data.draw(st.integers(low, len(changed) - 1))
            changed[place] = data.draw(st.integers(0, 255))
    path = tmp_path / f"x{suffix}"
    path.write_bytes(changed)
    try:
        found = tensor_files.read(path)
    except UserError as error:
        assert path.name in str(error) and "\n" not in str(error)
        return
    assert_equal(dict(sorted(found.items())), dict(sorted(expected.items())))


def test_a_list_of_contents_that_lost_entries_is_seen(tmp_path):
    """A comment length that is too large makes zipfile skip what follows, silently."""
    content = bytearray(WHOLE[".npz"][0])
    entry = content.index(b"PK\x01\x02")
    content[entry + 33] = 0x80  # the high byte of the first entry's comment length
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with np.load(path) as lost:
        assert len(lost.files) == 1
    refusal(path, "list of 1 entries is incomplete")


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damaged_safetensors(tmp_path, data):
    """Without sums a changed name or number cannot be seen; other errors may not be."""
    path = tmp_path / "x.safetensors"
    tensor_files.write_safetensors(path, GIVEN)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    changed = bytearray(content)
    if data.draw(st.booleans(), "cut"):
        del changed[data.draw(st.integers(0, len(changed) - 1)) :]
    else:
        place = data.draw(st.integers(0, header - 1))
        changed[place] = data.draw(st.integers(0, 255))
        assume(changed[place] != content[place])
    path.write_bytes(changed)
    try:
        found = tensor_files.read(path)
    except UserError as error:
        assert path.name in str(error) and "\n" not in str(error)
        return
    assert len(changed) == len(content)  # a file that was cut never passes
    assert sum(array.nbytes for array in found.values()) == len(content) - header
    for key in GIVEN.keys() & found.keys():
        if found[key].dtype == GIVEN[key].dtype:
            assert found[key].tobytes() == GIVEN[key].tobytes()
