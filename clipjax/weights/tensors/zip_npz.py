"""Zip archives of arrays: checked when opened, and read as NumPy's .npz."""

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
END = b"PK\x05\x06"  # begins the record at the end of a zip
END_SIZE = 22
LONGEST_COMMENT = 0xFFFF
UNKNOWN_COUNT = 0xFFFF  # more entries than its field can hold
KINDS = "biufc"
# Weights look random and hardly compress; zeros compress 1000 times.
LARGEST_RATIO = 100
SMALL = 64 << 20  # bytes to which any archive may unpack
NPY = ".npy"


@contextlib.contextmanager
def open_archive(path: pathlib.Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive with a complete list of contents.

    Raises UserError if entries are missing from the list or appear twice, which zipfile
    overlooks, or if they would unpack to far more than weights can; and what zipfile
    raises.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        count = _count(path)
        if count not in (len(names), UNKNOWN_COUNT) or len(set(names)) < len(names):
            raise UserError(
                f"{path} is damaged: its list of {len(names)} entries is incomplete "
                "or has duplicates; fetch it again"
            )
        size = sum(info.file_size for info in archive.infolist())
        if size > max(SMALL, LARGEST_RATIO * path.stat().st_size):
            raise UserError(
                f"{path}: refused: it would unpack to {size:,} bytes, over "
                f"{LARGEST_RATIO} times its size, as weights never do; if you trust "
                "its source, save it again uncompressed"
            )
        yield archive


def _count(path: pathlib.Path) -> int:
    """The number of entries according to the record at the end of a zip."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END_SIZE - LONGEST_COMMENT))
        tail = file.read()
    return struct.unpack_from("<H", tail, tail.rindex(END) + 10)[0]


def is_npz(archive: zipfile.ZipFile) -> bool:
    """Whether the archive holds NumPy's array files and nothing else."""
    names = archive.namelist()
    return bool(names) and all(name.endswith(NPY) for name in names)


def read_npz(archive: zipfile.ZipFile, path: pathlib.Path) -> dict[str, np.ndarray]:
    """Name -> array of an .npz; the names may contain slashes ("params/img/kernel").

    big_vision's bfloat16 arrays, which NumPy writes as two raw bytes (V2), become
    bfloat16 again. Raises UserError for arrays of objects, which only pickle could
    read, and for all other arrays that do not hold numbers.
    """
    return {
        info.filename[: -len(NPY)]: _array(archive, info, path)
        for info in archive.infolist()
    }


def _array(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: pathlib.Path
) -> np.ndarray:
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0(member)
        elif version == (2, 0):
            header = np.lib.format.read_array_header_2_0(member)
        else:
            raise ValueError(f"{info.filename} has an unknown version {version}")
        shape, fortran_order, dtype = header
        if dtype.kind not in KINDS and dtype.str != "|V2":
            raise UserError(
                f"{path}: {info.filename} holds {dtype}; clipjax reads "
                "arrays of numbers only"
            )
        # Checked before anything is allocated: a damaged shape could ask for terabytes.
        size = dtype.itemsize
        for length in shape:
            size *= length
        if min(shape, default=0) < 0 or size > info.file_size:
            raise ValueError(f"{info.filename} is too short for its shape {shape}")
        content = bytearray(member.read())  # a writable array
    if len(content) != size:
        raise ValueError(f"{info.filename} does not fit its shape {shape}")
    order = "F" if fortran_order else "C"
    array = np.frombuffer(content, dtype).reshape(shape, order=order)
    if dtype.kind == "V":
        return array.view(ml_dtypes.bfloat16)
    return array.astype(dtype.newbyteorder("="), copy=False)
