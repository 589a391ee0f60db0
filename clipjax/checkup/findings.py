"""What a check has found: a line, whether it is well, and what mends it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from clipjax.types import UserError

OK, WARNING, ERROR = "ok", "warning", "error"


@dataclasses.dataclass(frozen=True)
class Finding:
    """state: "ok", "warning" (training works, worse) or "error" (it fails, or learns
    nothing). what: a line. mend: what to do; "" if nothing.
    """

    state: str
    what: str
    mend: str = ""

    def line(self) -> str:
        mend = f": {self.mend}" if self.mend else ""
        return f"{self.state:<8} {' '.join(f'{self.what}{mend}'.split())}"


def ok(what: str) -> Finding:
    return Finding(OK, what)


def warning(what: str, mend: str) -> Finding:
    return Finding(WARNING, what, mend)


def error(what: str, mend: str) -> Finding:
    return Finding(ERROR, what, mend)


def found(check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """A check's findings; a UserError, whose line has the mend, is one of them."""
    try:
        yield from check()
    except UserError as failure:
        yield Finding(ERROR, str(failure))
