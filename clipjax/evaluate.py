"""Evaluate a run or a released model.

    python -m clipjax.evaluate --workdir runs/quickstart
    python -m clipjax.evaluate --model clip-vit-base-patch32/ --evals=zeroshot \\
        --data=imagefolder --data.path=FOLDER

Runs the evaluators of the run's config, those of `--evals`, or those of another config,
on a run's best, latest or a numbered checkpoint.
"""

from __future__ import annotations

import pathlib
import re

from rich.console import Console

from clipjax import (
    commandline,
    config_check,
    data_flags,
    evals_flags,
    help_pages,
)
from clipjax.types import UserError

HELP = """\
usage: python -m clipjax.evaluate --model MODEL [--checkpoint best|latest|STEP]
                                  [--noema] [--preprocess NAME] [--out DIR]
                                  [--interpolate DIR [--alphas 0,0.5,1]]
                                  [--evals=NAMES --evals.LABEL.KEY=VALUE ...]
                                  [--data=NAME --data.KEY=VALUE ...]
                                  [--embeddings DIR] [--classes]
                                  [--config FILE.py:evals=NAME,data=NAME ...]
       python -m clipjax.evaluate --suite FILE --model MODEL,MODEL,... --out DIR

  --model MODEL        a run, as given to clipjax.train, or a released model, which
                       needs --evals and --data: a folder, a file or hf-hub:ORG/NAME
  --workdir DIR        the same
  --checkpoint best    which checkpoint; a step's number, latest, or best (default)
  --noema              the plain weights even if the run has a moving average
  --preprocess NAME    how a released model prepares images if its files do not say so:
                       clip, squash or openai
  --embeddings DIR     images and captions from this folder of python -m clipjax.embed,
                       by default with the data it was made from
  --interpolate DIR    another run of the same model, such as the one that this run was
                       tuned from: evaluates the weights between the two (WiSE-FT)
  --alphas 0,0.5,1     shares of this run's weights in them; five from 0 to 1 by default
  --out DIR            a new folder for the results; by default evaluations/STEP in the
                       run, for a released model evaluations/MODEL-EVALS-DATA here
  --evals=NAMES        evaluators in place of the run's: zeroshot, retrieval+zeroshot
  --evals.LABEL.KEY=VALUE   an option of one of them, or of the run's
  --data=NAME          the source of evaluators that have none of their own, not the
                       run's evaluation data
  --data.KEY=VALUE     an option of that source, or of the run's; --data.split=NAME
  --classes            also prints the classes that are recognised least, and those
                       that are confused most
  --config FILE.py     take evaluators and evaluation data from this config (with its
                       --config.evals... and --config.data.eval... flags), not the run's
  --suite FILE         named evaluations in JSON, for several models, with one table.csv
                       and table.md; started again, it makes what is missing

evaluators: {evals}
"""


def main(argv: list[str]) -> int:
    from clipjax import registry

    if "--help" in argv or "-h" in argv:
        print(
            help_pages.help_text(
                argv, HELP.format(evals=", ".join(registry.names("evals")))
            )
        )
        return 0
    from clipjax.engine import host

    host.fast_cpu_flags()
    host.keep_memory()
    if commandline.flag_value(argv, "suite"):
        return _suite(argv)
    value = commandline.config_value(argv)
    other = commandline.load_file(value) if value else None
    chosen = other.copy_and_resolve_references() if other is not None else None
    data, rest = data_flags.read(argv[1:])
    evals, rest = evals_flags.read(rest)
    values = commandline.parse(
        [argv[0], *rest],
        other,
        data="",
        evals="",
        model="",
        workdir="",
        checkpoint="best",
        ema=True,
        preprocess="",
        out="",
        embeddings="",
        classes=False,
        interpolate="",
        alphas="",
    )
    model = commandline.model_flag(values.model, values.workdir)
    name = ""
    if value:
        name = pathlib.Path(commandline.split_value(value)[0]).stem
        config_check.validate(other, chosen)
        _only_evaluation(argv)
    shares = (1.0,)
    if values.classes and values.interpolate:
        raise UserError("--classes is of one model: leave --interpolate out")
    if values.interpolate:
        shares = _shares(values.alphas or "0,0.25,0.5,0.75,1")
    elif values.alphas:
        raise UserError("--alphas needs --interpolate DIR, the run to come from")

    from clipjax import evaluation_request, results, whole_runs

    out = results.new_folder(values.out) if values.out else None
    request = evaluation_request.Request(
        model=model,
        checkpoint=values.checkpoint,
        ema=values.ema,
        preprocess=values.preprocess,
        evals=evals,
        data=data,
        embeddings=values.embeddings,
        classes=values.classes,
        other=other,
        other_name=name,
        base=values.interpolate,
        shares=shares,
    )
    whole_runs.evaluate(request, out)
    return 0


def _suite(argv: list[str]) -> int:
    values = commandline.parse(argv, None, suite="", model="", out="")
    if not values.model or not values.out:
        raise UserError(
            f"--suite={values.suite} needs --model MODEL,MODEL,... and --out DIR, the "
            "folder of its results"
        )
    from clipjax import suites

    models = [name for name in values.model.split(",") if name]
    console = Console(highlight=False, markup=False)
    failed = suites.run(models, values.suite, values.out, console)
    if failed:
        raise UserError(f"{len(failed)} of the evaluations failed: {'; '.join(failed)}")
    return 0


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


if __name__ == "__main__":
    commandline.run(main)
