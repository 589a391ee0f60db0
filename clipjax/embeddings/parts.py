"""Writes a part of stored embeddings: its folder is whole, or it is not there."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from clipjax import atomic_files

if TYPE_CHECKING:
    import pyarrow

TABLE = "rows.parquet"


def write(
    place: pathlib.Path, arrays: Mapping[str, np.ndarray], table: pyarrow.Table
) -> None:
    """Writes a part's folder, with KEY.npy per array and the table, synced to disk.

    If another job has made the same part meanwhile, that one is kept.

    Raises OSError, naming the file, if the disk is full or fails.
    """
    import pyarrow.parquet

    try:
        with atomic_files.new_folder(place) as folder:
            for key, array in arrays.items():
                path = folder / f"{key}.npy"
                with atomic_files.name_errors(path), path.open("wb") as file:
                    np.save(file, array)
            path = folder / TABLE
            with atomic_files.name_errors(path), path.open("wb") as file:
                pyarrow.parquet.write_table(table, file)
    except OSError:
        if not (place / TABLE).is_file():
            raise
