"""Measures one accelerator, part by part, into one JSON file.

    bash benchmarks/accelerator.sh --out h100.json --wheels wheels
    bash benchmarks/accelerator.sh --out tiny.json --tiny          # CPU, 3 minutes

Each part is a process with its own time limit. So its device memory is free before the
next part starts, and a part that fails or hangs ends alone. The JSON is rewritten after
every measurement, so that an interrupted run keeps its results. The file beside it that
ends in .log has the parts' output. All parts together take at most --budget seconds.
The most valuable parts run first; the JSON names the parts that were not run.

peaks         products of 8,192 x 8,192 matrices in float32, TF32 and bfloat16; copies
step          the training step of configs/vit_b16.py, and the device's idle time
transformers  the same towers as transformers' CLIPModel, eager and by torch.compile
attention     jax.nn.dot_product_attention by XLA and by cuDNN
losses        value and gradient of clip and siglip, whole and in blocks
large_batch   a batch of 4,096 by micro-batches and by rematerialisation
large         ViT-L/14
encode        images and texts encoded by ViT-B/16
quickstart    seconds until configs/quickstart.py reaches an average R@1 of 80 %
step_xla      the training step with XLA's attention instead of cuDNN's
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from accelerator import facts, runner, table

# The most valuable first, each with its limit in seconds.
PARTS = {
    "peaks": runner.Part("accelerator.device:peaks", 40),
    "step": runner.Part("accelerator.training:step", 150),
    "transformers": runner.Part("accelerator.torch_clip:measure", 90),
    "attention": runner.Part("accelerator.device:attention", 45),
    "losses": runner.Part("accelerator.losses:measure", 60),
    "large_batch": runner.Part("accelerator.training:large_batch", 120),
    "large": runner.Part("accelerator.training:large", 90),
    "encode": runner.Part("accelerator.training:encode", 60),
    "quickstart": runner.Part("accelerator.first_run:measure", 120),
    "step_xla": runner.Part("accelerator.training:step_xla", 60),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks/accelerator.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.json")
    parser.add_argument("--parts", default=",".join(PARTS), metavar="A,B")
    parser.add_argument(
        "--wheels",
        type=pathlib.Path,
        metavar="DIR",
        help="folder of wheels; those that this Python lacks are installed",
    )
    parser.add_argument(
        "--budget", type=float, default=runner.BUDGET, help="seconds for all parts"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on the CPU")
    args = parser.parse_args()
    chosen = [name for name in args.parts.split(",") if name]
    unknown = [name for name in chosen if name not in PARTS]
    if unknown or not chosen:
        parser.error(f"--parts={args.parts}: choose some of {', '.join(PARTS)}")
    if args.wheels is not None and not list(args.wheels.glob("*.whl")):
        parser.error(f"--wheels={args.wheels}: it has no wheel")
    if not args.out.parent.is_dir():
        parser.error(f"--out={args.out}: its folder does not exist")
    results = runner.run(
        {name: PARTS[name] for name in PARTS if name in chosen},
        args.out,
        facts=lambda: facts.machine_facts(
            [word.rsplit("/", 1)[-1] for word in sys.argv[1:]]  # file names only
        ),
        budget=args.budget,
        tiny=args.tiny,
        wheels=args.wheels,
    )
    print(table.table(results))
    print(f"\nresults: {args.out}; output of the parts: {runner.log_of(args.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
