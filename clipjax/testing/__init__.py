"""Contract checks: each function checks a component against its family's contract.

    check_loss("my_package.my_loss", block=64)
    check_tower("image", "my_package.my_tower", width=32)

A component is the name of one of clipjax's, a dotted module with a `make`, or a
factory; keywords are its options. If it breaks its contract, AssertionError says what
it must do. `python -m clipjax.testing loss=my_package.my_loss` runs the same checks on
the command line.

Some checks need several devices: set XLA_FLAGS before jax starts, as
`python -m clipjax.testing` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from clipjax.testing import (
    contract,
    evaluator_contract,
    loss_contract,
    model_contract,
    optimizer_contract,
    source_contract,
    tokenizer_contract,
    tower_contract,
)
from clipjax.types import UserError

NameOrFactory = str | Callable[..., Any]
CONTRACTS: Mapping[str, Callable[..., Iterator[contract.Check]]] = {
    "loss": loss_contract.checks,
    "image": tower_contract.checks,
    "text": tower_contract.checks,
    "model": model_contract.checks,
    "data": source_contract.checks,
    "tokenizer": tokenizer_contract.checks,
    "optim": optimizer_contract.checks,
    "evals": evaluator_contract.checks,
}


def checks(
    family: str, component: NameOrFactory, options: Mapping[str, Any], **more: str
) -> Iterator[contract.Check]:
    """Yields a component's checks in order; checks of one component share work.

    Raises UserError if the family has no contract, or the component or an option does
    not exist.
    """
    if family not in CONTRACTS:
        raise UserError(f"{family}: no contract. There are {', '.join(CONTRACTS)}")
    return CONTRACTS[family](contract.component(family, component, options), **more)


def check_loss(loss: NameOrFactory, **options: Any) -> None:
    """Raises AssertionError if a loss breaks the contract of types.Loss.

    >>> def make(spec, *, width: int = 3):
    ...     "No word on its option."
    >>> check_loss(make)
    Traceback (most recent call last):
    AssertionError: options without a line in the docstring: width; ...
    """
    contract.run(checks("loss", loss, options))


def check_tower(family: str, tower: NameOrFactory, **options: Any) -> None:
    """Raises AssertionError if a tower breaks the contract of types.Tower.

    family: "image" or "text".

    >>> def make(image_size, *, width: int = 3):
    ...     "No word on its option."
    >>> check_tower("image", make)
    Traceback (most recent call last):
    AssertionError: options without a line in the docstring: width; ...
    """
    contract.run(checks(family, tower, options))


def check_model(model: NameOrFactory, **options: Any) -> None:
    """Raises AssertionError if a model breaks the contract of types.Model.

    >>> def make(image_tower, *, width: int = 3):
    ...     "No word on its option."
    >>> check_model(make)
    Traceback (most recent call last):
    AssertionError: options without a line in the docstring: width; ...
    """
    contract.run(checks("model", model, options))


def check_source(source: NameOrFactory, split: str = "train", **options: Any) -> None:
    """Raises AssertionError if a source breaks the contract of types.Source.

    >>> def make(split, *, width: int = 3):
    ...     "No word on its option."
    >>> check_source(make)
    Traceback (most recent call last):
    AssertionError: options without a line in the docstring: width; ...
    """
    contract.run(checks("data", source, options, split=split))


def check_tokenizer(tokenizer: NameOrFactory, **options: Any) -> None:
    """Raises AssertionError if a tokenizer breaks the contract of types.Tokenizer.

    >>> def make(captions, state, *, width: int = 3):
    ...     "No word on its option."
    >>> check_tokenizer(make)
    Traceback (most recent call last):
    AssertionError: options without a line in the docstring: width; ...
    """
    contract.run(checks("tokenizer", tokenizer, options))


def check_optimizer(optimizer: NameOrFactory, **options: Any) -> None:
    """Raises AssertionError if an optimizer's updates do not fit a run.

    >>> def make(rate, decay, *, width: int = 3):
    ...     "No word on its option."
    >>> check_optimizer(make)
    Traceback (most recent call last):
    AssertionError: options without a line in the docstring: width; ...
    """
    contract.run(checks("optim", optimizer, options))


def check_evaluator(evaluator: NameOrFactory, **options: Any) -> None:
    """Raises AssertionError if an evaluator breaks the contract of types.Evaluator.

    >>> def make(inputs, *, width: int = 3):
    ...     "No word on its option."
    >>> check_evaluator(make)
    Traceback (most recent call last):
    AssertionError: options without a line in the docstring: width; ...
    """
    contract.run(checks("evals", evaluator, options))
