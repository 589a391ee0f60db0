"""Evaluate a run or a released model.

    python -m clipjax.evaluate --workdir runs/quickstart
    python -m clipjax.evaluate --model clip-vit-base-patch32/ --evals=zeroshot \\
        --data=imagefolder --data.path=FOLDER

Runs the evaluators of the run's config, those of `--evals`, or those of another config,
on a run's best, latest or a numbered checkpoint.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import signal
from typing import TYPE_CHECKING, Any

from rich.console import Console

from clipjax import (
    commandline,
    config_check,
    data_flags,
    evals_flags,
    help_pages,
)
from clipjax.types import UserError

if TYPE_CHECKING:
    from clipjax import evaluation_request

# Flags that --follow does not take, and why.
_NOT_FOLLOWED = {
    "checkpoint": "or evaluate that one without --follow",
    "interpolate": "which is of one checkpoint",
    "alphas": "which needs --interpolate",
    "out": "as the results go to the run's evaluations/STEP",
    "suite": "which is of models that are there",
    "embeddings": "which are of one checkpoint",
    "classes": "which prints tables of one model",
    "preprocess": "as a run has its own",
}

HELP = """\
usage: python -m clipjax.evaluate --model MODEL [--checkpoint best|latest|STEP]
                                  [--noema] [--preprocess NAME] [--out DIR]
                                  [--interpolate DIR [--alphas 0,0.5,1]]
                                  [--evals=NAMES --evals.LABEL.KEY=VALUE ...]
                                  [--data=NAME --data.KEY=VALUE ...]
                                  [--embeddings DIR] [--classes]
                                  [--config FILE.py:evals=NAME,data=NAME ...]
       python -m clipjax.evaluate --suite FILE --model MODEL,MODEL,... --out DIR
       python -m clipjax.evaluate --follow RUN [--noema] [--evals=...] [--data=...]
                                  [--config FILE.py ...] [--poll 5]
                                  [--follow_timeout 3600]

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
  --follow RUN         evaluates each checkpoint of a run, while it trains elsewhere, as
                       it is saved, until the run has ended; started again, it goes on
  --poll 5             seconds between looks at the run's folder
  --follow_timeout 3600    the run is taken for ended after so many seconds without a
                       new checkpoint or metric; 0: only once its last step is saved

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
    if any(_flag_name(item) == "follow" for item in argv[1:]):
        return _follow(argv)
    if commandline.flag_value(argv, "suite"):
        return _suite(argv)
    options = dict(checkpoint="best", preprocess="", out="", embeddings="")
    options |= dict(interpolate="", alphas="")
    values, request = _request(argv, {**options, "classes": False})
    shares = (1.0,)
    if values.classes and values.interpolate:
        raise UserError("--classes is of one model: leave --interpolate out")
    if values.interpolate:
        shares = _shares(values.alphas or "0,0.25,0.5,0.75,1")
    elif values.alphas:
        raise UserError("--alphas needs --interpolate DIR, the run to come from")

    from clipjax import results, whole_runs

    out = results.new_folder(values.out) if values.out else None
    request = dataclasses.replace(
        request,
        checkpoint=values.checkpoint,
        preprocess=values.preprocess,
        embeddings=values.embeddings,
        classes=values.classes,
        base=values.interpolate,
        shares=shares,
    )
    whole_runs.evaluate(request, out)
    return 0


def _request(
    argv: list[str], options: dict[str, Any]
) -> tuple[Any, evaluation_request.Request]:
    """The flags, and a request of those that say what is evaluated on which data.

    options: further flags, and their defaults.
    """
    value = commandline.config_value(argv)
    other = commandline.load_file(value) if value else None
    chosen = other.copy_and_resolve_references() if other is not None else None
    data, rest = data_flags.read(argv[1:])
    evals, rest = evals_flags.read(rest)
    flags = {"data": "", "evals": "", "model": "", "workdir": "", "ema": True}
    flags["follow"] = ""  # known, for the nearest to a flag with a typing mistake
    values = commandline.parse([argv[0], *rest], other, **flags, **options)
    model = commandline.model_flag(values.model, values.workdir)
    name = ""
    if value:
        name = pathlib.Path(commandline.split_value(value)[0]).stem
        config_check.validate(other, chosen)
        _only_evaluation(argv)
    from clipjax.evaluation_request import Request

    return values, Request(
        model=model,
        ema=values.ema,
        evals=evals,
        data=data,
        other=other,
        other_name=name,
    )


def _follow(argv: list[str]) -> int:
    """--follow RUN, --follow=RUN, or --follow with --workdir or --model."""
    rest, run = [], ""
    items = iter(enumerate(argv))
    for i, item in items:
        if _flag_name(item) != "follow" or not i:
            rest.append(item)
            continue
        run = item.partition("=")[2]
        following = argv[i + 1] if i + 1 < len(argv) else "-"
        if "=" not in item and not following.startswith("-"):
            run = following
            next(items)
    for item in rest[1:]:
        name = _flag_name(item)
        if name in _NOT_FOLLOWED:
            raise UserError(
                f"--follow evaluates every checkpoint of a run as it is saved: leave "
                f"--{name} out, {_NOT_FOLLOWED[name]}"
            )
    if run:
        rest.append(f"--model={run}")
    from clipjax import follow, preempt

    options = {"poll": follow.POLL, "follow_timeout": follow.TIMEOUT}
    values, request = _request(rest, options)
    for name, least in (("poll", 1), ("follow_timeout", 0)):
        if getattr(values, name) < least:
            raise UserError(
                f"--{name}={getattr(values, name)}: give {least} or more seconds"
            )
    console = Console(highlight=False, markup=False)
    try:
        with preempt.interrupt_by_signals():
            follow.follow(
                request, console, poll=values.poll, timeout=values.follow_timeout
            )
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        name = signal.Signals(number).name
        console.print(f"stopped by {name}; the same command goes on", soft_wrap=True)
        return 128 + number
    return 0


def _flag_name(item: str) -> str:
    return item.lstrip("-").partition("=")[0] if item.startswith("-") else ""


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
