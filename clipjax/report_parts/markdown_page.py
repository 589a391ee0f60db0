"""A page as Markdown, with its pictures in a folder beside it."""

from __future__ import annotations

import importlib.resources
import pathlib
import re
import urllib.parse
from collections.abc import Iterable, Sequence

from clipjax import atomic_files
from clipjax.report_parts import page as pages
from clipjax.report_parts import thumbnails
from clipjax.report_parts.page import Page
from clipjax.report_parts.thumbnails import Pictures

_OWN = re.compile(r"p\d+\.webp|drawing-[\w-]+\.svg")  # files that an older page left
_MARKS = {"right": "✓ ", "wrong": "✗ ", "": ""}
_LEVELS = {"good": "✓", "warning": "!", "bad": "✗"}
_SYMBOLS = re.compile(r'<use href="#(p\d+)"')


def write(page: Page, pictures: Pictures, place: pathlib.Path) -> int:
    """Writes the file, and its pictures into NAME_files; returns the bytes of all.

    Raises OSError if it cannot be written.
    """
    folder = place.with_name(f"{place.stem}_files")
    made = _Markdown(pictures, folder.name)
    text = made.page(page)
    if made.files:
        folder.mkdir(exist_ok=True)
    if folder.is_dir():
        for old in folder.iterdir():
            if _OWN.fullmatch(old.name) and old.name not in made.files:
                old.unlink()
    for name, content in made.files.items():
        with atomic_files.open_to_write(folder / name, "wb", sync=False) as file:
            file.write(content)
    with atomic_files.open_to_write(place) as file:
        file.write(text)
    return len(text.encode()) + sum(map(len, made.files.values()))


def escape(text: str) -> str:
    """A text that Markdown shows as it is, in one line."""
    text = " ".join(str(text).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]|~#$!])", r"\\\1", text)
    begins = re.compile(r"^([-+=]|\d+[.)](?=\s|$))")  # a list, or a line below a title
    return begins.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", text)


class _Markdown:
    """files: the pictures that the text names, with their content."""

    def __init__(self, pictures: Pictures, folder: str):
        self.files: dict[str, bytes] = {}
        self._pictures = pictures
        self._folder = urllib.parse.quote(folder)

    def page(self, page: Page) -> str:
        lines = [f"# {escape(page.title)}"]
        lines += [escape(line) for line in page.lead]
        if page.tiles:
            rows = [[tile.what, tile.big, tile.small] for tile in page.tiles]
            table = pages.Table(["", "value", ""], rows, texts=1)
            lines += self._block(table, 2)
        for section in page.sections:
            lines.append(f"## {escape(section.title)}")
            lines += self._blocks(section.blocks, 3)
        return "\n\n".join(line for line in lines if line) + "\n"

    def _blocks(self, blocks: Iterable[object], level: int) -> list[str]:
        return [line for block in blocks for line in self._block(block, level)]

    def _block(self, block: object, level: int) -> list[str]:
        head = "#" * min(level, 6)
        match block:
            case pages.Text(text=text, kind=kind):
                return [f"> {escape(text)}" if kind else escape(text)]
            case pages.Facts(pairs=pairs):
                rows = [[escape(cell) for cell in pair] for pair in pairs]
                return [_table(["", ""], rows, 1)]
            case pages.Checks(checks=checks):
                return [
                    _lines(
                        f"- {_LEVELS[x.level]} **{escape(x.what)}**: {escape(x.why)}"
                        for x in checks
                    )
                ]
            case pages.Steps(title=title, items=items):
                numbered = (f"{n}. {escape(x)}" for n, x in enumerate(items, 1))
                return [f"{head} {escape(title)}", _lines(numbered)]
            case pages.Table():
                rows = [
                    [f"**{escape(x)}**" if x else "" for x in row]
                    if number in block.strong
                    else [escape(x) for x in row]
                    for number, row in enumerate(block.rows)
                ]
                text = _table(block.head, rows, block.texts)
                title = f"{head} {escape(block.title)}" if block.title else ""
                return [title, escape(block.note), text]
            case pages.Charts():
                return self._charts(block)
            case pages.Drawing():
                name = self._drawing(block.words, block.svg)
                return [f"![{escape(block.words)}]({name})", escape(block.words)]
            case pages.Gallery():
                title = f"{head} {escape(block.title)}" if block.title else ""
                return [title, _lines(self._card(card) for card in block.cards)]
            case pages.Code(text=text):
                ticks = max((len(x) for x in re.findall("`+", text)), default=0)
                fence = "`" * max(3, ticks + 1)
                return [f"{fence}\n{text.rstrip()}\n{fence}"]
            case pages.Fold(title=title, blocks=blocks):
                return [f"{head} {escape(title)}", *self._blocks(blocks, level + 1)]
            case pages.Columns(columns=columns):
                return [x for one in columns for x in self._blocks(one, level)]
        raise TypeError(f"no Markdown for {type(block).__name__}")

    def _charts(self, block: pages.Charts) -> list[str]:
        found = []
        if len(block.names) > 1:
            colours = "blue orange green purple ochre pink teal grey".split()
            parts = [
                f"{colours[number % len(colours)]} {escape(name)}"
                for number, name in enumerate(block.names)
            ]
            found.append(f"Colours: {', '.join(parts)}.")
        for chart in block.charts:
            name = self._drawing(chart.title, chart.svg)
            found.append(f"**{escape(chart.title)}**")
            found.append(f"![{escape(chart.words)}]({name})")
        return found

    def _drawing(self, title: str, svg: str) -> str:
        """Keeps an SVG file; returns its address."""
        words = re.sub(r"\W+", "-", title.lower())[:40].strip("-")
        start = f"drawing-{words}"
        name, number = f"{start}.svg", 1
        while name in self.files:
            number += 1
            name = f"{start}-{number}.svg"
        self.files[name] = standalone(svg, self._pictures).encode()
        return f"{self._folder}/{name}"

    def _card(self, card: pages.Card) -> str:
        shown = self._picture(card.picture)
        said = ", ".join(f"“{escape(text)}”" for text in card.said)
        parts = [part for part in (shown, said) if part]
        if card.verdict:
            parts.append(f"({escape(card.verdict)})")
        answers = []
        for answer in card.answers:
            text = f"{_MARKS[answer.mark]}{escape(answer.text)}"
            answers.append(
                " ".join(filter(None, (self._picture(answer.picture), text)))
            )
        lead = f"- {' '.join(parts)}"
        return "\n".join([lead, *(f"  - {answer}" for answer in answers)])

    def _picture(self, name: str) -> str:
        if not name:
            return ""
        file = f"{name}.webp"
        if file not in self.files:
            self.files[file] = self._pictures.encode(name)
        return f'<img src="{self._folder}/{file}" width="72" alt="">'


def standalone(svg: str, pictures: Pictures) -> str:
    """A page's SVG element as a file: with the page's colours and its pictures."""
    style = (importlib.resources.files("clipjax.report_parts") / "page.css").read_text(
        "utf-8"
    )
    begin = style.index(":root")
    colours = style[begin : style.index("* {", begin)]
    symbols = "".join(
        f'<symbol id="{name}" viewBox="0 0 100 100"><image '
        f'href="{thumbnails.data_uri(pictures.encode(name))}" width="100" '
        'height="100"/></symbol>'
        for name in dict.fromkeys(_SYMBOLS.findall(svg))
    )
    own = "svg{color:var(--ink);background:var(--card);font-family:sans-serif}"
    inner = f"<style>{colours}{own}</style><defs>{symbols}</defs>"
    head, _, rest = svg.partition(">")
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"{head}>{inner}{rest}\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> str:
    """rows: escaped."""
    ruler = ["---" if at < texts else "---:" for at in range(len(head))]
    lines = [[escape(cell) for cell in head], ruler, *rows]
    return _lines(f"| {' | '.join(line)} |" for line in lines)


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
