"""Every command by its name: `clipjax train ...`, or `python -m clipjax train ...`."""

from __future__ import annotations

import importlib
import sys

import clipjax

# Command -> what it does, as `clipjax` lists them. Each is a module with a main(argv).
COMMANDS = {
    "train": "train a model, or resume a run",
    "evaluate": "evaluate a run or a released model",
    "compare": "compare evaluations of several models, query by query",
    "study": "many runs: which is best, with what confidence",
    "report": "a run, or several, as one page to look at",
    "embed": "write a data set's embeddings to disk",
    "doctor": "check a machine and a config before training",
    "monitor": "look at runs while they train",
    "search": "search your photos by words, by images, and for copies",
    "maps": "draw what a model looks at, for texts",
    "export": "write a model for transformers or open_clip",
    "prepare": "convert, inspect, verify and subset data",
    "testing": "check components of your own against their contracts",
}
HELP = """\
usage: clipjax COMMAND ...        the same as python -m clipjax.COMMAND ...

{commands}

  clipjax COMMAND --help          what a command takes
  clipjax --version
"""


def main() -> None:
    """Runs the command that the command line names, and exits with its status."""
    from clipjax import commandline

    program, *rest = sys.argv
    name = rest[0] if rest else ""
    if name in COMMANDS:
        place = "testing.__main__" if name == "testing" else name
        sys.argv = [program, *rest[1:]]
        commandline.run(lambda argv: _module(place).main(argv))
    commandline.run(_of_none)


def _module(place: str):
    return importlib.import_module(f"clipjax.{place}")


def _of_none(argv: list[str]) -> int:
    """What no command does: the list of them, and the version."""
    from clipjax import registry
    from clipjax.types import UserError

    if argv[1:] in (["--version"], ["version"]):
        print(f"clipjax {clipjax.__version__}")
        return 0
    if argv[1:] not in ([], ["--help"], ["-h"], ["help"]):
        hint = registry.suggest(argv[1], COMMANDS)
        raise UserError(
            f"{argv[1]!r} is no command.{hint} Use {', '.join(COMMANDS)}; "
            "clipjax alone explains them"
        )
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    print(HELP.format(commands="\n".join(lines)), end="")
    return 0


if __name__ == "__main__":
    main()
