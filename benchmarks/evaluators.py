"""What the evaluators take beside encoding: their sum over the time of the encoder.

    python benchmarks/evaluators.py --model runs/flickr8k \\
        --data.path=DATA/flickr8k --classes DATA/flowers

Retrieval, geometry, caption choice by rule and the score run on captioned webdataset
shards, zero-shot and k-NN on a folder of classes: one `clipjax.evaluate`, with rows and
intervals. Printed are the CPU seconds of all threads and the wall seconds of the whole
command (with reading the model and writing the results), of the evaluators with the
encoding that they ask for, and of the encoder alone (reading, decoding and the towers),
and both ratios to the encoder. The first turn compiles; the medians are of the others.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time

import numpy as np

ON_CAPTIONS = "retrieval+geometry+caption_choice"
ON_CLASSES = "zeroshot@imagefolder+knn@imagefolder"
CLOCKS = ("CPU", "wall")


class Inside:
    """CPU and wall seconds inside a method."""

    def __init__(self, owner: type, name: str):
        self.reset()
        inner = getattr(owner, name)

        def timed(*args, **options):
            begin = clocks()
            try:
                return inner(*args, **options)
            finally:
                self.spent += clocks() - begin

        setattr(owner, name, timed)

    def reset(self) -> None:
        self.spent = np.zeros(2)


def clocks() -> np.ndarray:
    """Seconds of CPU and wall time."""
    return np.array([time.process_time(), time.perf_counter()])


def evaluate(args: argparse.Namespace, out: pathlib.Path) -> None:
    from clipjax import evaluate

    config = pathlib.Path(__file__).parents[1] / "configs" / "flickr8k_vit.py"
    words = f"size=cpu,evals={ON_CAPTIONS}+{ON_CLASSES}+score"
    classes = {"path": args.classes, "split": args.classes_split}
    flags = {
        "data.path": args.captions,
        "data.split": args.split,
        **{f"evals.zeroshot.data.{key}": value for key, value in classes.items()},
        **{f"evals.knn.data.{key}": value for key, value in classes.items()},
        "evals.score.of": "('retrieval/mean_recall@1', 'zeroshot/class/top1')",
    }
    argv = ["evaluate", "--workdir", args.model, "--config", f"{config}:{words}"]
    for key, value in flags.items():
        of = "" if key.startswith("data.") else "config."
        argv.append(f"--{of}{key}={value}")
    argv += ["--data=webdataset", "--out", str(out)]
    if evaluate.main(argv):
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data.path", dest="captions", required=True)
    parser.add_argument("--data.split", dest="split", default="val")
    parser.add_argument("--classes", required=True, help="a folder SPLIT/CLASS/*.jpg")
    parser.add_argument("--classes_split", default="test")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    from clipjax.encoder import Encoder
    from clipjax.engine import host
    from clipjax.engine.evaluator_set import Evaluators

    host.fast_cpu_flags()
    host.keep_memory()
    evaluators = Inside(Evaluators, "run")
    encoder = Inside(Encoder, "_encode")  # which all embeddings come from
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        for number in range(args.rounds + 1):
            evaluators.reset()
            encoder.reset()
            begin = clocks()
            evaluate(args, pathlib.Path(name) / str(number))
            seconds = [clocks() - begin, evaluators.spent, encoder.spent]
            for clock, (whole, inside, alone) in zip(
                CLOCKS, zip(*seconds, strict=True), strict=True
            ):
                print(
                    f"{clock}: {whole:.2f} s, in the evaluators {inside:.2f} s, "
                    f"in the encoder {alone:.2f} s"
                )
            if number:
                ratios.append([x / encoder.spent for x in seconds[:2]])
    for clock, (whole, inside) in zip(CLOCKS, np.median(ratios, 0).T, strict=True):
        print(
            f"{clock}: whole / encoder {whole:.3f}, evaluators / encoder {inside:.3f}"
        )


if __name__ == "__main__":
    main()
