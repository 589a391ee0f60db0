"""Errors, naming the option, for what a foreign format cannot express."""

from __future__ import annotations

from typing import Any

from clipjax.models.common import meaning
from clipjax.types import UserError


def require(module: Any, path: str, target: str, **only: Any) -> None:
    """Raises UserError if a module's field differs from the only value in `only`.

    path: the module's section in the config, "model.image". target: the format.
    """
    for name, value in only.items():
        actual = getattr(module, name)
        if actual != value:
            option = meaning.option_of(module, name)
            raise UserError(
                f"{path}.{option}={actual!r} cannot be exported: {target} has "
                f"{value!r} only"
            )


def require_tower(module: Any, kinds: Any, path: str, target: str) -> None:
    """Raises UserError if a tower is not one of the kinds that a format has."""
    if not isinstance(module, kinds):
        raise UserError(
            f"{path}: {type(module).__name__} cannot be exported: {target} has no such "
            "tower"
        )


def require_head(side: str, kind: str, target: str, only: tuple[str, ...]) -> None:
    """Raises UserError if a tower's head is not one that a format has."""
    if kind not in only:
        raise UserError(
            f"model.{side}_head={kind!r} cannot be exported: {target} has "
            f"{' or '.join(map(repr, only))} only"
        )
