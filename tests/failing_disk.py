"""Runs whose disk fails at one file, each gone on with: python tests/failing_disk.py
FOLDER CASES RUN, within `fault_tools.preloaded`.

CASES is JSON, [[name, path, calls, errno, after], ...]; RUN is "trained", or "small":
the same files and their writers without a model. What became of each run is printed as
a line of JSON.
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import sys

import fault_tools
import jax.numpy as jnp

from clipjax import atomic_files, commandline
from clipjax.engine.checkpoint.saves import Checkpoints
from clipjax.engine.metrics import MetricWriter
from run_tools import one_device, rows, saved, tiny, train

STEPS = 4


def trained(workdir):
    config = tiny(
        train__steps=STEPS,
        checkpoint__every=2,
        log__every=1,
        log__tensorboard=True,
        data__threads=1,
    )
    train(config, workdir)


def small(workdir):
    """Its state is told by its step; its loss is the step."""
    workdir.mkdir(exist_ok=True)

    def state(step):
        return {"params": {"w": jnp.full((64, 32), step, jnp.float32)}}

    with Checkpoints(workdir, warn=lambda line: None) as saves:
        found = saves.restore_latest(state(0))
        start = found[2] if found else 0
        atomic_files.write_json(workdir / "config.json", {"steps": STEPS})
        writer = MetricWriter(workdir, start, tensorboard=True)
        for step in range(start + 1, STEPS + 1):
            writer.write_scalars(step, {"train/loss": step})
            if step % 2 == 0:
                saves.save(step, state(step), {})
        writer.close()


def status(run, workdir, said):
    """The status and the lines of a run as a command, its stderr in a file."""

    def main(argv):
        run(workdir)
        return 0

    before = os.dup(2)
    with said.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        commandline.run(main)
    except SystemExit as error:
        code = error.code
    except BaseException as error:
        code = repr(error)
    finally:
        os.dup2(before, 2)
        os.close(before)
    return code, said.read_text().splitlines()


def main(folder, cases, run):
    logging.getLogger("clipjax").setLevel(logging.ERROR)  # of reading what is unsealed
    os.environ["CLIPJAX_CACHE"] = str(folder / "cache")  # where faults are counted too
    with one_device():
        alone = folder / "alone"
        code, lines = status(run, alone, folder / "said")
        assert (code, lines) == (0, []), lines
        wanted = saved(alone), rows(alone)
        for name, *fault in cases:
            workdir, note = folder / name, folder / f"{name}.note"
            with fault_tools.fault(*fault, note=note):
                code, lines = status(run, workdir, folder / "said")
            found = {"name": name, "met": note.exists(), "code": code, "lines": lines}
            store = workdir / "checkpoints"
            before = {p.name for p in store.glob("manifests/*.json")}
            found["again"] = status(run, workdir, folder / "said")
            if found["again"][0] == 0:
                found["same"] = (saved(workdir), rows(workdir)) == wanted
            after = {p.name for p in store.glob("manifests/*.json")}
            found["lost"] = sorted(before - after)
            found["left"] = [p.name for p in workdir.rglob("*tmp*")]
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), globals()[sys.argv[3]])
