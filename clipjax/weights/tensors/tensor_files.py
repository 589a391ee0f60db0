"""`read(path)`: name -> array from safetensors, .npz and PyTorch files.

Nothing in a file is ever run, and a file is read whole or not at all.
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
SAFE = ".safetensors"
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

    What it is is told by its content: safetensors, NumPy's .npz, or PyTorch's zip
    format, see `torch_zip.read`; or several of them through the .index.json beside
    them. What training programs put before every name is dropped, see `wrappers`.

    Raises UserError, naming the file and the cause, for one that is absent, damaged,
    cut short, of another kind, or asks to run code.
    """
    return wrappers.unwrapped(_read(paths.given(path)))


def _read(place: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays by the names that the file has."""
    head = downloads.opening(place, WHAT)
    try:
        if head.startswith(zip_npz.SIGNATURE):
            return _read_archive(place)
        if INDEX.fullmatch(place.name):
            return _read_sharded(place)
        if place.suffix == SAFE or head[8:9] == b"{":
            return _read_safetensors(place)
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(
            f"{place} asks for more memory than there is: use a machine with more, "
            "unless it is damaged"
        ) from error
    except Exception as error:  # each library has errors of its own for damaged bytes
        raise UserError(
            f"{place} is damaged or cut short ({type(error).__name__}: "
            f"{downloads.one_line(error)}): fetch it again"
        ) from error
    if head.startswith(PICKLE_MARK):
        raise torch_zip.refuse_legacy(place)
    raise UserError(f"{place} is not {WHAT}: it begins with {head[:8]!r}")


def _read_archive(place: pathlib.Path) -> dict[str, np.ndarray]:
    with zip_npz.opened(place) as archive:
        root = torch_zip.root_of(archive)
        if root is not None:
            return torch_zip.read(archive, root, place)
        if zip_npz.is_npz(archive):
            return zip_npz.read_npz(archive, place)
    raise UserError(
        f"{place} is a zip archive, but neither NumPy's nor PyTorch's: unpack it and "
        f"name the weight file inside"
    )


def _read_safetensors(place: pathlib.Path) -> dict[str, np.ndarray]:
    with safetensors.safe_open(place, framework="numpy") as file:
        names = list(file.keys())
        for name in names:
            dtype = file.get_slice(name).get_dtype()
            if dtype not in DTYPES:
                raise UserError(
                    f"{place}: tensor {name!r} is of type {dtype}; known are "
                    f"{', '.join(DTYPES)}"
                )
        return {name: file.get_tensor(name) for name in names}


def _read_sharded(place: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of all files that an index names, each exactly where it says."""
    shard_of = json.loads(place.read_text(encoding="utf-8"))["weight_map"]
    found = {}
    for shard in sorted(set(shard_of.values())):
        if pathlib.PurePath(shard).name != shard:
            raise UserError(f"{place} names {shard!r}, which is no file beside it")
        tensors = _read(place.with_name(shard))
        named = {name for name in shard_of if shard_of[name] == shard}
        for name in sorted(named ^ set(tensors)):
            where = "not in it" if name in named else "not in the index"
            raise UserError(
                f"{place} and {shard} do not belong together: {name!r} is {where}"
            )
        found |= tensors
    if not found:
        raise UserError(f"{place} names no tensors")
    return found


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays as a safetensors file, atomically.

    Raises UserError for an array of a type that the format lacks, or a name that it
    keeps for itself; and OSError.
    """
    place = paths.given(path)
    types = {np.dtype(dtype) for dtype in DTYPES.values()}
    arrays = {}
    for name, value in tensors.items():
        array = np.asarray(value)
        # The library writes the memory as it lies, strided or not.
        array = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
        if array.dtype not in types or name == METADATA:
            raise UserError(
                f"{place}: cannot hold {name!r} of type {array.dtype}; known are "
                f"{', '.join(DTYPES)}"
            )
        arrays[name] = array
    content = safetensors.numpy.save(arrays, dict(metadata or {}) or None)
    with atomic_files.opened(place, "wb") as file:
        file.write(content)
