"""Checks of components: each holds one to the whole contract of its family.

    check_loss("my_package.my_loss", block=64)
    check_tower("image", "my_package.my_tower", width=32)

A component is a name of clipjax's own, a dotted module with a `make`, or a factory;
keywords are its options. A component that breaks its contract raises AssertionError
with what it must do. `python -m clipjax.testing loss=my_package.my_loss` does the same
on the command line.

Checks of several devices need them: set XLA_FLAGS before jax starts, as
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

Given = str | Callable[..., Any]
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
    family: str, given: Given, options: Mapping[str, Any], **more: str
) -> Iterator[contract.Check]:
    """The checks of a component, one after another; those of a family share work.

    Raises UserError for a family without a contract, and a component or an option that
    is not there.
    """
    if family not in CONTRACTS:
        raise UserError(f"{family}: no contract. There are {', '.join(CONTRACTS)}")
    return CONTRACTS[family](contract.component(family, given, options), **more)


def check_loss(loss: Given, **options: Any) -> None:
    """Raises AssertionError if a loss breaks the contract of types.Loss."""
    contract.run(checks("loss", loss, options))


def check_tower(family: str, tower: Given, **options: Any) -> None:
    """Raises AssertionError if a tower breaks the contract of types.Tower.

    family: "image" or "text".
    """
    contract.run(checks(family, tower, options))


def check_model(model: Given, **options: Any) -> None:
    """Raises AssertionError if a model breaks the contract of types.Model."""
    contract.run(checks("model", model, options))


def check_source(source: Given, split: str = "train", **options: Any) -> None:
    """Raises AssertionError if a source breaks the contract of types.Source."""
    contract.run(checks("data", source, options, split=split))


def check_tokenizer(tokenizer: Given, **options: Any) -> None:
    """Raises AssertionError if a tokenizer breaks the contract of types.Tokenizer."""
    contract.run(checks("tokenizer", tokenizer, options))


def check_optimizer(optimizer: Given, **options: Any) -> None:
    """Raises AssertionError if an optimizer's updates are not what a run needs."""
    contract.run(checks("optim", optimizer, options))


def check_evaluator(evaluator: Given, **options: Any) -> None:
    """Raises AssertionError if an evaluator breaks the contract of types.Evaluator."""
    contract.run(checks("evals", evaluator, options))
