"""`evaluate --suite`: what it makes, what it finds there already, and mistakes."""

import csv
import io
import json
import shutil

import pytest
import released_tools
from command_tools import failure
from rich.console import Console
from source_tools import jpeg

from clipjax import evaluate, results, suites
from clipjax.engine.checkpoint.saves import Checkpoints
from clipjax.types import EvalResult, Metric

pytestmark = pytest.mark.usefixtures("on_one_device")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two released models and ten images of two classes."""
    folder = tmp_path_factory.mktemp("suite")
    released_tools.hf(folder / "one")
    shutil.copytree(folder / "one", folder / "two")
    for number in range(10):
        path = folder / "flowers" / "test" / ("dog", "cat")[number % 2]
        path.mkdir(parents=True, exist_ok=True)
        (path / f"{number}.jpg").write_bytes(jpeg(number))
    return folder


@pytest.fixture
def suite(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = {"evals": "zeroshot", "data": "imagefolder", "split": "test"}
    entry["data_options"] = {"path": str(place / "flowers")}
    few = entry | {"evals_options": {"zeroshot": {"templates": ["a {}", "the {}"]}}}
    content = {"plain": entry, "few": few}
    write(tmp_path, content)
    return content


def write(folder, content):
    (folder / "suite.json").write_text(json.dumps(content))


def argv(place, models=("one", "two")):
    names = ",".join(str(place / name) for name in models)
    return ["--suite=suite.json", f"--model={names}", "--out=out"]


def written(place):
    """Which file it is, and when it was written; reading it changes other times."""
    return place.stat().st_ino, place.stat().st_mtime_ns


def lines(folder):
    with (folder / "out" / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.thorough
def test_a_suite_goes_on(place, suite, tmp_path, capsys):
    words = ["evaluate", *argv(place)]
    # The first start ends before the second evaluation is there.
    write(tmp_path, {"plain": suite["plain"]})
    assert evaluate.main(words) == 0
    made = tmp_path / "out" / "one" / "plain" / "results.json"
    before = written(made)
    write(tmp_path, suite)
    assert evaluate.main(words) == 0
    assert written(made) == before
    assert "one/plain: there already" in capsys.readouterr().out
    table = lines(tmp_path)
    assert {(x["model"], x["evaluation"]) for x in table} == {
        (model, name) for model in ("one", "two") for name in suite
    }
    for line in table:
        folder = tmp_path / "out" / line["model"] / line["evaluation"]
        found = results.read(folder).results[line["evaluator"]]
        metric = found.metrics[line["metric"]]
        for name in ("value", "low", "high", "n", "chance"):
            value = getattr(metric, name)
            assert line[name] == ("" if value is None else str(value))
        assert line["protocol"] == found.protocol
    assert "2 templates" in table[-1]["protocol"]
    assert "1 template " in table[0]["protocol"]
    markdown = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert markdown[0] == "| evaluation | metric | one | two |"
    assert len(markdown) == 4 and markdown[2].startswith(
        "| plain | zeroshot/class/top1 |"
    )
    cells = markdown[2].split(" | ")[2:]
    assert cells[0] == cells[1].removesuffix(" |") and " % (" in cells[0]


@pytest.mark.thorough
def test_one_that_fails_keeps_the_others(place, suite, tmp_path, capsys):
    bad = suite["plain"] | {"data_options": {"path": "nowhere"}}
    write(tmp_path, {"bad": bad, "plain": suite["plain"]})
    line = failure(capsys, evaluate.main, *argv(place, ["one"]))
    assert "1 of the evaluations failed: bad of" in line and "nowhere" in line
    assert {x["evaluation"] for x in lines(tmp_path)} == {"plain"}
    # It goes on when the fault is mended: there are no results of it.
    write(tmp_path, {"bad": suite["plain"], "plain": suite["plain"]})
    assert evaluate.main(["evaluate", *argv(place, ["one"])]) == 0
    assert {x["evaluation"] for x in lines(tmp_path)} == {"plain", "bad"}
    write(tmp_path, {"bad": bad})
    line = failure(capsys, evaluate.main, *argv(place, ["one"]))
    assert "has results of another 'bad'" in line


def test_mistakes(place, suite, tmp_path, capsys):
    def told(content=None, *words):
        write(tmp_path, suite if content is None else content)
        return failure(capsys, evaluate.main, *(words or argv(place, ["one"])))

    assert "unknown key 'eval'. Did you mean 'evals'?" in told(
        {"x": {"eval": "zeroshot"}}
    )
    assert "x: ema is 'no': give a JSON true or false" in told({"x": {"ema": "no"}})
    assert "names no evaluations" in told({})
    assert "'a/b' cannot be a folder's name" in told({"a/b": {}})
    assert "needs --model MODEL,MODEL,... and --out" in told(None, "--suite=suite.json")
    assert "unknown flag '--evals=x'" in told(None, *argv(place, ["one"]), "--evals=x")
    assert "two models are called 'one'" in told(None, *argv(place, ["one", "one"]))
    (tmp_path / "suite.json").write_text("{")
    assert "suite.json is no JSON" in failure(capsys, evaluate.main, *argv(place))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert "out exists and is no suite's" in told()
    assert sorted(x.name for x in (tmp_path / "out").iterdir()) == ["mine"]
    (tmp_path / "out" / "suite.json").write_text('{"plain": ')
    assert "out/suite.json is no JSON" in told()
    assert not (tmp_path / "out" / "one").exists()


def test_results_of_an_earlier_step_are_named(tmp_path, monkeypatch):
    """A run that has trained on since: its results stay, and the line says it."""
    run = tmp_path / "runs" / "a"
    of = {"workdir": str(run), "step": 2}
    top = EvalResult({"top1": Metric(0.5, unit="fraction")}, "top1", "2 images")
    results.save(tmp_path / "out" / "a" / "plain", {"": ({"zeroshot": top}, of)})
    write(tmp_path, {"plain": {}})
    shutil.copy(tmp_path / "suite.json", tmp_path / "out" / "suite.json")
    monkeypatch.setattr(Checkpoints, "steps", lambda self: [2, 4])
    monkeypatch.setattr(Checkpoints, "best_step", lambda self: best)

    def told():
        said = io.StringIO()
        suites.run(
            [str(run)],
            tmp_path / "suite.json",
            tmp_path / "out",
            Console(file=said, width=300),
        )
        return said.getvalue().splitlines()[0]

    best = 2
    assert told().endswith("plain: there already")
    best = None
    assert "there already, of step 2, and the run has step 4 by now: rem" in told()
