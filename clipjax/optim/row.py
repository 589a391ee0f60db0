"""A row of the table of optimizers, and the factory that it makes."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import optax

from clipjax.optim.limits import check
from clipjax.registry import Option

Rate = Callable[[float], optax.Schedule]
Decay = Callable[[float], optax.GradientTransformation]
Factory = Callable[..., Any]

# What an option means, unless its row says otherwise.
MEANINGS = {
    "lr": "the peak learning rate.",
    "b1": "decay of the mean of gradients, in [0, 1).",
    "b2": "decay of the mean of squared gradients, in [0, 1).",
    "eps": "added to the root of that mean, above 0.",
    "momentum": "decay of the sum of gradients, in [0, 1).",
    "nesterov": "take Nesterov's form of the momentum.",
}
# Where a row's decay acts, and what its strength then means.
COUPLED = "strength of the decay, added to the gradient."
DECOUPLED = "strength of the decay, times the learning rate."


def row(
    summary: str,
    scale: Callable[..., Any],
    decay: str = COUPLED,
    *,
    meanings: Mapping[str, str] | None = None,
    whole: bool = False,
    lr: float,
    weight_decay: float = 0.0,
    **options: float | bool | int | str,
) -> Factory:
    """The factory of an optimizer: `make(rate, decay, *, lr, ..., weight_decay)`.

    Args:
      summary: its docstring's beginning: what it is, and its paper.
      scale: makes what turns gradients into steps before the rate, from the options.
        If `whole`, makes everything, from the rate's schedule, the transformation that
        adds weight decay, and the options.
      decay: COUPLED or DECOUPLED, or its own text if `whole`.
      meanings: of options whose meaning is not that of MEANINGS.
      lr, weight_decay, options: the defaults, whose types are the options'.
    """
    defaults = {"lr": lr, **options, "weight_decay": weight_decay}
    texts = {**MEANINGS, "weight_decay": decay, **(meanings or {})}

    def make(rate: Rate, add_decay: Decay, **chosen: Any) -> Any:
        if unknown := [name for name in chosen if name not in defaults]:
            raise TypeError(f"no option {', '.join(unknown)}")
        values = {**defaults, **chosen}
        numbers: dict[str, Any] = {
            name: value
            for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        check(**numbers)
        schedule = rate(values.pop("lr"))
        adding = add_decay(values.pop("weight_decay"))
        if whole:
            return scale(schedule, adding, **values)
        parts = [adding, scale(**values)]
        if decay == DECOUPLED:
            parts.reverse()
        return optax.chain(*parts, optax.scale_by_learning_rate(schedule))

    lines = [_entry(name, texts[name]) for name in defaults]
    doc = f"{summary.rstrip()}\n\nArgs:\n" + "\n".join(lines)
    kinds = {name: Option(value, type(value)) for name, value in defaults.items()}
    return with_options(make, doc, kinds)


def _entry(name: str, meaning: str) -> str:
    return textwrap.fill(
        f"{name}: {meaning}", 84, initial_indent="  ", subsequent_indent="    "
    )


def with_options(make: Factory, doc: str, options: Mapping[str, Option]) -> Factory:
    """The factory with options that `registry.options` and --help read as if written.

    make: takes (rate, decay) and the options as keywords. doc: its docstring.
    """
    kinds = inspect.Parameter
    parameters = [
        kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in ("rate", "decay")
    ]
    parameters += [
        kinds(
            name,
            kinds.KEYWORD_ONLY,
            default=option.default,
            annotation=option.annotation,
        )
        for name, option in options.items()
    ]
    make.__signature__ = inspect.Signature(parameters)  # type: ignore
    make.__annotations__ = {name: option.annotation for name, option in options.items()}
    make.__doc__ = doc
    return make


def pull_of(decay: optax.GradientTransformation, params: Any) -> Any:
    """What the transformation that adds weight decay adds to any steps."""
    zeros = optax.tree.zeros_like(params)
    return decay.update(zeros, optax.EmptyState(), params)[0]


def named(module: str, table: Mapping[str, Factory]) -> dict[str, Factory]:
    """The table with each factory named, and put into the module, as its function."""
    for name, factory in table.items():
        factory.__name__ = factory.__qualname__ = name
        factory.__module__ = module
    return dict(table)
