"""A run keeps where its data lie and knows them again, wherever it is called from."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from command_tools import failure
from source_tools import jpeg

from clipjax import config_check, evaluate, prepare, results, types
from clipjax.data.sources import captions, scenes
from clipjax.engine import datasets, resume
from clipjax.types import UserError
from run_tools import tiny, train

pytestmark = pytest.mark.usefixtures("on_one_device")


def write(folder, count, word="shade", first=0):
    (folder / "images").mkdir(parents=True)
    rows = ["image,caption"]
    for i in range(count):
        (folder / "images" / f"{i + first}.jpg").write_bytes(jpeg(i))
        rows.append(f"{i + first}.jpg,{word} number {i}")
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder


def config(path, steps=1):
    return tiny(
        "data=captions",
        evals=True,
        data__train__path=path,
        data__eval__split="all",
        data__batch_size=4,
        train__steps=steps,
        train__val_batches=0,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 12 images at a/data, named from a; b has another folder of the name."""
    top = tmp_path_factory.mktemp("top")
    write(top / "a" / "data", 12)
    write(top / "b" / "data", 5)
    (top / "c").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(top / "a")
        train(config("data"), top / "run")
    return top


@pytest.fixture
def top(trained, tmp_path, monkeypatch):
    """The same to be harmed; the data stay where they were."""
    run = shutil.copytree(trained / "run", tmp_path / "run")
    data = pathlib.Path(
        json.loads((run / "config.json").read_text())["data"]["train"]["path"]
    )
    assert data == trained / "a" / "data"
    monkeypatch.chdir(trained / "b")
    return tmp_path


def size(run, name="1"):
    return results.read(run / "evaluations" / name).results["retrieval"].size


@pytest.mark.thorough
def test_a_run_is_evaluated_on_its_own_data_from_any_folder(top):
    assert evaluate.main(["evaluate", "--workdir", str(top / "run")]) == 0
    assert size(top / "run").startswith("12 images")


@pytest.mark.thorough
def test_other_data_are_chosen_by_name(top, capsys):
    argv = ["evaluate", "--workdir", str(top / "run"), "--data.path=data"]
    assert evaluate.main([*argv, "--data=captions", "--data.split", "all"]) == 0
    found = top / "run" / "evaluations" / "1-captions-all"
    assert size(top / "run", found.name).startswith("5 images")
    assert results.read(found).meta["data"]["path"] == os.path.abspath("data")
    # Without a name they are options of the run's own; a new source has its defaults.
    assert evaluate.main([*argv, "--data.max_samples=3"]) == 0
    assert size(top / "run", f"{found.name}-2").startswith("3 images")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--data.pth=x"], "no option --data.pth. Did you mean 'path'"),
        (["--data=captns"], "unknown data 'captns'"),
        (["--data.max_samples=x"], "--data.max_samples='x': must be int"),
        (["--data=captions", "--data=scenes"], "--data is given twice"),
        (["--data.path=gone"], "gone does not exist.*set it with --data.path=FOLDER"),
        (["--data=coco"], "set it with --data.path=FOLDER"),
        (["--data=mixture"], "--data.parts="),
        (["--config.data.eval.path=data"], "or write --data.path=data"),
        (["--data.split=tset"], "tset"),
    ],
)
def test_mistakes_in_the_data_of_an_evaluation(top, capsys, flags, said):
    import re

    line = failure(capsys, evaluate.main, f"--workdir={top / 'run'}", *flags)
    assert re.search(said, line), line
    assert "config.data.train" not in line


def edited(run, change):
    saved = json.loads((run / "config.json").read_text())
    change(saved)
    (run / "config.json").write_text(json.dumps(saved))


def moved(saved):
    for part in ("train", "eval"):
        saved["data"][part]["path"] = "data"


@pytest.mark.thorough
def test_changed_data_are_named(top, capsys):
    edited(top / "run", moved)  # from b, where five images lie
    line = failure(capsys, evaluate.main, f"--workdir={top / 'run'}")
    assert "data.eval holds other data than in the run (12 examples -> 5" in line
    assert "--data=NAME --data.path=FOLDER" in line
    with pytest.raises(UserError, match="data.train holds other data.*12 examples ->"):
        train(config("data", steps=2), top / "run", extend=True)


@pytest.mark.thorough
def test_a_run_of_an_older_version_is_used_as_it_was(top, trained, monkeypatch):
    edited(top / "run", moved)
    (top / "run" / datasets.FILE).unlink()
    monkeypatch.chdir(trained / "a")
    assert evaluate.main(["evaluate", f"--workdir={top / 'run'}"]) == 0
    assert size(top / "run").startswith("12 images")
    said = train(config("data", steps=2), top / "run", extend=True)
    assert said.resumed == 1
    assert set(datasets.read_saved(top / "run")) == {"data.train", "data.eval"}


@pytest.mark.thorough
def test_the_same_data_may_lie_elsewhere(top, trained):
    copy = shutil.copytree(trained / "a" / "data", top / "copy")
    said = train(config(str(copy), steps=2), top / "run", extend=True)
    assert said.resumed == 1 and f"data.train.path was {trained / 'a' / 'data'}" in said
    # Other data for evaluation are no mistake, unless the config names the same.
    now = datasets.read_saved(top / "run")
    now["data.eval"]["captions"] -= 1
    said = []
    datasets.check_training(top / "run", now, said.append)
    assert said == [
        "data.eval holds other data than before (12 captions -> 11): numbers "
        "from now on are not comparable with the earlier ones"
    ]
    now["data.eval"]["of"] = "{}"
    datasets.check_training(top / "run", now, said.append)
    assert len(said) == 1


@pytest.mark.thorough
def test_an_older_run_does_not_move(top, trained):
    (top / "run" / datasets.FILE).unlink()
    copy = shutil.copytree(trained / "a" / "data", top / "copy")
    with pytest.raises(UserError, match="another config .data.train.path"):
        resume.check(top / "run", datasets.resolve(config(str(copy))), False, print)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(count=6), ""),
        (dict(count=5), "6 examples -> 5, 6 captions -> 5, other caption counts, "),
        (dict(count=6, word="hue"), "other texts"),
        (dict(count=6, first=1), "other names"),
    ],
)
def test_what_a_fingerprint_tells(tmp_path, change, said):
    before = captions.make("all", path=str(write(tmp_path / "x", 6)))
    now = captions.make("all", path=str(write(tmp_path / "y", **change)))
    assert datasets.changes(
        datasets.fingerprint(before), datasets.fingerprint(now)
    ).startswith(said)
    same = datasets.changes(datasets.fingerprint(now), datasets.fingerprint(now))
    assert same == ""


class Poor:
    """A source of a user's own that says no more than it must; its fourth is broken."""

    max_captions, class_names, templates = 1, {}, {}

    def __init__(self, broken=False, count=20):
        self.caption_counts = np.ones(count, np.int32)
        self.broken = broken

    def __len__(self):
        return len(self.caption_counts)

    def __getitem__(self, index):
        raise NotImplementedError

    def key_of(self, index):
        return str(index)

    def captions_of(self, index):
        if self.broken:
            raise types.BadExample("it was made so")
        return [f"text {index}"]


def test_what_cannot_be_read_now_is_no_difference():
    whole, broken = datasets.fingerprint(Poor()), datasets.fingerprint(Poor(True))
    assert whole["texts"] and not broken["texts"] and broken["names"]
    assert datasets.changes(whole, broken) == "" == datasets.changes(broken, whole)
    assert "20 examples -> 19" in datasets.changes(
        whole, datasets.fingerprint(Poor(True, 19))
    )
    one = scenes.make("train", size=50, resolution=16)
    other = scenes.make("train", size=50, resolution=16, seed=1)
    found = datasets.changes(datasets.fingerprint(one), datasets.fingerprint(other))
    assert "other texts" in found


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("data/x", "{}/data/x"),
        ("../x", "{up}/x"),
        ("~/x", "{home}/x"),
        ("/x/y", "/x/y"),
        ("gs://bucket/x", "gs://bucket/x"),
        ("", ""),
    ],
)
def test_places_are_kept_absolute(tmp_path, monkeypatch, given, kept):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of")
    kept = kept.format(tmp_path, up=tmp_path.parent, home="/home/of")
    made = datasets.resolve(tiny("data=captions", data__train__path=given))
    assert made.data.train.path == made.data.eval.path == kept
    parts = f"captions path={given or '/'} split.val=all + scenes as='a b' size=9"
    made = datasets.resolve(tiny("data=mixture", data__train__parts=parts))
    expected = f"captions path={kept or '/'} split.val=all + scenes "
    assert made.data.train.parts.startswith(expected)
    assert (
        made.data.train.parts.endswith("'as=a b' size=9") or kept == given or not given
    )
    assert config_check.flat(made)["data.eval.parts"] == made.data.train.parts


def test_prepare_takes_the_split_in_either_form(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data", 3)
    argv = ["prepare", "verify", "--data=captions", "--data.path=data"]
    assert prepare.main([*argv, "--data.split=all"]) == 0
    assert "3 examples" in capsys.readouterr().out
    assert prepare.main([*argv, "--split=all"]) == 0  # of earlier versions
    told = capsys.readouterr()
    assert "3 examples" in told.out and "--data.split=all" in told.err
    line = failure(capsys, prepare.main, *argv[1:], "--data.split=all", "--split=all")
    assert "--split and --data.split are the same" in line
    line = failure(capsys, prepare.main, "verify", "--data=captions", "--data.path=x")
    assert "set it with --data.path=FOLDER" in line


def test_a_run_keeps_the_absolute_place_of_its_templates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = datasets.resolve(
        tiny("evals=zeroshot", evals=True, evals__zeroshot__templates_file="t.txt")
    )
    assert made.evals.zeroshot.templates_file == str(tmp_path / "t.txt")
