"""A source's contract: random access, correct counts, equal copies."""

from __future__ import annotations

import functools
import itertools
import sys
import types
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import numpy as np

from clipjax.data.images import decoding
from clipjax.testing import contract
from clipjax.testing.contract import Check, Component, must
from clipjax.types import BadExample, Example, Source

THREADS = 4
SAMPLES = 16  # examples that are checked, evenly spaced from first to last
MOST_LINES = 400  # at which a read is interrupted
LOCK_SECONDS = 0.05  # after which an interrupted read goes on

Read = tuple[int, Example | None]  # an index and what was read there


def checks(component: Component, split: str = "train") -> Iterator[Check]:
    """The checks of types.Source, with the component's options and a split."""
    documented = functools.partial(contract.options_are_documented, component)
    yield Check("options are typed and documented", documented)
    make = functools.cache(lambda: component.make(split))
    for name, check in CHECKS.items():
        yield Check(name, lambda check=check: check(make()))

    def again() -> None:
        same_examples(make(), component.make(split), "made again, the source differs")

    yield Check("made again, it is the same", again)


def check(source: Source) -> None:
    """Raises AssertionError if a source breaks the contract of types.Source."""
    for run in CHECKS.values():
        run(source)


def has_its_fields(source: Any) -> None:
    """Lengths, counts, classes and templates agree."""
    must(isinstance(source, Source), f"lacks one of {', '.join(_declared())}")
    counts, size = source.caption_counts, len(source)
    must(size > 0, "the source has no examples: raise MissingData")
    must(
        isinstance(counts, np.ndarray)
        and counts.dtype == np.int32
        and counts.shape == (size,),
        f"caption_counts must be int32 [{size}], one count per example",
    )
    must(counts.min() >= 0, "caption_counts has a negative count")
    must(
        source.max_captions == counts.max(),
        f"max_captions is {source.max_captions} and the largest count {counts.max()}",
    )
    extra = source.templates.keys() - source.class_names.keys()
    must(not extra, f"templates of label sets without class_names: {extra}")
    for label_set, names in source.class_names.items():
        must(
            all(isinstance(name, str) for name in names), f"{label_set}: must be texts"
        )
    for template in itertools.chain(*source.templates.values()):
        must(template.count("{}") == 1, f"template {template!r}: needs one {{}}")
    class_ids = getattr(source, "class_ids", {})
    for label_set, ids in class_ids.items():
        names = source.class_names.get(label_set, ())
        must(
            len(ids) == len(names), f"class_ids[{label_set!r}]: must have one per class"
        )
    problems = getattr(source, "problems", [])
    must(
        isinstance(problems, list) and all(isinstance(text, str) for text in problems),
        "problems must be a list of texts",
    )
    if shares := getattr(source, "shares", None):
        total = sum(examples for examples, _ in shares)
        must(total == size, f"shares are of {total} examples; the source has {size}")


def examples_hold(source: Any) -> None:
    """Images decode; captions and labels match the source's counts and classes."""
    others: dict[str, Any] | None = None
    captions_of = getattr(source, "captions_of", None)
    key_of = getattr(source, "key_of", None)
    reasons: list[str] = []
    indices = sample_indices(source)
    for index in indices:
        try:
            example = source[index]
            must(isinstance(example, Example), f"[{index}] is no types.Example")
            decoding.decode(example.image)
        except BadExample as error:
            reasons.append(f"[{index}] {error}")
            continue
        must(bool(example.key), f"[{index}] has no key, which messages name it by")
        size, count = len(example.captions), int(source.caption_counts[index])
        must(size == count, f"[{index}] has {size} captions; caption_counts {count}")
        must(
            not isinstance(example.captions, str)
            and all(isinstance(caption, str) for caption in example.captions),
            f"[{index}] has captions {example.captions!r}: must be several texts",
        )
        for label_set, label in example.labels.items():
            classes = len(source.class_names.get(label_set, ()))
            must(
                -1 <= label < classes,
                f"[{index}] has label {label} of {classes} classes in {label_set!r}",
            )
        if captions_of:
            equal_texts = list(captions_of(index)) == list(example.captions)
            must(equal_texts, f"captions_of({index}) are not the example's captions")
        if key_of:
            must(key_of(index) == example.key, f"key_of({index}) is not its key")
        form = {name: (x.shape, x.dtype) for name, x in example.others.items()}
        must(others in (None, form), f"[{index}].others differ in form from [0]'s")
        others = form
    must(
        len(reasons) < len(indices),
        f"none of the {len(indices)} examples read can be used: {reasons[:1]}",
    )


def keys_differ(source: Any) -> None:
    """Examples have different keys, which messages and evaluators' rows name."""
    places: dict[str, int] = {}
    near = {index + 1 for index in sample_indices(source)} - {len(source)}
    for index in sorted({*sample_indices(source), *near}):
        if example := read(source, index):
            first = places.setdefault(example.key, index)
            must(first == index, f"[{first}] and [{index}] have the key {example.key}")


def access_is_random(source: Any) -> None:
    """Reads in any order give the same examples; indices beyond the ends raise."""
    order = sample_indices(source)
    first = [read(source, index) for index in order]
    second = [read(source, index) for index in reversed(order)]
    for index, one, other in zip(order, first, reversed(second), strict=True):
        must(equal(one, other), f"[{index}] read again is another example")
    for index in (len(source), -1):
        try:
            source[index]
        except IndexError:
            continue
        except Exception as error:
            raise AssertionError(
                f"source[{index}] raises {type(error).__name__}: raise IndexError"
            ) from error
        raise AssertionError(f"source[{index}] gives an example: raise IndexError")


def threads_agree(source: Any) -> None:
    """Reads from several threads at once, as batches make them, give the same."""
    order = sample_indices(source)
    alone = {index: read(source, index) for index in order}

    def reads(thread: int) -> list[Read]:
        return [(at, read(source, at)) for at in order[thread:] + order[:thread]]

    with futures.ThreadPoolExecutor(THREADS) as pool:
        together = list(itertools.chain(*pool.map(reads, range(THREADS))))
    together += interrupted_reads(source, order[0], order[-1])
    together += interrupted_reads(source, order[-1], order[len(order) // 2])
    for index, example in together:
        must(
            equal(example, alone[index]),
            f"[{index}] read by several threads at once is another example: read at "
            "offsets, or hold a lock",
        )


def interrupted_reads(source: Any, index: int, other: int) -> list[Read]:
    """Reads an index; before each line's first pass another thread reads `other`.

    So a state that reads share is found whatever the threads' timing. A read that
    waits, as for a lock that the interrupted one holds, is not waited for.
    """
    seen: set[tuple[types.CodeType, int]] = set()
    began: list[futures.Future] = []

    def interrupt(frame: types.FrameType, *_: Any) -> Any:
        line = frame.f_code, frame.f_lineno
        if line not in seen and len(seen) < MOST_LINES:
            seen.add(line)
            if not began or began[-1].done():
                began.append(others.submit(read, source, other))
                futures.wait(began[-1:], timeout=LOCK_SECONDS)
        return interrupt

    with (
        futures.ThreadPoolExecutor(1) as others,
        futures.ThreadPoolExecutor(
            1, initializer=sys.settrace, initargs=(interrupt,)
        ) as traced,
    ):
        found = traced.submit(read, source, index).result()
    return [(index, found), *((other, earlier.result()) for earlier in began)]


def pickles(source: Any) -> None:
    """A pickled copy, which each worker gets, gives the same examples."""
    copy = contract.pickle_copy(source, "the source")
    same_examples(source, copy, "a pickled copy differs")


CHECKS = {
    "counts, classes and templates agree": has_its_fields,
    "examples have the captions and labels that are counted": examples_hold,
    "keys differ": keys_differ,
    "access is random and repeatable": access_is_random,
    "several threads read the same": threads_agree,
    "a pickled copy is the same": pickles,
}


def same_examples(one: Any, other: Any, message: str) -> None:
    must(len(one) == len(other), message)
    counts = one.caption_counts, other.caption_counts
    must(np.array_equal(*counts), f"{message} in caption_counts")
    for index in sample_indices(one):
        same = equal(read(one, index), read(other, index))
        must(same, f"{message} at [{index}]")


def sample_indices(source: Any) -> list[int]:
    """Indices to check: both ends, and evenly spaced ones between."""
    return sorted(set(np.linspace(0, len(source) - 1, SAMPLES).astype(int).tolist()))


def read(source: Any, index: int) -> Example | None:
    """An example, None if it is broken."""
    try:
        return source[index]
    except BadExample:
        return None


def equal(one: Example | None, other: Example | None) -> bool:
    """Whether two examples are equal, pixels and arrays included."""
    if one is None or other is None:
        return one is other
    images = one.image, other.image
    if any(isinstance(image, np.ndarray) for image in images):
        images = tuple(np.asarray(image).tobytes() for image in images)
    return (
        images[0] == images[1]
        and list(one.captions) == list(other.captions)
        and dict(one.labels) == dict(other.labels)
        and one.key == other.key
        and one.others.keys() == other.others.keys()
        and all(np.array_equal(one.others[k], other.others[k]) for k in one.others)
    )


def _declared() -> list[str]:
    return ["max_captions", "caption_counts", "class_names", "templates", "len", "[]"]
