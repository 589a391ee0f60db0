"""A table per foreign format renames and reshapes its tensors, in both directions.

    rules = [Rule("visual.proj", "image_projection/kernel")]
    table = Table("open_clip", tuple(rules))
    variables = to_ours(table, tensors, model_shapes(model), "model.safetensors")
    to_theirs(table, variables)["visual.proj"]  # equals tensors["visual.proj"]

A rule may join several arrays along our last axis: three of theirs may be one of ours
(query, key, value), or one of theirs two of ours.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np

from clipjax import param_paths
from clipjax.registry import suggest
from clipjax.types import Model, UserError, Variables
from clipjax.weights import value_checks

MAX_LISTED = 4  # names in a message
STATS = "batch_stats/"  # begins our paths that are not parameters
DTYPES = ("float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Change:
    """A function that turns their array into ours, and its inverse."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


def _flat_patches(x: np.ndarray) -> np.ndarray:
    return x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])


def _square_patches(x: np.ndarray) -> np.ndarray:
    size = math.isqrt(x.shape[0] // 3)
    return x.reshape(size, size, 3, -1).transpose(3, 2, 0, 1)


same = Change(lambda x: x, lambda x: x)
# (out, in) of torch's Linear.
transpose = Change(lambda x: x.T, lambda x: x.T)
# A leading axis of one: [1 n d], or [1] for a scalar.
lead = Change(lambda x: x[0], lambda x: x[None])
# Convolutions [out in h w] as [h w in out], and as 1 x 1 without the ones.
conv = Change(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
# The convolution that splits an image into patches: ours is [h*w*3 out], see layers.
patches = Change(_flat_patches, _square_patches)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Their tensors and our arrays that hold the same numbers.

    theirs: a name or several. ours: a path or several, below "params" unless it begins
    with "batch_stats/". change: applied to each of theirs. order: applied to all of
    theirs joined side by side, if their order differs from ours.
    """

    theirs: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    change: Change = same
    order: Change = same

    @property
    def names(self) -> tuple[str, ...]:
        return _several(self.theirs)

    @property
    def paths(self) -> tuple[str, ...]:
        ours = _several(self.ours)
        return tuple(x if x.startswith(STATS) else f"params/{x}" for x in ours)


def rename_rules(
    rules: Iterable[Rule], theirs: str = "", ours: str = "", **indices: int
) -> list[Rule]:
    """Rules with prefixes before their names and our paths, and "{i}" replaced.

    indices: a number for each such placeholder. Our prefix comes after "batch_stats/".
    """

    def rename(name: str, prefix: str) -> str:
        if name.startswith(STATS):
            name = STATS + prefix + name.removeprefix(STATS)
        else:
            name = prefix + name
        for key, index in indices.items():
            name = name.replace(f"{{{key}}}", str(index))
        return name

    return [
        Rule(
            tuple(rename(name, theirs) for name in rule.names),
            tuple(rename(path, ours) for path in _several(rule.ours)),
            rule.change,
            rule.order,
        )
        for rule in rules
    ]


def repeat_rules(
    rules: Iterable[Rule], count: int, theirs: str = "", ours: str = ""
) -> list[Rule]:
    """The rules for every "{i}" from 0 to count - 1; see `rename_rules`."""
    rules = list(rules)
    return [
        rule for i in range(count) for rule in rename_rules(rules, theirs, ours, i=i)
    ]


def dense(theirs: str | Iterable[str], ours: str) -> list[Rule]:
    """A torch Linear with bias, or several that are side by side in one of ours."""
    names = (theirs,) if isinstance(theirs, str) else tuple(theirs)
    return [
        Rule(tuple(f"{x}.weight" for x in names), f"{ours}/kernel", transpose),
        Rule(tuple(f"{x}.bias" for x in names), f"{ours}/bias"),
    ]


def norm(theirs: str, ours: str) -> list[Rule]:
    """A layer normalisation."""
    return [
        Rule(f"{theirs}.weight", f"{ours}/scale"),
        Rule(f"{theirs}.bias", f"{ours}/bias"),
    ]


def batch_norm(theirs: str, ours: str) -> list[Rule]:
    """A batch normalisation with its running statistics."""
    return [
        *norm(theirs, ours),
        Rule(f"{theirs}.running_mean", f"batch_stats/{ours}/mean"),
        Rule(f"{theirs}.running_var", f"batch_stats/{ours}/var"),
    ]


def _several(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


@dataclasses.dataclass(frozen=True)
class Table:
    """The rules of a format for a model of certain sizes.

    format: its name, for messages. ignored: regular expressions of optional tensors
    without meaning, such as buffers that the architecture implies. first_rows: names of
    tensors of which the model has only the first row.
    """

    format: str
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    first_rows: tuple[str, ...] = ()


def model_shapes(model: Model) -> Variables:
    """The shapes of the model's variables, by tracing only."""
    return jax.eval_shape(model.init, jax.random.key(0))


def to_ours(
    table: Table, tensors: Mapping[str, np.ndarray], shapes: Variables, origin: str
) -> Variables:
    """A file's tensors as variables, always float32.

    Args:
      shapes: the shapes of the model's variables.
      origin: the file, for messages.

    Raises:
      UserError: for a tensor that is missing, left over, of another shape, not of
        floating-point numbers, or not finite, naming it.
      TypeError: for a table that is not for this model, which is a defect.
    """
    our_shapes = param_paths.flatten(shapes)
    paths = [path for rule in table.rules for path in rule.paths]
    if sorted(paths) != sorted(our_shapes):
        unmatched = sorted({*paths} ^ {*our_shapes})
        raise TypeError(
            f"the table of {table.format} is not for this model: {unmatched}"
        )
    expected = _their_shapes(table, our_shapes)
    for name in tensors.keys() & {*table.first_rows}:
        tensors = {**tensors, name: np.atleast_1d(tensors[name])[:1]}
    _check_names(table, tensors, expected, origin)
    _check_arrays(table, tensors, expected, origin)
    # One at a time, because all at once would double the memory.
    value_checks.check_finite(
        ((name, _narrow(tensors[name])) for name in expected), origin
    )
    ours: dict[str, np.ndarray] = {}
    for rule in table.rules:
        parts = [rule.change.to_ours(_narrow(tensors[name])) for name in rule.names]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        joined = rule.order.to_ours(joined)
        sizes = [our_shapes[path].shape[-1:] for path in rule.paths]
        ours |= zip(rule.paths, _split(joined, sizes), strict=True)
    return param_paths.unflatten(
        {path: np.asarray(ours[path], order="C") for path in our_shapes}
    )


def _narrow(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        return array.astype(np.float32)


def to_theirs(
    table: Table,
    variables: Variables,
    dtypes: Any = "float32",
) -> dict[str, np.ndarray]:
    """Variables as the tensors in a file of the format.

    dtypes: one dtype for all, or a mapping from their names. With the dtypes of the
    file from which variables were read, every byte equals the file's, because float32
    holds float16 and bfloat16 exactly.

    Raises UserError if table and variables do not match, or for an unknown dtype.
    """
    ours = param_paths.flatten(variables)
    paths = {path for rule in table.rules for path in rule.paths}
    if paths != ours.keys():
        unmatched = sorted(paths ^ ours.keys())
        raise UserError(
            f"{table.format} does not fit this model: only one of them has "
            f"{_listed(unmatched)}"
        )
    return {
        name: part.astype(_dtype(dtypes, name))
        for name, part in _to_theirs(table, ours).items()
    }


def _dtype(dtypes: Any, name: str) -> Any:
    dtype = dtypes[name] if isinstance(dtypes, Mapping) else dtypes
    try:
        kind = np.dtype(dtype)  # ml_dtypes registers "bfloat16"
    except TypeError:
        kind = None
    if kind is None or kind.name not in DTYPES:
        raise UserError(f"dtype={dtype}: must be one of {', '.join(DTYPES)}")
    return kind


def _to_theirs(table: Table, ours: Mapping[str, Any]) -> dict[str, np.ndarray]:
    theirs = {}
    for rule in table.rules:
        parts = [np.asarray(ours[path]) for path in rule.paths]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        joined = rule.order.to_theirs(joined)
        names = rule.names
        pieces = [joined] if len(names) == 1 else np.split(joined, len(names), axis=-1)
        for name, piece in zip(names, pieces, strict=True):
            theirs[name] = rule.change.to_theirs(piece)
    return theirs


def _split(joined: np.ndarray, sizes: list[tuple[int, ...]]) -> list[np.ndarray]:
    if len(sizes) == 1:
        return [joined]
    ends = np.cumsum([size for (size,) in sizes])[:-1]
    return np.split(joined, ends, axis=-1)


def _their_shapes(table: Table, our_shapes: Mapping[str, Any]) -> dict[str, tuple]:
    # One number broadcast to each shape, so that nothing large is allocated.
    blank = {
        path: np.broadcast_to(np.int8(0), leaf.shape)
        for path, leaf in our_shapes.items()
    }
    return {name: part.shape for name, part in _to_theirs(table, blank).items()}


def _check_names(table: Table, tensors: Any, expected: Any, origin: str) -> None:
    missing = [name for name in expected if name not in tensors]
    ignored = re.compile("|".join(table.ignored) or r"(?!)")
    extra = [n for n in tensors if n not in expected and not ignored.fullmatch(n)]
    if not missing and not extra:
        return
    parts = []
    if missing:
        hint = suggest(missing[0], extra or tensors).replace("Did you mean", "Nearest:")
        parts.append(f"lacks {_listed(missing)}.{hint.rstrip('?')}")
    if extra:
        hint = "" if missing else suggest(extra[0], expected)
        hint = hint.replace("Did you mean", "Nearest:").rstrip("?")
        parts.append(f"holds {_listed(extra)}, which this model lacks.{hint}")
    raise UserError(
        f"{origin} does not fit the model that its settings describe ({table.format}): "
        f"it {' It '.join(parts)}"
    )


def _check_arrays(table: Table, tensors: Any, expected: Any, origin: str) -> None:
    wrong = []
    for name, shape in expected.items():
        array = tensors[name]
        if not np.issubdtype(array.dtype, np.floating) and (
            array.dtype != ml_dtypes.bfloat16
        ):
            raise UserError(
                f"{origin}: {name} is of type {array.dtype}: clipjax reads "
                "floating-point weights, not quantised ones"
            )
        if array.shape != shape:
            wrong.append(f"{name} has shape {array.shape} and should have {shape}")
    if wrong:
        raise UserError(
            f"{origin} does not fit the model that its settings describe "
            f"({table.format}): {_listed(wrong)}"
        )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:MAX_LISTED])
    more = len(names) - MAX_LISTED
    return f"{shown} and {more} more" if more > 0 else shown
