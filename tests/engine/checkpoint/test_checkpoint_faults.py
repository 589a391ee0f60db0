"""Saves that fail, full disks, bad options, and several processes at one folder."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from checkpoint_helpers import assert_same, fill, small
from fault_tools import small_files
from port_tools import free_port

from clipjax.engine.checkpoint import manifest, step_folder
from clipjax.engine.checkpoint.saves import Checkpoints
from clipjax.types import UserError


def test_unwritable_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written .*another --workdir"):
        Checkpoints(tmp_path / "file")


def test_full_disk_at_start(tmp_path):
    with small_files(2**16):
        with pytest.raises(UserError, match=r"cannot be written \(File too large\)"):
            Checkpoints(tmp_path)


def big(step: int) -> dict[str, Any]:
    draw = np.random.default_rng(step)
    return {"w": jnp.asarray(draw.normal(size=2**18), jnp.float32), "n": step}


def test_failing_save_surfaces_once_and_later_saves_work(opened, capfd):
    saves = opened()
    saves.save(1, big(1), {})
    saves.wait()
    with small_files(2**17):
        saves.save(2, big(2), {})
        saves._thread.join()
    with pytest.raises(UserError, match="saving step 2 in .*checkpoints failed: ") as e:
        saves.save(3, big(3), {})
    assert "\n" not in str(e.value) and e.value.__cause__ is not None
    saves.wait()  # told once
    assert saves.steps() == [1]
    saves.save(3, big(3), {})
    state, _, step = saves.restore_latest(big(0))
    assert step == 3
    assert_same(state, big(3))
    out = capfd.readouterr()
    assert out.err == "" and out.out == ""


def test_failing_manifest_surfaces_and_keeps_older_steps(opened, monkeypatch):
    saves = opened(keep=1)
    fill(saves, 1)

    def full(directory, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "write", full)
    saves.save(2, small(2), {})
    with pytest.raises(UserError, match="step 2 .*No space left on device"):
        saves.wait()
    assert saves.steps() == [1, 2]


def test_folder_replaced_by_a_file(opened, tmp_path):
    saves = opened()
    fill(saves, 1)
    shutil.rmtree(tmp_path / "run/checkpoints")
    (tmp_path / "run/checkpoints").write_text("")
    with pytest.raises(UserError, match="saving step 2"):
        saves.save(2, small(2), {})
        saves.wait()


def test_a_failed_pruning_does_not_fail_the_save(opened, monkeypatch):
    saves = opened(keep=1)
    fill(saves, 1)

    def busy(*args, **kwargs):
        raise OSError("busy")

    monkeypatch.setattr(step_folder.Store, "prune", busy)
    fill(saves, 2)
    assert len(opened.said) == 1 and "cannot delete old steps: busy" in opened.said[0]
    assert saves.restore_latest(small(0))[2] == 2


def test_leaving_by_an_error_finishes_the_save(tmp_path):
    with pytest.raises(RuntimeError, match="of the trainer"):
        with Checkpoints(tmp_path) as saves:
            saves.save(1, big(1), {})
            raise RuntimeError("of the trainer")
    assert Checkpoints(tmp_path, read_only=True).restore()[2] == 1


def test_an_interrupt_of_a_save_comes_once_it_is_under_way(opened, monkeypatch):
    save, saves = ocp.AsyncCheckpointer.save, opened()

    def interrupted(self, *args, **options):
        signal.raise_signal(signal.SIGINT)
        save(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ocp.AsyncCheckpointer, "save", interrupted)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                saves.save(1, small(1), {})
        finally:
            signal.signal(signal.SIGINT, before)
    saves.wait()
    assert (saves.workdir / "checkpoints/manifests/1.json").exists()
    assert_same(saves.restore_latest(small(0))[0], small(1))


def test_the_trainers_error_is_not_hidden_by_a_failed_save(tmp_path, monkeypatch):
    def full(directory, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "write", full)
    said = []
    with pytest.raises(RuntimeError, match="of the trainer"):
        with Checkpoints(tmp_path, warn=said.append) as saves:
            saves.save(1, small(1), {})
            raise RuntimeError("of the trainer")
    assert len(said) == 1 and "No space left" in said[0]
    with pytest.raises(UserError, match="No space left"):
        with Checkpoints(tmp_path, warn=said.append) as saves:
            saves.save(2, small(2), {})


def test_little_room_is_said(opened, monkeypatch):
    usage = shutil._ntuple_diskusage(10**9, 10**9, 10**3)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert opened().restore_latest(big(0)) is None
    assert len(opened.said) == 1 and "saving may fail" in opened.said[0]


@pytest.mark.parametrize(
    "options", [{"keep": 0}, {"every_keep": -1}, {"best_mode": "most"}]
)
def test_bad_options(tmp_path, options):
    with pytest.raises(UserError, match=str(next(iter(options)))):
        Checkpoints(tmp_path, **options)


HOLDER = """
import sys
from clipjax.engine.checkpoint.step_folder import Store
store = Store(sys.argv[1], print)
store.open()
print("held", flush=True)
sys.stdin.read()
"""


def test_one_writer_at_a_time(tmp_path, opened):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="being written by another process"):
            opened()
        opened(read_only=True)
    finally:
        holder.kill()
        holder.communicate()
    opened()  # a killed process holds nothing


# Several hosts

HOST = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from run_tools import join
port, index, where = sys.argv[1], int(sys.argv[2]), sys.argv[3]
join(port, index)
from clipjax.engine.checkpoint import manifest, step_folder
from clipjax.engine.checkpoint.saves import Checkpoints
from clipjax.types import UserError

mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))

def state(step):
    rows = np.full((4, 3), step, np.float32)
    place = NamedSharding(mesh, P())
    return {
        "w": jax.make_array_from_callback((4, 3), NamedSharding(mesh, P("d")),
                                          lambda i: rows[i]),
        "key": jax.jit(lambda: jax.random.key(step), out_shardings=place)(),
        "step": step,
    }

def holds(found, step):
    own = found["w"].addressable_shards
    key = jax.random.key_data(found["key"]).addressable_shards[0].data
    assert len(own) == 1 and (np.asarray(own[0].data) == step).all()
    assert own[0].data.shape == (2, 3) and found["step"] == step
    assert (np.asarray(key) == jax.random.key_data(jax.random.key(step))).all()

said = []
saves = Checkpoints(where, keep=1, best_metric="r", warn=said.append)
for step in (1, 2, 3):
    saves.save(step, state(step), {"s": step}, {"r": -step})
saves.wait()
assert (saves.steps(), saves.best_step()) == ([1, 3], 1)
if index == 0:
    (step_folder.Store(where, print).path(3) / "layout/metadata").write_text("[")
found, meta, step = saves.restore_latest(state(0))
assert (step, meta) == (1, {"s": 1})
holds(found, 1)
assert "step 3" in said[0] and "damaged" in said[0]
real = manifest.write
def full(*args):
    raise OSError(28, "No space left on device")
manifest.write = full
saves.save(4, state(4), {})
try:
    saves.wait()
    raise SystemExit("no error")
except UserError as error:  # on both, though only process 0 met it
    assert "saving step 4" in str(error) and "No space left" in str(error)
manifest.write = real
saves.save(5, state(5), {})
holds(saves.restore_latest(state(0))[0], 5)
assert (saves.restore(1)[0]["w"] == 1).all()
saves.close()
try:
    Checkpoints("/dev/null")
    raise SystemExit("no error")
except UserError:
    print("done")
"""


@pytest.mark.thorough
def test_two_processes(tmp_path):
    port = str(free_port())
    tests = str(pathlib.Path(__file__).parents[2])
    env = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = os.pathsep.join([tests, str(pathlib.Path(tests).parent)])
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, port, str(index), str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        for index in range(2)
    ]
    try:
        found = [host.communicate(timeout=250) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    for host, (out, err) in zip(hosts, found, strict=True):
        assert host.returncode == 0, err
        assert out.endswith("done\n"), (out, err)
