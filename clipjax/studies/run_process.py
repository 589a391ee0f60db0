"""A run of a study in a process of its own: what that process does.

It reads what to do as a line of JSON on standard input, which stays open: its end says
that the study's process is gone, and the run saves and stops as at a signal.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys
import tempfile
import threading
from typing import Any

from rich.console import Console

from clipjax import commandline, config_check
from clipjax.types import UserError


def main(argv: list[str]) -> int:
    spec = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    from clipjax.engine import host

    host.fast_cpu_flags()  # before jax starts its backend
    host.keep_memory()
    if "check" in spec:
        return _check(spec["check"], spec["metric"], pathlib.Path(spec["answer"]))
    from clipjax.engine import loop
    from clipjax.engine.starts import Start

    console = Console(highlight=False, markup=False, width=100)
    outcome = loop.train(
        config_check.from_dict(spec["config"]),
        spec["workdir"],
        console=console,
        start=Start(**spec["start"]),
    )
    return 128 + outcome.stopped_by if outcome.stopped_by else 0


def _stop_with_parent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _check(configs: list[dict[str, Any]], metric: str, answer: pathlib.Path) -> int:
    """Makes the parts of each cell's run, and writes the steps of each.

    Raises UserError for what a run would refuse, and a metric that no evaluator gives.
    """
    from clipjax.engine import architecture, datasets, run, writers

    steps = {}
    for one in configs:
        config = config_check.from_dict(one["config"])
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            try:
                config = architecture.with_released_settings(config, place)
                config = datasets.resolve(config)
                writers.check(config)
                made = run.prepare(config, place, True)
                if metric != "val_loss":
                    made.evaluators.check_metric(metric, "metric")
            except UserError as error:
                raise UserError(f"{one['name']}: {error}") from error
        steps[one["name"]] = made.total_steps
    answer.write_text(json.dumps(steps))
    return 0


if __name__ == "__main__":
    commandline.run(main)
