"""Memory and time of `evals=retrieval` on a large gallery.

    python benchmarks/retrieval_scale.py
    python benchmarks/retrieval_scale.py --images 5000 --rounds 7
    python benchmarks/retrieval_scale.py --width 16 --part whole

The embeddings are random, of unit norm, float32 [images width], and five captions an
image. They are evaluated as stored ones, which are mapped, so no model takes part. Two
things are measured:

- whole: the evaluator over all queries in both directions, with its rows and intervals;
  its peak of memory of its own (no mapped file), above float32 embeddings held once
- rounds: for some queries of each direction, ranking them against the whole gallery,
  beside a bare blocked product with the k best of each query, in turns. The bare one is
  the faster of NumPy (argpartition) and of XLA (top_k); printed are medians of ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable

import numpy as np

CAPTIONS = 5


def unit_rows(count: int, width: int, seed: int) -> np.ndarray:
    """float32 [count width] of unit norm."""
    rows = np.random.default_rng(seed).standard_normal((count, width), np.float32)
    for start in range(0, count, 4096):
        part = rows[start : start + 4096]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows


class Captioned:
    """A source of so many images, which are never read: their embeddings are stored."""

    def __init__(self, images: int):
        self.caption_counts = np.full(images, CAPTIONS, np.int32)
        self.max_captions = CAPTIONS
        self.class_names: dict = {}
        self.templates: dict = {}

    def __len__(self) -> int:
        return len(self.caption_counts)

    def __getitem__(self, index: int):
        raise NotImplementedError("its embeddings are stored")


class OwnMemory:
    """The peak of the process's own memory (RssAnon) above that at its start."""

    def __enter__(self) -> OwnMemory:
        self._start = self.peak = _own_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def above(self) -> int:
        return self.peak - self._start

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.peak = max(self.peak, _own_bytes())


def _own_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no RssAnon: run it on Linux")


def evaluate(images: np.ndarray, texts: np.ndarray) -> tuple[float, int]:
    """Seconds and bytes of the whole evaluator on mapped arrays."""
    import pyarrow

    from clipjax import encoder
    from clipjax.embeddings.header import Header
    from clipjax.embeddings.stored import Embeddings, Rows
    from clipjax.evals import retrieval
    from clipjax.evals.common.inputs import Inputs
    from clipjax.evals.common.stored_rows import StoredRows

    count = len(images)
    captions = [
        [f"caption {i} of image {at}" for i in range(CAPTIONS)] for at in range(count)
    ]
    table = pyarrow.table(
        {
            "index": np.arange(count),
            "key": [f"{at:09}" for at in range(count)],
            "captions": captions,
            "valid": np.ones(count, bool),
            "reason": [""] * count,
        }
    )
    del captions
    header = Header(
        {}, {}, "image_embed", count, count, ("embed",), "float32", captions=True
    )
    held = Embeddings(header, Rows([images]), Rows([texts]), None, None, table)
    unused: encoder.Encoder = None  # type: ignore[assignment]  # all is stored
    with OwnMemory() as memory:
        begin = time.perf_counter()
        inputs = Inputs(unused, Captioned(count), StoredRows(held, "memory"))
        retrieval.make(inputs).run({})
        seconds = time.perf_counter() - begin
    return seconds, memory.above


def bare_numpy(queries: np.ndarray, gallery: np.ndarray, k: int, rows: int) -> None:
    for start in range(0, len(queries), rows):
        scores = queries[start : start + rows] @ gallery.T
        best = np.argpartition(scores, -k, axis=1)[:, -k:]
        np.take_along_axis(scores, best, axis=1)


def bare_xla(k: int, rows: int) -> Callable[[np.ndarray, np.ndarray], None]:
    import jax

    best = jax.jit(lambda queries, gallery: jax.lax.top_k(queries @ gallery.T, k))

    def run(queries: np.ndarray, gallery: np.ndarray) -> None:
        there = jax.device_put(gallery)
        for start in range(0, len(queries), rows):
            jax.block_until_ready(best(queries[start : start + rows], there))

    return run


def compare(
    queries: np.ndarray, gallery: np.ndarray, right: np.ndarray, rounds: int
) -> list[dict[str, float]]:
    """Seconds of each way, per round."""
    from clipjax.evals.common import ranking

    rows = max(1, min(1024, ranking.MAX_SIMILARITIES // len(gallery)))
    queries = queries[: len(queries) // rows * rows or rows]
    right = right[: len(queries)]
    xla = bare_xla(ranking.NEAREST, rows)
    xla(queries[:rows], gallery)  # compiled here
    ways = {
        "rank": lambda: ranking.rank(
            queries, gallery, right, nearest=ranking.NEAREST, block=1024
        ),
        "prepare": lambda: ranking.rank(
            queries[:0], gallery, right[:0], nearest=ranking.NEAREST
        ),
        "numpy": lambda: bare_numpy(queries, gallery, ranking.NEAREST, rows),
        "xla": lambda: xla(queries, gallery),
    }
    found = []
    for _ in range(rounds):
        taken = {}
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            taken[name] = time.perf_counter() - begin
        found.append(taken)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="see the file's first lines")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1024, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part", choices=("whole", "rounds", "both"), default="both")
    args = parser.parse_args()

    images = unit_rows(args.images, args.width, 0)
    texts = unit_rows(args.images * CAPTIONS, args.width, 1)
    held = (images.nbytes + texts.nbytes) / 2**30
    print(
        f"{len(images)} images x {len(texts)} captions, {args.width} wide, "
        f"{held:.2f} GiB",
        flush=True,
    )
    own = np.arange(len(texts)).reshape(-1, CAPTIONS)
    owner = np.repeat(np.arange(len(images)), CAPTIONS)[:, None]
    sides = {
        "image_to_text": (images, texts, own),
        "text_to_image": (texts, images, owner),
    }
    for name, (queries, gallery, right) in sides.items():
        if args.part == "whole":
            continue
        some = slice(0, args.queries)
        rounds = compare(queries[some], gallery, right[some], args.rounds)
        # What is done once per gallery counts as it does over all queries.
        share = min(args.queries, len(queries)) / len(queries)
        ratios = [
            (one["rank"] - (1 - share) * one["prepare"]) / min(one["numpy"], one["xla"])
            for one in rounds
        ]
        middle = {
            way: statistics.median(one[way] for one in rounds) for way in rounds[0]
        }
        told = ", ".join(f"{way} {seconds:.2f} s" for way, seconds in middle.items())
        print(
            f"{name}: {told}; rank / bare {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )
    if args.part != "rounds":
        with tempfile.TemporaryDirectory() as folder:
            mapped = []
            for name, rows in (("images", images), ("texts", texts)):
                path = f"{folder}/{name}.npy"
                np.save(path, rows)
                mapped.append(np.load(path, mmap_mode="r"))
            del images, texts, sides, queries, gallery, rows
            seconds, above = evaluate(*mapped)
        print(
            f"whole: {seconds:.0f} s, {above / 2**30 - held:.2f} GiB above the "
            f"embeddings' {held:.2f}"
        )


if __name__ == "__main__":
    main()
