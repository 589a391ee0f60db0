"""clipjax: train, fine-tune, compare, evaluate and ship CLIP-style models in JAX.

`clipjax.load("runs/x")` gives a trained model; `clipjax.train_model`,
`clipjax.evaluate_model`, `clipjax.compare_evaluations` and `clipjax.embed_data` do what
the commands do. Importing clipjax alone is cheap.
"""

from __future__ import annotations

import typing

from clipjax.types import BadExample, UserError

if typing.TYPE_CHECKING:
    from clipjax.comparison.compared import compare_evaluations
    from clipjax.embedding_copies import find_similar
    from clipjax.embedding_job import embed_data
    from clipjax.embeddings.stored import read_embeddings
    from clipjax.item_errors import BadItem, ItemError
    from clipjax.library import load
    from clipjax.loaded import Loaded
    from clipjax.saliency.explanation import Explanation, attention_heads, explain
    from clipjax.whole_runs import evaluate_model, train_model

__all__ = [
    "BadExample",
    "BadItem",
    "Explanation",
    "ItemError",
    "Loaded",
    "UserError",
    "attention_heads",
    "compare_evaluations",
    "embed_data",
    "evaluate_model",
    "explain",
    "find_similar",
    "load",
    "read_embeddings",
    "train_model",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> typing.Any:
    if name == "load":
        from clipjax import library

        return library.load
    if name == "Loaded":
        from clipjax import loaded

        return loaded.Loaded
    if name in ("BadItem", "ItemError"):
        from clipjax import item_errors

        return getattr(item_errors, name)
    if name in ("Explanation", "attention_heads", "explain"):
        from clipjax.saliency import explanation

        return getattr(explanation, name)
    if name in ("evaluate_model", "train_model"):
        from clipjax import whole_runs

        return getattr(whole_runs, name)
    if name == "compare_evaluations":
        from clipjax.comparison import compared

        return compared.compare_evaluations
    if name == "embed_data":
        from clipjax import embedding_job

        return embedding_job.embed_data
    if name == "find_similar":
        from clipjax import embedding_copies

        return embedding_copies.find_similar
    if name == "read_embeddings":
        from clipjax.embeddings import stored

        return stored.read_embeddings
    raise AttributeError(f"module 'clipjax' has no attribute {name!r}")
