"""PyTorch's checkpoints (torch.save since 1.6, TorchScript) without PyTorch.

Such a file is a zip archive of plain storages and a pickle that says which tensor is
which part of one. A pickle may ask to call any function; here it gets stand-ins for the
few that build tensors, and whatever else it asks for refuses the file. TorchScript's
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
# Types of tensors that a checkpoint may name among its settings.
DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64"
).split()
# What TorchScript calls, each with the value that it is to return.
SCRIPT = (
    "restore_type_tag build_tensorlist build_intlist build_doublelist build_boollist"
).split()
DEEPEST = 100
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
    """The folder inside that has the pickle; None: the archive is not PyTorch's."""
    for name in archive.namelist():
        folder, _, file = name.rpartition("/")
        if file == PICKLE and "/" not in folder:
            return f"{folder}/" if folder else ""
    return None


def read(
    archive: zipfile.ZipFile, root: str, place: pathlib.Path
) -> dict[str, np.ndarray]:
    """Name -> tensor of a checkpoint, read-only views of the storages in the file.

    Nested dicts and modules are joined by ".". Of a training checkpoint only what is
    under "state_dict" or another of wrappers.NESTED is taken, and what is no tensor is
    left out.

    Raises UserError if the file asks to run anything, holds no tensors, or a tensor
    reaches beyond its storage; and what damaged bytes make pickle and zipfile raise.
    """
    if f"{root}byteorder" in archive.NameToInfo:
        order = _stored(archive, archive.getinfo(f"{root}byteorder"), place)
        if order != b"little":
            raise UserError(f"{place}: byte order {order!r}: only 'little' is read")
    data = _stored(archive, archive.getinfo(root + PICKLE), place)
    _check_memo(data, place)
    content = _Reader(data, place).load()
    for _ in range(DEEPEST):  # each wrapper may be in another
        if type(content) not in (dict, collections.OrderedDict):
            break
        inner = (content[key] for key in wrappers.NESTED if key in content)
        inside = next((one for one in inner if isinstance(one, dict)), None)
        if inside is None:
            break
        content = inside
    # No honest file has more entries than bytes, however its dicts share parts.
    budget = iter(range(len(data)))
    found: dict[str, _Tensor] = {}
    for name, tensor in _walk(content, "", 0, budget, place):
        if name in found:
            raise UserError(f"{place} holds two tensors called {name!r}")
        found[name] = tensor
    if not found:
        raise UserError(f"{place} holds no tensors")
    storages: dict[_Storage, bytes] = {}
    return {
        name: _array(name, tensor, archive, root, storages, place)
        for name, tensor in found.items()
    }


def _check_memo(data: bytes, place: pathlib.Path) -> None:
    """Raises UserError for a pickle that asks for a memo beyond any use.

    A number written in five bytes makes the unpickler allocate for all below it.
    """
    for opcode, number, _ in pickletools.genops(data):
        if opcode.name not in MEMO or not isinstance(number, int):
            continue
        if number > len(data):
            raise UserError(
                f"{place}: refused: its pickle of {len(data):,} bytes asks for a memo "
                f"of {number:,} entries"
            )


class _Reader(pickle.Unpickler):
    """An unpickler that can call nothing but the stand-ins of `_stand_ins`."""

    def __init__(self, data: bytes, place: pathlib.Path):
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._place = place
        # Made anew for each file: a pickle may set attributes of what it is given.
        self._known = _stand_ins()
        self._module = _module_class(place)

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and (name in STORAGES or name in DTYPES):
            return name
        if module == "__torch__" or module.startswith("__torch__."):
            return self._module
        if (module, name) in self._known:
            return self._known[module, name]
        raise UserError(
            f"{self._place}: refused: the file asks to run {f'{module}.{name}'!r}, "
            f"which weights do not need; {_convert(self._place)}"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        tag, kind, key, _, length = pid
        if tag != "storage" or type(key) is not str or not _natural(length):
            raise ValueError(f"no storage: {pid!r}")
        return _Storage(kind, key, length)


def _module_class(place: pathlib.Path) -> type:
    """What stands for any class of TorchScript: a dict of the object's attributes."""

    class Module(dict):
        def __setstate__(self, state: Any) -> None:
            if type(state) is not dict:
                raise UserError(
                    f"{place}: refused: only its own code could read its modules' "
                    f"state; {_convert(place)}"
                )
            self.update(state)

    return Module


def _stand_ins() -> dict[tuple[str, str], Callable[..., Any]]:
    """What a checkpoint may call, as functions that only put values together."""

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
    node: Any, name: str, depth: int, budget: Iterator[int], place: pathlib.Path
) -> Iterator[tuple[str, _Tensor]]:
    """The tensors of nested dicts and lists with their joined names."""
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
        if next(budget, None) is None or depth > DEEPEST:
            raise UserError(f"{place}: refused: its dicts are nested without end")
        child_name = f"{name}.{key}" if depth else f"{key}"
        yield from _walk(child, child_name, depth + 1, budget, place)


def _array(
    name: str,
    tensor: _Tensor,
    archive: zipfile.ZipFile,
    root: str,
    storages: dict[_Storage, bytes],
    place: pathlib.Path,
) -> np.ndarray:
    """A tensor as a view of its storage, which is read once."""
    storage, offset, size, stride = tensor
    numbers = (offset, *size, *stride)
    if type(storage) is not _Storage or not all(map(_natural, numbers)):
        raise UserError(f"{place} is damaged: tensor {name!r} makes no sense")
    dtype = np.dtype(STORAGES[storage.kind])
    last = sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if math.prod(size) == 0:
        return np.zeros(size, dtype)
    if offset + last >= storage.length:
        raise UserError(
            f"{place} is damaged: tensor {name!r} reaches beyond its storage"
        )
    if storage not in storages:
        storages[storage] = _bytes(archive, root, storage, dtype.itemsize, place)
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
    place: pathlib.Path,
) -> bytes:
    info = archive.NameToInfo.get(f"{root}data/{storage.key}")
    if info is None:
        raise UserError(f"{place} is damaged: storage {storage.key!r} is not inside")
    # A storage seen as another type may have bytes left over, less than a number's.
    if not 0 <= info.file_size - storage.length * itemsize < itemsize:
        raise UserError(
            f"{place} is damaged: storage {storage.key!r} is of another size"
        )
    data = _stored(archive, info, place)
    if len(data) != info.file_size:
        raise UserError(f"{place} is damaged: storage {storage.key!r} is cut short")
    return data


def _stored(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: pathlib.Path
) -> bytes:
    """An entry's bytes; raises UserError if it is compressed.

    PyTorch compresses TorchScript's code only, and a few bytes can unpack to any size.
    """
    if info.compress_type != zipfile.ZIP_STORED:
        raise UserError(
            f"{place}: refused: {info.filename} is compressed, which PyTorch never "
            "does: unpack the archive and pack it again without compression (zip -0)"
        )
    return archive.read(info)


def _natural(number: Any) -> bool:
    return type(number) is int and number >= 0


def refuse_legacy(place: pathlib.Path) -> UserError:
    """The complaint about a pickle that is no zip archive."""
    return UserError(
        f"{place}: refused: a bare pickle (PyTorch before 1.6 saved so), which can run "
        f"any code; {_convert(place)}"
    )


def _convert(place: pathlib.Path) -> str:
    code = (
        f"import torch; x = torch.load({ascii(str(place))}, map_location='cpu', "
        "weights_only=False); torch.save(x.state_dict() if hasattr(x, 'state_dict') "
        "else x.get('state_dict', x), 'weights.pt')"
    )
    return (
        "if you trust where it comes from, convert it with PyTorch: "
        f"python -c {shlex.quote(code)}"
    )
