"""Names of tensors without what training programs put around a model.

torch.compile, DataParallel, DistributedDataParallel, DeepSpeed and Lightning put a word
before every name, one around the other, and checkpoints keep the tensors in a dict of
their own beside the optimizer's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Tensor = TypeVar("Tensor")

# The keys of a checkpoint under which the model's tensors are.
NESTED = ("state_dict", "model_state_dict", "model", "module")
PREFIXES = tuple(f"{word}." for word in NESTED)
# torch.compile's word, also in the middle of a name where a part was compiled.
COMPILED = "_orig_mod"


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the model's own names.

    A prefix goes where every name has it, so that none is changed of a model with a
    part of such a name.
    """
    found = {_uncompiled(name): tensor for name, tensor in tensors.items()}
    if len(found) < len(tensors):  # two would have one name
        found = dict(tensors)
    while prefix := _shared(found):
        found = {name[len(prefix) :]: tensor for name, tensor in found.items()}
    return found


def _uncompiled(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != COMPILED)


def _shared(names: Mapping[str, Tensor]) -> str:
    """The prefix that all names have, each with something after it; "" for none."""
    for prefix in PREFIXES:
        if names and all(n.startswith(prefix) and n != prefix for n in names):
            return prefix
    return ""
