"""`clipjax` and `python -m clipjax`: the commands by their names."""

import importlib.metadata
import importlib.util
import pathlib
import subprocess
import sys
import tomllib

import pytest

import clipjax
from clipjax import __main__ as commands

ROOT = pathlib.Path(__file__).parents[2]


def called(capsys, monkeypatch, *argv):
    """The status of a command line, and what it prints."""
    monkeypatch.setattr(sys, "argv", list(argv))
    with pytest.raises(SystemExit) as exit_info:
        commands.main()
    printed = capsys.readouterr()
    return exit_info.value.code, printed.out, printed.err


def test_the_script_that_an_installation_gets():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (script,) = project["project"]["scripts"].items()
    entry = importlib.metadata.EntryPoint(*script, "console_scripts")
    assert entry.name == "clipjax" and entry.load() is commands.main


def test_every_command_is_listed_and_there(capsys, monkeypatch):
    status, out, _ = called(capsys, monkeypatch, "clipjax")
    assert status == 0
    for name, what in commands.COMMANDS.items():
        assert importlib.util.find_spec(f"clipjax.{name}") is not None
        assert f"  {name} " in out and what in out
    assert called(capsys, monkeypatch, "clipjax", "--help")[1] == out


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_is_of_the_command_as_it_was_started(capsys, monkeypatch, name):
    status, out, _ = called(capsys, monkeypatch, "/opt/my env/clipjax", name, "--help")
    assert status == 0
    assert f"clipjax {name} " in out and "python -m clipjax" not in out
    module = "clipjax/__main__.py"  # python -m clipjax
    status, out, _ = called(capsys, monkeypatch, module, name, "--help")
    assert status == 0 and f"python -m clipjax.{name} " in out


def test_mistakes(capsys, monkeypatch):
    status, out, err = called(capsys, monkeypatch, "clipjax", "trian")
    assert (status, out) == (2, "")
    assert err == (
        "error: 'trian' is no command. Did you mean 'train'? Use "
        f"{', '.join(commands.COMMANDS)}; clipjax alone explains them\n"
    )
    status, _, err = called(capsys, monkeypatch, "clipjax", "train")
    assert status == 2
    assert "Start with clipjax train --config configs/quickstart.py" in err
    status, _, err = called(capsys, monkeypatch, "clipjax", "prepare", "--data=scenes")
    assert status == 2 and "'--data=scenes' is no action" in err


def test_version_without_starting_jax():
    code = (
        "import sys; sys.argv = ['clipjax', '--version']\n"
        "import atexit; atexit.register(lambda: print('jax' in sys.modules))\n"
        "from clipjax.__main__ import main; main()"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout == f"clipjax {clipjax.__version__}\nFalse\n"
