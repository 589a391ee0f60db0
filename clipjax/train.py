"""Train a model: `python -m clipjax.train --config configs/quickstart.py`.

The same command resumes a run that was stopped.
"""

from __future__ import annotations

import shlex
import typing
from typing import Any

from rich.console import Console

from clipjax import commandline, help_pages, paths, run_command
from clipjax.types import Config, UserError

if typing.TYPE_CHECKING:
    from clipjax.engine.loop import Outcome

HELP = """\
usage: python -m clipjax.train --config FILE.py[:COMPONENTS] [--config.KEY=VALUE ...]
                               [--workdir DIR] [--extend] [--dry_run] [--find lr]

  --config FILE.py:loss=clip,optim=sgd   a config, with components chosen by name
  --config.optim.lr=3e-4                 a value of the config (--dry_run lists all)
  --workdir DIR                          the run's folder; runs/<config name>
  --extend                               resume with longer train.steps or epochs
  --dry_run                              show what would be trained, then exit
  --find lr                              a learning-rate range test: suggests a rate
    --find_steps 100                     how many steps it takes at most
    --find_range 1e-7,10                 from which rate to which

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
    config, values, folder, changed = run_command.read(
        "train",
        argv,
        extend=False,
        dry_run=False,
        find="",
        find_steps=100,
        find_range="1e-7,10",
    )
    _check_find(values)
    workdir = run_command.workdir(argv)

    import jax

    from clipjax.engine import distributed

    distributed.initialise(config.mesh.timeout)
    distributed.compare(config)
    if values.dry_run:
        from clipjax.engine import describe

        describe.describe(config, folder)
        return 0
    console = Console(quiet=jax.process_index() > 0, highlight=False, markup=False)
    if values.find:
        from clipjax.engine import find_rate

        find_rate.find(
            config,
            folder,
            steps=values.find_steps,
            rates=find_rate.parse_range(values.find_range),
            console=console,
        )
        return 0
    from clipjax import result_tables
    from clipjax.engine import loop
    from clipjax.engine.starts import Start

    command = f"python -m clipjax.train {shlex.join(argv[1:])}"
    start = Start(command, commandline.config_value(argv) or "", changed)
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


def _check_find(values: Any) -> None:
    """Raises UserError for flags of --find that do not go together."""
    if values.find not in ("", "lr"):
        raise UserError(
            f"--find={values.find}: only a learning rate is found, --find lr"
        )
    for name in ("find_steps", "find_range"):
        if values[name].present and not values.find:
            raise UserError(f"--{name} is of a range test: add --find lr")
    for name in ("extend", "dry_run"):
        if values.find and getattr(values, name):
            raise UserError(
                f"--find lr trains no run and takes no --{name}: leave one of them out"
            )


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
