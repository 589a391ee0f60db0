"""Captions varied in training: `name(source)` -> callable(caption, example, rng).

Every public function is a component, none is on by default, and several are one after
another in the order of `text_augment=table+paraphrase`. What it returns can be pickled
and shared by threads; all chance comes from `rng`, which is the example's own. Its
`texts()` gives what it may say beside the captions, for tokenizers that are trained.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from clipjax import paths
from clipjax.data.annotations import caption_tables
from clipjax.data.class_lists import find_label_set
from clipjax.data.storage import local
from clipjax.data.text import cleaning
from clipjax.types import Example, Source, UserError


class TextAugment(Protocol):
    def __call__(
        self, caption: str, example: Example, rng: np.random.Generator
    ) -> str: ...

    def texts(self) -> Iterator[str]: ...


def word_dropout(source: Source, *, p: float = 0.1) -> WordDropout:
    """Leaves out each word with probability `p` (random deletion, arXiv:1901.11196).

    Options:
      p: probability of a word to be left out.
    """
    del source
    return WordDropout(_share(p))


def paraphrase(source: Source, *, p: float = 0.3) -> Paraphrase:
    """Says the same in other words by the RULES, each with probability `p`.

    Options:
      p: probability of a rule to be applied.
    """
    del source
    return Paraphrase(_share(p))


def templates(
    source: Source,
    *,
    p: float = 1.0,
    templates: tuple[str, ...] = (),
    label_set: str = "",
) -> Templates:
    """With probability `p` the class's name in a template drawn at random.

    An example without a label keeps its caption.

    Options:
      p: probability of a template in the caption's place.
      templates: "a photo of a {}."; () for the source's own.
      label_set: which labels; "" if there is only one set.
    """
    found = find_label_set(source, label_set)
    if found is None:
        known = ", ".join(source.class_names) or "none"
        raise UserError(
            f"text_augment=templates needs one set of labels, the data have {known}: "
            "choose it by label_set, or leave templates out"
        )
    chosen = tuple(templates or source.templates.get(found, ()))
    if not chosen:
        raise UserError(f"text_augment=templates: the data have none for {found}")
    for template in chosen:
        if template.count("{}") != 1:
            raise UserError(
                f"data.text_augment.templates: {template!r} needs one {{}} for the name"
            )
    names = tuple(source.class_names[found])
    return Templates(_share(p), found, names, chosen)


def table(source: Source, *, path: str = "", p: float = 0.5) -> Table:
    """With probability `p` one of further captions of the image, from a file.

    The way in for translations there and back (arXiv:1511.06709), rewritten captions
    (arXiv:2305.20088) and the like, made elsewhere. Without an entry nothing changes.

    Options:
      p: probability of a further caption in the caption's place.
      path: JSON lines {"key": ..., "captions": [...]}, or a table with the columns key
        and caption (.csv, .tsv). A key is that of an example: the name of the image in
        a caption table, SPLIT/CLASS/NAME of an image folder, SHARD.tar:KEY.

    Keys of no example are counted in a warning. Raises UserError for a file that cannot
    be read, and for one without any example's key.
    """
    share = _share(p)
    if not path:
        raise UserError(
            "text_augment=table: set its file by --config.data.text_augment.path=FILE"
        )
    place = paths.given(path)
    if not place.is_file():
        raise local.missing(place, f"It is named by the option path={path}")
    if not hasattr(source, "key_of"):
        raise UserError(
            "text_augment=table: these data cannot tell their keys without reading "
            "everything: give their source a method key_of(index)"
        )
    further, problems = _read(place)
    keys = [source.key_of(i) for i in range(len(source))]  # pyright: ignore
    found = {key: further[key] for key in keys if key in further}
    if not found:
        raise UserError(
            f"{place}: none of its {len(further)} keys ({next(iter(further))!r}, ...) "
            f"is an example's; theirs are like {keys[0]!r}"
        )
    if strange := [key for key in further if key not in found]:
        problems.append(
            f"{len(strange)} of {len(further)} keys are no example's, such as "
            f"{strange[0]!r}: left out"
        )
    local.report(f"text_augment {place}", problems)
    return Table(share, found)


@dataclasses.dataclass(frozen=True)
class Chain:
    """Components one after another; one that leaves nothing is passed over."""

    parts: tuple[TextAugment, ...]

    def __call__(self, caption: str, example: Example, rng: np.random.Generator) -> str:
        """Returns a caption; raises BadExample for one that is no str."""
        cleaning.check(caption)
        for part in self.parts:
            changed = part(caption, example, rng)
            caption = changed if changed.strip() else caption
        return caption

    def texts(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.texts()


@dataclasses.dataclass(frozen=True)
class WordDropout:
    p: float

    def __call__(self, caption: str, example: Example, rng: np.random.Generator) -> str:
        del example
        words = caption.split()
        kept = rng.random(len(words)) >= self.p
        return caption if kept.all() else " ".join(np.array(words, object)[kept])

    def texts(self) -> Iterator[str]:
        yield from ()


@dataclasses.dataclass(frozen=True)
class Templates:
    p: float
    label_set: str
    names: tuple[str, ...]
    templates: tuple[str, ...]

    def __call__(self, caption: str, example: Example, rng: np.random.Generator) -> str:
        chance, which = rng.random(2)
        label = example.labels.get(self.label_set, -1)
        if chance >= self.p or label < 0:
            return caption
        return _one(self.templates, which).replace("{}", self.names[label])

    def texts(self) -> Iterator[str]:
        for template in self.templates:
            for name in self.names:
                yield template.replace("{}", name)


@dataclasses.dataclass(frozen=True)
class Table:
    p: float
    captions: Mapping[str, tuple[str, ...]]

    def __call__(self, caption: str, example: Example, rng: np.random.Generator) -> str:
        chance, which = rng.random(2)
        further = self.captions.get(example.key)
        return caption if chance >= self.p or not further else _one(further, which)

    def texts(self) -> Iterator[str]:
        for captions in self.captions.values():
            yield from captions


def _share(p: float) -> float:
    if not 0 <= p <= 1:
        raise UserError(f"data.text_augment.p={p}: use a value from 0 to 1")
    return p


def _one(choices: Sequence[str], draw: float) -> str:
    return choices[int(draw * len(choices))]


def _read(path: pathlib.Path) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """(key -> captions, problems in words) of a file; raises UserError."""
    if path.suffix.lower() not in (".jsonl", ".json"):
        entries, problems = caption_tables.read(path, "", "")
        found = {key: tuple(entry.captions) for key, entry in entries.items()}
        return {key: captions for key, captions in found.items() if captions}, problems
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(local.read_lines(path), 1):
        if not line.strip():
            continue
        key, captions = _entry(line)
        if key is None:
            raise UserError(
                f'{path}, line {number}: write {{"key": "...", "captions": ["..."]}}'
            )
        found[key] = found.get(key, ()) + captions
    if not found:
        raise UserError(f"{path} holds no captions")
    return found, []


def _entry(line: str) -> tuple[str | None, tuple[str, ...]]:
    """(key, captions) of a line of JSON; the key is None if the form is another."""
    try:
        value: Any = json.loads(line)
        key, captions = value["key"], value["captions"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, ()
    good = isinstance(key, str) and isinstance(captions, list) and captions
    if not good or not all(isinstance(c, str) and c.strip() for c in captions):
        return None, ()
    return key, tuple(captions)


# The rules of `paraphrase`

NUMBERS = dict(
    zip(
        "two three four five six seven eight nine ten eleven twelve".split(),
        map(str, range(2, 13)),
        strict=True,
    )
)
SAME = (
    *(("next to", "beside"), ("sofa", "couch"), ("tv", "television")),
    *(("bike", "bicycle"), ("bikes", "bicycles"), ("kid", "child")),
    *(("kids", "children"), ("photo", "picture"), ("photos", "pictures")),
)
LEADS = ("a picture of", "a photo of", "an image of")

OTHER_NUMBER = {**NUMBERS, **{digit: word for word, digit in NUMBERS.items()}}
OTHER_WORD = {**dict(SAME), **{second: first for first, second in SAME}}
# What an article belongs to where it does not point at a thing.
COUNTS = "lot|few|couple|bit|little|number|variety|bunch|dozen|hundred|thousand|while"
BEFORE = ("such", "many", "what", "half", "quite", "rather", "times", "once", "twice")


@dataclasses.dataclass(frozen=True)
class Rule:
    """pattern: what it can change; write(words matched, draw) -> what stands there."""

    pattern: re.Pattern[str]
    write: Callable[[str, float], str]
    texts: tuple[str, ...] = ()

    def __call__(self, caption: str, place: float, wording: float) -> str:
        """The caption with one of the places changed, as it is if there is none."""
        places = list(self.pattern.finditer(caption))
        if not places:
            return caption
        found = places[int(place * len(places))]
        written = _as_begun(found[0], self.write(found[0], wording))
        rest = caption[found.end() :]
        if not written:  # what follows begins the caption now
            rest = _as_begun(found[0], rest)
        return caption[: found.start()] + written + rest


def _as_begun(before: str, after: str) -> str:
    """After with a capital if the words before began with one."""
    return after[:1].upper() + after[1:] if before[:1].isupper() else after


def _words(words: Sequence[str] | Mapping[str, str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


def _rule(pattern: str, write: Callable[[str, float], str], *texts: str) -> Rule:
    return Rule(re.compile(pattern, re.IGNORECASE), write, texts)


RULES = (
    # "A picture of a dog" -> "A dog".
    _rule(
        r"^(?:an? |the )?(?:picture|photo|photograph|image) of (?=\w)", lambda _, __: ""
    ),
    # "Two dogs in snow" -> "A photo of two dogs in snow": what begins with what is
    # seen and is no sentence, as far as that is easily told.
    _rule(
        rf"^(?:an?|the|some|{_words(OTHER_NUMBER)})(?= \w)"
        r"(?! (?:picture|photo|photograph|image)s?\b)(?!.* (?:is|are|was|were)\b)",
        lambda words, draw: f"{_one(LEADS, draw)} {words[:1].lower()}{words[1:]}",
        *LEADS,
    ),
    # "a dog" -> "the dog". Not back, since "the dogs" and "the water" have no "a".
    _rule(
        "".join(rf"(?<!\b{word} )" for word in BEFORE)
        # A capital elsewhere is a letter: "platform A is".
        + rf"(?-i:^An?|(?<![-'\w])an?)(?= [a-z])(?! (?:{COUNTS})\b)",
        lambda _, __: "the",
        "the",
    ),
    # "two dogs" <-> "2 dogs"; not in "two-storey", "2.5", "2:30", "two hundred".
    _rule(
        rf"(?<![-\w.,:/$#%])(?:{_words(OTHER_NUMBER)})(?![-\w%°:/'])(?![.,]\d)"
        r"(?! (?:hundred|thousand|million|dozen)\b)",
        lambda words, _: OTHER_NUMBER[words.lower()],
        " ".join(OTHER_NUMBER),
    ),
    _rule(
        rf"(?<![-\w])(?:{_words(OTHER_WORD)})(?![-\w])",
        lambda words, _: OTHER_WORD[words.lower()],
        " ".join(OTHER_WORD),
    ),
    # With a full stop and without.
    _rule(r"(?<=\w)(?: ?\.)?\Z", lambda words, _: "" if words else ".", "."),
)


@dataclasses.dataclass(frozen=True)
class Paraphrase:
    p: float

    def __call__(self, caption: str, example: Example, rng: np.random.Generator) -> str:
        del example
        for rule, draws in zip(RULES, rng.random((len(RULES), 3)), strict=True):
            if draws[0] < self.p:
                caption = rule(caption, draws[1], draws[2])
        return caption

    def texts(self) -> Iterator[str]:
        for rule in RULES:
            yield from rule.texts
