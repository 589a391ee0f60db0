"""Folders of any name through train, resume, evaluate, export, load and prepare."""

import os
import pathlib
import shutil

import numpy as np
import pytest

import clipjax
import run_tools
from clipjax import commandline, evaluate, export, prepare, results, train

CONFIG = pathlib.Path(__file__).parents[1] / "config_tiny.py"
DEFAULT = [
    "exp [lr=1e-3]",
    'it\'s "quoted" $HOME `x` \\n',
    "*?{}%#&;|<>!",
    "\u00e9 e\u0301 \u732b \U0001f408",
    "two\nlines and\ttabs",
    "~" + "n" * 200 + ":",
]
NOT_TEXT = os.fsdecode(b"latin \xe9")
MORE = [
    *("plain", "a b", "  lead", "trail  ", "it's", '"', "''", "`", "$(x)", "~", "~x"),
    *("[", "]", "[]", "[!a]", "[a-z]", "[[1]]", "a[1", "{a,b}", "{0..3}", "{", "}"),
    *("*", "**", "?", "a*", "%", "%20", "%s%n", "#", "#a=1", "&", "&&", ";", "a;b"),
    *("\\", "a\\b", "\\x41", "\n", "\r\n", "\t", "\x01", "\x7f", ":", "a:b", "gs:"),
    *("=", "a=b", "--x", "-", "@", "+", ",", "a,b", "!", "^", "(", ")", "|", "<", ">"),
    *("é", "e\u0301", "猫", "🐈", "\u202eabc", "\u00a0", "\u2028", "ﬁ", "İ", "ß"),
    *("x" * 200, "é" * 120, "...", ".hidden", "con", "nul", "a.py:b", ".__lock"),
    *("checkpoints", "[/b]", "[red]", "{split}", "::"),
]
pytestmark = pytest.mark.usefixtures("on_one_device")

SHORT = ("--config.train.val_batches=0", "--config.checkpoint.every=1")
STEPS = "--config.train.steps"


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def call(main, *argv):
        """Runs a command as it is started; it must do what it is asked."""
        with pytest.raises(SystemExit) as ended:
            commandline.run(lambda _: main(["command", *argv]))
        said = capsys.readouterr()
        assert ended.value.code == 0, said.err
        return said.out

    return call


def through_everything(call, tmp_path, name, trained=None):
    """trained: a run to take in place of training here."""
    top = tmp_path / "top"
    folder = top / name
    folder.mkdir(parents=True)
    shutil.copy(CONFIG, folder / "c.py")
    run, data = folder / "run", folder / "data"
    call(
        prepare.main,
        *("convert", "--data=scenes", "--data.size=24", "--data.split=train,val"),
        f"--out={data}",
    )
    read = ("--data=arrayrecord", f"--data.path={data}")
    assert "24 examples" in call(prepare.main, "verify", *read)
    argv = [f"--config={folder / 'c.py'}:evals=none", *SHORT, f"--workdir={run}"]
    if trained:
        shutil.copytree(trained, run)
        assert "complete" in call(train.main, *argv, f"{STEPS}=2")
    else:
        call(train.main, *argv, f"{STEPS}=2")
        assert "from step 2" in call(train.main, *argv, f"{STEPS}=3", "--extend")
        assert run_tools.saved(run)[1] == 3 and run_tools.saved(run, "2")[1] == 2
    other = f"--config={folder / 'c.py'}:evals=retrieval"
    call(evaluate.main, f"--workdir={run}", other, f"--out={folder / 'r'}")
    assert len(results.read(folder / "r").rows("retrieval")["key"]) > 0
    assert results.folders(run) == []  # evals=none, and --out elsewhere
    out = folder / "out"
    call(export.main, f"--workdir={run}", "--format=open_clip", f"--out={out}")
    texts = ["a red circle"]
    here = clipjax.load(str(run)).encode_text(texts)
    np.testing.assert_allclose(clipjax.load(str(out)).encode_text(texts), here)
    # Nothing lies anywhere else, and all of it can be taken along.
    first, *rest = name.split("/")
    assert os.listdir(top) == [first] and not os.listdir(tmp_path / "cwd")
    there = set(os.listdir(folder)) - {"__pycache__"}  # Python's, of c.py
    assert there == {"c.py", "data", "out", "r", "run"}
    shutil.move(top / first, tmp_path / "moved")
    moved = clipjax.load(pathlib.Path(tmp_path, "moved", *rest, "run"))
    np.testing.assert_array_equal(moved.encode_text(texts), here)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a [b]\\c")
    argv = [f"--config={CONFIG}:evals=none", *SHORT, f"--workdir={folder / 'run'}"]
    assert train.main(["train", *argv, f"{STEPS}=2"]) == 0
    return folder / "run"


@pytest.mark.thorough
@pytest.mark.parametrize("name", DEFAULT, ids=ascii)
def test_a_name(call, tmp_path, trained, name):
    through_everything(call, tmp_path, name, trained)


def test_a_name_that_is_no_text(capsys, tmp_path):
    """One line, from every command."""
    place = tmp_path / NOT_TEXT
    shown = "latin \\udce9"
    for main, *argv in (
        (train.main, f"--config={CONFIG}", f"--workdir={place}"),
        (train.main, f"--config={place}/c.py"),
        (evaluate.main, f"--workdir={place}"),
        (export.main, f"--workdir={place}", "--format=hf", "--out=x"),
        (prepare.main, "convert", "--data=scenes", f"--out={place}"),
        (prepare.main, "verify", "--data=captions", f"--data.path={place}"),
        (lambda argv: clipjax.load(place),),
    ):
        with pytest.raises(SystemExit) as ended:
            commandline.run(lambda _, main=main, argv=argv: main(["command", *argv]))
        lines = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2 and len(lines) == 1
        assert "UTF-8" in lines[0] and NOT_TEXT in lines[0].replace(shown, NOT_TEXT)
    assert not os.listdir(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MORE, ids=ascii)
def test_every_name(call, tmp_path, name):
    through_everything(call, tmp_path, name)
