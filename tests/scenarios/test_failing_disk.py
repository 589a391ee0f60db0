"""Full and failing disks, at every file that a run writes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
from fault_tools import preloaded

from clipjax import commandline
from run_tools import ROOT

# (pattern, calls that succeed before, so that there is something to lose)
FILES = {
    "config": ("*/config.json*", 0),
    "environment": ("*/environment.json*", 0),
    "tokenizer": ("*/tokenizer.json*", 0),
    "data": ("*/data.json*", 0),
    "jsonl": ("*/metrics.jsonl", 0),
    "jsonl later": ("*/metrics.jsonl", 3),
    "csv": ("*/metrics.csv*", 0),
    "csv later": ("*/metrics.csv*", 3),
    "events": ("*/tensorboard*", 0),
    "events later": ("*/tensorboard/*", 3),
    "probe": ("*/checkpoints/.probe", 0),
    "lock": ("*/checkpoints/.lock", 0),
    "manifest": ("*/manifests/*", 0),
    "second manifest": ("*/manifests/4.json*", 0),
    "first step": ("*/checkpoints/2*", 0),
    "second step": ("*/checkpoints/4*", 0),
    "arrays": ("*/checkpoints/4*/ocdbt*", 0),
    "arrays later": ("*/checkpoints/4*/ocdbt*", 9),
    "metadata": ("*/checkpoints/4*/metadata", 0),
    "list of arrays": ("*/checkpoints/4*/_METADATA", 0),
    "commit": ("*/checkpoints/4*commit_success.txt*", 0),
    "checkpoint metadata": ("*/checkpoints/4*/_CHECKPOINT_METADATA*", 0),
    "any": ("*/checkpoints/*", 20),
}
KINDS = {
    "full": ("open,write,mkdir", errno.ENOSPC),
    "write fails": ("write", errno.EIO),
    "sync fails": ("sync", errno.EIO),
    "rename fails": ("rename", errno.EIO),
}
FEW = (
    ("config", "full"),
    ("config", "sync fails"),
    ("config", "rename fails"),
    ("jsonl later", "full"),
    ("csv later", "full"),
    ("events later", "write fails"),
    ("second step", "full"),
    ("arrays", "sync fails"),
    ("arrays", "rename fails"),
    ("checkpoint metadata", "write fails"),
    ("second manifest", "rename fails"),
)


def outcomes(folder, chosen, run):
    """What became of the runs, by the names of file and kind."""
    cases = []
    for file, kind in chosen:
        path, after = FILES[file]
        cases.append([f"{file}, {kind}", path, *KINDS[kind], after])
    env = {**os.environ, **preloaded(folder)}
    made = subprocess.run(
        [sys.executable, "tests/failing_disk.py", str(folder), json.dumps(cases), run],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""  # nor do any of its threads say more
    found = [json.loads(line) for line in made.stdout.splitlines()]
    assert [each["name"] for each in found] == [case[0] for case in cases]
    return found


def check(found):
    """One line, a status, nothing lost, and the same bits when it goes on."""
    assert found["code"] == 2, found
    assert len(found["lines"]) == 1 and found["lines"][0].startswith("error: "), found
    assert found["again"] == [0, []], found
    assert found["same"] and not found["lost"] and not found["left"], found


@pytest.mark.thorough
def test_a_run_ends_in_one_line_and_goes_on(tmp_path):
    for found in outcomes(tmp_path, FEW, "small"):
        assert found["met"], found
        check(found)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_kind(tmp_path):
    chosen = [(file, kind) for file in FILES for kind in KINDS]
    met = [found for found in outcomes(tmp_path, chosen, "small") if found["met"]]
    assert len(met) > 60
    for found in met:
        check(found)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_at_every_file(tmp_path):
    chosen = [(file, kind) for file in FILES for kind in ("full", "rename fails")]
    met = [found for found in outcomes(tmp_path, chosen, "trained") if found["met"]]
    assert {found["name"].partition(",")[0] for found in met} == set(FILES)
    for found in met:
        check(found)


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EIO, "the disk fails"),
        (errno.EROFS, "another place"),
    ],
)
def test_a_command_says_what_the_system_refused(capsys, number, fix):
    def main(argv):
        raise OSError(number, os.strerror(number), "/some/file")

    with pytest.raises(SystemExit) as ended:
        commandline.run(main)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1
    assert told.startswith(f"error: /some/file cannot be used ({os.strerror(number)}")
    assert fix in told


def test_an_error_of_the_program_is_not_hidden():
    def main(argv):
        raise OSError("a mistake in the code")

    with pytest.raises(OSError, match="a mistake"):
        commandline.run(main)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_output_to_a_full_disk():
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "clipjax.train", "--help"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "No space left on device" in ended.stderr
