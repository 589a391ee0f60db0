"""The header of stored embeddings: which model, data and form they are of.

`embeddings.json` is written once, and every job on the folder compares its own with it.
It has no times or names of machines, so that the same command writes the same bytes.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from clipjax import atomic_files, identity
from clipjax.types import UserError

FILE = "embeddings.json"
FORM = 1
OUTPUTS = ("embed", "features")
DTYPES = ("float32", "float16")
# What a header says of its data: of a source, or of a file of texts.
DATA = {"name", "split", "options", "fingerprint"}
TEXTS = {"texts", "digest"}


@dataclasses.dataclass(frozen=True)
class Header:
    """What a folder of embeddings says of itself.

    model: its identity (clipjax/identity.py), `name` and `step`.
    data: a source's `name`, `split`, `options` and `fingerprint`; of a file of texts
      `texts`, its path, and `digest`.
    image_output: what images.npy holds: "image_embed", "logits" of a classifier; "" of
      texts alone.
    examples: of all parts. part_size: of each part; the last one may have fewer.
    outputs: of OUTPUTS. dtype: of DTYPES, the arrays'.
    captions: whether there are embeddings of captions.
    """

    model: Mapping[str, Any]
    data: Mapping[str, Any]
    image_output: str
    examples: int
    part_size: int
    outputs: tuple[str, ...]
    dtype: str
    captions: bool

    @property
    def parts(self) -> int:
        return -(-self.examples // self.part_size)

    def part_name(self, number: int) -> str:
        """The folder of part `number`, from 0 on."""
        return f"part-{number + 1:05d}-of-{self.parts:05d}"

    def rows_of(self, number: int) -> range:
        """The examples of part `number`."""
        start = number * self.part_size
        return range(start, min(start + self.part_size, self.examples))


def write_once(folder: pathlib.Path, header: Header) -> None:
    """Writes the header unless there is one.

    Raises UserError if there is one that differs, or there are parts without one, which
    may be of any model.
    """
    path = folder / FILE
    has_parts = any(folder.glob("part-*-of-*"))  # before: others write the header first
    if has_parts and not path.exists():
        raise UserError(
            f"{folder} has parts of embeddings without their {FILE}, so their model is "
            f"not known: restore it, or delete the parts"
        )
    atomic_files.remove_leftovers(path)
    atomic_files.write_json_once(path, {"form": FORM, **dataclasses.asdict(header)})
    if told := _differences(read(folder), header):
        raise UserError(f"{folder} holds other embeddings ({told}): name another --out")


def read(folder: pathlib.Path) -> Header:
    """The header of a folder; raises UserError if it is missing or damaged."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(
            f"{folder} holds no embeddings (it has no {FILE}): name the --out of "
            "python -m clipjax.embed"
        )
    try:
        value = atomic_files.parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict) or value.pop("form", 0) != FORM:
            raise ValueError(f"its form is not {FORM}")
        found = Header(**{**value, "outputs": tuple(value["outputs"])})
        if found.examples < 1 or found.part_size < 1 or found.dtype not in DTYPES:
            raise ValueError("its sizes or dtype are not possible")
        if not identity.PARTS.keys() <= {*found.model}:
            raise ValueError("it lacks the model's identity")
        if not ({*found.data} >= DATA or {*found.data} >= TEXTS):
            raise ValueError("it does not say what was embedded")
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is damaged ({error}): restore it, or make the embeddings again"
        ) from error
    return found


def _differences(there: Header, here: Header) -> str:
    """What differs, as a text; "" if nothing that counts does."""
    found = []
    if other := identity.differences(there.model, here.model):
        found.append(f"other {other} of the model")
    if told := data_differences(there.data, here.data):
        found.append(told)
    for field in dataclasses.fields(Header):
        old, new = getattr(there, field.name), getattr(here, field.name)
        if field.name not in ("model", "data") and old != new:
            found.append(f"{field.name} {_told(old)} there, {_told(new)} here")
    return "; ".join(found)


def data_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """How two headers' data differ, as a text; "" if they are the same.

    Paths and options do not count if the examples are the same ones.
    """
    if there.get("texts") and here.get("texts"):
        if there.get("digest") != here.get("digest"):
            return f"texts of {there['texts']} there, other texts here"
        return ""
    for key, what in (("name", "data"), ("split", "split")):
        old, new = there.get(key, "texts"), here.get(key, "texts")
        if old != new:
            return f"{what} {old!r} there, {new!r} here"
    changes = []
    before = there.get("fingerprint", {})
    for key, new in here["fingerprint"].items():
        old = before.get(key)
        if old != new:
            counted = key in ("examples", "captions")
            changes.append(f"{old} {key} -> {new}" if counted else f"other {key}")
    return ", ".join(changes)


def _told(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
