"""A model's identity: what its embeddings depend on, as short digests.

Two models with the same identity give the same embeddings, up to rounding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.data.mixture_spec import PATHS
from clipjax.types import Config, Model, Tokenizer, UserError, Variables

# Each part, and what it is called in messages.
PARTS = {
    "weights": "weights",
    "settings": "model settings",
    "preprocess": "preprocessing",
    "tokenizer": "tokenizer",
}
# Texts whose ids tell tokenizers apart that differ in a file alone.
PROBES = ("a photo of a dog.", "Two  RED circles, é 東京 3 & 'x'", "")


def identity(
    config: Config, model: Model, variables: Variables, tokenizer: Tokenizer | None
) -> dict[str, str]:
    """The digest per part of PARTS.

    config: the model's, whose `data` names preprocessing and tokenizer. variables: on
    the host. Paths in it do not count, so that a copy of a model is the same model.
    """
    from clipjax.models.common import meaning  # here: who reads digests needs no jax

    module: Any = meaning.module_of(model)
    pixels = [np.asarray(getattr(module, name, ())).tolist() for name in meaning.PIXELS]
    seen = [config.data.preprocess.to_dict(), config.data.image_size, pixels]
    return {
        "weights": weights(variables),
        "settings": _digest(meaning.settings(model)),
        "preprocess": _digest(seen),
        "tokenizer": _digest(_of_tokenizer(config, tokenizer)),
    }


def weights(variables: Variables) -> str:
    """The digest of all arrays: their paths, shapes, dtypes and bytes."""
    from clipjax import param_paths  # here, as above

    found = hashlib.sha256()
    for path, leaf in sorted(param_paths.flatten(variables).items()):
        array = np.ascontiguousarray(leaf)
        found.update(f"{path} {array.dtype} {array.shape}\n".encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    return found.hexdigest()[:16]


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs of two identities, "weights and tokenizer"; "" if nothing does."""
    return " and ".join(
        word for part, word in PARTS.items() if stored.get(part) != now[part]
    )


def check(stored: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Raises UserError, naming what differs, unless two identities are the same.

    stored: of what was made from a model, such as embeddings. where: its place.
    """
    if other := differences(stored, now):
        of = stored.get("name", "another model")
        step = f", step {stored['step']}" if stored.get("step") else ""
        raise UserError(
            f"{where} is of a model with other {other} ({of}{step}): give that model, "
            "or make it again with this one"
        )


def _of_tokenizer(config: Config, tokenizer: Tokenizer | None) -> Any:
    if tokenizer is None:
        return None
    options = config.data.tokenizer.to_dict()
    options = {key: value for key, value in options.items() if key not in PATHS}
    ids, mask = tokenizer(PROBES)
    probed = [np.asarray(ids).tolist(), np.asarray(mask).tolist()]
    return [options, tokenizer.vocab_size, tokenizer.state(), probed]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
