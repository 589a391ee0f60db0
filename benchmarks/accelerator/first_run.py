"""Measures the quickstart's command until it reaches a target recall."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from accelerator.child import Report

ROOT = pathlib.Path(__file__).parents[2]
TARGET = 0.80
METRIC = "eval/retrieval/mean_recall@1"
TINY = {
    "train.steps": 4,
    "train.eval_every": 2,
    "train.val_batches": 0,
    "data.image_size": 16,
    "model.image.depth": 1,
    "model.image.width": 32,
    "model.text.depth": 1,
    "model.text.width": 32,
    "data.batch_size": 8,
    "data.train.size": 64,
    "data.train.eval_size": 16,
    "data.eval.eval_size": 16,
    "evals.zeroshot.data.eval_size": 16,
}


def measure(report: Report, tiny: bool) -> None:
    """Seconds are wall time from the command's start, compilation included.

    Only the command uses the device; this process does not.
    """
    settings = TINY if tiny else {"train.eval_every": 25}
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "run"
        command = [sys.executable, "-m", "clipjax.train", "--workdir", str(workdir)]
        command += ["--config", str(ROOT / "configs" / "quickstart.py")]
        command += [f"--config.{key}={value}" for key, value in settings.items()]
        start = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        start_time = time.time()
        known: dict[str, float] = {}
        while process.poll() is None and known.get("recall", 0.0) < TARGET:
            time.sleep(0.1)
            known = _target_row(workdir / "metrics.jsonl", start_time) or known
            if known:
                report("progress", known)
        interrupted = process.poll() is None
        if interrupted:
            process.send_signal(signal.SIGTERM)
        status = process.wait()
        known = _target_row(workdir / "metrics.jsonl", start_time) or known
        if not known:
            raise RuntimeError(
                f"the command ended with status {status} before an evaluation"
            )
        seconds = round(time.monotonic() - start, 1)
        reached = known["recall"] >= TARGET
        report("run", {"reached": reached, "whole_seconds": seconds, **known})
        if status and not interrupted:
            raise RuntimeError(f"the command ended with status {status}")


def _target_row(path: pathlib.Path, start_time: float) -> dict[str, float] | None:
    """Returns the first evaluation that reaches the target, else the last one."""
    if not path.exists():
        return None
    found = None
    for line in path.read_text().splitlines(keepends=True):
        row = json.loads(line) if line.endswith("\n") else {}
        if METRIC in row:
            seconds = round(row["time"] - start_time, 1)
            found = {"seconds": seconds, "step": row["step"], "recall": row[METRIC]}
            if row[METRIC] >= TARGET:
                break
    return found
