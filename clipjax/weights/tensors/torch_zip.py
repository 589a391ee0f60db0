"""PyTorch's checkpoints (torch.save since 1.6, TorchScript) without PyTorch.

Such a file is a zip archive of plain storages and a pickle. The pickle says which part
of a storage each tensor is. A pickle may ask to call any function: stand-ins replace
the few that build tensors, and a file that asks for any other is refused. TorchScript's
code is never read: the tree of its modules' attributes has the parameters.

Format: torch/serialization.py and torch/csrc/jit/docs/serialization.md in
pytorch/pytorch.
"""

from __future__ import annotations

import collections
import io
import math
import pathlib
import pickle
import pickletools
import shlex
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from clipjax.types import UserError
from clipjax.weights.tensors import wrappers

PICKLE = "data.pkl"
STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# Tensor types that a checkpoint's settings may name.
DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64"
).split()
# Functions of TorchScript, each called with the value that it returns.
SCRIPT = (
    "restore_type_tag build_tensorlist build_intlist build_doublelist build_boollist"
).split()
MAX_DEPTH = 100
MEMO = ("PUT", "BINPUT", "LONG_BINPUT")


class _Storage(NamedTuple):
    kind: str
    key: str
    length: int


# Named tuples, since a pickle can change neither their fields nor their class.
class _Tensor(NamedTuple):
    storage: Any
    offset: Any
    size: Any
    stride: Any


def root_of(archive: zipfile.ZipFile) -> str | None:
    """The folder inside that has the pickle; None if the archive is not PyTorch's."""
    for name in archive.namelist():
        folder, _, file = name.rpartition("/")
        if file == PICKLE and "/" not in folder:
            return f"{folder}/" if folder else ""
    return None


def read(
    archive: zipfile.ZipFile, root: str, path: pathlib.Path
) -> dict[str, np.ndarray]:
    """Name -> tensor of a checkpoint, read-only views of the storages in the file.

    The names of nested dicts and modules are joined by ".". If a checkpoint has
    "state_dict" or another key of wrappers.NESTED, only that part is read. Values that
    are not tensors are left out.

    Raises UserError if the file asks to run anything, holds no tensors, or a tensor
    reaches beyond its storage; and what pickle and zipfile raise for damaged bytes.
    """
    if f"{root}byteorder" in archive.NameToInfo:
        order = _stored(archive, archive.getinfo(f"{root}byteorder"), path)
        if order != b"little":
            raise UserError(f"{path}: byte order {order!r}: only 'little' is read")
    data = _stored(archive, archive.getinfo(root + PICKLE), path)
    _check_memo(data, path)
    content = _Reader(data, path).load()
    for _ in range(MAX_DEPTH):  # each wrapper may be in another
        if type(content) not in (dict, collections.OrderedDict):
            break
        parts = (content[key] for key in wrappers.NESTED if key in content)
        inner = next((part for part in parts if isinstance(part, dict)), None)
        if inner is None:
            break
        content = inner
    # A valid file has fewer entries than bytes, even if its dicts share parts.
    budget = iter(range(len(data)))
    tensors: dict[str, _Tensor] = {}
    for name, tensor in _walk(content, "", 0, budget, path):
        if name in tensors:
            raise UserError(f"{path} holds two tensors called {name!r}")
        tensors[name] = tensor
    if not tensors:
        raise UserError(f"{path} holds no tensors")
    storages: dict[_Storage, bytes] = {}
    return {
        name: _array(name, tensor, archive, root, storages, path)
        for name, tensor in tensors.items()
    }


def _check_memo(data: bytes, path: pathlib.Path) -> None:
    """Raises UserError if a pickle asks for a larger memo than it can fill.

    A memo index of five bytes makes the unpickler allocate every slot below it.
    """
    for opcode, number, _ in pickletools.genops(data):
        if opcode.name not in MEMO or not isinstance(number, int):
            continue
        if number > len(data):
            raise UserError(
                f"{path}: refused: its pickle of {len(data):,} bytes asks for a memo "
                f"of {number:,} entries"
            )


class _Reader(pickle.Unpickler):
    """An unpickler that can call only the functions of `_stand_ins`."""

    def __init__(self, data: bytes, path: pathlib.Path):
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._path = path
        # New ones per file: a pickle may set attributes of the objects it gets.
        self._callables = _stand_ins()
        self._module = _module_class(path)

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and (name in STORAGES or name in DTYPES):
            return name
        if module == "__torch__" or module.startswith("__torch__."):
            return self._module
        if (module, name) in self._callables:
            return self._callables[module, name]
        raise UserError(
            f"{self._path}: refused: the file asks to run {f'{module}.{name}'!r}, "
            f"which weights do not need; {_conversion_advice(self._path)}"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        tag, kind, key, _, length = pid
        if tag != "storage" or type(key) is not str or not _is_natural(length):
            raise ValueError(f"not a storage: {pid!r}")
        return _Storage(kind, key, length)


def _module_class(path: pathlib.Path) -> type:
    """A stand-in for any class of TorchScript: a dict of the object's attributes."""

    class Module(dict):
        def __setstate__(self, state: Any) -> None:
            if type(state) is not dict:
                raise UserError(
                    f"{path}: refused: only its own code can read its modules' "
                    f"state; {_conversion_advice(path)}"
                )
            self.update(state)

    return Module


def _stand_ins() -> dict[tuple[str, str], Callable[..., Any]]:
    """What a checkpoint may call -> a function that only combines values."""

    def tensor(storage, offset, size, stride, *ignored):
        return _Tensor(storage, offset, size, stride)

    def same(value, *ignored):
        return value

    def nothing(*ignored):
        return None

    return {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): same,
        ("torch", "Size"): same,
        ("torch", "device"): nothing,
        **{("torch.jit._pickle", name): same for name in SCRIPT},
    }


def _walk(
    node: Any, name: str, depth: int, budget: Iterator[int], path: pathlib.Path
) -> Iterator[tuple[str, _Tensor]]:
    """The tensors in nested dicts and lists, with their joined names."""
    if isinstance(node, _Tensor):
        yield name, node
        return
    if isinstance(node, dict):
        items = node.items()
    elif isinstance(node, list | tuple):
        items = enumerate(node)
    else:
        return
    for key, child in items:
        if next(budget, None) is None or depth > MAX_DEPTH:
            raise UserError(f"{path}: refused: its dicts are nested too deeply")
        child_name = f"{name}.{key}" if depth else f"{key}"
        yield from _walk(child, child_name, depth + 1, budget, path)


def _array(
    name: str,
    tensor: _Tensor,
    archive: zipfile.ZipFile,
    root: str,
    storages: dict[_Storage, bytes],
    path: pathlib.Path,
) -> np.ndarray:
    """A tensor as a view of its storage, which is read once."""
    storage, offset, size, stride = tensor
    numbers = (offset, *size, *stride)
    if type(storage) is not _Storage or not all(map(_is_natural, numbers)):
        raise UserError(
            f"{path} is damaged: tensor {name!r} has an invalid shape or offset"
        )
    dtype = np.dtype(STORAGES[storage.kind])
    last = sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if math.prod(size) == 0:
        return np.zeros(size, dtype)
    if offset + last >= storage.length:
        raise UserError(
            f"{path} is damaged: tensor {name!r} reaches beyond its storage"
        )
    if storage not in storages:
        storages[storage] = _bytes(archive, root, storage, dtype.itemsize, path)
    return np.ndarray(
        size,
        dtype,
        buffer=storages[storage],
        offset=offset * dtype.itemsize,
        strides=[s * dtype.itemsize for s in stride],
    )


def _bytes(
    archive: zipfile.ZipFile,
    root: str,
    storage: _Storage,
    itemsize: int,
    path: pathlib.Path,
) -> bytes:
    info = archive.NameToInfo.get(f"{root}data/{storage.key}")
    if info is None:
        raise UserError(f"{path} is damaged: storage {storage.key!r} is missing")
    # A storage read as another type may leave bytes over, fewer than one number's.
    if not 0 <= info.file_size - storage.length * itemsize < itemsize:
        raise UserError(
            f"{path} is damaged: storage {storage.key!r} has the wrong size"
        )
    data = _stored(archive, info, path)
    if len(data) != info.file_size:
        raise UserError(f"{path} is damaged: storage {storage.key!r} is truncated")
    return data


def _stored(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: pathlib.Path
) -> bytes:
    """An entry's bytes; raises UserError if it is compressed.

    PyTorch compresses only TorchScript's code; a few bytes can unpack to any size.
    """
    if info.compress_type != zipfile.ZIP_STORED:
        raise UserError(
            f"{path}: refused: {info.filename} is compressed, which PyTorch never "
            "does: unpack the archive and pack it again without compression (zip -0)"
        )
    return archive.read(info)


def _is_natural(number: Any) -> bool:
    return type(number) is int and number >= 0


def legacy_error(path: pathlib.Path) -> UserError:
    """The error for a pickle that is not in a zip archive."""
    return UserError(
        f"{path}: refused: a bare pickle (of PyTorch before 1.6), which can run "
        f"any code; {_conversion_advice(path)}"
    )


def _conversion_advice(path: pathlib.Path) -> str:
    code = (
        f"import torch; x = torch.load({ascii(str(path))}, map_location='cpu', "
        "weights_only=False); torch.save(x.state_dict() if hasattr(x, 'state_dict') "
        "else x.get('state_dict', x), 'weights.pt')"
    )
    return (
        "if you trust its source, convert it with PyTorch: "
        f"python -c {shlex.quote(code)}"
    )
