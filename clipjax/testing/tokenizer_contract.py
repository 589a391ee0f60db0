"""The contract of a tokenizer: rows of ids for any text, and a state that goes on."""

from __future__ import annotations

import functools
from collections.abc import Iterator
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
# Texts of every kind: none, spaces, long, of other scripts, of letters never seen.
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
    """What types.Tokenizer promises, of one with its options."""
    documented = functools.partial(contract.options_are_documented, component)
    yield Check("options are typed and documented", documented)
    make = functools.cache(lambda: component.make(lambda: iter(CAPTIONS), None))
    for name, check in PROMISES.items():
        yield Check(name, lambda check=check: check(make()))
    yield Check(
        "a saved state makes the same tokenizer",
        lambda: state_comes_back(component, make()),
    )


def check(tokenizer: Any) -> None:
    """What types.Tokenizer promises, of a tokenizer that is made."""
    for promise in PROMISES.values():
        promise(tokenizer)


def rows_are_as_declared(tokenizer: Any) -> None:
    """Ids int32, mask bool; tokens first, at least one, then the pad_id."""
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
    must(prefix, "the mask has holes: tokens come first, padding after")
    must((ids[~mask] == tokenizer.pad_id).all(), "what is padding must have pad_id")
    empty = tokenizer([])[0].shape
    must(empty == (0, length), f"no texts give ids {empty}: must be (0, {length})")


def a_cut_text_keeps_its_end(tokenizer: Any) -> None:
    """If texts end with one token, one that is too long does too."""
    ids, mask = tokenizer(["a", "", "two dogs", "x " * 200])
    lengths = mask.sum(axis=1)
    must(lengths[3] == tokenizer.context_length, "a long text does not fill its row")
    *ends, cut = ids[np.arange(4), lengths - 1]
    if len(set(ends)) == 1:
        must(cut == ends[0], f"a cut text ends with id {cut}, others with {ends[0]}")


def texts_are_alone(tokenizer: Any) -> None:
    """A text's ids do not depend on the others of its batch, or on time."""
    ids = tokenizer(list(TEXTS))[0]
    alone = np.concatenate([tokenizer([text])[0] for text in TEXTS])
    must(np.array_equal(ids, alone), "a text's ids depend on its batch")


def no_texts_are_refused(tokenizer: Any) -> None:
    """BadExample for what is no text; UserError for one text alone."""
    for bad in (None, 3, b"bytes", float("nan")):
        try:
            tokenizer([bad])
        except BadExample:
            continue
        except Exception as error:
            what = f"raises {type(error).__name__}"
            raise AssertionError(f"[{bad!r}] {what}: raise BadExample") from error
        raise AssertionError(f"[{bad!r}] gives ids: raise BadExample")
    try:
        tokenizer("a dog")
    except UserError:
        return
    raise AssertionError("a text alone is taken for a list of letters: raise UserError")


def pickles(tokenizer: Any) -> None:
    """A copy in another process gives the same ids."""
    same(tokenizer, contract.pickled(tokenizer, "the tokenizer"), "a pickled copy")


PROMISES = {
    "ids and mask are as declared": rows_are_as_declared,
    "a cut text keeps its end": a_cut_text_keeps_its_end,
    "texts do not depend on each other": texts_are_alone,
    "what is no text is refused": no_texts_are_refused,
    "a pickled copy gives the same ids": pickles,
}


def state_comes_back(component: Component, tokenizer: Any) -> None:
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
    found = one(list(TEXTS)), other(list(TEXTS))
    must(np.array_equal(found[0][0], found[1][0]), f"{what} gives other ids")
