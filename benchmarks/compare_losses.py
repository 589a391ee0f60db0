"""Trains every loss for the same number of steps on drawn scenes, by three seeds.

    python benchmarks/compare_losses.py --workdir /tmp/losses
    python benchmarks/compare_losses.py --losses clip sogclr --steps 170

Each run has the quickstart's towers and optimizer and 2,048 of its scenes, so that
losses with state see each scene five times. CASES has the losses' settings. 85 steps
of 128 pairs take about a minute of CPU time, compilation not counted, on the machine in
docs/results.md. Steps are fixed, not time, so that other work on the machine changes
nothing. Recall and accuracy are measured on 500 scenes whose shape-colour combinations
training never shows. --workdir keeps finished runs, and they are not repeated.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import time

from rich.console import Console
from rich.table import Table

from clipjax import commandline
from clipjax.engine import host

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "quickstart.py"

# label -> (loss, settings that differ from the quickstart)
CASES: dict[str, tuple[str, dict]] = {
    "clip": ("clip", {}),
    "siglip": ("siglip", {}),
    "cyclip": ("cyclip", {}),
    "sogclr": ("sogclr", {"loss.temperature": 0.07}),
    "sogclr, squared hinge": (
        "sogclr",
        {"loss.temperature": 0.07, "loss.surrogate": "squared_hinge"},
    ),
    "isogclr": ("isogclr", {}),
    "fastclip v0": ("fastclip", {"loss.variant": "v0"}),
    "fastclip v1": ("fastclip", {"loss.variant": "v1"}),
    "fastclip v2": ("fastclip", {"loss.variant": "v2"}),
    "fastclip v2, warmer": (
        "fastclip",
        {"loss.variant": "v2", "loss.temperature": 0.07, "loss.rho": 6.5},
    ),
    "fastclip v3": ("fastclip", {"loss.variant": "v3"}),
    "vicreg": ("vicreg", {}),
    "onlineclr": ("onlineclr", {}),
    "hn_nce": ("hn_nce", {}),
    "dcl": ("dcl", {}),
    "hcl": ("hcl", {}),
    "xbm": ("xbm", {"loss.size": 1024}),
}


def run(label: str, seed: int, steps: int, workdir: pathlib.Path) -> dict:
    """Returns one run's metrics and CPU seconds; trains unless the run is finished."""
    from clipjax.engine import loop

    words, settings = CASES[label]
    folder = workdir / f"{label.replace(', ', '_').replace(' ', '_')}-{seed}-{steps}"
    file = folder / "comparison.json"
    if file.exists():
        return json.loads(file.read_text())
    config = commandline.load_file(f"{CONFIG}:loss={words}")
    config.update_from_flattened_dict(
        {"seed": seed, "data.train.size": 2048}
        | {"train.steps": steps, "train.val_batches": 0}
        | {"checkpoint.every": steps, "log.tensorboard": False}
        | settings
    )
    start = time.process_time()
    outcome = loop.train(config, folder, console=Console(quiet=True))
    metrics = {
        f"{name}/{key}": metric.value
        for name, result in outcome.results.items()
        for key, metric in result.metrics.items()
    }
    metrics["cpu_seconds"] = time.process_time() - start
    file.write_text(json.dumps(metrics))
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--losses", nargs="*", default=list(CASES), metavar="LABEL")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=85)
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/losses")
    args = parser.parse_args()
    console = Console(width=120)
    table = Table("loss", "R@1 per seed, %", "mean", "times chance", "zero-shot")
    for label in args.losses:
        runs = [
            run(label, seed, args.steps, args.workdir) for seed in range(args.seeds)
        ]
        recalls = [100 * one["retrieval/mean_recall@1"] for one in runs]
        shots = [one["zeroshot/mean_top1"] for one in runs]
        mean = statistics.mean(recalls)
        row = (
            label,
            " ".join(f"{value:.1f}" for value in recalls),
            f"{mean:.2f}",
            f"{mean / 0.2:.0f}",
            f"{100 * statistics.mean(shots):.1f}",
        )
        table.add_row(*row)
        console.print(*row, f"{runs[-1]['cpu_seconds']:.0f} CPU s", sep=" | ")
    console.print(table)


if __name__ == "__main__":
    host.fast_cpu_flags()
    host.keep_memory()
    main()
