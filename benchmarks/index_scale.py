"""Measures the memory and time that a large data set takes before its first image.

    python benchmarks/index_scale.py
    python benchmarks/index_scale.py --cases webdataset shards --examples 1000000

A fresh process opens each case. Its memory is counted without what the loaded modules
take: while the source opens (peak) and afterwards (held). `plan` is the time to plan a
global batch of 4,096 at a step in the middle of the third epoch. The data are made for
this benchmark: empty shards whose index is in the cache (no image is read), a table of
captions, ArrayRecord metadata. The case `shards` has 10,000 real tar files of 4 small
images each, which are indexed first and then opened from the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import time

import numpy as np
from rich.console import Console
from rich.table import Table

SIZE = 10_000  # examples in a synthetic shard
BATCH = 4096


def synthetic_index(examples: int, first: int):
    """The index of a shard as img2dataset writes it: nine digits, JPEG, text."""
    from clipjax.data.annotations import caption_files
    from clipjax.data.containers import tar_index

    keys = np.char.zfill(np.arange(first, first + examples).astype("S9"), 9)
    starts = np.arange(examples, dtype=np.int64) * 40_960 + 512
    return tar_index.ShardIndex(
        keys=np.frombuffer(keys.tobytes(), np.uint8),
        key_end=np.arange(1, examples + 1, dtype=np.int64) * 9,
        image_start=starts,
        image_size=np.full(examples, 30_000, np.int64),
        text_start=starts + 31_232,
        text_size=np.full(examples, 60, np.int64),
        text_kind=np.full(examples, caption_files.TXT, np.uint8),
        captions=np.ones(examples, np.int32),
        label=np.full(examples, tar_index.NO_LABEL, np.int32),
    )


def make_webdataset(folder: pathlib.Path, examples: int) -> None:
    from clipjax import cache
    from clipjax.data.containers import tar_index
    from clipjax.data.storage import shard_files

    shards = shard_files.LocalFolder(folder)
    for number in range(examples // SIZE):
        name = f"train-{number:05}.tar"
        (folder / name).touch()
        tar_index.build = lambda shard, n=number: synthetic_index(SIZE, n * SIZE)
        tar_index.load_or_build(shards.shard(name), cache.folder("index"))


def make_captions(folder: pathlib.Path, examples: int) -> None:
    (folder / "images").mkdir()
    (folder / "images" / f"{0:09}.jpg").touch()
    with open(folder / "captions.csv", "w", encoding="utf-8") as file:
        file.write("image,caption\n")
        for number in range(examples):
            file.write(
                f"{number:09}.jpg,a photo of number {number} among many others\n"
            )


def make_arrayrecord(folder: pathlib.Path, examples: int) -> None:
    from clipjax import atomic_files
    from clipjax.data.containers import record_shards

    shards = []
    for number in range(examples // SIZE):
        name = f"train-{number:05}.arrayrecord"
        (folder / name).touch()
        shards.append(record_shards.Shard(name, SIZE, [(1, SIZE)], 0, "0" * 64))
    split = record_shards.Split(shards, {}, {}, {})
    atomic_files.write_json(folder / "train.json", split.to_json(record_shards.FORMAT))


def make_shards(folder: pathlib.Path, shards: int) -> None:
    import io
    import tarfile

    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG")
    contents = {
        "jpg": stream.getvalue(),
        "txt": b"a small picture of nothing",
        "json": b'{"url": "https://example.org/a.jpg", "width": 8, "height": 8}',
    }
    for number in range(shards):
        with tarfile.open(folder / f"train-{number:05}.tar", "w") as tar:
            for i in range(4):
                for suffix, data in contents.items():
                    info = tarfile.TarInfo(f"{number:05}{i:04}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def memory() -> tuple[int, int]:
    """Returns this process's resident bytes: (peak, now)."""
    status = pathlib.Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    peak, now = (int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS"))
    return peak, now


def measure(name: str, folder: pathlib.Path) -> dict:
    """Opens the source and measures it; runs in a separate process."""
    import importlib

    from clipjax.data.batching import pipeline

    source_module = importlib.import_module(f"clipjax.data.sources.{name}")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    base = memory()[1]
    options = {"val_fraction": 0.0} if name == "captions" else {}
    begin = time.perf_counter()
    source = source_module.make("train", path=str(folder), **options)
    opened = time.perf_counter() - begin
    step = len(source) * 5 // (2 * BATCH)
    begin = time.perf_counter()
    pipeline.plan(source, seed=0, global_batch=BATCH, step=step)
    planned = time.perf_counter() - begin
    peak, held = memory()
    return {
        "examples": len(source),
        "opened": opened,
        "planned": planned,
        "peak": peak - base,
        "held": held - base,
        "pickled": len(pickle.dumps(source)),
    }


def run(name: str, folder: pathlib.Path) -> dict:
    command = [sys.executable, __file__, "--measure", name, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


CASES = {  # the function that writes it, its share of --examples, its source
    "webdataset": (make_webdataset, 1.0, "webdataset"),
    "arrayrecord": (make_arrayrecord, 1.0, "arrayrecord"),
    "captions": (make_captions, 0.1, "captions"),
    "shards": (make_shards, 0.0, "webdataset"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES)
    parser.add_argument("--examples", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.folder)))
        return
    table = Table(
        "source", "examples", "open, s", "plan, ms", "bytes per example: peak"
    )
    for heading in ("held", "sent to a worker"):
        table.add_column(heading)
    console = Console(width=110)
    for name in args.cases:
        make, share, source = CASES[name]
        with tempfile.TemporaryDirectory() as base:
            os.environ["CLIPJAX_CACHE"] = f"{base}/cache"
            folder = pathlib.Path(base, "data")
            folder.mkdir()
            make(folder, int(args.examples * share) or args.shards)
            runs = {name: run(source, folder)}
            if name == "shards":
                console.print(f"{args.shards:,} shards, not yet indexed:", runs[name])
                runs = {"shards, from the cache": run(source, folder)}
        for label, result in runs.items():
            each = [result[k] / result["examples"] for k in ("peak", "held", "pickled")]
            table.add_row(
                label,
                f"{result['examples']:,}",
                f"{result['opened']:.2f}",
                f"{1000 * result['planned']:.0f}",
                *(f"{value:.0f}" for value in each),
            )
            console.print(label, result)
    console.print(table)


if __name__ == "__main__":
    main()
