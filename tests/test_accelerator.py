"""benchmarks/accelerator.sh: its parts apart from each other, its JSON, its counts."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import zipfile

import jax
import jax.numpy as jnp
import pytest
from accelerator import derived, idle, packages, runner, towers

ROOT = pathlib.Path(__file__).parents[1]
PARTS = "accelerator_parts"


@pytest.fixture(autouse=True)
def seen_by_parts(monkeypatch):
    """The parts' processes find those of the tests."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "parts"))


def part(name, limit=30.0):
    return runner.Part(f"{PARTS}:{name}", limit)


def gone(pid):
    """Whether a process has ended; one that nobody has waited for counts as such."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.thorough
def test_what_fails_is_recorded_and_the_next_part_runs(tmp_path):
    out = tmp_path / "out.json"
    names = ("raises", "dies", "absent", "good")
    parts = {"hangs": part("hangs", 8)} | {name: part(name) for name in names}
    parts["missing"] = runner.Part("accelerator.no_such:measure", 30)
    returned = runner.run(parts, out, facts=lambda: {"cpu": "some"})
    found = json.loads(out.read_text())
    assert found == returned and found["cpu"] == "some"
    hung, raised, died, absent, good, missing = found["parts"].values()
    assert hung["status"] == "timed out" and "compiling" in hung["error"]
    assert gone(hung["results"]["helper"])
    assert raised["status"] == "failed" and raised["results"] == {"before": 1}
    assert raised["error"] == "ValueError: no such kernel"
    assert died["status"] == "failed" and died["results"] == {"before": 2}
    assert died["error"] == "ended by status 7; last: Fatal: the driver is gone"
    assert absent["status"] == "not available"
    assert absent["reason"] == "torch is not installed"
    assert good["status"] == "done"
    assert good["results"] == {"tiny": False, "rate": {"images_per_second": 3.0}}
    assert missing["status"] == "failed" and "no_such" in missing["error"]
    assert "Fatal: the driver is gone" in out.with_suffix(".log").read_text()
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


def test_a_measurement_is_in_the_json_while_its_part_runs(tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    monkeypatch.setenv("WATCHED", str(out))
    found = runner.run({"watches": part("watches")}, out)
    assert found["parts"]["watches"]["status"] == "done"


def test_no_part_begins_after_the_budget(tmp_path):
    found = runner.run({"good": part("good")}, tmp_path / "out.json", budget=0)
    assert found["parts"]["good"] == {
        "status": "not run",
        "reason": "the budget of 0 s is spent",
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_part_and_keeps_what_it_had(tmp_path, number):
    out = tmp_path / "out.json"
    code = f"""if True:
        import pathlib
        from accelerator import runner
        runner.run({{"hangs": runner.Part("{PARTS}:hangs", 60)}}, pathlib.Path("{out}"))
    """
    paths = [ROOT, ROOT / "benchmarks", ROOT / "tests" / "parts"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: out.exists() and "helper" in out.read_text())
    process.send_signal(number)
    assert process.wait(60) != 0
    hung = json.loads(out.read_text())["parts"]["hangs"]
    assert hung["status"] == "stopped"
    wait_for(lambda: gone(hung["results"]["helper"]))


def wheel(folder, name, version):
    """An importable package that says where it is."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}/__init__.py", f"version = {version!r}\n")
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        file.writestr(f"{about}/METADATA", metadata)
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", "")
    return path.name


def test_wheels_never_hide_what_is_there(tmp_path, monkeypatch):
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    new = wheel(wheels, "surely_not_there", "1.0")
    jax_wheel = wheel(wheels, "jax", "99.0")
    orbax = wheel(wheels, "orbax_checkpoint", "0.12.8")
    real = packages._version
    # As on a machine with an orbax of another minor version, which clipjax does not
    # take.
    monkeypatch.setattr(
        packages,
        "_version",
        lambda name: "0.13.1" if name == "orbax-checkpoint" else real(name),
    )
    told = packages.install(wheels, site, tmp_path / "log")
    assert told[new] == "installed"
    assert told[jax_wheel] == f"left out: {jax.__version__} is here"
    assert told[orbax].startswith("installed: 0.13.1 here is not ")
    assert (site / "surely_not_there").is_dir() and not (site / "jax").exists()
    assert (site / "orbax_checkpoint").is_dir()


def test_a_damaged_wheel_is_recorded(tmp_path):
    (tmp_path / "broken_thing-1.0-py3-none-any.whl").write_bytes(b"no zip")
    told = packages.install(tmp_path, tmp_path / "site", tmp_path / "log")
    assert told["error"].startswith("pip ended by 1")


def test_gaps_are_what_no_interval_covers():
    # 0-10 and 5-20 overlap, 30-40 lies within 25-60; idle are 20-25 and 60-100.
    intervals = [(30e3, 40e3), (0, 10e3), (5e3, 20e3), (25e3, 60e3), (100e3, 110e3)]
    found = idle.gaps(intervals)
    assert found["seconds"] == pytest.approx(110e-6)
    assert found["idle_share"] == pytest.approx(45 / 110)
    assert found["longest_gap_us"] == pytest.approx(40)
    assert found["gaps_over_20_us"] == 1


def test_ratios_are_of_the_same_run_and_batch():
    parts = {
        "peaks": {"results": {"bfloat16": {"tflops": 800.0}}},
        "step": {
            "results": {
                "parameters": 5,
                "batch_256": {"images_per_second": 3000.0, "model_tflops": 400.0},
                "batch_1024": {"error": "out of memory"},
            }
        },
        "transformers": {
            "results": {
                "parameters": 5,
                "eager": {"batch": 256, "images_per_second": 1500.0},
                "compiled": {"batch": 512, "images_per_second": 1500.0},
            }
        },
        "large": {"status": "not run"},
    }
    derived.add(parts)
    assert parts["step"]["results"]["batch_256"]["share_of_bfloat16_peak"] == 0.5
    theirs = parts["transformers"]["results"]
    assert theirs["eager"]["clipjax_over_it"] == 2.0
    assert "clipjax_over_it" not in theirs["compiled"]

    del theirs["eager"]["clipjax_over_it"]
    theirs["parameters"] = 6  # another model
    derived.add(parts)
    assert "clipjax_over_it" not in theirs["eager"]


@pytest.mark.thorough
def test_operations_of_a_pair_are_those_that_xla_counts():
    clip = towers.clip(tiny=False)
    assert clip.pair_flops / 1e9 == pytest.approx(123.3, abs=0.1)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)
    text = jax.ShapeDtypeStruct((1, towers.LENGTH), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, towers.LENGTH), jnp.bool)

    def forward(variables, image, text, mask):
        images = clip.model.encode_image(variables, image)["image_embed"]
        return images, clip.model.encode_text(variables, text, mask)["text_embed"]

    variables = jax.eval_shape(lambda: clip.model.init(jax.random.key(0)))
    cost = jax.jit(forward).lower(variables, image, text, mask).cost_analysis()
    # XLA counts what is not a product, too.
    assert clip.pair_flops / 3 == pytest.approx(cost["flops"], rel=0.03)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_part_runs_on_a_cpu(tmp_path):
    out = tmp_path / "tiny.json"
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    script = ROOT / "benchmarks" / "accelerator.sh"
    done = subprocess.run(
        # The budget is for a machine that does other things, too.
        ["bash", script, "--tiny", "--budget", "1000", "--out", out],
        env=environment | {"PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0
    found = json.loads(out.read_text())
    parts = found["parts"]
    states = {name: part["status"] for name, part in parts.items()}
    theirs = states.pop("transformers")
    assert set(states.values()) == {"done"}, states
    assert theirs in ("done", "not available")
    assert list(parts) == [
        *("peaks", "step", "transformers", "attention", "losses", "large_batch"),
        *("large", "encode", "quickstart", "step_xla"),
    ]
    assert found["tiny"] and found["versions"]["jax"] == jax.__version__
    step = parts["step"]["results"]["batch_8"]
    assert step["images_per_second"] > 0 and step["steps_not_finite"] == 0
    assert 0 < step["share_of_bfloat16_peak"]
    assert "error" in parts["attention"]["results"]["image"]["cudnn"]
    run = parts["quickstart"]["results"]["run"]
    assert run["step"] == 4 and not run["reached"]
    for results in (parts["losses"]["results"], parts["large_batch"]["results"]):
        assert results and not any("error" in value for value in results.values())
    for name in parts:
        assert f"{name} " in done.stdout
