"""Random caption changes for training: `name(source)` -> f(caption, example, rng).

Every public function is a component; none is on by default.
`text_augment=table+paraphrase` applies several in that order. `f` can be pickled and
shared by threads. All its random numbers come from `rng`, one generator per example.
Its `texts()` yields the texts that it may add to captions, to train tokenizers on.
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
from clipjax.data.annotations import caption_tables, prompt_templates
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
    """Drops each word with probability `p` (random deletion, arXiv:1901.11196).

    Options:
      p: probability that a word is dropped.
    """
    del source
    return WordDropout(_share(p))


def paraphrase(source: Source, *, p: float = 0.3) -> Paraphrase:
    """Rewords the caption by the RULES, each with probability `p`.

    Options:
      p: probability that a rule is applied.
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
    """Replaces the caption by the class name in a random template.

    An example without a label keeps its caption.

    Options:
      p: probability that a template replaces the caption.
      templates: such as "a photo of a {}."; () for the source's own.
      label_set: the name of the label set; "" if there is only one.
    """
    set_name = find_label_set(source, label_set)
    if set_name is None:
        known = ", ".join(source.class_names) or "none"
        raise UserError(
            f"text_augment=templates needs one set of labels, the data have {known}: "
            "choose it by label_set, or leave templates out"
        )
    chosen = tuple(templates or source.templates.get(set_name, ()))
    if not chosen:
        raise UserError(f"text_augment=templates: the data have none for {set_name}")
    prompt_templates.check(chosen, "data.text_augment.templates")
    names = tuple(source.class_names[set_name])
    return Templates(_share(p), set_name, names, chosen)


def table(source: Source, *, path: str = "", p: float = 0.5) -> Table:
    """Replaces the caption by one from a file of further captions.

    For back-translations (arXiv:1511.06709), rewritten captions (arXiv:2305.20088) and
    the like, made elsewhere. An example without an entry keeps its caption.

    Options:
      p: probability that a further caption replaces the caption.
      path: JSON lines {"key": ..., "captions": [...]}, or a table with the columns key
        and caption (.csv, .tsv). The keys are the examples': an image's name in a
        caption table, SPLIT/CLASS/NAME in an image folder, SHARD.tar:KEY in shards.

    A warning counts the keys that no example has. Raises UserError if the file cannot
    be read, and if none of its keys is an example's.
    """
    share = _share(p)
    if not path:
        raise UserError(
            "text_augment=table: set its file by --config.data.text_augment.path=FILE"
        )
    place = paths.expand(path)
    if not place.is_file():
        raise local.missing(place, f"It is named by the option path={path}")
    if not hasattr(source, "key_of"):
        raise UserError(
            "text_augment=table: these data cannot list their keys without reading "
            "everything: give their source a method key_of(index)"
        )
    entries, problems = _read(place)
    keys = [source.key_of(i) for i in range(len(source))]  # pyright: ignore
    captions = {key: entries[key] for key in keys if key in entries}
    if not captions:
        raise UserError(
            f"{place}: none of its {len(entries)} keys ({next(iter(entries))!r}, ...) "
            f"is an example's; the examples' keys look like {keys[0]!r}"
        )
    if unmatched := [key for key in entries if key not in captions]:
        problems.append(
            f"{len(unmatched)} of {len(entries)} keys are no example's, such as "
            f"{unmatched[0]!r}: left out"
        )
    local.report(f"text_augment {place}", problems)
    return Table(share, captions)


@dataclasses.dataclass(frozen=True)
class Chain:
    """Applies several components in order; ignores an empty result."""

    parts: tuple[TextAugment, ...]

    def __call__(self, caption: str, example: Example, rng: np.random.Generator) -> str:
        """Returns a caption; raises BadExample if the given one is not a str."""
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
        chance, choice = rng.random(2)
        label = example.labels.get(self.label_set, -1)
        if chance >= self.p or label < 0:
            return caption
        return _pick(self.templates, choice).replace("{}", self.names[label])

    def texts(self) -> Iterator[str]:
        for template in self.templates:
            for name in self.names:
                yield template.replace("{}", name)


@dataclasses.dataclass(frozen=True)
class Table:
    p: float
    captions: Mapping[str, tuple[str, ...]]

    def __call__(self, caption: str, example: Example, rng: np.random.Generator) -> str:
        chance, choice = rng.random(2)
        further = self.captions.get(example.key)
        return caption if chance >= self.p or not further else _pick(further, choice)

    def texts(self) -> Iterator[str]:
        for captions in self.captions.values():
            yield from captions


def _share(p: float) -> float:
    if not 0 <= p <= 1:
        raise UserError(f"data.text_augment.p={p}: use a value from 0 to 1")
    return p


def _pick(choices: Sequence[str], draw: float) -> str:
    return choices[int(draw * len(choices))]


def _read(path: pathlib.Path) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Reads a file: (key -> captions, messages about problems); raises UserError."""
    if path.suffix.lower() not in (".jsonl", ".json"):
        rows, problems = caption_tables.read(path, "", "")
        return {
            key: tuple(r.captions) for key, r in rows.items() if r.captions
        }, problems
    entries: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(local.read_lines(path), 1):
        if not line.strip():
            continue
        key, captions = _entry(line)
        if key is None:
            raise UserError(
                f'{path}, line {number}: write {{"key": "...", "captions": ["..."]}}'
            )
        entries[key] = entries.get(key, ()) + captions
    if not entries:
        raise UserError(f"{path} has no captions")
    return entries, []


def _entry(line: str) -> tuple[str | None, tuple[str, ...]]:
    """(key, captions) from a JSON line; key None if the line has another form."""
    try:
        value: Any = json.loads(line)
        key, captions = value["key"], value["captions"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, ()
    valid = isinstance(key, str) and isinstance(captions, list) and captions
    if not valid or not all(isinstance(c, str) and c.strip() for c in captions):
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
# Words behind an article that does not refer to a thing ("a lot").
COUNTS = "lot|few|couple|bit|little|number|variety|bunch|dozen|hundred|thousand|while"
BEFORE = ("such", "many", "what", "half", "quite", "rather", "times", "once", "twice")


@dataclasses.dataclass(frozen=True)
class Rule:
    """pattern: the words it can change; write(matched words, draw) -> new words."""

    pattern: re.Pattern[str]
    write: Callable[[str, float], str]
    texts: tuple[str, ...] = ()

    def __call__(self, caption: str, choice: float, wording: float) -> str:
        """The caption with one match changed; unchanged if the pattern has none."""
        matches = list(self.pattern.finditer(caption))
        if not matches:
            return caption
        match = matches[int(choice * len(matches))]
        new = _with_capital_of(match[0], self.write(match[0], wording))
        rest = caption[match.end() :]
        if not new:  # the rest starts the caption now
            rest = _with_capital_of(match[0], rest)
        return caption[: match.start()] + new + rest


def _with_capital_of(before: str, after: str) -> str:
    """`after`, with a capital if `before` starts with one."""
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
    # "Two dogs in snow" -> "A photo of two dogs in snow": for captions that start with
    # a noun phrase and have no verb that is easily found.
    _rule(
        rf"^(?:an?|the|some|{_words(OTHER_NUMBER)})(?= \w)"
        r"(?! (?:picture|photo|photograph|image)s?\b)(?!.* (?:is|are|was|were)\b)",
        lambda words, draw: f"{_pick(LEADS, draw)} {words[:1].lower()}{words[1:]}",
        *LEADS,
    ),
    # "a dog" -> "the dog"; not the reverse, because "the dogs" and "the water" take no
    # "a".
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
    # Adds a full stop, or drops it.
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
