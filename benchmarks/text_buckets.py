"""Measures the time that text buckets save in training steps on real captions.

    python benchmarks/text_buckets.py --data captions --path data/flickr8k
    python benchmarks/text_buckets.py --data webdataset --path data/shards

Two runs of configs/vit_b16.py as ViT-S/16, with and without `data.text_buckets`, take
turns step by step over the same batches, decoding included. The first step at each
length compiles, and does not count. The results are the medians, their ratio, and the
number of batches per length.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import statistics
import tempfile
import time

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "vit_b16.py"


class Turns:
    """A run that makes one step per call, and returns its time."""

    def __init__(self, args: argparse.Namespace, buckets: tuple[int, ...]):
        from clipjax import commandline
        from clipjax.engine import run as runs
        from clipjax.engine import sharding
        from clipjax.engine import state as states

        config = commandline.load_file(
            f"{CONFIG}:data={args.data},tokenizer={args.tokenizer}"
        )
        config.update_from_flattened_dict(
            {
                "data.train.path": args.path,
                "data.batch_size": args.batch,
                "data.text_buckets": buckets,
                "data.tokenizer.context_length": 77,
                "model.image.variant": "S/16",
                "model.text.variant": "S",
                "train.val_batches": 0,
                "train.steps": args.steps,
                "train.epochs": 0.0,
            }
        )
        workdir = pathlib.Path(tempfile.mkdtemp())
        start = time.perf_counter()
        self._run = runs.prepare(config, workdir, True)
        self.ready = time.perf_counter() - start
        run = self._run
        self._state = states.initialise(
            run.model, run.loss, run.optim, False, config.seed, run.template
        )
        self._step, self._put = runs.jit_step(run), sharding.put_batch
        self._batches = runs.batches(run, 0)
        self._compiled: set[int] = set()

    def step(self) -> tuple[int, float | None]:
        """Returns the texts' length, and the seconds: None if the step was compiled."""
        start = time.perf_counter()
        batch = self._put(self._run.mesh, next(self._batches))
        self._state, metrics = self._step(self._state, batch)
        metrics["loss"].block_until_ready()
        seconds = time.perf_counter() - start
        length = batch["text"].shape[1]
        counted = seconds if length in self._compiled else None
        self._compiled.add(length)
        return length, counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="captions")
    parser.add_argument("--path", required=True)
    parser.add_argument("--tokenizer", default="words")
    parser.add_argument("--buckets", type=int, nargs="*", default=[12, 16, 20, 24, 32])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    whole, short = Turns(args, ()), Turns(args, tuple(args.buckets))
    print(f"prepared in {whole.ready:.1f} s, with token counts in {short.ready:.1f} s")
    times: dict[str, list[float]] = {"whole": [], "buckets": []}
    lengths = collections.Counter()
    for _ in range(args.steps):
        for name, one in (("whole", whole), ("buckets", short)):
            length, seconds = one.step()
            if name == "buckets":
                lengths[length] += 1
            if seconds is not None:
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(
            f"{name}: {median:.3f} s per step of {args.batch}, {len(times[name])} steps"
        )
    print(f"whole / buckets: {medians['whole'] / medians['buckets']:.2f}")
    print("lengths:", ", ".join(f"{n} x {lengths[n]}" for n in sorted(lengths)))


if __name__ == "__main__":
    from clipjax.engine import host

    host.fast_cpu_flags()
    host.keep_memory()
    main()
