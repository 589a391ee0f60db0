"""`read(path)`: name -> array from safetensors, .npz and PyTorch files.

Reading never runs code in a file. It returns every tensor or raises.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from clipjax import atomic_files, downloads, paths
from clipjax.types import UserError
from clipjax.weights.tensors import torch_zip, wrappers, zip_npz

WHAT = "a weight file (.safetensors, .npz, .pt, .bin, or the .index.json of several)"
INDEX = re.compile(r".*\.index(\.\w+)?\.json")  # also "model...index.fp16.json"
SAFETENSORS = ".safetensors"
PICKLE_MARK = b"\x80"
# safetensors' names of the types that NumPy has.
DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "I16": np.int16,
    "U16": np.uint16,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I32": np.int32,
    "U32": np.uint32,
    "F32": np.float32,
    "C64": np.complex64,
    "F64": np.float64,
    "I64": np.int64,
    "U64": np.uint64,
}
METADATA = "__metadata__"


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a weight file by name; they may be read-only and strided.

    The content decides the format: safetensors, NumPy's .npz, or PyTorch's zip (see
    `torch_zip.read`). An .index.json reads all shards that it names. Prefixes that
    training programs put before every name are dropped, see `wrappers`.

    Raises UserError, naming the file and the cause, if the file is absent, damaged,
    truncated, of another kind, or asks to run code.
    """
    return wrappers.unwrap(_read(paths.expand(path)))


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays by the file's own names."""
    head = downloads.opening(path, WHAT)
    try:
        if head.startswith(zip_npz.SIGNATURE):
            return _read_archive(path)
        if INDEX.fullmatch(path.name):
            return _read_sharded(path)
        if path.suffix == SAFETENSORS or head[8:9] == b"{":
            return _read_safetensors(path)
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(
            f"{path} needs more memory than this machine has: use a larger one, "
            "unless the file is damaged"
        ) from error
    except Exception as error:  # each library raises its own errors for damaged bytes
        raise UserError(
            f"{path} is damaged or truncated ({type(error).__name__}: "
            f"{downloads.one_line(error)}): fetch it again"
        ) from error
    if head.startswith(PICKLE_MARK):
        raise torch_zip.legacy_error(path)
    raise UserError(f"{path} is not {WHAT}: it begins with {head[:8]!r}")


def _read_archive(path: pathlib.Path) -> dict[str, np.ndarray]:
    with zip_npz.open_archive(path) as archive:
        root = torch_zip.root_of(archive)
        if root is not None:
            return torch_zip.read(archive, root, path)
        if zip_npz.is_npz(archive):
            return zip_npz.read_npz(archive, path)
    raise UserError(
        f"{path} is a zip archive, but neither NumPy's nor PyTorch's: unpack it and "
        "name the weight file inside"
    )


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    with safetensors.safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        for name in names:
            dtype = file.get_slice(name).get_dtype()
            if dtype not in DTYPES:
                raise UserError(
                    f"{path}: tensor {name!r} has type {dtype}; clipjax reads "
                    f"{', '.join(DTYPES)}"
                )
        return {name: file.get_tensor(name) for name in names}


def _read_sharded(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of all shards that an index names; each must hold those listed."""
    shard_of = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    tensors = {}
    for shard in sorted(set(shard_of.values())):
        if pathlib.PurePath(shard).name != shard:
            raise UserError(f"{path} names {shard!r}, which is not in its folder")
        in_shard = _read(path.with_name(shard))
        expected = {name for name in shard_of if shard_of[name] == shard}
        for name in sorted(expected ^ set(in_shard)):
            holder = "the shard" if name in expected else "the index"
            raise UserError(f"{path} and {shard} do not match: {holder} lacks {name!r}")
        tensors |= in_shard
    if not tensors:
        raise UserError(f"{path} names no tensors")
    return tensors


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays as a safetensors file, atomically.

    Raises UserError for a type that the format lacks, or for the name that it
    reserves; and OSError.
    """
    path = paths.expand(path)
    types = {np.dtype(dtype) for dtype in DTYPES.values()}
    arrays = {}
    for name, value in tensors.items():
        array = np.asarray(value)
        # The library writes raw memory, whatever the strides.
        array = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
        if array.dtype not in types or name == METADATA:
            raise UserError(
                f"{path}: cannot hold {name!r} of type {array.dtype}; the format has "
                f"{', '.join(DTYPES)}"
            )
        arrays[name] = array
    content = safetensors.numpy.save(arrays, dict(metadata or {}) or None)
    with atomic_files.open_to_write(path, "wb") as file:
        file.write(content)
