"""A run's configuration, its machine, and how to make it again."""

from __future__ import annotations

import json

from clipjax import config_check, paths
from clipjax.report_parts.page import Code, Facts, Fold, Section, Table, Text
from clipjax.report_parts.run_files import RunFiles, short

# A config file that reads a run's config.json.
AGAIN = """\
import json
from clipjax.config_check import from_dict

def get_config(arg=None):
    with open({path!r}) as file:
        return from_dict(json.load(file)).unlock()
"""


def configuration_section(run: RunFiles) -> Section:
    """The config and what was changed on the command line."""
    blocks: list[object] = []
    if run.starts:
        changed = run.starts[0].get("changed") or {}
        file = run.starts[0].get("config", "the config file")
        if changed:
            lines = [[key, short(x[0]), short(x[1])] for key, x in changed.items()]
            head = ["key", "in the file", "in the run"]
            blocks.append(Table(head, lines, f"What differs from {file}", texts=3))
        else:
            blocks.append(Text(f"Nothing differs from {file}."))
    elif run.config:
        blocks.append(
            Text("Which file and flags it was started with is not known.", "gap")
        )
    if run.config:
        flat = config_check.flat(run.config)
        keys = [(key, short(value)) for key, value in flat.items()]
        blocks.append(Fold("Every key", [Facts(keys)]))
    else:
        blocks.append(Text("The config is missing.", "gap"))
    if run.environment:
        pairs = [(key, _plain(value)) for key, value in run.environment.items()]
        blocks.append(Fold("Environment", [Facts(pairs)]))
    blocks += _again(run)
    return Section("Configuration", blocks)


def _again(run: RunFiles) -> list[object]:
    """The commands that make the run again."""
    commands = list(
        dict.fromkeys(
            start["command"] for start in run.starts if start.get("command")
        )
    )  # fmt: skip
    folder = paths.shell(run.folder)
    if commands:
        text = "\n".join([*commands, f"python -m clipjax.evaluate --workdir {folder}"])
        return [Text("The commands that made it, and its evaluation:"), Code(text)]
    if not run.config:
        return []
    name = str(run.folder / "config.json")
    return [
        Text(
            "To train it again, save this as again.py and start python -m "
            "clipjax.train --config again.py --workdir runs/again"
        ),
        Code(AGAIN.format(path=name)),
    ]


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
