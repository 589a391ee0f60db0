"""How fast `clipjax.search index` encodes, beside `clipjax.embed` on the same files.

    python benchmarks/photo_index.py --model runs/x --photos FOLDER

FOLDER has folders of images, as data=imagefolder reads them. Both take turns, each from
nothing, and say images per second without reading the model and compiling. It prints
each one's median and their ratio.
"""

from __future__ import annotations

import argparse
import io
import os
import pathlib
import re
import statistics
import tempfile

from rich.console import Console

import clipjax
from clipjax import paths
from clipjax.engine.activity import Task
from clipjax.preempt import StopRequest
from clipjax.search_index import index_job, vector_file
from clipjax.search_index.index_model import IndexModel
from clipjax.search_index.photo_table import Photos


def embedded(args: argparse.Namespace, out: pathlib.Path) -> float:
    done = clipjax.embed_data(
        args.model,
        out,
        data="imagefolder",
        data_options={"path": args.photos},
        split="all",
        batch_size=args.batch,
        threads=args.threads,
        console=Console(file=io.StringIO()),
    )
    return done.rate


def indexed(args: argparse.Namespace, db: pathlib.Path) -> float:
    place = str(paths.local(args.model, "a run"))
    model = IndexModel(place, "best", True, "", args.batch, args.threads)
    model.compile()
    with Photos(db, write=True) as table:
        table.begin(model.about())
        width = table.about()["width"]
        beside = vector_file.beside(db)
        with vector_file.Vectors(beside, width, write=True) as vectors:
            job = index_job.Job(table, vectors, StopRequest())
            folder = os.fsencode(paths.local(args.photos, "photos"))
            rows = job.look({folder: ""}, Task("look"))
            job.encode(rows, model.encoder, model.variables, Task("encode"))
    return job.done.encoded / job.done.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    from clipjax.engine import host

    host.fast_cpu_flags()
    host.keep_memory()
    rates: dict[str, list[float]] = {"embed": [], "index": []}
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory() as name:
            turns = [
                ("embed", lambda at: embedded(args, at / "emb")),
                ("index", lambda at: indexed(args, at / "x.clipjax")),
            ]
            for key, turn in turns[:: -1 if number % 2 else 1]:
                rates[key].append(turn(pathlib.Path(name)))
    middle = {key: statistics.median(values) for key, values in rates.items()}
    for key, value in middle.items():
        runs = ", ".join(f"{one:.1f}" for one in rates[key])
        print(f"{key:6} {value:8.1f} images/s  ({runs})")
    print(f"index / embed: {middle['index'] / middle['embed']:.3f}")


if __name__ == "__main__":
    main()
