"""`python -m clipjax.compare`: its table, its report and its mistakes."""

import json
import shutil
import subprocess
import sys

import comparison_tools as tools
import numpy as np
import pytest
from command_tools import failure

from clipjax import compare
from clipjax.types import EvalResult, Metric

# Three captions an image, of which the second model finds more.
KEYS = [f"{i // 3}.jpg" for i in range(60)]


def recalls(values):
    """A user's own evaluator with a share, and another whose name is long."""
    values = np.asarray(values, float)
    metrics = {
        "hits": Metric(float(values.mean()), unit="fraction"),
        "far/away/a_metric_of_a_long_name": Metric(2.0, unit="nats"),
    }
    rows = {"key": KEYS, "hits": values, "query": np.arange(60)}
    rows["far/away/a_metric_of_a_long_name"] = np.full(60, 2.0)
    return {"mine": EvalResult(metrics, "hits", "20 images", rows=rows)}


@pytest.fixture
def top(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    first = draw.random(60) < 0.4
    tools.write(tmp_path / "runs" / "a" / "evaluations" / "2", recalls(first))
    second = first | (draw.random(60) < 0.3)
    second[5] = False
    first[5] = True
    tools.write(tmp_path / "b", recalls(second))
    tools.write(tmp_path / "c", recalls(first[::-1]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words):
    return compare.main(["compare", *words])


def test_a_flip_of_long_texts_is_a_line(top, capsys):
    long = "a red\n circle " * 70_000
    rows = {
        "key": ["two\nlines", long],
        "direction": ["text_to_image"] * 2,
        "query": np.arange(2),
        "captions": [[long], ["short"]],
    }
    for name, hits in (("few", [0.0, 1.0]), ("more", [1.0, 0.0])):
        table = {**rows, "hits": np.array(hits)}
        metric = {"hits": Metric(0.5, unit="fraction")}
        result = EvalResult(metric, "hits", "2", rows=table)
        tools.write(top / name, {"mine": result})
    assert command("few", "more", "--show=1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    better = lines.index("  hits, better: 1 of 1") + 1
    text = " ".join(line.strip() for line in lines[better : better + 4])
    assert text.startswith("two lines text_to_image 0 'a red\\n circle a red\\n circle")
    assert " ... " in text and "circle ': 0.00 -> 100.00 %" in text


def test_the_table(top, capsys):
    assert command("runs/a", "b", "c", "--show=2", "--metric", "mine/hits") == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == ["A: runs/a/evaluations/2 (baseline)", "B: b", "C: c"]
    assert all(len(line) <= 100 for line in lines)
    row = next(line for line in lines if line.startswith("  hits%")).split()
    first, second = (
        np.array(tools.results.read(name).rows("mine")["hits"])
        for name in ("runs/a/evaluations/2", "b")
    )
    before, after = 100 * first.mean(), 100 * second.mean()
    assert row[1:4] == [f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"]
    better, worse = (second > first).sum(), (second < first).sum()
    assert row[-2:] == [f"{better}/{worse}", "60"]
    assert "mine, B against A: 60 rows are paired" in lines
    assert f"  hits, better: 2 of {better}" in lines
    at = lines.index(f"  hits, better: 2 of {better}")
    places = np.flatnonzero(second > first)[:2]
    expected = [f"    {KEYS[i]} {i}: 0.00 -> 100.00 %" for i in places]
    assert lines[at + 1 : at + 3] == expected
    assert lines[-1].endswith("pH: p adjusted for all 2 (Holm)")
    # Without --metric, of the primary metric alone.
    command("runs/a", "b", "--show=2")
    shown = [line for line in capsys.readouterr().out.splitlines() if "better:" in line]
    assert shown == [f"  hits, better: 2 of {better}"]


def test_directions_are_headings(capsys, top):
    values = (np.arange(60) % 3 == 0) * 1.0
    names = ["coco_5k/image_to_text_recall@10", "coco_5k/mean_recall@10"]
    metric = Metric(float(values.mean()), unit="fraction")
    for folder, shift in (("x", 0), ("y", 1)):
        rows = {"key": KEYS, "query": np.arange(60)}
        rows |= dict.fromkeys(names, np.roll(values, shift))
        metrics = dict.fromkeys(names, metric)
        tools.write(top / folder, {"own": EvalResult(metrics, names[0], "", rows=rows)})
    command("x", "y")
    lines = capsys.readouterr().out.splitlines()
    heads = [
        line.strip() for line in lines if line.startswith("  ") and "." not in line
    ]
    assert heads[1:] == ["coco_5k/", "image_to_text", "coco_5k/", "mean"]
    assert sum(line.startswith("   recall@10%") for line in lines) == 2


def test_a_long_name_keeps_its_numbers(top, capsys):
    command("runs/a", "b")
    lines = capsys.readouterr().out.splitlines()
    at = lines.index(next(line for line in lines if line.strip() == "far/"))
    assert lines[at + 1].strip() == "away" and "2 " in lines[at + 2]
    assert "+0" in lines[at + 2] and lines[at + 2].rstrip().endswith("60")


def test_the_report_and_a_start_without_jax(top):
    code = (
        "import sys; sys.argv = ['compare', 'runs/a', 'b', '--out', 'new/out']\n"
        "import atexit; atexit.register(lambda: print('jax' in sys.modules))\n"
        "from clipjax import commandline, compare; commandline.run(compare.main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[-2:] == [f"written: {top / 'new' / 'out'}", "False"]
    content = json.loads((top / "new" / "out" / "compare.json").read_text())
    assert content["models"] == [str(top / "b")]
    assert (top / "new" / "out" / "mine.parquet").exists()


def test_mistakes(top, capsys):
    def told(*words):
        return failure(capsys, compare.main, *words)

    shutil.move("runs", "trained")
    assert told().endswith("such as python -m clipjax.compare runs/a runs/b")
    assert "only b is named" in told("b")
    assert "nowhere: there is no such folder" in told("b", "nowhere")
    (top / "empty").mkdir()
    assert "empty is no evaluation's folder: it has no results.json" in told(
        "b", "empty"
    )
    assert told("b", "c", "--metric=hit") == (
        "error: no evaluator gives 'hit'. Did you mean 'hits'?"
    )
    assert "unknown flag '--metrics=hits'. Did you mean 'metric'?" in told(
        "b", "c", "--metrics=hits"
    )
    assert "--show=-1: use 0 or more" in told("b", "c", "--show=-1")
    assert "--out" in told("b", "c", "--out=b")
    # A table that lost rows.
    fewer = tools.write(top / "fewer", recalls([0, 1] * 30))
    rows = tools.results.read(fewer).rows("mine")
    half = {name: column[:30] for name, column in rows.items()}
    tools.write(
        top / "half", {"mine": EvalResult({"x": Metric(1)}, "x", "", rows=half)}
    )
    shutil.copy(top / "half" / "mine.parquet", fewer)
    assert "mine.parquet has 30 rows of 60: evaluate again" in told("b", "fewer")
    assert "share 30 of 60 and 30 rows" in told("b", "half")
    # Weights between two models are several evaluations.
    (top / "mixed").mkdir()
    for name in ("share-0", "share-1"):
        shutil.copytree("b", top / "mixed" / name)
    assert "in it are share-0, share-1: name one" in told("b", "mixed")
