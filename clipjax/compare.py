"""Compare models on the same examples.

python -m clipjax.compare runs/a runs/b
python -m clipjax.compare runs/a/evaluations/200 evaluations/clip-flickr8k runs/b
"""

from __future__ import annotations

import sys

from rich.console import Console

from clipjax import commandline, help_pages
from clipjax.types import UserError

WIDTH = 100  # columns of a pipe or a file
HELP = """\
usage: python -m clipjax.compare A B [C ...] [--evals LABEL,...]
                                 [--metric NAME,...] [--show N] [--out DIR]

  A B C                runs or folders of evaluations, of which A is the baseline; a
                       run's evaluation is the newest one of its own data
  --evals LABEL        these evaluators, by their labels; all that are in both
  --metric NAME        these metrics: mean_recall@1, or zeroshot/class/top1
  --show 0             lists so many of the queries that get better or worse by the
                       evaluator's primary metric, or by those of --metric
  --out DIR            a new folder for compare.json and a table of all queries

Differences have a 95 % interval and p, over the examples that both have; an image's
captions count as one. Results of other protocols or data are refused.
"""


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(help_pages.help_text(argv, HELP))
        return 0
    names, left = commandline.split_words(argv)
    values = commandline.parse(left, None, evals="", metric="", show=0, out="")
    if values.show < 0:
        raise UserError(f"--show={values.show}: use 0 or more")
    if len(names) < 2:
        alone = f"only {names[0]} is" if names else "nothing is"
        raise UserError(
            f"{alone} named: give two or more runs or folders of evaluations, such as "
            "python -m clipjax.compare runs/a runs/b"
        )

    from clipjax import results
    from clipjax.comparison import compared, comparison_tables, matching

    out = results.new_folder(values.out) if values.out else None
    metrics = _words(values.metric)
    found = compared.compare_evaluations(
        *names, evals=_words(values.evals), metrics=metrics
    )
    titles = [matching.title(place) for place in (found.baseline, *found.models)]
    width = None if sys.stdout.isatty() else WIDTH
    console = Console(width=width, highlight=False, markup=False)
    console.print(comparison_tables.table(found, titles, values.show, bool(metrics)))
    if out is not None:
        compared.write(found, out)
        console.print(f"written: {out}", soft_wrap=True)
    return 0


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


if __name__ == "__main__":
    commandline.run(main)
