"""A page as one HTML file: no scripts, no other files, light and dark, for print."""

from __future__ import annotations

import importlib.resources
from typing import Any

from clipjax.report_parts import thumbnails
from clipjax.report_parts.page import Page
from clipjax.report_parts.thumbnails import Pictures
from clipjax.types import UserError

_TEMPLATE, _STYLE = "page.html.jinja", "page.css"


def render(page: Page, pictures: Pictures, *, max_bytes: int, refresh: int = 0) -> str:
    """The file's text, with pictures as large as max_bytes allow.

    refresh: seconds after which a browser reads the page again; 0: never.

    Raises UserError if the page is larger without its pictures.
    """
    import jinja2  # here: an extra
    import markupsafe

    names = importlib.resources.files("clipjax.report_parts")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (names / name).read_text("utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["kind"] = lambda block: type(block).__name__.lower()
    environment.filters["shade"] = lambda value: f"{round(100 * value)}%"
    template = environment.get_template(_TEMPLATE)
    style = (names / _STYLE).read_text("utf-8")

    def text(symbols: dict[str, str], more: str) -> str:
        return template.render(
            page=page,
            style=markupsafe.Markup(style),
            pictures=symbols,
            refresh=refresh,
            more=more,
        )

    for size in thumbnails.SIZES:
        whole = text(_symbols(pictures, size), "")
        if len(whole.encode()) <= max_bytes:
            return whole
    whole = text({}, "Pictures are left out: the page would be larger than --max_mb.")
    if (needed := len(whole.encode())) > max_bytes:
        raise UserError(
            f"the report takes {needed / 1e6:.1f} MB without any picture: give a "
            "larger --max_mb, or fewer runs"
        )
    return whole


def _symbols(pictures: Pictures, size: tuple[int, int]) -> dict[str, str]:
    return {name: thumbnails.data_uri(pictures.encode(name, size)) for name in pictures}


def check() -> Any:
    """Raises UserError unless the packages of a report are installed."""
    for name in ("jinja2", "matplotlib"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"a report needs the package {name}: pip install -e '.[look]' ({error})"
            ) from error
