"""Seeded strings of every kind that a caption may be, good or broken."""

from __future__ import annotations

import html
import random
import string
from collections.abc import Callable, Sequence

SUBJECTS = "dog cat man woman child bird horse bicycle boat city".split()
DOES = "runs sits sleeps jumps plays waits eats stands".split()
PLACES = "grass sofa beach street table bridge roof snow".split()
ACCENTED = (
    "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m jalape\u00f1o cr\u00e8me Br\u00fbl\u00e9e "
    "pi\u00f1ata \u0141\u00f3d\u017a \u0160koda fa\u00e7ade stra\u00dfe \u00d8re "
    "\u0130stanbul \u017f\u0131\u1e9e \u0149 \u01c5 \u2126 \u212a"
).split()
EMOJI = (
    "\U0001f436",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\U0001f44d\U0001f3fd",
    "\U0001f1e9\U0001f1ea",
    "1\ufe0f\u20e3",
    "\u2764\ufe0f",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "\U0001f9d1\u200d\U0001f692",
)
BLANKS = " \t\n\r\v\f\x1c\x85\u00a0\u1680\u2003\u200b\u2028\u2029\u202f\u3000\ufeff"
MARKS = "'\u2019\u2018\u201a\"\u201c\u201d\u201e\u2013\u2014\u2026\u00ab\u00bb\u2032"
FORMS = "\ufb01\ufb03\uff21\uff42\uff11\uff01\u2160\u216b\u00bd\u00b2\u2122\u3392\u210c"
SPECIAL = ("<start_of_text>", "<end_of_text>", "<END_OF_TEXT>", "&lt;end_of_text&gt;")
NEARLY = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<start_of_text",
    "end_of_text>",
    "<start of text>",
    "<pad>",
    "[MASK]",
    "</w>",
    "! !!",
)
# Where letters, marks, digits and signs of other scripts are, first and last + 1.
SCRIPTS = {
    "greek and cyrillic": [(0x370, 0x400), (0x400, 0x530)],
    "chinese, japanese, korean": [
        (0x3040, 0x3100),
        (0x4E00, 0x9FA6),
        (0xAC00, 0xD7A4),
        (0x1100, 0x1200),
        (0x20000, 0x2A6D7),
    ],
    "arabic and hebrew": [(0x590, 0x600), (0x600, 0x700), (0xFB50, 0xFE00)],
    "indic, thai, tibetan": [
        (0x900, 0x980),
        (0xB80, 0xC00),
        (0xE00, 0xE80),
        (0xF00, 0x1000),
    ],
    "signs": [(0x2000, 0x2C00), (0x1F000, 0x1FB00), (0x1D400, 0x1D800)],
}

Draw = random.Random


def _phrase(draw: Draw, least: int = 0) -> str:
    parts = [
        f"a {draw.choice(SUBJECTS)} {draw.choice(DOES)} on the {draw.choice(PLACES)}"
        for _ in range(max(least, draw.randint(1, 3)))
    ]
    return draw.choice([", ", " and ", ". ", "; "]).join(parts)


def _letters(draw: Draw, spans: list[tuple[int, int]], most: int = 20) -> str:
    """Words of characters from ranges, first and last + 1."""
    made = []
    for _ in range(draw.randint(1, 5)):
        span = draw.choice(spans)
        count = draw.randint(1, most)
        made.append("".join(chr(draw.randrange(*span)) for _ in range(count)))
    return " ".join(made)


def _mixed(draw: Draw, others: Sequence[str]) -> str:
    """A phrase with strange things between, inside and around its words."""
    words = _phrase(draw).split()
    for _ in range(draw.randint(1, 6)):
        i, other = draw.randrange(len(words)), draw.choice(others)
        at = draw.randint(0, len(words[i]))
        words[i] = draw.choice(
            [words[i][:at] + other + words[i][at:], other, words[i] + other]
        )
    return " ".join(words)


def _case(draw: Draw) -> str:
    change = draw.choice([str.upper, str.title, str.swapcase, str.capitalize])
    return change(_phrase(draw)).replace(" ", " " * draw.randint(1, 3))


def _contractions(draw: Draw) -> str:
    ends = "'s 't 're 've 'm 'll 'd 'S 'LL ' '' 's' 'x '\u017f \u2019s".split()
    return " ".join(
        draw.choice([*SUBJECTS, "I", "they", "2", ""]) + draw.choice(ends)
        for _ in range(draw.randint(1, 8))
    )


def _digits(draw: Draw) -> str:
    known = "0123456789.,:/%$-+" + "\u00bd\u00b2\u0664\u0967\uff13\U0001d7d8"
    return _mixed(draw, ["".join(draw.choices(known, k=5)) for _ in range(4)])


def _url(draw: Draw) -> str:
    path = "".join(
        draw.choices(string.ascii_letters + string.digits + "/-_.?=&%#", k=20)
    )
    return (
        f"{_phrase(draw)} http{draw.choice(['', 's'])}://www.x.org/{path} @me #{path}"
    )


def _entities(draw: Draw) -> str:
    names = ["&amp;", "&lt;b&gt;", "&eacute;", "&hellip;", "&quot;", "&nbsp;", "&ampx"]
    names += ["&#233;", "&#x1F436;", "&#128;", "&#0;", "&#xD800;", "&#1114112;", "&#;"]
    names += ["&notanentity;", "&", "&copy", "&NotEqualTilde;", "&#39;", "&apos;s"]
    return _mixed(draw, names)


def _escaped(draw: Draw) -> str:
    text = draw.choice([_entities, _accented, _case])(draw) + ' <i>"it\'s"</i>'
    for _ in range(draw.randint(1, 4)):
        text = html.escape(text)
    return text + draw.choice(["", " <3"])  # with "<" ftfy leaves HTML as it is


def _accented(draw: Draw) -> str:
    return _mixed(draw, ACCENTED)


def _mojibake(draw: Draw) -> str:
    text = draw.choice([_accented, lambda d: _mixed(d, MARKS), _scripted])(draw)
    for _ in range(draw.randint(1, 2)):
        wrong = draw.choice(["latin-1", "cp1252", "cp1251", "cp437", "mac-roman"])
        text = text.encode().decode(wrong, draw.choice(["replace", "ignore"]))
    return text


def _scripted(draw: Draw) -> str:
    return _letters(draw, draw.choice(list(SCRIPTS.values())), 6)


def _controls(draw: Draw) -> str:
    codes = [chr(i) for i in (*range(32), *range(0x7F, 0xA0))]
    codes += ["\x1b[31m", "\x1b[0m", "\u202e", "\u2066", "\ufff9", "\ufffd", "\u00ad"]
    return _mixed(draw, codes)


def _combining(draw: Draw) -> str:
    marks = [chr(draw.randrange(0x300, 0x370)) for _ in range(5)]
    return _mixed(draw, ["e\u0301", "A\u030a", "n" + "".join(marks), "\u20dd", *marks])


def _long(draw: Draw) -> str:
    kind = draw.randrange(4)
    if kind == 0:
        return " ".join(_phrase(draw, 3) for _ in range(60))
    if kind == 1:
        return draw.choice(["a", "!", "\u00e9", "\u732b", "7", "ab"]) * 3000
    if kind == 2:
        return "".join(draw.choices(string.ascii_letters, k=1500))
    return _scripted(draw) * 80


def _blank(draw: Draw) -> str:
    return "".join(draw.choices(BLANKS, k=draw.randint(0, 8)))


def _code(draw: Draw) -> str:
    return "".join(draw.choices(string.printable, k=draw.randint(1, 120)))


def _point(draw: Draw, last: int) -> str:
    """Any code points up to `last`, unassigned and private ones too."""
    drawn = (draw.randrange(last) for _ in range(draw.randint(1, 30)))
    return "".join(chr(i) for i in drawn if not 0xD800 <= i < 0xE000)


KINDS: dict[str, Callable[[Draw], str]] = {
    "captions": _phrase,
    "letter case": _case,
    "contractions": _contractions,
    "digits": _digits,
    "links": _url,
    "printable ASCII": _code,
    "accents": _accented,
    "combining marks": _combining,
    **{
        name: lambda draw, spans=spans: _letters(draw, spans)
        for name, spans in SCRIPTS.items()
    },
    "emoji": lambda draw: _mixed(draw, EMOJI),
    "quotes and dashes": lambda draw: _mixed(draw, MARKS),
    "ligatures and forms": lambda draw: _mixed(draw, FORMS),
    "entities": _entities,
    "escaped again": _escaped,
    "mojibake": _mojibake,
    "control characters": _controls,
    "odd blanks": lambda draw: _mixed(draw, BLANKS),
    "nothing but blanks": _blank,
    "very long": _long,
    "any of the first plane": lambda draw: _point(draw, 0x10000),
    "any code point": lambda draw: _point(draw, 0x110000),
    "nearly special": lambda draw: _mixed(draw, NEARLY),
    "special": lambda draw: _mixed(draw, SPECIAL),
}


def made(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(kind, text) of `count` strings, the kinds in turn; each string is its own draw.

    None has half a surrogate pair, which no UTF-8 file can hold.
    """
    kinds = list(KINDS.items())
    drawn = []
    for i in range(count):
        name, make = kinds[i % len(kinds)]
        text = make(random.Random(f"{seed} {i}"))
        drawn.append((name, text))
    return drawn
