"""clipjax: train, fine-tune, compare, evaluate and ship CLIP-style models in JAX.

`clipjax.load("runs/x")` gives a trained model; `clipjax.train_model` and
`clipjax.evaluate_model` do what the commands do. Importing clipjax alone is cheap.
"""

from __future__ import annotations

import typing

from clipjax.types import BadExample, UserError

if typing.TYPE_CHECKING:
    from clipjax.library import Loaded, load
    from clipjax.whole_runs import evaluate_model, train_model

__all__ = [
    "BadExample",
    "Loaded",
    "UserError",
    "evaluate_model",
    "load",
    "train_model",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> typing.Any:
    if name in ("Loaded", "load"):
        from clipjax import library

        return getattr(library, name)
    if name in ("evaluate_model", "train_model"):
        from clipjax import whole_runs

        return getattr(whole_runs, name)
    raise AttributeError(f"module 'clipjax' has no attribute {name!r}")
