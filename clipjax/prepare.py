"""Prepare data: convert, inspect, verify, and write small parts of it.

python -m clipjax.prepare convert --data=captions --data.path=DATA/flickr8k --out=DATA/x
"""

from __future__ import annotations

import errno
import functools
import os
import pathlib
import sys
import time
from typing import Any

from rich.console import Console

from clipjax import (
    atomic_files,
    byte_sizes,
    commandline,
    cores,
    data_flags,
    help_pages,
    leak_check,
    paths,
    registry,
)
from clipjax.data.images import perceptual_hash
from clipjax.engine import activity
from clipjax.types import Source, UserError

HELP = """\
usage: python -m clipjax.prepare convert --data=NAME --data.path=DIR --out=DIR [options]
       python -m clipjax.prepare inspect --data=NAME --data.path=DIR [options]
       python -m clipjax.prepare verify  --data=NAME --data.path=DIR [options]
       python -m clipjax.prepare verify  --data=NAME ... --data.split=val --against
       python -m clipjax.prepare tiny    --data=NAME --data.path=DIR --out=DIR [options]

  --data=NAME          a source: {sources}
  --data.KEY=VALUE     an option of that source (docs/data.md)
  --data.split=train   the source's split; convert and tiny take several: train,val
  --threads={threads}          how many threads read and decode

convert: writes any source as shards that are fast to read in any order. The same
command resumes an interrupted conversion after its last finished shard.
  --out=DIR            the folder for the shards and SPLIT.json
  --to=arrayrecord     for data=arrayrecord; or tar, for data=webdataset and others
  --resize=0           the shortest side of larger images in pixels, which become JPEG
  --quality=95         quality of that JPEG
  --dedup              leave out images whose bytes are repeated
  --nodecode           copy images without decoding them: faster, finds less
  --shard_size=1000    examples per shard
  --out_split=NAME     the split's name in DIR; its own name by default

inspect: prints counts, sizes, captions, classes; writes a sample as an HTML page.
  --out=inspection     the folder for SPLIT.html
  --samples=24         examples in the sample
  --seed=0             seed of the sample

verify: reads and decodes everything, and lists what is broken. Exits with 1 if
anything is.
  --against[=NAME]     instead lists images that are also in other data, such as the
                       training data: with the same bytes, the same pixels, or nearly
                       the same picture. Exits with 1 if there are any
  --against.KEY=VALUE  an option of the other data; by default those of --data
  --against.split=train   its split
  --near={near}             how many of 64 bits of their perceptual hashes may differ
  --out=FILE.json      all pairs, and the counts

tiny: writes a few images of a few classes, from data with labels.
  --out=DIR            the folder for them
  --to=imagefolder     DIR/SPLIT/CLASS/*.jpg; or arrayrecord, or tar
  --classes=5          how many classes
  --per_class=20       images per class
  --seed=0             seed of the choice
  --label_set=NAME     which label set, if the data has several
  --resize --quality   as for convert

examples:
  python -m clipjax.prepare convert --data=captions --data.path=DATA/flickr8k \\
      --data.split=train,val --resize=256 --out=DATA/flickr8k_256
  python -m clipjax.prepare verify --data=arrayrecord --data.path=DATA/flickr8k_256
"""

FLAGS: dict[str, dict[str, str | bool | int]] = {
    "convert": {
        **{"out": "", "to": "arrayrecord", "resize": 0, "quality": 95},
        **{"dedup": False, "decode": True, "shard_size": 1000, "out_split": ""},
    },
    "inspect": {"out": "inspection", "samples": 24, "seed": 0},
    "verify": {"near": perceptual_hash.NEAR, "out": ""},
    "tiny": {
        **{"out": "", "to": "imagefolder", "resize": 0, "quality": 95, "seed": 0},
        **{"classes": 5, "per_class": 20, "label_set": ""},
    },
}
MAX_LISTED = 5  # broken examples printed by commands that go on without them


def main(argv: list[str]) -> int:
    threads = cores.usable()
    if "--help" in argv or "-h" in argv:
        sources = ", ".join(registry.names("data"))
        text = HELP.format(sources=sources, threads=threads, near=perceptual_hash.NEAR)
        print(help_pages.help_text(argv, text))
        return 0
    action = argv[1] if len(argv) > 1 else ""
    if action not in FLAGS:
        hint = registry.suggest(action, FLAGS)
        what = f"{action!r} is no action.{hint}" if action else "no action given."
        raise UserError(f"{what} Use {', '.join(FLAGS)}; --help explains them")
    given, rest = data_flags.read(argv[2:])
    against = data_flags.NONE
    if action == "verify":
        against, rest = data_flags.read_against(rest)
    argv = [f"{argv[0]} {action}", *rest]
    shared = {"data": "", "split": "", "threads": threads}
    values = commandline.parse(argv, None, **shared, **FLAGS[action])
    name = given.name
    if given and not name:
        raise UserError(f"--data.{next(iter(given.values), 'split')} needs --data=NAME")
    if not name:
        raise UserError(
            f"no --data given: a source, one of {', '.join(registry.names('data'))}"
        )
    if action in ("convert", "tiny") and not values.out:
        raise UserError("no --out given: the folder to write to")
    if given.split and values.split:
        raise UserError("--split and --data.split are the same: give --data.split")
    if values.split:  # of earlier versions
        print(f"write --split as --data.split={values.split}", file=sys.stderr)
    values.split = given.split or values.split or "train"
    if action == "verify":
        leak_check.check_flags(values, against)
    else:
        _check_out(values.out)
    splits = [split for split in values.split.split(",") if split]
    if action in ("inspect", "verify") and len(splits) > 1 or not splits:
        raise UserError(f"--data.split={values.split}: give one split")
    if action == "convert" and values.out_split and len(splits) > 1:
        raise UserError(
            f"--out_split={values.out_split}: give one --data.split with it"
        )
    if values.threads < 1:
        raise UserError(f"--threads={values.threads}: use 1 or more")

    from clipjax.data.storage import local

    options = given.options(name)
    make = registry.load("data", name)
    if "path" in registry.options(make) and not options.get("path"):
        raise UserError("no --data.path given: the folder of the data")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    status = 0
    # All are opened before the first is written, so that a wrong name fails at once.
    with local.set_by_flags(data_flags.FLAG):
        sources = {split: make(split, **options) for split in splits}
    act = ACTIONS[action]
    if against:
        checked = {"data": name, "split": splits[0], **options}
        other = leak_check.open_other(against, checked)
        watch = functools.partial(activity.bar, console)
        act = functools.partial(leak_check.run, other=other, watch=watch)
    for split, source in sources.items():
        described = {"data": name, "split": split, **options}
        try:
            status |= act(console, source, described, values)
        except BrokenPipeError:
            raise
        except OSError as error:
            line = commandline.output_error() or _failure(error, action, values)
            raise UserError(line) from error
    if action in ("convert", "tiny"):
        console.print(f"use: --config FILE.py:{_use(values)}")
    return status


def _check_out(name: str) -> None:
    """Raises UserError, before anything is read, if nothing can be written there."""
    folder = paths.local(name, "the output")
    try:
        atomic_files.check_place(folder)
    except OSError as error:
        raise UserError(
            f"--out={name}: {folder} cannot be written ({error.strerror}): choose "
            "another --out"
        ) from error


def _failure(error: OSError, action: str, values: Any) -> str:
    """One line about an error of the system, such as a full disk, with the fix."""
    why = error.strerror or str(error)
    full = os.strerror(errno.ENOSPC) in why
    # verify writes only its output.
    where = ("the output" if full else "the data") if action == "verify" else values.out
    where, fix = error.filename or where, "choose another --out"
    if action == "verify" and not full:
        fix = "check that it can be read"
    elif full:
        fix = "free space"
        if action == "convert":
            fix += " and run the same command, which keeps the finished shards"
    return f"cannot go on at {where}: {why}; {fix}"


def _use(values: Any) -> str:
    """The command-line words that use the output as a run's data."""
    from clipjax.data.prepare import convert

    name = {"tar": "webdataset"}.get(values.to, values.to)
    out = paths.expand(values.out)
    use = f"data={name} --config.data.train.path={paths.shell(out)}"
    if values.to == "tar" and (out / convert.CLASSES).exists():
        use += f" --config.data.train.classes={convert.CLASSES}"
    return use


def _convert(
    console: Console, source: Source, described: dict[str, Any], values: Any
) -> int:
    from clipjax.data.prepare import convert

    out = paths.expand(values.out)
    options = convert.Options(
        to=values.to,
        resize=values.resize,
        quality=values.quality,
        decode=values.decode,
        dedup=values.dedup,
        shard_size=values.shard_size,
        threads=values.threads,
    )
    _write(console, source, described, out, values.out_split, options)
    return 0


def _write(
    console: Console,
    source: Source,
    described: dict[str, Any],
    out: pathlib.Path,
    name: str,
    options: Any,
) -> None:
    """Converts a source and prints what was written."""
    from clipjax.data.prepare import convert

    split, start = name or described["split"], time.monotonic()
    with activity.bar(console, f"{split} -> {out}") as progress:
        made = convert.convert(source, split, out, options, described, progress)
    shards = made.split.shards
    examples = sum(shard.examples for shard in shards)
    captions = sum(int(shard.counts().sum()) for shard in shards)
    many = f"{len(shards)} shard{'s' * (len(shards) > 1)}"
    line = f"{split}: {examples:,} examples, {captions:,} captions in {many}, "
    line += byte_sizes.text(sum(shard.bytes for shard in shards))
    if made.done_before:
        console.print(f"{line}: there already, as asked for")
    else:
        line += f" from {byte_sizes.text(made.read)} of images"
        kept = f", {made.kept_shards} of the shards kept" if made.kept_shards else ""
        console.print(f"{line}, in {time.monotonic() - start:.1f} s{kept}")
    _tell_broken(console, made.broken, f"left out, listed in {out / split}.json")
    if made.repeated:
        key, first = made.repeated[0]
        console.print(
            f"{split}: {len(made.repeated)} repeated, left out with their captions, "
            f"listed in {out / split}.json:\n  {key} repeats {first}"
            + " ..."
            * (len(made.repeated) > 1)
        )
    if options.to == "tar" and len(source.class_names) > 1:
        console.print(
            "tar shards have one label set: these labels are in the JSON files "
            "alone, which data=webdataset leaves aside; --to=arrayrecord keeps them"
        )


def _inspect(
    console: Console, source: Source, described: dict[str, Any], values: Any
) -> int:
    from clipjax.data.prepare import sheet, survey, survey_text

    for flag in ("samples", "seed"):
        if values[flag].value < (flag == "samples"):
            raise UserError(f"--{flag}={values[flag].value}: too small")
    out = paths.expand(values.out)
    title = " ".join(str(v) for k, v in described.items() if k in ("data", "path"))
    title += f", split {described['split']}"
    threads = values.threads
    with activity.bar(console, "reading") as progress:
        found = survey.survey(source, decode=False, threads=threads, progress=progress)
    console.print(survey_text.tables(found, title))
    for problem in found.problems:
        console.print(f"left aside by the source: {problem}")
    _tell_broken(console, found.broken, "by their headers (verify reads all)")
    shown = sheet.sample(source, values.samples, values.seed, threads)
    if not shown:
        raise UserError(f"none of the {len(source)} examples can be shown")
    out.mkdir(parents=True, exist_ok=True)
    name = described["split"].replace("/", "_") + ".html"
    (out / name).write_text(sheet.page(found, shown, title), encoding="utf-8")
    console.print(f"written to {out / name}")
    return 0


def _verify(
    console: Console, source: Source, described: dict[str, Any], values: Any
) -> int:
    from clipjax.data.containers import record_shards
    from clipjax.data.prepare import survey

    start = time.monotonic()
    problems = []
    if described["data"] == "arrayrecord":
        base = paths.expand(described["path"])
        shards = record_shards.read_split(base / f"{described['split']}.json").shards
        problems = [
            f"{name}: its SHA-256 is not that of the file that was written"
            for name in record_shards.altered_shards(base, shards)
        ]
    with activity.bar(console, "reading and decoding") as progress:
        found = survey.survey(
            source, decode=True, threads=values.threads, progress=progress
        )
    problems += found.problems
    for problem in problems:
        console.print(problem)
    for bad in found.broken:
        print(bad.line())  # rich would make spaces of the tab
    told = f"{found.examples:,} examples and {len(found.words):,} captions read in "
    told += f"{time.monotonic() - start:.1f} s: {len(found.broken)} broken"
    if problems:
        told += f", {len(problems)} problem(s) of the data set"
    console.print(told)
    return 1 if found.broken or problems else 0


def _tiny(
    console: Console, source: Source, described: dict[str, Any], values: Any
) -> int:
    from clipjax.data.prepare import convert, subset, writing

    out = paths.expand(values.out)
    split = described["split"]
    if values.to not in ("imagefolder", *convert.FORMS):
        raise UserError(f"--to={values.to}: use imagefolder, arrayrecord or tar")
    how = {"resize": values.resize, "quality": values.quality}
    writing.Fit(**how)
    drawn = {name: values[name].value for name in ("classes", "per_class", "seed")}
    with activity.bar(console, "choosing") as progress:
        part = subset.choose(
            source,
            **drawn,
            label_set=values.label_set,
            threads=values.threads,
            progress=progress,
        )
    if values.to != "imagefolder":
        options = convert.Options(to=values.to, threads=values.threads, **how)
        _write(console, part, {**described, **drawn}, out, "", options)
        return 0
    fit = writing.Fit(**how, everywhere=True)
    counts = subset.write_folders(part, split, out, fit, values.threads)
    listing = ", ".join(f"{name} {count}" for name, count in counts.items())
    console.print(f"{split}: {len(part)} images in {out / split}: {listing}")
    return 0


def _tell_broken(console: Console, broken: list, what: str) -> None:
    """The number of broken examples and the first few, if there are any."""
    if broken:
        console.print(f"{len(broken)} broken, {what}:")
        for bad in broken[:MAX_LISTED]:
            console.print(f"  {bad.line()}")
        if len(broken) > MAX_LISTED:
            console.print(f"  and {len(broken) - MAX_LISTED} more")


ACTIONS = {
    "convert": _convert,
    "inspect": _inspect,
    "verify": _verify,
    "tiny": _tiny,
}

if __name__ == "__main__":
    commandline.run(main)
