"""The commands and snippets of README.md and docs/, as a reader would run them."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shlex
import zlib
from typing import Any

from clipjax import run_command

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ["README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:python -m clipjax|python benchmarks/)[^`]+)`")

# Before what a page writes as a part of a command, by how it begins.
TRAIN = ("python", "-m", "clipjax.train")
QUICKSTART = "configs/quickstart.py"
# The configs that parts are for, by what is in them, where it is not the quickstart's.
CONFIGS = {
    "block_1[01]": "configs/vit_b16.py",
    "init_from=clip-vit-base-patch32": (
        "configs/quickstart.py:tokenizer=hf_json "
        "--config.data.tokenizer.path=clip-vit-base-patch32/tokenizer.json "
        "--config.data.tokenizer.context_length=32"
    ),
}

# Beginnings of what is not run, and why.
NOT_RUN = {
    "pip install": "network",
    "hf download": "network",
    "img2dataset": "network",
    "sed -i": "the list of addresses that the network gives",
    'clip = clipjax.load("hf-hub:': "network",
    "bash benchmarks/accelerator.sh": "accelerator",
    "--config configs/reports/five_losses.py --config.init_image": "network (weights)",
    "python -m pytest": "the tests themselves",
    "python -m clipjax.search query dog -": "a pipe",
    "python benchmarks/single_item.py": "an environment with other libraries",
    "python -m clipjax.testing loss=my_package.my_loss": "a name for the reader's own",
}


@dataclasses.dataclass(frozen=True)
class Piece:
    """kind: "command", or "python" for a whole snippet. block: its number on the page,
    -1 of one in running text. text: what is written; command: what is run.
    """

    page: str
    kind: str
    block: int
    text: str
    command: str

    @property
    def argv(self) -> list[str]:
        return shlex.split(self.command)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def pieces(page: str) -> list[Piece]:
    """Everything of a page that can be run, in order, but for NOT_RUN."""
    text, found = text_of(page), []
    for number, match in enumerate(BLOCK.finditer(text)):
        kind, content = match.groups()
        if kind == "python":
            found.append(Piece(page, kind, number, content, content))
        elif kind == "sh":
            found += [
                Piece(page, "command", number, one, _whole(one))
                for line in content.replace("\\\n", " ").splitlines()
                for one in _commands(line)
            ]
    for match in INLINE.finditer(BLOCK.sub("", text)):
        one = " ".join(match[1].replace("\\\n", " ").split())
        found.append(Piece(page, "command", -1, one, one))
    return [piece for piece in found if reason(piece.command) is None]


def reason(command: str) -> str | None:
    """Why a command is not run."""
    found = (NOT_RUN[start] for start in NOT_RUN if command.startswith(start))
    return next(found, None)


def opened(words: list[str]) -> Any:
    """The config of a training command's words, as clipjax.train makes it."""
    return run_command.read("train", ["train", *words], extend=False, dry_run=False)[0]


def _commands(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    parts, start = [], 0
    for i, word in enumerate([*words, "&&"]):
        if word == "&&":
            parts.append(shlex.join(words[start:i]))
            start = i + 1
    return [part for part in parts if part]


def _whole(part: str) -> str:
    """A part of a command gets the rest, and a workdir of its own."""
    words = shlex.split(part)
    if words[0].startswith(":"):
        words = [*TRAIN, "--config", QUICKSTART + words[0], *words[1:]]
    elif words[0].startswith("--config."):
        fitting = [config for key, config in CONFIGS.items() if key in part]
        config = (fitting or [QUICKSTART])[0]
        words = [*TRAIN, "--config", *shlex.split(config), *words]
    else:
        return part
    return shlex.join([*words, "--workdir", f"runs/{zlib.crc32(part.encode())}"])
