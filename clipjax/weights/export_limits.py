"""What a foreign format cannot say of a model is an error that names the option."""

from __future__ import annotations

from typing import Any

from clipjax.models.common import meaning
from clipjax.types import UserError


def require(module: Any, path: str, target: str, **only: Any) -> None:
    """Raises UserError if a module's field has another value than the format.

    path: the module's section of the config, "model.image". target: the format.
    """
    for name, value in only.items():
        found = getattr(module, name)
        if found != value:
            option = meaning.option_of(module, name)
            raise UserError(
                f"{path}.{option}={found!r} cannot be exported: {target} has {value!r} "
                "only"
            )


def require_tower(module: Any, kinds: Any, path: str, target: str) -> None:
    """Raises UserError if a tower is of none of the kinds that a format has."""
    if not isinstance(module, kinds):
        raise UserError(
            f"{path}: {target} has no tower like {type(module).__name__}: it cannot be "
            "exported"
        )


def require_head(side: str, kind: str, target: str, only: tuple[str, ...]) -> None:
    """Raises UserError if a tower's head is none that a format has."""
    if kind not in only:
        raise UserError(
            f"model.{side}_head={kind!r} cannot be exported: {target} has "
            f"{' or '.join(map(repr, only))} only"
        )
