"""Rows of an evaluation as the bytes of a Parquet file, and back."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from clipjax import paths
from clipjax.types import Rows, UserError

_CLOSE = 1e-4  # what rounding changes at most between two evaluations


def encode(rows: Rows, of: str) -> bytes:
    """The file of a table with rows.

    Arrays of JAX and of dtypes that Parquet lacks, such as bfloat16, become NumPy's.

    of: the evaluator's label, for messages.

    Raises UserError, naming the column, for values that Parquet cannot hold.
    """
    import pyarrow  # here: its import takes long
    import pyarrow.parquet

    columns = {}
    for name, values in rows.items():
        try:
            columns[name] = _column(pyarrow, values)
        except (ValueError, TypeError, OverflowError, pyarrow.ArrowException) as error:
            raise UserError(
                f"{of}: column {name!r} of its rows cannot be written "
                f"({' '.join(str(error).split())}): give an array of numbers [n] or "
                "[n k], or a list of texts, of numbers or of lists of these"
            ) from error
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def decode(content: bytes) -> Rows:
    """The rows of a file: column -> array [n] or [n k], or a list.

    Raises ValueError for a damaged file.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(" ".join(str(error).split())) from error
    return {name: _values(table[name]) for name in table.column_names}


def are_alike(one: Rows, other: Rows) -> bool:
    """Whether tables, as `decode` returns them, are the same up to rounding."""
    if list(one) != list(other):
        return False
    return all(_is_alike(one[name], other[name]) for name in one)


def _is_alike(one: Any, other: Any) -> bool:
    if not (isinstance(one, np.ndarray) and isinstance(other, np.ndarray)):
        return type(one) is type(other) and one == other
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind != "f":
        return np.array_equal(one, other)
    return np.allclose(one, other, rtol=_CLOSE, atol=_CLOSE, equal_nan=True)


def _column(pyarrow: Any, values: Any) -> Any:
    values = _numpy(values)
    if not isinstance(values, np.ndarray):
        return pyarrow.array([_encodable(value) for value in values])
    plain = (
        values.dtype.kind not in "OUS" and values.ndim <= 2 and 0 not in values.shape
    )
    if not plain:
        return pyarrow.array([_encodable(value) for value in values.tolist()])
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    flat = pyarrow.array(values.reshape(-1))
    if values.ndim == 1:
        return flat
    return pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _numpy(value: Any) -> Any:
    """What is an array or a scalar of JAX or another library, in NumPy's dtypes."""
    if not isinstance(value, (np.ndarray, np.generic)):
        if not hasattr(value, "__array__"):
            return value
        value = np.asarray(value)
    if value.dtype.kind == "V" and value.dtype.names is None:  # bfloat16, float8
        return value.astype(np.float32)
    return value


def _encodable(value: Any) -> Any:
    """A text whose bytes that are not UTF-8 are escaped, as in the JSON."""
    if isinstance(value, str):
        return paths.readable(value)
    if isinstance(value, (list, tuple)):
        return [_encodable(inner) for inner in value]
    value = _numpy(value)
    return value.tolist() if isinstance(value, np.ndarray) else value


def _values(column: Any) -> Any:
    import pyarrow.types as kinds

    if kinds.is_fixed_size_list(column.type):
        flat = column.combine_chunks().flatten()
        return flat.to_numpy(zero_copy_only=False).reshape(len(column), -1)
    if kinds.is_primitive(column.type) and not column.null_count:
        return column.to_numpy()
    return column.to_pylist()
