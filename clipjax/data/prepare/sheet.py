"""Writes one self-contained HTML page with a source's survey and a sample."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Sequence

import numpy as np
from PIL import Image

from clipjax.data.images import decoding
from clipjax.data.prepare import reading, survey_text, writing
from clipjax.data.prepare.reading import Broken
from clipjax.data.prepare.survey import Survey
from clipjax.types import Example, Source

CELL = 224  # the side of a picture's square cell, in pixels


@dataclasses.dataclass(frozen=True)
class Shown:
    """One example of the sample."""

    picture: Image.Image
    size: tuple[int, int]
    captions: Sequence[str]
    labels: Sequence[str]
    key: str


def sample(source: Source, count: int, seed: int, threads: int) -> list[Shown]:
    """Random examples that are not broken, sorted by index."""

    def show(index: int, example: Example) -> Shown:
        picture = decoding.decode(example.image)
        size = picture.size
        picture.thumbnail((CELL, CELL), Image.Resampling.BICUBIC)
        if (times := CELL // max(picture.size)) > 1:  # enlarges small pictures' pixels
            wide, high = picture.size
            enlarged = wide * times, high * times
            picture = picture.resize(enlarged, Image.Resampling.NEAREST)
        labels = (source.class_names[name][n] for name, n in example.labels.items())
        return Shown(picture, size, example.captions, list(labels), example.key)

    rng = np.random.default_rng(seed)
    order = rng.permutation(len(source))[: 2 * count].tolist()  # some may be broken
    usable = {
        index: shown
        for index, shown in reading.each(source, order, show, threads)
        if not isinstance(shown, Broken)
    }
    return [usable[index] for index in sorted(list(usable)[:count])]


STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --bar: #4a90d9; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem;
  padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0; }
th { text-align: right; font-weight: normal; opacity: .65; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
td.bar { width: 16rem; } td.bar div { background: var(--bar); height: .8em;
  border-radius: 2px; min-width: 1px; }
.charts { display: flex; flex-wrap: wrap; gap: 2rem; }
figure { margin: 0; } figcaption { font-size: .85rem; opacity: .75; }
svg rect { fill: var(--bar); } svg text { font-size: 10px; fill: currentColor; }
.grid { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); }
.card { border: 1px solid var(--line); border-radius: 6px; padding: .7rem;
  overflow-wrap: anywhere; }
.card img { display: block; margin: 0 auto .5rem; max-width: 100%; }
.card p { margin: .25rem 0; } .card small { opacity: .65; }
pre { background: var(--soft); padding: .7rem;
  overflow-x: auto; font-size: .85rem; }
"""


def page(survey: Survey, shown: Sequence[Shown], title: str) -> str:
    """The survey and the sample as one HTML text, without scripts."""
    text = html.escape
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>{text(title)}</title><style>{STYLE}</style><h1>{text(title)}</h1>",
        "<table>",
        *(
            f"<tr><td>{text(what)}<td class=n>{text(value)}"
            for what, value in survey_text.counts(survey)
        ),
        "</table>",
    ]
    spreads = survey_text.spreads(survey)
    if spreads:
        parts += ["<h2>Sizes</h2><table><tr><th>"]
        parts += [f"<th>{heading}" for heading in survey_text.HEADINGS]
        for what, values in spreads:
            parts.append(f"<tr><td>{text(what)}")
            parts += [f"<td class=n>{survey_text.number(value)}" for value in values]
        parts += ["</table><div class=charts>", *_charts(survey), "</div>"]
    for name in survey.labels:
        rows = survey_text.classes(survey, name)
        most = max([1, *(count for _, count in rows)])
        parts.append(
            f"<h2>Classes</h2><p>{text(survey_text.balance(survey, name))}</p><table>"
        )
        parts += [
            f"<tr><td>{text(label)}<td class=n>{count:,}<td class=bar>"
            f"<div style='width:{100 * count / most:.1f}%'></div>"
            for label, count in rows
        ]
        parts.append("</table>")
    if survey.problems or survey.broken:
        lines = [*survey.problems, *(bad.line() for bad in survey.broken)]
        parts.append(f"<h2>Problems</h2><pre>{text(chr(10).join(lines))}</pre>")
    parts.append(f"<h2>{len(shown)} examples</h2><div class=grid>")
    parts += [_card(example) for example in shown]
    parts.append("</div></html>\n")
    return "\n".join(parts)


def _card(shown: Shown) -> str:
    data = writing.encode(shown.picture, "JPEG", quality=85)
    coded = base64.b64encode(data).decode()
    lines = [f"<b>{html.escape(', '.join(shown.labels))}</b>"] if shown.labels else []
    lines += [html.escape(caption) for caption in shown.captions]
    wide, high = shown.size
    lines.append(f"<small>{html.escape(shown.key)}, {wide} x {high}</small>")
    body = "".join(f"<p>{line}</p>" for line in lines)
    return (
        f"<div class=card><img alt='' src='data:image/jpeg;base64,{coded}'>{body}</div>"
    )


def _charts(survey: Survey) -> list[str]:
    charts = [("shortest side, pixels", np.minimum(survey.wide, survey.high))]
    if survey.words:
        charts.append(("words a caption", np.array(survey.words)))
        charts.append(("captions an image", np.array(survey.captions)))
    return [_chart(*chart) for chart in charts if np.ptp(chart[1])]


def _chart(title: str, values: np.ndarray, wide: int = 320, high: int = 110) -> str:
    """A histogram; the outermost 1 % at each end share the end bars."""
    low, top = np.percentile(values, (1, 99))
    top = max(top, low + 1)
    bins = int(min(32, top - low + 1))
    numbers, _ = np.histogram(np.clip(values, low, top), bins, (low, top + 1e-9))
    step = wide / bins
    bars = "".join(
        f"<rect x='{i * step:.1f}' y='{high - high * n / numbers.max():.1f}' "
        f"width='{step * 0.9:.1f}' height='{high * n / numbers.max():.1f}'/>"
        for i, n in enumerate(numbers)
    )
    ends = (
        f"<text x='0' y='{high + 12}'>{low:.0f}</text>"
        f"<text x='{wide}' y='{high + 12}' text-anchor='end'>{top:.0f}</text>"
    )
    return (
        f"<figure><svg width='{wide}' height='{high + 16}'>{bars}{ends}</svg>"
        f"<figcaption>{title}</figcaption></figure>"
    )
