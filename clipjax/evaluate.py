"""Evaluate a trained run: `python -m clipjax.evaluate --workdir runs/quickstart`.

Runs the evaluators of the run's config, or those of another config's `evals` and
evaluation data, on the run's best, latest or a numbered checkpoint.
"""

from __future__ import annotations

import os
import pathlib
import re

from rich.console import Console

from clipjax import (
    atomic_files,
    commandline,
    config_check,
    config_parts,
    data_flags,
    help_pages,
    paths,
)
from clipjax.config_sections import source_section
from clipjax.multihost import on_primary
from clipjax.types import Config, EvalResult, UserError

HELP = """\
usage: python -m clipjax.evaluate --workdir DIR [--checkpoint best|latest|STEP]
                                  [--noema] [--json FILE]
                                  [--interpolate DIR [--alphas 0,0.5,1]]
                                  [--data=NAME --data.KEY=VALUE ...]
                                  [--config FILE.py:evals=NAME,data=NAME ...]

  --workdir DIR        the run, as given to clipjax.train
  --checkpoint best    which checkpoint; a step's number, latest, or best (default)
  --noema              the plain weights even if the run has a moving average
  --interpolate DIR    another run of the same model, such as the one that this run was
                       tuned from: evaluates the weights between the two (WiSE-FT)
  --alphas 0,0.5,1     shares of this run's weights in them; five from 0 to 1 by default
  --json FILE          the file of results; DIR/evaluation-STEP[-CONFIG].json by default
  --data=NAME          the source of evaluators that have none of their own, not the
                       run's evaluation data
  --data.KEY=VALUE     an option of that source, or of the run's; --data.split=NAME
  --config FILE.py     take evaluators and evaluation data from this config (with its
                       --config.evals... and --config.data.eval... flags), not the run's

evaluators: {evals}
"""


def main(argv: list[str]) -> int:
    from clipjax import registry

    if "--help" in argv or "-h" in argv:
        print(
            help_pages.asked(
                argv, HELP.format(evals=", ".join(registry.names("evals")))
            )
        )
        return 0
    from clipjax.engine import host

    host.fast_cpu_flags()
    host.keep_memory()
    value = commandline.config_value(argv)
    other = commandline.load_file(value) if value else None
    chosen = other.copy_and_resolve_references() if other is not None else None
    given, rest = data_flags.read(argv[1:])
    values = commandline.parse(
        [argv[0], *rest],
        other,
        data="",
        workdir="",
        checkpoint="best",
        ema=True,
        json="",
        interpolate="",
        alphas="",
    )
    if not values.workdir:
        raise UserError(
            "no --workdir given: the directory of a run, e.g. runs/quickstart"
        )
    workdir = paths.local(values.workdir, "a run")
    name = ""
    if value:
        name = f"-{pathlib.Path(commandline.split_value(value)[0]).stem}"
        config_check.validate(other, chosen)
        _only_evaluation(argv)
    json_file = _json_file(values.json) if values.json else None
    if not values.ema:
        name += "-noema"
    shares = (1.0,)
    if values.interpolate:
        name += "-interpolated"
        shares = _shares(values.alphas or "0,0.25,0.5,0.75,1")
    elif values.alphas:
        raise UserError("--alphas needs --interpolate DIR, the run to come from")
    base = values.interpolate
    evaluate(
        workdir,
        values.checkpoint,
        values.ema,
        json_file,
        other,
        name,
        base,
        shares,
        given,
    )
    return 0


def _json_file(name: str) -> pathlib.Path:
    """The file that --json names; the unresolved path for a device, /dev/stdout."""
    resolved, unresolved = paths.local(name, "a file"), paths.given(name).absolute()
    if atomic_files.is_special(unresolved):
        return unresolved
    if not resolved.parent.is_dir() or resolved.is_dir():
        raise UserError(f"--json={name}: name a file in a folder that exists")
    if resolved.exists() and any(
        os.path.samestat(resolved.stat(), os.fstat(output)) for output in (1, 2)
    ):
        raise UserError(f"--json={name}: the table goes to this file; name another")
    return resolved


def _shares(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(word) for word in text.split(","))
    except ValueError:
        shares = (-1.0,)
    if not all(0 <= share <= 1 for share in shares):
        raise UserError(f"--alphas={text}: give numbers from 0 to 1, such as 0,0.5,1")
    return shares


def _only_evaluation(argv: list[str]) -> None:
    """Raises UserError for a flag of the other config that would have no effect."""
    for item in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([^=]+)", item)
        if match and not re.match(r"evals\.|data\.(eval|train)\.", match[1]):
            raise UserError(
                f"{item}: evaluate takes only evals... and data.eval... of --config; "
                "the rest is the run's own"
            )


def _check_writable(path: pathlib.Path) -> None:
    """Raises UserError, before the work, if results cannot be written."""
    if atomic_files.is_special(path):
        return
    folder = path if path.is_dir() else path.parent
    try:
        atomic_files.check_room(folder)
    except OSError as error:
        raise _unwritten(folder, error) from error


def _unwritten(path: pathlib.Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be written ({error.strerror}): name another file for the "
        "results by --json FILE"
    )


def evaluate(
    workdir: pathlib.Path,
    checkpoint: str,
    ema: bool,
    json_file: pathlib.Path | None,
    other: Config | None,
    name: str,
    base: str = "",
    shares: tuple[float, ...] = (1.0,),
    data: data_flags.DataFlags = data_flags.NONE,
) -> dict[float, dict[str, EvalResult]]:
    """Prints a table and writes the results as JSON, without their rows.

    Returns the results by label, for each of `shares`, with their rows.

    other: a config whose evaluators and data are used. name: the end of the results
    file's name, to tell it from others of the same step. base: a run, or a released
    model, whose weights are mixed in with weight 1 - share for each of `shares` (arXiv
    2109.01903). data: a source and its options that replace the evaluation data;
    without a name, the options change that data's.
    """
    import jax

    from clipjax import library, results
    from clipjax.engine import (
        assemble,
        classes,
        datasets,
        distributed,
        initial,
        interpolate,
        lost_text_report,
        resume,
        sharding,
    )
    from clipjax.engine.compilation import enable_cache

    config = resume.load_config(workdir)
    distributed.initialise(config.mesh.timeout)
    distributed.compare(other or config)
    on_primary(lambda: _check_writable(json_file or workdir))
    console = Console(quiet=jax.process_index() > 0, highlight=False, markup=False)

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    enable_cache(say)
    tokenizer = assemble.saved_tokenizer(config, workdir)
    variables, step = assemble.load_variables(workdir, checkpoint, ema)
    model = assemble.model(config, tokenizer)
    if base:
        model, variables = interpolate.plain(model, variables)
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1})
    class_list = classes.saved(config, workdir)
    encoder = assemble.encoder(config, model, tokenizer, mesh, class_list)
    what = datasets.resolved(other or config)
    if data:
        what = datasets.resolved(_with_data(what, data))
        section = what.data.eval
        name += f"-{section.name}-{section.split}".replace("/", "_")
    flag = "--config.data.eval." if other else data_flags.FLAG
    shared = datasets.eval_source(what, val_loss=False, flag=flag)
    flag = "--config." if other else "--config FILE.py --config."
    own = datasets.own_sources(what, shared, flag)
    if other is None:
        unchanged = None if data else shared
        datasets.check_evaluation(workdir, datasets.eval_fingerprints(unchanged, own))
    evaluators = assemble.evaluators(what, encoder, shared, own)
    start = variables
    if base:
        loaded = library.load(base, checkpoint=checkpoint, ema=ema)
        their_model, start = interpolate.plain(loaded.model, loaded.variables)
        what_base = f"--interpolate={base}"
        interpolate.check_same_model(
            what_base, (their_model, start), (model, variables)
        )
        their_preprocess = loaded.config.data.preprocess.to_dict()
        initial.compare_images(
            config, model, their_model, their_preprocess, what_base, say
        )
        if tokenizer is not None and loaded.tokenizer is not None:
            initial.check_same_ids(what_base, tokenizer, loaded.tokenizer)
    console.print(f"evaluating {workdir}, step {step}", soft_wrap=True)
    lost_text_report.tell_evaluators(evaluators, tokenizer, config, say)
    sweep: dict[float, dict[str, EvalResult]] = {}
    with console.status("") as status:

        def progress(label: str):
            return lambda done, total: status.update(f"{label} {done}/{total}")

        for share in shares:
            mixed = interpolate.mix(start, variables, share)
            mixed = jax.device_put(mixed, sharding.replicated(mesh))
            sweep[share] = evaluators.run(mixed, progress)
    meta = {
        "workdir": str(workdir),
        "step": step,
        "ema": ema and config.train.ema > 0,
        "evals": config_check.to_dict(what)["evals"],
        "data": config_check.to_dict(what)["data"]["eval"],
    }
    path = json_file or workdir / f"evaluation-{step}{name}.json"
    if not base:
        written = results.to_json(sweep[1.0], meta)
        console.print(results.table(sweep[1.0]))
    else:
        meta["interpolate"] = base
        written = results.sweep_to_json(sweep, meta)
        console.print(results.sweep_table(sweep))
    if jax.process_index() == 0:
        try:
            atomic_files.write_json(path, written)
        except OSError as error:  # the disk may be full by now
            raise _unwritten(path, error) from error
        console.print(f"written to {path}", soft_wrap=True)
    return sweep


def _with_data(config: Config, given: data_flags.DataFlags) -> Config:
    """The config with other evaluation data.

    Raises UserError for an option that the source lacks, and if every evaluator has its
    own data.
    """
    if all(
        "data" in config.evals[label]
        for label in config_parts.labels(config.evals, "evals")
    ):
        raise UserError(
            "--data: every evaluator has data of its own; choose others by --config "
            "FILE.py:evals=NAME"
        )
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        if given.name and given.name != changed.data.eval.name:
            changed.data.eval = source_section("data.eval", given.name, {}, "val")
        section = changed.data.eval
        section.split = given.split or section.split
        section.update(given.options(section.name))
    return changed.lock()


if __name__ == "__main__":
    commandline.run(main)
