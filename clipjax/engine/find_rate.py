"""`--find lr`: a learning-rate range test with a run's own data, model and step.

Smith 2017 (arXiv 1506.01186): the rate rises from step to step, and the loss shows from
which rate on the run learns, and from which on it diverges. The rate comes from a
schedule (rising_rate.py), so the test suits every optimizer. It begins where a new run
would, saves no checkpoint, and leaves what is in the run's folder as it is.
"""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from clipjax import atomic_files, paths
from clipjax.config_keys import SHARED
from clipjax.engine import (
    architecture,
    datasets,
    first_state,
    rate_curve,
    rising_rate,
    sharding,
)
from clipjax.engine.activity import Activity
from clipjax.engine.compilation import enable_cache
from clipjax.engine.rate_curve import Curve
from clipjax.engine.run import Run, batches, jit_step, prepare
from clipjax.multihost import on_primary
from clipjax.pulse import pulse
from clipjax.types import Config, UserError

FOLDER = "find_lr"  # in the run's folder
_LEAST = 20  # steps


def parse_range(text: str) -> tuple[float, float]:
    """The lowest and the highest rate of "1e-7,10".

    Raises UserError unless they are two rising numbers above 0.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not 0 < low < high < math.inf:
        raise UserError(
            f"--find_range={text}: must be two rising rates above 0, such as 1e-7,10"
        )
    return low, high


def find(
    config: Config,
    workdir: str | pathlib.Path,
    *,
    steps: int,
    rates: tuple[float, float],
    console: Console | None = None,
) -> Curve:
    """Trains up to `steps` steps while the rate rises, from the first of `rates` to the
    second.

    Prints some points of the curve and a suggestion, and writes lr.csv and, with
    matplotlib, lr.svg into FOLDER of the workdir.

    Raises UserError for what stands in the way of a run, for too few steps, and for a
    folder that cannot be written.
    """
    if steps < _LEAST:
        raise UserError(f"--find_steps={steps}: must be at least {_LEAST}")
    workdir = paths.local(workdir, "a run")
    folder = workdir / FOLDER
    on_primary(lambda: atomic_files.check_place(folder))
    with Activity(console or Console(quiet=jax.process_index() > 0)) as activity:
        enable_cache(activity.say)
        config = datasets.resolve(architecture.with_released_settings(config, workdir))
        rate = float(config.optim.lr)
        with pulse.working(), activity.doing("reading the data and preparing the run"):
            run = prepare(_as_test(config, steps, *rates), workdir, True)
        activity.say(
            f"learning-rate range test: up to {steps} steps of {config.optim.name} in "
            f"batches of {config.data.batch_size}, from rate {rates[0]:g} to "
            f"{rates[1]:g}"
        )
        curve = _run(run, steps, activity)
        for line in rate_curve.describe(curve, rate):
            activity.say(line)
        on_primary(lambda: _write(curve, folder, activity.say))
    return curve


def _as_test(config: Config, steps: int, low: float, high: float) -> Config:
    """A run's config with a rising rate, and without what comes after its steps."""
    made = config.copy_and_resolve_references()
    schedule = {"name": rising_rate.__name__, "low": low, "high": high, "steps": steps}
    with made.unlocked():
        made.optim.schedule = ConfigDict(schedule)
        made.evals = ConfigDict()
    for section in ("early_stop", "checkpoint"):
        made[section].update(SHARED[section])
    # An average has no part in the loss. The length stays: a loss may depend on it.
    made.train.update({"val_batches": 0, "eval_every": 0, "ema": 0.0})
    return made


def _run(run: Run, steps: int, activity: Activity) -> Curve:
    rates: list[float] = []
    losses: list[float] = []
    diverged = False
    with activity.doing("making the first state"):
        state, _ = first_state.make(run, activity.say)
    step, source = jit_step(run), batches(run, 0)
    with contextlib.closing(source), activity.doing("finding the rate") as task:
        while len(losses) < steps and not diverged:
            with pulse.pause():  # data.timeout bounds it
                local = dict(next(source))
            pulse.beat(len(losses))
            rates.append(np.asarray(run.optim.schedule(len(losses))).item())
            batch = sharding.put_batch(run.mesh, local)
            state, metrics = step(state, batch)
            # Each step is awaited: its loss decides whether there is a next one.
            found = jax.device_get((metrics["loss"], metrics["bad_in_row"]))
            losses.append(float(found[0]) if not found[1] else math.nan)
            diverged = rate_curve.has_diverged(losses)
            task(len(losses), steps)
    return Curve(np.array(rates), np.array(losses), diverged)


def _write(curve: Curve, folder: pathlib.Path, say: Callable[[str], None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rate_curve.write_csv(curve, folder / "lr.csv")
    written = str(folder / "lr.csv")
    try:
        rate_curve.draw(curve, folder / "lr.svg")
        written += f" and {folder / 'lr.svg'}"
    except ImportError:
        say("no drawing, which needs matplotlib: pip install -e '.[look]'")
    say(f"curve: {written}")
