"""What the tests of whole runs share: a tiny config, and what a run says."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import re
import signal

import jax
import pytest
from checkpoint_helpers import bits
from config_tiny import get_config
from jax._src import compilation_cache as cache
from jax.sharding import AxisType
from rich.console import Console

from clipjax.engine import assemble, distributed, loop, sharding
from clipjax.preempt import StopRequest
from clipjax.run_record import metric_log

ROOT = pathlib.Path(__file__).parents[1]


def tiny(arg="", evals=False, **changes):
    """The tiny config, with or without evaluation; a double underscore is a dot."""
    config = get_config(arg)
    if not evals:
        config.train.val_batches = 0
        with config.unlocked():
            config.evals = type(config)()
    for name, value in changes.items():
        section = config
        *parts, last = name.split("__")
        for part in parts:
            section = section[part]
        assert last in section, name
        section[last] = value
    return config


@contextlib.contextmanager
def one_device():
    """Runs take one device, and keep what they compile in the tests' cache.

    On all eight emulated ones, collectives of one step may wait for each other for
    ever where there are few cores. Afterwards jax is as it was.
    """
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", _one_device_mesh)
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            cache.reset_cache()


def _one_device_mesh(config):
    return jax.make_mesh(
        (1, 1), ("data", "fsdp"), (AxisType.Auto,) * 2, devices=jax.devices()[:1]
    )


def join(port, index, count=2, timeout=60.0):
    """Makes this process one of several, as the commands do."""
    os.environ["JAX_COORDINATOR_ADDRESS"] = f"localhost:{port}"
    os.environ["JAX_NUM_PROCESSES"] = str(count)
    os.environ["JAX_PROCESS_ID"] = str(index)
    distributed.initialise(timeout)


def stop_at(monkeypatch, step, number=signal.SIGTERM):
    """The process sends itself a signal when a run is at this step."""
    signal_number = StopRequest.signal_number

    def with_signal(self, now):
        if now == step:
            signal.raise_signal(number)
        return signal_number(self, now)

    monkeypatch.setattr(StopRequest, "signal_number", with_signal)


class Said(str):
    """What a run printed, with the outcome."""

    outcome: loop.Outcome

    @property
    def resumed(self) -> int | None:
        found = re.search(r"from step (\d+)", self)
        return int(found[1]) if found else None


def train(config, workdir, **options) -> Said:
    stream = io.StringIO()
    outcome = loop.train(config, workdir, console=Console(file=stream), **options)
    said = Said(stream.getvalue())
    said.outcome = outcome
    return said


def saved(workdir, which="latest"):
    """A saved state as {path: bits}, and its step."""
    state, step = assemble.load_state(pathlib.Path(workdir), which)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): bits(leaf) for path, leaf in leaves}, step


def rows(workdir, name="train/loss"):
    """[(step, value)] of the metric rows that have it."""
    return [(row["step"], row[name]) for row in metric_log.rows(workdir) if name in row]
