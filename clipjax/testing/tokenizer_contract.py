"""A tokenizer's contract: a row of ids for any text, and a state that restores it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from clipjax.testing import contract
from clipjax.testing.contract import Check, Component, must
from clipjax.types import BadExample, UserError

CAPTIONS = (
    "A dog runs on the grass .",
    "Two dogs play; the brown dog's ball is red!",
    "a cat sleeps on a sofa",
    "The caf\u00e9 is open",
)
# Texts of every kind: empty, blank, long, in other scripts, of unknown letters.
TEXTS = (
    *(
        "",
        " \n ",
        "a",
        *CAPTIONS,
        "x " * 200,
        "y" * 500,
        "\u65e5\u672c",
        "\0\x07\ufffd",
    ),
    *("zebra \U0001f993", "\u0418\u0432\u0430\u043d", "<s> </s> [PAD] <|endoftext|>"),
)


def checks(component: Component) -> Iterator[Check]:
    """The checks of types.Tokenizer, with the component's options."""
    documented = functools.partial(contract.options_are_documented, component)
    yield Check("options are typed and documented", documented)
    make = functools.cache(lambda: component.make(lambda: iter(CAPTIONS), None))
    for name, check in CHECKS.items():
        yield Check(name, lambda check=check: check(make()))
    yield Check(
        "a saved state makes the same tokenizer",
        lambda: state_restores(component, make()),
    )


def check(tokenizer: Any) -> None:
    """Raises AssertionError if a tokenizer breaks the contract of types.Tokenizer."""
    for run in CHECKS.values():
        run(tokenizer)


def rows_are_as_declared(tokenizer: Any) -> None:
    """Ids are int32, the mask bool; a row is one or more tokens, then pad_id."""
    length = tokenizer.context_length
    ids, mask = tokenizer(list(TEXTS))
    shape = (len(TEXTS), length)
    must(
        ids.shape == mask.shape == shape,
        f"ids {ids.shape} and mask {mask.shape}: must be [texts context_length]",
    )
    must(ids.dtype == np.int32, f"ids are {ids.dtype}: must be int32")
    must(mask.dtype == np.bool_, f"the mask is {mask.dtype}: must be bool")
    must(
        ids.min() >= 0 and ids.max() < tokenizer.vocab_size,
        f"ids reach from {ids.min()} to {ids.max()}: must be below vocab_size="
        f"{tokenizer.vocab_size}",
    )
    lengths = mask.sum(axis=1)
    must((lengths > 0).all(), "a text has no token: every row needs at least one")
    prefix = (mask == (np.arange(length) < lengths[:, None])).all()
    must(prefix, "the mask has gaps: tokens come first, then padding")
    must(
        length < 4 or not mask.all(),
        "the mask is true everywhere, even for an empty text: must be false on padding",
    )
    must((ids[~mask] == tokenizer.pad_id).all(), "padding must have the id pad_id")
    empty = tokenizer([])[0].shape
    must(empty == (0, length), f"no texts give ids {empty}: must be (0, {length})")


def truncated_text_keeps_its_ends(tokenizer: Any) -> None:
    """If all texts end with one token, a truncated text does too; its last words are
    left out, not its first."""
    ids, mask = tokenizer(["a", "", "two dogs", "x " * 200])
    lengths = mask.sum(axis=1)
    must(lengths[3] == tokenizer.context_length, "a long text does not fill its row")
    *ends, end = ids[np.arange(4), lengths - 1]
    if len(set(ends)) == 1:
        must(end == ends[0], f"a truncated text ends with {end}, others with {ends[0]}")
    own, longer = (tokenizer([text]) for text in (CAPTIONS[0], " ".join(CAPTIONS * 40)))
    same = max(int(own[1].sum()) - 2, 0)  # all but its end, and a last token
    must(
        np.array_equal(own[0][0, :same], longer[0][0, :same]),
        "a truncated text does not begin with its first words: leave out its last ones",
    )


def texts_are_independent(tokenizer: Any) -> None:
    """A text's ids do not depend on its batch's other texts, or on earlier calls."""
    ids = tokenizer(list(TEXTS))[0]
    alone = np.concatenate([tokenizer([text])[0] for text in TEXTS])
    must(np.array_equal(ids, alone), "a text's ids depend on its batch")


def refuses_other_types(tokenizer: Any) -> None:
    """Values that are no texts raise BadExample; a bare text raises UserError."""
    for bad in (None, 3, b"bytes", float("nan")):
        try:
            tokenizer([bad])
        except BadExample:
            continue
        except Exception as error:
            raised = f"raises {type(error).__name__}"
            raise AssertionError(f"[{bad!r}] {raised}: raise BadExample") from error
        raise AssertionError(f"[{bad!r}] gives ids: raise BadExample")
    try:
        tokenizer("a dog")
    except UserError:
        return
    raise AssertionError("a text alone is taken for a list of letters: raise UserError")


def unknown_is_as_declared(tokenizer: Any) -> None:
    """`unknown(text)`, if declared, gives the texts that get no id of their own."""
    if not hasattr(tokenizer, "unknown"):
        return
    for text in TEXTS:
        parts = tokenizer.unknown(text)
        must(
            isinstance(parts, Sequence)
            and not isinstance(parts, str)
            and all(isinstance(part, str) for part in parts),
            f"unknown({text[:20]!r}) gives {parts!r}: must be a sequence of texts",
        )


def pickles(tokenizer: Any) -> None:
    """A pickled copy gives the same ids."""
    same(tokenizer, contract.pickle_copy(tokenizer, "the tokenizer"), "a pickled copy")


CHECKS = {
    "ids and mask are as declared": rows_are_as_declared,
    "a truncated text keeps its start and its end": truncated_text_keeps_its_ends,
    "texts do not depend on each other": texts_are_independent,
    "other types are refused": refuses_other_types,
    "unknown() lists texts": unknown_is_as_declared,
    "a pickled copy gives the same ids": pickles,
}


def state_restores(component: Component, tokenizer: Any) -> None:
    """`make(None, state)` needs no captions."""
    state = tokenizer.state()
    must(
        state is None or isinstance(state, str),
        f"state() is a {type(state).__name__}: must be a text, or None",
    )
    try:
        restored = component.make(None, state)
    except Exception as error:
        raise AssertionError(f"make(None, state) raises {error}") from error
    same(tokenizer, restored, "make(None, state)")
    must(restored.state() == state, "the state of make(None, state) is another")


def same(one: Any, other: Any, what: str) -> None:
    for name in ("vocab_size", "context_length", "pad_id"):
        must(getattr(one, name) == getattr(other, name), f"{what} has another {name}")
    ids = [tokenizer(list(TEXTS))[0] for tokenizer in (one, other)]
    must(np.array_equal(*ids), f"{what} gives other ids")
