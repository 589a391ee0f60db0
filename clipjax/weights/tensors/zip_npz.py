"""Zip archives of arrays: opened with care, and NumPy's .npz read from them."""

from __future__ import annotations

import contextlib
import os
import pathlib
import struct
import zipfile
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from clipjax.types import UserError

SIGNATURE = b"PK\x03\x04"
END = b"PK\x05\x06"  # begins the record at a zip's end
END_SIZE = 22
LONGEST_COMMENT = 0xFFFF
UNKNOWN_COUNT = 0xFFFF  # more entries than its field can hold
KINDS = "biufc"
# Weights are numbers without much order, which hardly shrink; zeros shrink by 1000.
LARGEST_RATIO = 100
SMALL = 64 << 20  # bytes that any archive may unpack to
NPY = ".npy"


@contextlib.contextmanager
def opened(place: pathlib.Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive whose list of contents is whole.

    Raises UserError if entries are missing from the list or are there twice, which
    zipfile overlooks, or would unpack to far more than weights can, and what zipfile
    raises.
    """
    with zipfile.ZipFile(place) as archive:
        names = archive.namelist()
        count = _count(place)
        if count not in (len(names), UNKNOWN_COUNT) or len(set(names)) < len(names):
            raise UserError(
                f"{place} is damaged: its list of {len(names)} entries is not whole; "
                f"fetch it again"
            )
        size = sum(info.file_size for info in archive.infolist())
        if size > max(SMALL, LARGEST_RATIO * place.stat().st_size):
            raise UserError(
                f"{place}: refused: it would unpack to {size:,} bytes, over "
                f"{LARGEST_RATIO} times its own, as weights do not; if you trust where "
                "it comes from, save it again uncompressed"
            )
        yield archive


def _count(place: pathlib.Path) -> int:
    """How many entries the record at the end of a zip announces."""
    with place.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END_SIZE - LONGEST_COMMENT))
        tail = file.read()
    return struct.unpack_from("<H", tail, tail.rindex(END) + 10)[0]


def is_npz(archive: zipfile.ZipFile) -> bool:
    """Whether all that is inside are NumPy's array files, and there are some."""
    names = archive.namelist()
    return bool(names) and all(name.endswith(NPY) for name in names)


def read_npz(archive: zipfile.ZipFile, place: pathlib.Path) -> dict[str, np.ndarray]:
    """Name -> array of an .npz; the names may contain slashes ("params/img/kernel").

    big_vision's bfloat16 arrays, which NumPy writes as two bytes without meaning, are
    bfloat16 again. Raises UserError for arrays of objects, which only pickle could
    read, and of anything else but numbers.
    """
    return {
        info.filename[: -len(NPY)]: _array(archive, info, place)
        for info in archive.infolist()
    }


def _array(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: pathlib.Path
) -> np.ndarray:
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0(member)
        elif version == (2, 0):
            header = np.lib.format.read_array_header_2_0(member)
        else:
            raise ValueError(f"{info.filename} has the unknown version {version}")
        shape, by_columns, dtype = header
        if dtype.kind not in KINDS and dtype.str != "|V2":
            raise UserError(
                f"{place}: {info.filename} holds {dtype}, not numbers, and is not read"
            )
        # Known before anything is allocated: a damaged shape could ask for terabytes.
        size = dtype.itemsize
        for length in shape:
            size *= length
        if min(shape, default=0) < 0 or size > info.file_size:
            raise ValueError(f"{info.filename} is too short for its shape {shape}")
        content = bytearray(member.read())  # that the array may be written to
    if len(content) != size:
        raise ValueError(f"{info.filename} does not fit its shape {shape}")
    order = "F" if by_columns else "C"
    array = np.frombuffer(content, dtype).reshape(shape, order=order)
    if dtype.kind == "V":
        return array.view(ml_dtypes.bfloat16)
    return array.astype(dtype.newbyteorder("="), copy=False)
