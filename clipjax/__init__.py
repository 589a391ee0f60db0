"""clipjax: train, fine-tune, compare, evaluate and ship CLIP-style models in JAX.

`clipjax.load("runs/x")` gives a trained model; importing clipjax alone is cheap.
"""

from __future__ import annotations

import typing

from clipjax.types import BadExample, UserError

if typing.TYPE_CHECKING:
    from clipjax.library import Loaded, load

__all__ = ["BadExample", "Loaded", "UserError", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> typing.Any:
    if name in ("Loaded", "load"):
        from clipjax import library

        return getattr(library, name)
    raise AttributeError(f"module 'clipjax' has no attribute {name!r}")
