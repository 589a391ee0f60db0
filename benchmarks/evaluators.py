"""What the evaluators take beside encoding: their sum over the time of the encoder.

    python benchmarks/evaluators.py --model runs/flickr8k \\
        --data.path=DATA/flickr8k --classes DATA/flowers

Retrieval, geometry, caption choice by rule and the score run on captioned webdataset
shards, zero-shot and k-NN on a folder of classes: one `clipjax.evaluate`, with rows and
intervals. Printed are the CPU seconds of all threads and the wall seconds of the whole
command, those inside the encoder (reading, decoding and the towers), and the ratio of
the two. The first turn compiles; the medians are of the others.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import tempfile
import time

ON_CAPTIONS = "retrieval+geometry+caption_choice"
ON_CLASSES = "zeroshot@imagefolder+knn@imagefolder"


class EncoderTime:
    """CPU and wall seconds inside `Encoder._encode`, which all embeddings come from."""

    def __init__(self):
        from clipjax.encoder import Encoder

        self.cpu = self.wall = 0.0
        inner = Encoder._encode

        def timed(*args, **options):
            cpu, wall = time.process_time(), time.perf_counter()
            try:
                return inner(*args, **options)
            finally:
                self.cpu += time.process_time() - cpu
                self.wall += time.perf_counter() - wall

        Encoder._encode = timed  # pyright: ignore[reportAttributeAccessIssue]


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
    from clipjax.engine import host

    host.fast_cpu_flags()
    host.keep_memory()
    inside = EncoderTime()
    ratios: dict[str, list[float]] = {"CPU": [], "wall": []}
    with tempfile.TemporaryDirectory() as name:
        for number in range(args.rounds + 1):
            inside.cpu = inside.wall = 0.0
            cpu, wall = time.process_time(), time.perf_counter()
            evaluate(args, pathlib.Path(name) / str(number))
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            found = {"CPU": (cpu, inside.cpu), "wall": (wall, inside.wall)}
            for key, (whole, encoding) in found.items():
                print(f"{key}: {whole:.2f} s, in the encoder {encoding:.2f} s")
                if number:
                    ratios[key].append(whole / encoding)
    for key, values in ratios.items():
        print(f"{key}: whole / encoding {statistics.median(values):.3f}")


if __name__ == "__main__":
    main()
