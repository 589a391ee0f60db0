"""Check a machine and a config before training: `python -m clipjax.doctor`."""

from __future__ import annotations

import pathlib
import tempfile
import typing
from collections.abc import Iterator

from rich.console import Console

from clipjax import commandline, help_pages, run_command
from clipjax.types import Config

if typing.TYPE_CHECKING:
    from clipjax.checkup.findings import Finding

HELP = """\
usage: python -m clipjax.doctor [--config FILE.py[:COMPONENTS] [--config.KEY=VALUE ...]
                                [--workdir DIR] [--quick]]

  --config FILE.py     checks this run too, as clipjax.train takes it
  --workdir DIR        its folder; runs/<config name>
  --quick              compiles and trains nothing

Each line says ok, warning (training works, worse) or error (it fails, or learns
nothing), and what mends it. The exit status is 1 if there is an error. Nothing is
written into the run's folder.

with a config: its data, what its checkpoints take, whether a step fits into memory, the
speed of the step and of the data each alone, the loss at the start, one batch learnt by
heart, and whether that carries over to evaluation data.
"""


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(help_pages.help_text(argv, HELP))
        return 0
    config, folder = None, pathlib.Path.cwd()
    if commandline.config_value(argv):
        from clipjax.engine import host

        host.fast_cpu_flags()  # as clipjax.train does, to measure the same
        host.keep_memory()
        config, values, folder, _ = run_command.read("doctor", argv, quick=False)
        quick = values.quick
    else:
        quick = commandline.parse(argv, None, quick=False, workdir="").quick
    console = Console(highlight=False, markup=False)
    states = []
    for line in _all(config, folder, quick):
        console.print(line.line(), soft_wrap=True, style=_STYLES[line.state])
        states.append(line.state)
    counts = {state: states.count(state) for state in ("error", "warning")}
    console.print(
        ", ".join(f"{count} {x}{'s' * (count != 1)}" for x, count in counts.items())
    )
    return 1 if counts["error"] else 0


_STYLES = {"ok": "", "warning": "yellow", "error": "red"}


def _all(config: Config | None, folder: pathlib.Path, quick: bool) -> Iterator[Finding]:
    from clipjax.checkup import system
    from clipjax.engine import distributed

    distributed.refuse_several("clipjax.doctor")
    yield from _machine(quick, config.model.get("precision", "") if config else "")
    place = system.existing(folder)
    machine = system.ask(place)
    if config is None:
        yield from system.checks(machine, place)
        return
    from clipjax.checkup import run_checks
    from clipjax.engine.compilation import enable_cache

    enable_cache(lambda line: None)
    with tempfile.TemporaryDirectory() as scratch:
        yield from run_checks.checks(
            config, folder, pathlib.Path(scratch), machine, place, quick
        )


def _machine(quick: bool, precision: str) -> Iterator[Finding]:
    """What is installed, and the devices. precision: the run's, "" without one."""
    from clipjax.checkup import devices, installation
    from clipjax.checkup.findings import found

    yield from found(installation.versions)
    yield from found(installation.extras)
    yield from found(devices.devices)
    if not quick:
        yield from devices.rates(precision)


if __name__ == "__main__":
    commandline.run(main)
