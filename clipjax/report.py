"""A report of one run or several: one file to look at, send and print.

python -m clipjax.report runs/x
python -m clipjax.report runs/x runs/y --out both.html,both.md
"""

from __future__ import annotations

import os
import pathlib
import time

from clipjax import atomic_files, commandline, help_pages, paths
from clipjax.types import UserError

KINDS = (".html", ".md")
HELP = """\
usage: python -m clipjax.report RUN [RUN ...] [--out report.html] [--max_mb 10]
                                [--watch SECONDS]

  RUN                  a run, as given to clipjax.train; several are laid over each
                       other
  --out report.html    where to; NAME.md writes Markdown, with its pictures in the
                       folder NAME_files; both: --out report.html,report.md
  --max_mb 10          the largest HTML file; pictures get smaller to fit
  --watch 10           writes it again every so many seconds until the run has ended;
                       the page reads itself again, so a browser's tab follows the run

The HTML file needs no other file, no network and no scripts. Missing or damaged parts
of a run are named in it. Needs pip install -e '.[look]'.
"""


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(help_pages.help_text(argv, HELP))
        return 0
    names, left = commandline.split_words(argv)
    values = commandline.parse(left, None, out="report.html", max_mb="10", watch=0)
    if not names:
        raise UserError(
            "no run is named: give one or more, such as python -m clipjax.report "
            "runs/quickstart"
        )
    max_bytes = _bytes(values.max_mb)
    if values.watch < 0:
        raise UserError(f"--watch={values.watch}: give seconds, or 0 to write it once")
    outs = [_out(name) for name in values.out.split(",") if name]
    if not outs:
        raise UserError("--out names no file: give one such as report.html")

    # A run may be using the machine's accelerator.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from clipjax.report_parts import html_page, run_files
    from clipjax.report_parts.example_source import Sources

    html_page.check()
    readers = [run_files.Reader(name) for name in names]
    sources = Sources()
    while True:
        over = _write(readers, sources, outs, max_bytes, values.watch)
        if over or not values.watch:
            return 0
        time.sleep(values.watch)


def _write(
    readers, sources, outs: list[pathlib.Path], max_bytes: int, watch: int
) -> bool:
    """Writes the report; returns whether all runs have ended."""
    from clipjax.report_parts import health, html_page, markdown_page, whole_report
    from clipjax.report_parts.thumbnails import Pictures

    runs = [reader.read() for reader in readers]
    over = all(health.is_over(run) for run in runs)
    pictures = Pictures()
    page = whole_report.make(runs, sources, pictures, watched=watch > 0)
    for out in outs:
        if out.suffix == ".md":
            size = markdown_page.write(page, pictures, out)
        else:
            text = html_page.render(
                page, pictures, max_bytes=max_bytes, refresh=0 if over else watch
            )
            with atomic_files.open_to_write(out) as file:
                file.write(text)
            size = len(text.encode())
        print(f"written: {out} ({size / 1e6:.2f} MB)")
    return over


def _bytes(text: str) -> int:
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 0 < size < 1e6:
        raise UserError(f"--max_mb={text}: give a number of megabytes above 0")
    return int(size * 1e6)


def _out(name: str) -> pathlib.Path:
    place = paths.local(name, "a report")
    if place.suffix not in KINDS:
        raise UserError(f"--out={name}: name a file that ends in {' or '.join(KINDS)}")
    if place.is_dir():
        raise UserError(f"--out={name}: {place} is a folder: name a file in it")
    if not place.parent.is_dir():
        raise UserError(f"--out={name}: there is no folder {place.parent}: make it")
    return place


if __name__ == "__main__":
    commandline.run(main)
