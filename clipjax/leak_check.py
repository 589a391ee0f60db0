"""prepare verify --against: evaluation images that are also training images."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from rich.console import Console

from clipjax import atomic_files, paths, registry
from clipjax.data.images import perceptual_hash
from clipjax.data.prepare import copies
from clipjax.data.prepare.copies import Copies, Pair, Side
from clipjax.data.storage import local
from clipjax.data_flags import DataFlags
from clipjax.types import Source, UserError

SHOWN = 20  # pairs that are printed
# What is being done -> the context of its progress (done, total).
Watch = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


class Other(NamedTuple):
    """The source of --against. described: its `data`, `split` and options."""

    source: Source
    described: dict[str, Any]


def check_flags(values: Any, against: DataFlags) -> None:
    """Checks the flags `near` and `out` of a command line.

    Raises UserError for a number of bits that cannot be, for a place that cannot be
    written, and for either flag without --against.
    """
    near, out = values.near, values.out
    given = [flag for flag in ("near", "out") if values[flag].present]
    if given and not against:
        raise UserError(f"--{given[0]} needs --against: the data to compare with")
    perceptual_hash.check_near(near)
    if out:
        paths.file_to_write("out", out, "the output", "x.json")


def open_other(given: DataFlags, described: dict[str, Any]) -> Other:
    """Opens the source of --against.

    Options that it does not set are those of the checked data, if both have the same
    name. Its split is train unless given.

    Raises UserError if it is the same data and split, and as sources do.
    """
    name = given.name or described["data"]
    make = registry.load("data", name)
    own = {k: v for k, v in described.items() if k not in ("data", "split")}
    options = {**(own if name == described["data"] else {}), **given.options(name)}
    if "path" in registry.options(make) and not options.get("path"):
        raise UserError("no --against.path given: the folder of the training data")
    other = {"data": name, "split": given.split or "train", **options}
    if _whole(other) == _whole(described):
        raise UserError(
            f"--against is the checked data itself, split {other['split']}: give "
            "another --data.split, such as val, or another --against.split"
        )
    with local.set_by_flags(given.flag):
        return Other(make(other["split"], **options), other)


def _whole(described: dict[str, Any]) -> dict[str, Any]:
    """A description with the defaults, in which equal folders have equal paths."""
    known = registry.options(registry.load("data", described["data"]))
    found = {**{key: option.default for key, option in known.items()}, **described}
    path = str(found.get("path", ""))
    place = path if "://" in path else str(paths.expand(path).resolve())
    return {**found, "path": place}


def run(
    console: Console,
    source: Source,
    described: dict[str, Any],
    values: Any,
    *,
    other: Other,
    watch: Watch,
) -> int:
    """Prints what two sources share, and writes it to a file; the exit status.

    described: the source's `data`, `split` and options. values: the flags `near`, `out`
    and `threads`.
    """
    start, out, against = time.monotonic(), values.out, other.described
    found = copies.find(
        source,
        other.source,
        near=values.near,
        threads=values.threads,
        watch=lambda second: watch(f"reading {(described, against)[second]['split']}"),
    )
    for made, side in ((described, found.images), (against, found.others)):
        if not side.usable:
            first = f"; the first: {side.broken[0].line()}" if side.broken else ""
            raise UserError(f"{_name(made)}: no image can be compared{first}")
    images = found.images
    console.print(f"checked: {_name(described)}: {_side(images)}")
    console.print(f"against: {_name(against)}: {_side(found.others)}")
    for pair in found.pairs[:SHOWN]:
        print(_line(pair))  # rich would make spaces of the tabs
    if (total := len(found.pairs) + found.left_out) > SHOWN:
        listed = f"are in {out}" if out else "are listed by --out=FILE.json"
        console.print(f"and {total - SHOWN:,} more pairs, which {listed}")
    counts = found.counts()
    for level, count in zip(copies.LEVELS, counts, strict=True):
        console.print(f"{level}: {_share(count, images.usable, 'images')}")
    if images.captions:
        shared = _share(found.shared_captions, images.captions, "captions")
        console.print(f"the words of a caption in the other data: {shared}")
    if out:
        _write(out, found, described, against, values.near)
        console.print(f"written to {paths.expand(out)}")
    console.print(
        f"in the other data too: {_share(sum(counts), images.usable, 'images')}; read "
        f"and compared in {time.monotonic() - start:.1f} s"
    )
    return 1 if found.pairs else 0


def _name(described: dict[str, Any]) -> str:
    words = [described["data"], str(described.get("path", ""))]
    return f"{' '.join(filter(None, words))}, split {described['split']}"


def _side(side: Side) -> str:
    """What was read of a source, and what of it could not be compared."""
    words = f"{side.usable:,} images, {side.captions:,} captions"
    if side.broken:
        words += f"; {len(side.broken):,} broken, not compared: {side.broken[0].line()}"
        words += " ..." * (len(side.broken) > 1)
    if side.plain:
        words += (
            f"; {side.plain:,} too plain for a hash, compared by their pixels alone"
        )
    return words


def _share(count: int, total: int, what: str) -> str:
    return f"{count:,} of {total:,} {what} ({100 * count / max(total, 1):.3g} %)"


def _line(pair: Pair) -> str:
    words = copies.LEVELS[pair.level]
    if pair.level == copies.NEAR:
        words += f", {pair.distance} bits differ"
    keys = (" ".join(key.split()) for key in (pair.key, pair.other_key))
    return paths.readable("\t".join((*keys, words)))


def _write(
    out: str,
    found: Copies,
    described: dict[str, Any],
    against: dict[str, Any],
    near: int,
) -> None:
    """Writes all counts and pairs as JSON; raises UserError if the place fails."""
    path = paths.expand(out)
    value = {
        "checked": {**described, **_counted(found.images)},
        "against": {**against, **_counted(found.others)},
        "near": near,
        "images": dict(zip(copies.LEVELS, found.counts(), strict=True)),
        "shared_captions": found.shared_captions,
        "pairs_left_out": found.left_out,
        "pairs": [
            {
                "key": pair.key,
                "against": pair.other_key,
                "level": copies.LEVELS[pair.level],
                "distance": pair.distance,
            }
            for pair in found.pairs
        ],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.write_json(path, value)
    except OSError as error:
        raise UserError(atomic_files.describe_os_error(error)) from error


def _counted(side: Side) -> dict[str, Any]:
    broken = [{"key": bad.key, "reason": bad.reason} for bad in side.broken]
    return {
        **{"examples": side.examples, "captions": side.captions},
        **{"plain": side.plain, "broken": broken},
    }
