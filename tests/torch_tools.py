"""Files in PyTorch's zip format, put together opcode by opcode without PyTorch."""

from __future__ import annotations

import io
import struct
import zipfile

import ml_dtypes
import numpy as np

KINDS = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


def name(module, attribute):
    """The opcode that asks for a function or class by its name."""
    return f"c{module}\n{attribute}\n".encode()


def value(item):
    """The opcodes that put a plain value on the stack; bytes are opcodes already."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, bool) or item is None:
        return {True: b"\x88", False: b"\x89", None: b"N"}[item]
    if isinstance(item, int):
        size = (item.bit_length() + 8) // 8
        return b"\x8a" + bytes([size]) + item.to_bytes(size, "little", signed=True)
    if isinstance(item, str):
        return b"X" + struct.pack("<I", len(item.encode())) + item.encode()
    if isinstance(item, tuple):
        return b"(" + b"".join(map(value, item)) + b"t"
    if isinstance(item, list):
        return b"](" + b"".join(map(value, item)) + b"e"
    pairs = b"".join(value(x) for pair in item.items() for x in pair)
    return b"}(" + pairs + b"u"


def call(module, attribute, *arguments):
    return name(module, attribute) + value(arguments) + b"R"


def tensor(key, kind, length, offset, size, stride, function="_rebuild_tensor_v2"):
    place = ("storage", name("torch", kind), key, "cuda:0", length)
    hooks = call("collections", "OrderedDict")
    storage = value(place) + b"Q"
    return call("torch._utils", function, storage, offset, size, stride, False, hooks)


def whole(key, array):
    """A tensor that is all of its storage."""
    strides = tuple(s // array.itemsize for s in array.strides)
    kind = KINDS[array.dtype.name]
    return tensor(key, kind, array.size, 0, array.shape, strides)


def script_object(class_name, **attributes):
    """An object of TorchScript: its class, made without arguments, and a dict."""
    return name("__torch__", class_name) + b")\x81" + value(attributes) + b"b"


def archive(content, storages, root="archive/", **more):
    """The bytes of a file: `content` as pickle opcodes or a value, and raw storages."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        for path, data in {
            "data.pkl": b"\x80\x02" + value(content) + b".",
            "byteorder": b"little",
            **{f"data/{key}": array.tobytes() for key, array in storages.items()},
            "version": b"3\n",
            **more,
        }.items():
            file.writestr(root + path, data)
    return written.getvalue()


def arrays():
    """One array of each type, by the name of the type."""
    numbers = np.arange(6).reshape(2, 3)
    types = {kind: np.dtype(kind) for kind in KINDS if kind != "bfloat16"}
    types["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
    return {kind: (numbers - 1.5).astype(dtype) for kind, dtype in types.items()}


def plain_file(given):
    """A state dict of arrays, each with a storage of its own."""
    parts = {key: whole(str(i), array) for i, (key, array) in enumerate(given.items())}
    return archive(parts, dict(enumerate(given.values())))
