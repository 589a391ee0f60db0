"""examples/: each component keeps its contract, and their config trains."""

import ast
import json
import pathlib

import pytest
from marks import mostly

import run_tools
from clipjax import testing, train

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = {
    "hardest_loss": "loss",
    "mixer": "image",
    "stripes": "data",
    "byte_tokenizer": "tokenizer",
    "lion": "optim",
}


def test_one_file_of_few_lines_each():
    files = {path.stem: path for path in (ROOT / "examples").glob("*.py")}
    assert files.keys() == {*EXAMPLES, "alignment", "config"}
    for path in files.values():
        text = path.read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)) and len(text.splitlines()) <= 65


@pytest.mark.parametrize("name", mostly(EXAMPLES, ["hardest_loss", "stripes"]))
def test_contract(name):
    for check in testing.checks(EXAMPLES[name], f"examples.{name}", {}):
        check.run()


@pytest.mark.thorough
def test_their_config_trains(tmp_path):
    """The loss falls; the evaluator ends the run, beside one of our own."""
    config = ROOT / "examples" / "config.py"
    argv = ["train", "--config", str(config), "--workdir", str(tmp_path / "run")]
    argv += ["--config.train.steps=30", "--config.log.every=10"]
    with run_tools.one_device():
        assert train.main(argv) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < 0.95 * losses[0]
    named = {name for row in rows for name in row}
    assert {"eval/alignment/distance", "eval/retrieval/mean_recall@1"} <= named
