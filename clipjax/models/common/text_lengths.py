"""What the text towers share: how long a text may be, and where it ends."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from clipjax.types import UserError


def check_length(length: int, context_length: int) -> None:
    """Raises UserError if a text is longer than a text tower takes."""
    if length > context_length:
        raise UserError(
            f"text of {length} tokens: the text tower takes at most {context_length}; "
            f"cut the texts or raise the context length"
        )


def last_token(mask: Bool[Array, "b l"]) -> Int[Array, " b"]:
    """The index of each row's last true; 0 without one."""
    positions = jnp.arange(mask.shape[1], dtype=jnp.int32)
    return jnp.max(mask * positions[None], axis=1)
