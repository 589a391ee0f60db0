"""Ways into a tower while it is traced, for maps of what it looks at.

    with taps.attention(mix):
        outputs = model.encode_image(variables, pixels)

Neither changes what a tower does outside its `with`. What is inside must be traced
anew there: a function that was jitted outside keeps what it was traced with. Neither
goes through rematerialisation: `without_remat` gives a model that has none.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from flax import linen as nn
from jaxtyping import Array, Bool, Float

# As layers.attention: query, key, value, causal, key mask -> what each query takes.
Attention = Callable[
    [
        Float[Array, "b n h e"],
        Float[Array, "b m h e"],
        Float[Array, "b m h e"],
        bool,
        Bool[Array, "b m"] | None,
    ],
    Float[Array, "b n h e"] | None,
]
Path = tuple[str, ...]
ModuleT = TypeVar("ModuleT", bound=nn.Module)

_attention: contextvars.ContextVar[Attention | None] = contextvars.ContextVar(
    "attention", default=None
)


@contextlib.contextmanager
def attention(mix: Attention) -> Iterator[None]:
    """`mix` takes the place of layers.attention in this thread, unless it returns
    None.
    """
    token = _attention.set(mix)
    try:
        yield
    finally:
        _attention.reset(token)


def in_place_of_attention() -> Attention | None:
    """What `attention` was given, if anything."""
    return _attention.get()


def outputs(change: Callable[[Path, Any], Any]) -> contextlib.AbstractContextManager:
    """`change(path, output)` takes the place of what each Linen module returns.

    path: the module's, ("image", "stage_3").
    """

    def intercept(
        inner: Callable[..., Any], args: Any, kwargs: Any, context: Any
    ) -> Any:
        found = inner(*args, **kwargs)
        if context.method_name != "__call__":
            return found
        return change(context.module.path, found)

    return nn.intercept_methods(intercept)


def without_remat(tower: ModuleT) -> ModuleT:
    """The same tower with its option remat off, if it has one."""
    return tower.clone(remat=False) if getattr(tower, "remat", False) else tower
