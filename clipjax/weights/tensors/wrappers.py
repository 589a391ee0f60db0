"""Names of tensors without the prefixes that training programs add.

torch.compile, DataParallel, DistributedDataParallel, FSDP, DeepSpeed and Lightning each
put a word before every name. Checkpoints keep the tensors in a nested dict next to the
optimizer's state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Tensor = TypeVar("Tensor")

# A checkpoint's keys that hold the model's tensors.
NESTED = ("state_dict", "model_state_dict", "model", "module")
PREFIXES = tuple(f"{word}." for word in NESTED)
# Words of torch.compile, FSDP and activation checkpointing. They also stand in the
# middle of a name if only a part was wrapped.
AROUND = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def unwrap(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the model's own names.

    A prefix is dropped only if every name has it, because a model may have a part of
    that name.
    """
    bare = {_bare(name): tensor for name, tensor in tensors.items()}
    if len(bare) < len(tensors):  # two tensors would share a name
        bare = dict(tensors)
    while prefix := _shared(bare):
        bare = {name[len(prefix) :]: tensor for name, tensor in bare.items()}
    return bare


def without_words(
    tensors: Mapping[str, Tensor], known: Callable[[Mapping[str, Tensor]], Any]
) -> Mapping[str, Tensor]:
    """The tensors without the words that begin every name, such as "student.".

    Words are dropped until `known` accepts the tensors; if it never does, the tensors
    are returned unchanged.
    """
    bare = tensors
    while not known(bare):
        words = {name.partition(".")[0] for name in bare}
        if len(words) != 1 or not all(name.partition(".")[2] for name in bare):
            return tensors
        bare = {name.partition(".")[2]: tensor for name, tensor in bare.items()}
    return bare


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in AROUND)


def _shared(names: Mapping[str, Tensor]) -> str:
    """The prefix that all names have before at least one more character, else ""."""
    for prefix in PREFIXES:
        if names and all(n.startswith(prefix) and n != prefix for n in names):
            return prefix
    return ""
