"""Names of tensors without what training programs put around a model.

torch.compile, DataParallel, DistributedDataParallel, FSDP, DeepSpeed and Lightning put
a word before every name, one around the other, and checkpoints keep the tensors in a
dict of their own beside the optimizer's state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Tensor = TypeVar("Tensor")

# The keys of a checkpoint under which the model's tensors are.
NESTED = ("state_dict", "model_state_dict", "model", "module")
PREFIXES = tuple(f"{word}." for word in NESTED)
# Words of torch.compile, FSDP and activation checkpointing, also in the middle of a
# name if a part was wrapped.
AROUND = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the model's own names.

    A prefix goes where every name has it, so that none is changed of a model with a
    part of such a name.
    """
    found = {_bare(name): tensor for name, tensor in tensors.items()}
    if len(found) < len(tensors):  # two would have one name
        found = dict(tensors)
    while prefix := _shared(found):
        found = {name[len(prefix) :]: tensor for name, tensor in found.items()}
    return found


def without_words(
    tensors: Mapping[str, Tensor], known: Callable[[Mapping[str, Tensor]], Any]
) -> Mapping[str, Tensor]:
    """The tensors without the words that all names begin with, such as "student.", if
    they are `known` then; else as they are.
    """
    found = tensors
    while not known(found):
        words = {name.partition(".")[0] for name in found}
        if len(words) != 1 or not all(name.partition(".")[2] for name in found):
            return tensors
        found = {name.partition(".")[2]: tensor for name, tensor in found.items()}
    return found


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in AROUND)


def _shared(names: Mapping[str, Tensor]) -> str:
    """The prefix that all names have, each with something after it; "" for none."""
    for prefix in PREFIXES:
        if names and all(n.startswith(prefix) and n != prefix for n in names):
            return prefix
    return ""
