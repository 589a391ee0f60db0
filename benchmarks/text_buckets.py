"""What padding texts by buckets saves of whole training steps on real captions.

    python benchmarks/text_buckets.py --data captions --path data/flickr8k
    python benchmarks/text_buckets.py --data webdataset --path data/shards

Two runs of configs/vit_b16.py as ViT-S/16, with and without `data.text_buckets`, take
turns step by step over the same batches, decoding included; the first step of each
length, which compiles, does not count. Printed are the medians, their ratio, and how
often each length was taken.
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
    """A run that makes one step when asked, and tells how long it took."""

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
        """Length of the texts, and seconds; None where the step was compiled."""
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
    print(
        f"made in {whole.ready:.1f} s, with the counting of tokens {short.ready:.1f} s"
    )
    times: dict[str, list[float]] = {"whole": [], "buckets": []}
    lengths = collections.Counter()
    for _ in range(args.steps):
        for name, one in (("whole", whole), ("buckets", short)):
            length, seconds = one.step()
            if name == "buckets":
                lengths[length] += 1
            if seconds is not None:
                times[name].append(seconds)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, median in medians.items():
        print(
            f"{name}: {median:.3f} s a step of {args.batch}, {len(times[name])} steps"
        )
    print(f"whole / buckets: {medians['whole'] / medians['buckets']:.2f}")
    print("lengths:", ", ".join(f"{n} x {lengths[n]}" for n in sorted(lengths)))


if __name__ == "__main__":
    from clipjax.engine import host

    host.fast_cpu_flags()
    host.keep_memory()
    main()
