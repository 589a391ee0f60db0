"""Evaluate a trained run: `python -m clipjax.evaluate --workdir runs/quickstart`.

Runs the evaluators of the run's config, or those of another config's `evals` and
evaluation data, on the run's best, latest or a numbered checkpoint.
"""

from __future__ import annotations

import pathlib
import re

from rich.console import Console

from clipjax import commandline, config_check
from clipjax.types import Config, UserError

HELP = """\
usage: python -m clipjax.evaluate --workdir DIR [--checkpoint best|latest|STEP]
                                  [--noema] [--json FILE]
                                  [--config FILE.py:evals=NAME,data=NAME ...]

  --workdir DIR        the run, as given to clipjax.train
  --checkpoint best    which checkpoint; a step's number, latest, or best (default)
  --noema              the plain weights also where the run kept a moving average
  --json FILE          where results go; DIR/evaluation-STEP[-CONFIG].json by default
  --config FILE.py     take evaluators and evaluation data from this config (with its
                       --config.evals... and --config.data.eval... flags), not the run's

evaluators: {evals}
"""


def main(argv: list[str]) -> int:
    from clipjax import registry

    if "--help" in argv or "-h" in argv:
        print(HELP.format(evals=", ".join(registry.names("evals"))))
        return 0
    from clipjax.engine import host

    host.fast_cpu_flags()
    host.keep_memory()
    value = commandline.config_value(argv)
    chosen = commandline.load_file(value) if value else None
    values = commandline.declare(argv, workdir="", checkpoint="best", ema=True, json="")
    commandline.parse(argv, values, chosen)
    if not values.workdir:
        raise UserError(
            "no --workdir given: the directory of a run, e.g. runs/quickstart"
        )
    workdir = pathlib.Path(values.workdir).resolve()
    other, name = None, ""
    if value:
        other, name = values.config, f"-{pathlib.Path(value.partition(':')[0]).stem}"
        config_check.validate(other, chosen)
        _only_evaluation(argv)
    json_file = pathlib.Path(values.json) if values.json else None
    if json_file and (not json_file.parent.is_dir() or json_file.is_dir()):
        raise UserError(f"--json={json_file}: name a file in a folder that exists")
    if not values.ema:
        name += "-noema"
    evaluate(workdir, values.checkpoint, values.ema, json_file, other, name)
    return 0


def _only_evaluation(argv: list[str]) -> None:
    """Raises UserError for a flag of the other config that would have no effect."""
    for item in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([^=]+)", item)
        if match and not re.match(r"evals\.|data\.(eval|train)\.", match[1]):
            raise UserError(
                f"{item}: evaluate takes only evals... and data.eval... of --config; "
                "the rest is the run's own"
            )


def evaluate(
    workdir: pathlib.Path,
    checkpoint: str,
    ema: bool,
    json_file: pathlib.Path | None,
    other: Config | None,
    name: str,
) -> None:
    """Prints a table and writes the results as JSON.

    other: a config whose evaluators and data to take. name: of the results' file
    beside others of the same step.
    """
    import jax

    from clipjax import results
    from clipjax.engine import assemble, distributed, resume, sharding
    from clipjax.engine.compilation import enable_cache

    distributed.initialise()
    config = resume.load_config(workdir)
    console = Console(quiet=jax.process_index() > 0, highlight=False, markup=False)
    enable_cache(console.print)
    tokenizer = assemble.saved_tokenizer(config, workdir)
    model = assemble.model(config, tokenizer)
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1})
    encoder = assemble.encoder(config, model, tokenizer, mesh)
    what = other or config
    evaluators = assemble.evaluators(
        what, encoder, assemble.eval_source(what, val_loss=False)
    )
    variables, step = assemble.load_variables(workdir, checkpoint, ema)
    variables = jax.device_put(variables, sharding.replicated(mesh))
    console.print(f"evaluating {workdir}, step {step}", soft_wrap=True)
    with console.status("") as status:

        def progress(label: str):
            return lambda done, total: status.update(f"{label} {done}/{total}")

        found = assemble.evaluate(evaluators, variables, progress)
    console.print(results.table(found))
    path = json_file or workdir / f"evaluation-{step}{name}.json"
    meta = {
        "workdir": str(workdir),
        "step": step,
        "ema": ema and config.train.ema > 0,
        "evals": config_check.to_dict(what)["evals"],
        "data": config_check.to_dict(what)["data"]["eval"],
    }
    if jax.process_index() == 0:
        assemble.write_json(path, results.to_json(found, meta))
        console.print(f"written to {path}", soft_wrap=True)


if __name__ == "__main__":
    commandline.run(main)
