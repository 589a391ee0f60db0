"""Commands that must fail."""

import pathlib

import pytest

from clipjax import commandline


def failure(capsys, main, *argv):
    """What a command that must fail prints: one line, with status 2."""
    sys_argv = ["command", *argv]
    with pytest.raises(SystemExit) as exit_info:
        commandline.run(lambda _: main(sys_argv))
    printed = capsys.readouterr()
    assert exit_info.value.code == 2
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("error: ")
    assert not pathlib.Path("runs").exists()
    return lines[0]
