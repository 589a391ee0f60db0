"""Search over a million photos, without encoding the query, beside NumPy alone.

    python benchmarks/photo_search.py

It writes an index of random unit vectors (2 GB) in a temporary folder, and takes turns:
a bare product of the mapped matrix with the query and the selection of the best k; the
search of `clipjax.search query`, which opens the index, searches exactly and reads the
rows. It prints both medians, their ratio, whether both found the same, and how much
memory a search takes besides the mapped file.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import tempfile
import time
import tracemalloc

import numpy as np

from clipjax.search_index import photo_query, vector_file
from clipjax.search_index.photo_table import Photos, Row

BLOCK = 65_536


def build(place: pathlib.Path, count: int, width: int) -> None:
    """An index of random vectors whose rows name photos that are not there."""
    draw = np.random.default_rng(0)
    with Photos(place, write=True) as table:
        table.begin({"model": {}, "width": width})
        beside = vector_file.beside(place)
        with vector_file.Vectors(beside, width, write=True) as vectors:
            for start in range(0, count, BLOCK):
                rows = draw.standard_normal(
                    (min(BLOCK, count - start), width), np.float32
                )
                rows /= np.linalg.norm(rows, axis=1, keepdims=True)
                vectors.write(start, rows)
                with table.change():
                    for slot in range(start, start + len(rows)):
                        path = f"/photos/{slot // 1000:06}/{slot:09}.jpg".encode()
                        table.put(Row(path, slot, slot, path[-16:], slot))
            vectors.sync()


def bare(
    place: pathlib.Path, query: np.ndarray, count: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of the mapped matrix by one product and one selection."""
    beside = vector_file.beside(place)
    matrix = np.memmap(beside, np.float32, "r", shape=(count, len(query)))
    scores = np.asarray(matrix) @ query
    best = np.argpartition(scores, -k)[-k:]
    best = best[np.argsort(-scores[best])]
    return best, scores[best]


def searched(place: pathlib.Path, query: np.ndarray, k: int) -> list[photo_query.Found]:
    with Photos(place) as table:
        return photo_query.find(table, query, k)


def main() -> None:
    parser = argparse.ArgumentParser(description="see the file's first lines")
    parser.add_argument("--photos", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--top", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    times: dict[str, list[float]] = {"bare": [], "search": []}
    same = 0
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name) / "x.clipjax"
        build(place, args.photos, args.width)
        draw = np.random.default_rng(1)
        bare(place, np.ones(args.width, np.float32), args.photos, args.top)
        for _ in range(args.rounds):
            query = draw.standard_normal(args.width)
            query /= np.linalg.norm(query)
            begin = time.perf_counter()
            best, _ = bare(place, query.astype(np.float32), args.photos, args.top)
            times["bare"].append(time.perf_counter() - begin)
            begin = time.perf_counter()
            found = searched(place, query, args.top)
            times["search"].append(time.perf_counter() - begin)
            same += [one.row.slot for one in found] == best.tolist()
        tracemalloc.start()
        searched(place, query, args.top)
        most = tracemalloc.get_traced_memory()[1]
    print(f"{args.photos:,} photos, {args.width} numbers each, the best {args.top}")
    middle = {key: statistics.median(values) for key, values in times.items()}
    for key, value in middle.items():
        runs = ", ".join(f"{1000 * one:.0f}" for one in times[key])
        print(f"{key:7} {1000 * value:7.1f} ms  ({runs})")
    print(f"search / bare: {middle['search'] / middle['bare']:.3f}")
    print(f"the same photos in the same order: {same} of {args.rounds} queries")
    print(f"memory of a search, besides the mapped file: {most / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
