"""OpenAI CLIP's vocabulary: 48,894 merges of bytes, read from a file or a wheel.

Radford et al. 2021 (arXiv:2103.00020). This project does not contain the vocabulary.
The wheel `instant-clip-tokenizer` does not export its merges, but it decodes every
token, and the merges follow from the decoded tokens. Their SHA-256 must equal the
file's.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import heapq
import importlib
import itertools
import pathlib
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from clipjax import atomic_files, downloads, paths
from clipjax.types import UserError

FILE = "bpe_simple_vocab_16e6.txt.gz"
URL = f"https://github.com/openai/CLIP/raw/main/clip/{FILE}"
MOST_BYTES = 1 << 24  # limits the download, because a server may send something else
WHEEL = "wheel"
MERGES = 48894
SHA256 = "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"
BYTES = 256
FIRST = 2 * BYTES  # the first merge's id, after the bytes and the word-final bytes
END_OF_WORD = "</w>"

GONE = -1
LOST = "\ufffd"
# A token may start or end within a UTF-8 character; these bytes complete it.
BEFORE = (b"", b"\xc2", b"\xe1", b"\xf1")
AFTER = (
    b"",
    *(a + b for b in (b"", b"\x80", b"\x80\x80") for a in b"\x80 \xa0 \x90".split()),
)


class Merges:
    """Encodes one word by ranked merges.

    Symbols are ids: a byte is 0 to 255, a word's last byte 256 more, and the merge with
    rank r is 512 + r. So the merge with the smallest id is done first.
    """

    def __init__(self, lines: Iterable[str]):
        symbols = byte_symbols()
        ids = {symbol: i for i, symbol in enumerate(symbols.values())}
        self._bytes = {byte: ids[symbol] for byte, symbol in symbols.items()}
        ids |= {symbol + END_OF_WORD: BYTES + i for symbol, i in ids.items()}
        self._pairs: dict[tuple[int, int], int] = {}
        for new, line in enumerate(lines, start=FIRST):
            first, second = line.split(" ")
            self._pairs[ids[first], ids[second]] = new
            ids[first + second] = new

    def __call__(self, word: str) -> list[int]:
        row = [self._bytes[byte] for byte in word.encode("utf-8", "replace")]
        row[-1] += BYTES
        return merge(row, self._pairs)


def merge(row: Sequence[int], pairs: dict[tuple[int, int], int]) -> list[int]:
    """Merges a row of ids: the smallest new id first, each from left to right.

    Takes n log(n) time for n ids, because web captions have words of 100,000 letters. A
    heap gives the right order, because a merge only makes pairs with larger new ids.
    """
    ids, n = [*row], len(row)
    before, after = [*range(-1, n - 1)], [*range(1, n + 1)]
    heap = [
        (pairs[pair], i)
        for i, pair in enumerate(itertools.pairwise(ids))
        if pair in pairs
    ]
    heapq.heapify(heap)
    while heap:
        new, i = heapq.heappop(heap)
        j = after[i]
        if j == n or pairs.get((ids[i], ids[j])) != new:
            continue  # stale: an earlier merge changed one of the two
        ids[i], ids[j] = new, GONE
        after[i] = after[j]
        if after[i] < n:
            before[after[i]] = i
        for left in (before[i], i):
            right = after[left] if left >= 0 else n
            if right < n and (merged := pairs.get((ids[left], ids[right]))):
                heapq.heappush(heap, (merged, left))
    return [i for i in ids if i != GONE]


def byte_symbols() -> dict[int, str]:
    """byte -> the printable character that represents it in the file, in id order.

    Bytes that are printable in Latin-1 represent themselves and come first; the others
    are the characters from U+0100 on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(BYTES) if byte not in plain]
    symbols = {byte: chr(byte) for byte in plain}
    return symbols | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


def read_lines(place: str) -> list[str]:
    """The merges that CLIP uses, two symbols per line.

    place: WHEEL, or a file with a header line followed by the merges.

    Raises UserError if the place does not have them.
    """
    if place == WHEEL:
        return _of_wheel()
    try:
        data = paths.expand(place).read_bytes()
    except OSError as error:
        raise UserError(
            f"tokenizer clip_bpe cannot read vocab={place} ({error}); download {URL}"
        ) from error
    return _lines(data, place)


def download(place: pathlib.Path) -> None:
    """Downloads the published file (1.3 MB) to `place` and checks its SHA-256.

    Raises OSError if the download fails, UserError if the server sends another file.
    """
    data = downloads.fetch(URL, MOST_BYTES)
    _lines(data, URL)
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_files.open_to_write(place, "wb") as file:
        file.write(data)


def _lines(data: bytes, place: str) -> list[str]:
    try:
        content = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error):
        content = b""
    lines = content.split(b"\n")[1 : 1 + MERGES]
    if _hash(lines) != SHA256:
        raise UserError(
            f"tokenizer clip_bpe: {place} is not CLIP's vocabulary or is damaged; "
            f"download {URL}"
        )
    return [line.decode("utf-8") for line in lines]


def wheel() -> Any:
    """The wheel's tokenizer; raises UserError if the wheel is not installed."""
    try:
        return importlib.import_module("instant_clip_tokenizer").Tokenizer()
    except ImportError as error:
        raise UserError(
            "tokenizer clip_bpe: pip install instant-clip-tokenizer in this environment"
        ) from error


@functools.cache
def wheel_merges() -> Merges:
    """The wheel's merges; finding them takes a second."""
    return Merges(_of_wheel())


@functools.cache
def _of_wheel() -> list[str]:
    """Each token's merge joins the two parts that the earlier merges leave of it."""
    decode = wheel().decode
    symbols = byte_symbols()
    byte_ids = {byte: i for i, byte in enumerate(symbols)}
    ids = {symbol: i for i, symbol in enumerate(symbols.values())}
    ids |= {symbol + END_OF_WORD: BYTES + i for symbol, i in ids.items()}
    names = {i: name for name, i in ids.items()}
    pairs: dict[tuple[int, int], int] = {}
    for new in range(FIRST, FIRST + MERGES):
        spelling = _spelling(decode, new, byte_ids)
        ends_word = spelling.endswith(b" ")
        row = [byte_ids[byte] for byte in spelling.removesuffix(b" ")]
        row[-1] += BYTES * ends_word
        parts = merge(row, pairs)
        if len(parts) != 2:
            break
        pairs[parts[0], parts[1]] = new
        names[new] = names[parts[0]] + names[parts[1]]
    lines = [f"{names[first]} {names[second]}" for first, second in pairs]
    if _hash([line.encode("utf-8") for line in lines]) != SHA256:
        raise UserError(
            "tokenizer clip_bpe: the vocabulary of this version of "
            f"instant-clip-tokenizer is not CLIP's; download {URL} and set "
            f"--config.data.tokenizer.vocab to it"
        )
    return lines


def _spelling(decode: Any, token: int, byte_ids: dict[int, int]) -> bytes:
    """A token's bytes, followed by a space if the token ends a word."""
    text = decode([token])
    if LOST in text:
        for before, after in itertools.product(BEFORE, AFTER):
            row = [*(byte_ids[b] for b in before), token, *(byte_ids[b] for b in after)]
            complete = decode(row)
            if LOST not in complete:
                data = complete.encode("utf-8")
                return data[len(before) : len(data) - len(after)]
    return text.encode("utf-8")  # LOST itself is a token too


def _hash(lines: Sequence[bytes]) -> str:
    return hashlib.sha256(b"\n".join([*lines, b""])).hexdigest()
