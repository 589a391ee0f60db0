"""Train a model: `python -m clipjax.train --config configs/quickstart.py`.

The same command resumes a run that was stopped.
"""

from __future__ import annotations

import pathlib
import shlex
import typing
from typing import Any

from rich.console import Console

from clipjax import commandline, config_check, help_pages, paths
from clipjax import config as configs
from clipjax.types import Config, UserError

if typing.TYPE_CHECKING:
    from clipjax.engine.loop import Outcome

HELP = """\
usage: python -m clipjax.train --config FILE.py[:COMPONENTS] [--config.KEY=VALUE ...]
                               [--workdir DIR] [--extend] [--dry_run]

  --config FILE.py:loss=clip,optim=sgd   a config, with components chosen by name
  --config.optim.lr=3e-4                 a value of the config (--dry_run lists all)
  --workdir DIR                          the run's folder; runs/<config name>
  --extend                               resume with longer train.steps or epochs
  --dry_run                              show what would be trained, then exit

The same command resumes a run that was stopped.

components, after the colon:
{components}

examples:
  python -m clipjax.train --config configs/quickstart.py
  python -m clipjax.train --config configs/quickstart.py:optim=sgd \\
      --config.optim.lr=0.05 --workdir runs/sgd
  python -m clipjax.train --config configs/flickr8k_vit.py:size=cpu \\
      --config.data.train.path=DATA/flickr8k
  python -m clipjax.train --config configs/vit_b16.py:model=released \\
      --config.model.path=clip-vit-base-patch32/ --dry_run
"""


def read_command(argv: list[str]) -> tuple[Config, Any, pathlib.Path, dict]:
    """The checked config of a command line, its own flags, the run's folder, and the
    keys that flags change: key -> (the file's value, the config's).

    Raises UserError if no config is given, or it cannot be trained.
    """
    from clipjax.engine import architecture

    value = commandline.config_value(argv)
    if not value:
        raise UserError(
            "no --config given. Start with "
            "python -m clipjax.train --config configs/quickstart.py"
        )
    config = commandline.load_file(value)
    workdir = commandline.flag_value(argv, "workdir") or _workdir(argv)
    before = None
    if config.model.name == architecture.NAME:
        key = f"config.{architecture.KEY}"
        path = commandline.flag_value(argv, key) or config.model.path
        words = configs.component_words(commandline.split_value(value)[1])
        key = f"config.{architecture.PREPROCESS_KEY}"
        preprocess = commandline.flag_value(argv, key) or config.model.preprocess
        folder = paths.local(workdir, "a run")
        architecture.begin(config, path, folder, words, preprocess)
        before = config.copy_and_resolve_references()
    chosen = config.copy_and_resolve_references()
    values = commandline.parse(argv, config, workdir="", extend=False, dry_run=False)
    if before is not None:
        config, chosen = (
            architecture.settle(config, before),
            architecture.settle(chosen),
        )
    config_check.validate(config, chosen)
    changed = config_check.changes(chosen, config)
    return config, values, paths.local(workdir, "a run"), changed


def _workdir(argv: list[str]) -> str:
    """The folder of a run whose command names none."""
    value = commandline.config_value(argv) or ""
    return f"runs/{pathlib.Path(commandline.split_value(value)[0]).stem}"


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(
            help_pages.help_text(
                argv, HELP.format(components=commandline.list_components())
            )
        )
        return 0
    from clipjax.engine import host

    host.fast_cpu_flags()  # before jax starts its backend
    host.keep_memory()
    config, values, folder, changed = read_command(argv)
    workdir = values.workdir or _workdir(argv)

    import jax

    from clipjax.engine import distributed

    distributed.initialise(config.mesh.timeout)
    distributed.compare(config)
    if values.dry_run:
        from clipjax.engine import describe

        describe.describe(config, folder)
        return 0
    from clipjax import result_tables
    from clipjax.engine import loop
    from clipjax.engine.starts import Start

    command = f"python -m clipjax.train {shlex.join(argv[1:])}"
    start = Start(command, commandline.config_value(argv) or "", changed)
    console = Console(quiet=jax.process_index() > 0, highlight=False, markup=False)
    outcome = loop.train(
        config, folder, extend=values.extend, console=console, start=start
    )
    if outcome.stopped_by:
        console.print(f"saved; the same command goes on from step {outcome.step}")
        return 128 + outcome.stopped_by
    if outcome.results:
        console.print(result_tables.table(outcome.results))
    for line in _last_lines(config, workdir, outcome):
        console.print(commandline.spell_commands(line), soft_wrap=True)
    return 0


def _last_lines(config: Config, workdir: str, outcome: Outcome) -> list[str]:
    """Which checkpoint is best, and the commands to go on with, for the shell."""
    lines = []
    if outcome.best is not None:
        first = outcome.best_metric
        primary = [f"{name}/{one.primary}" for name, one in outcome.results.items()]
        names = dict.fromkeys([first, "val_loss", *primary])
        values = [
            f"{name} {outcome.best_metrics[name]:.4g}"
            for name in names
            if name in outcome.best_metrics
        ]
        lines.append(
            f"best checkpoint: step {outcome.best} of {outcome.step}, by {first}: "
            + ", ".join(values)
        )
    if "num_classes" in config.model:
        load, use = "model", "model.classify([image])"
    else:
        load, use = "clip", 'clip.encode_text(["..."])'
    name = ascii(workdir)
    if name.startswith("'") and '"' not in name:  # shlex puts single quotes around it
        name = f'"{name[1:-1]}"'
    load = shlex.quote(f"import clipjax; {load} = clipjax.load({name})")
    word = paths.shell(workdir)
    lines += [
        f"done: {workdir}. Next:",
        f"  python -m clipjax.evaluate --workdir {word}",
        f"  python -ic {load}  # then {use}",
    ]
    if config.log.tensorboard:
        lines.append(f"  tensorboard --logdir {word}  # pip install tensorboard")
    help_line = (
        "  python -m clipjax.train --help  # other towers, losses, data, optimizers"
    )
    return [*lines, help_line]


if __name__ == "__main__":
    commandline.run(main)
