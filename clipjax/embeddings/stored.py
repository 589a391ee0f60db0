"""Reads stored embeddings: arrays that are mapped into memory, and their table."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clipjax import paths
from clipjax.embeddings import header as headers
from clipjax.embeddings.header import Header
from clipjax.embeddings.parts import TABLE
from clipjax.types import UserError

if TYPE_CHECKING:
    import pyarrow

LABEL = "label_"  # before a label set's name in the table's columns
COLUMNS = ("index", "key", "captions", "valid", "reason")  # of every table
_AGAIN = "delete {} and run python -m clipjax.embed again, which makes it anew"


class Rows:
    """The rows of several arrays [n_i d] as one [n d], which is never copied whole.

    Takes an index, a slice, an array of indices or a mask bool [n]; `numpy.asarray`
    reads all. Raises IndexError for what else there is.
    """

    def __init__(self, arrays: Sequence[np.ndarray]):
        self._arrays = list(arrays)
        self._ends = np.cumsum([len(array) for array in arrays])
        first = self._arrays[0]
        self.dtype = first.dtype
        self.shape = (int(self._ends[-1]), *first.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Any) -> np.ndarray:
        if isinstance(places, slice):
            places = range(*places.indices(len(self)))
        wanted = np.asarray(places)
        if wanted.dtype == bool and wanted.shape == (len(self),):
            wanted = np.flatnonzero(wanted)
        if wanted.size and wanted.dtype.kind not in "iu":
            raise IndexError(
                f"{wanted.dtype}{list(wanted.shape)} of {len(self)} rows: give whole "
                "numbers, a slice or a mask of all rows"
            )
        wanted = wanted.astype(np.int64)
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        if wanted.size and not (0 <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"row {places} of {len(self)}")
        if len(self._arrays) == 1:
            return np.asarray(np.take(self._arrays[0], wanted, axis=0))
        of = np.searchsorted(self._ends, wanted, side="right")
        found = np.empty((*wanted.shape, *self.shape[1:]), self.dtype)
        for number in np.unique(of).tolist():
            array, inside = self._arrays[number], of == number
            found[inside] = array[wanted[inside] - (self._ends[number] - len(array))]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        one = self._arrays[0] if len(self._arrays) == 1 else None
        found = np.concatenate(self._arrays) if one is None else np.array(one)
        return found if dtype is None else found.astype(dtype)


class Broken(NamedTuple):
    """An example without embeddings. index: its number in the source."""

    index: int
    key: str
    reason: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Embeddings:
    """All parts of a folder that `python -m clipjax.embed` has written.

    header: the model, data and form; see clipjax/embeddings/header.py.
    images: [n e], of unit norm (a classifier's: logits); zeros if not valid. None of a
      file of texts.
    texts: [m e], each example's captions in order; None if there are none.
    image_features, text_features: [n d] and [m d], what the towers give before their
      projection; None without --outputs embed,features.
    table: a row per example with `index`, `key`, `captions`, `label_SET` per label set,
      `width`, `height`, `valid` and `reason`.
    """

    header: Header
    images: Rows | None
    texts: Rows | None
    image_features: Rows | None
    text_features: Rows | None
    table: pyarrow.Table

    @functools.cached_property
    def text_ends(self) -> np.ndarray:
        """int64 [n + 1]: the texts of example i are rows ends[i] to ends[i + 1]."""
        return np.concatenate([[0], np.cumsum(_counts(self.table))])

    @property
    def broken(self) -> list[Broken]:
        """The examples that could not be read, whose rows are zeros."""
        return broken_rows(self.table)


def read_embeddings(folder: str | os.PathLike) -> Embeddings:
    """Opens what `python -m clipjax.embed` has written; reads the tables alone.

    Raises UserError if there is nothing, a part is missing or damaged, or its table has
    other rows than its arrays.

    >>> stored = clipjax.read_embeddings("embedded")
    >>> stored.images.shape, stored.images[:2].dtype
    ((4, 16), dtype('float32'))
    >>> stored.table["key"].to_pylist()[0], stored.text_ends
    ('scenes/val/0', array([ 0,  3,  6,  9, 12]))
    >>> stored.broken
    []
    """
    import pyarrow

    place = paths.local(os.fspath(folder), "embeddings")
    header = headers.read(place)
    names = [header.part_name(number) for number in range(header.parts)]
    gone = [name for name in names if not (place / name).is_dir()]
    if gone:
        more = f" and {len(gone) - 1} more" * (len(gone) > 1)
        raise UserError(
            f"{place}: {gone[0]}{more} of {len(names)} parts missing: run python -m "
            "clipjax.embed again, which makes them"
        )
    tables, arrays = [], {}
    for number, name in enumerate(names):
        table, found = _part(place / name, header, header.rows_of(number))
        tables.append(table)
        for key, array in found.items():
            arrays.setdefault(key, []).append(array)
    for key, found in arrays.items():
        if len({array.shape[1] for array in found}) > 1:
            raise UserError(f"{place}: the parts' {key}.npy differ in width")
    joined = {key: Rows(found) for key, found in arrays.items()}
    return Embeddings(
        header,
        table=pyarrow.concat_tables(tables),
        **{key: joined.get(key) for key in array_names(True, True, headers.OUTPUTS)},
    )


def broken_rows(table: pyarrow.Table) -> list[Broken]:
    """The examples of a table that are not valid."""
    rows = table.select(["index", "key", "reason", "valid"]).to_pylist()
    return [
        Broken(row["index"], row["key"], row["reason"])
        for row in rows
        if not row["valid"]
    ]


def array_names(images: bool, texts: bool, outputs: Sequence[str]) -> list[str]:
    """The arrays of a part, without .npy."""
    sides = ["image"] * images + ["text"] * texts
    names = [f"{side}s" for side in sides]
    return names + [f"{side}_features" for side in sides] * ("features" in outputs)


def read_table(folder: pathlib.Path, rows: range) -> pyarrow.Table:
    """The table of a part, which has these examples; raises UserError if damaged."""
    import pyarrow
    import pyarrow.parquet

    path, again = folder / TABLE, _AGAIN.format(folder)
    try:
        with path.open("rb") as file:
            table = pyarrow.parquet.read_table(file)
        if lacking := [name for name in COLUMNS if name not in table.column_names]:
            raise ValueError(f"it has no column {lacking[0]!r}")
        numbers = table["index"].to_numpy()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({reason}): {again}") from error
    if table.num_rows != len(rows):
        raise UserError(
            f"{path} has {table.num_rows} rows and its part {len(rows)} examples: "
            f"{again}"
        )
    if not np.array_equal(numbers, rows):
        raise UserError(f"{path} has the examples of another part: {again}")
    return table


def _part(
    folder: pathlib.Path, header: Header, rows: range
) -> tuple[pyarrow.Table, dict[str, np.ndarray]]:
    """A part's table and arrays; raises UserError unless they fit each other."""
    again, examples = _AGAIN.format(folder), len(rows)
    table = read_table(folder, rows)
    counts = _counts(table)
    found = {}
    for key in array_names(bool(header.image_output), header.captions, header.outputs):
        path = folder / f"{key}.npy"
        try:
            array = _mapped(path)
        except (OSError, ValueError, EOFError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} cannot be read ({reason}): {again}") from error
        count = examples if key.startswith("image") else int(counts.sum())
        if array.ndim != 2 or len(array) != count or array.dtype != header.dtype:
            raise UserError(
                f"{path} is {array.dtype} {list(array.shape)}, not {header.dtype} with "
                f"{count} rows as in {TABLE}: {again}"
            )
        found[key] = array
    return table, found


def _mapped(path: pathlib.Path) -> np.ndarray:
    """A .npy file mapped into memory; raises ValueError if it is damaged."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if 0 in shape:  # which cannot be mapped
        return np.zeros(shape, dtype)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _counts(table: pyarrow.Table) -> np.ndarray:
    """int64 [n], the captions of each example."""
    counts = table["captions"].combine_chunks().value_lengths()
    return counts.to_numpy().astype(np.int64)
