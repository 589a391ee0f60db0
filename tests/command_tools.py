"""Commands that must fail."""

import pathlib
import re

import pytest

from clipjax import commandline


def failure(capsys, main, *argv):
    """What a command that must fail prints: one line, with status 2.

    On a slow machine it may say before what it does, and for how long.
    """
    sys_argv = ["command", *argv]
    with pytest.raises(SystemExit) as exit_info:
        commandline.run(lambda _: main(sys_argv))
    printed = capsys.readouterr()
    assert exit_info.value.code == 2
    lines = [
        line
        for line in printed.err.strip().splitlines()
        if not re.fullmatch(r"[\w ]+  \d+:\d\d.*", line)
    ]
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("error: ")
    assert not pathlib.Path("runs").exists()
    return lines[0]
