"""OpenAI CLIP's byte-pair encoding: 49,408 ids, as its released models need them.

Radford et al. 2021 (arXiv:2103.00020). The vocabulary is not part of this project; it
is looked for at the option `vocab`, in the user's cache folder, in the wheel
`instant-clip-tokenizer`, and on the Hugging Face hub, in this order. All give the same
ids, since cleaning and splitting into words is done here (but for letters that are
younger than the wheel's Unicode tables).
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib
import itertools
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import regex

from clipjax.data import files, text
from clipjax.data.framing import Frame
from clipjax.data.text import Captions
from clipjax.types import UserError

VOCAB_SIZE = 49408
START = 49406
END = 49407
FILE = "bpe_simple_vocab_16e6.txt.gz"
URL = f"https://github.com/openai/CLIP/raw/main/clip/{FILE}"
HUB = ("openai/clip-vit-base-patch32", "merges.txt")
FRAME = Frame((START,), (END,), 0)
MERGES = 48894
SHA256 = "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"
WHEEL = "wheel"
KEPT_WORDS = 1 << 16

WORD = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)


class ClipTokenizer:
    """See `make`. place: a file of merges, or WHEEL; loaded anew where unpickled."""

    vocab_size = VOCAB_SIZE
    pad_id = 0

    def __init__(self, place: str, context_length: int):
        text.check_length("clip_bpe", context_length, FRAME.least())
        self.context_length = context_length
        self.place = place
        encode = _wheel() if place == WHEEL else _Merges(pathlib.Path(place))
        self._encode: Callable[[str], Sequence[int]] = functools.lru_cache(KEPT_WORDS)(
            encode
        )

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 [b context_length] and mask bool; see types.Tokenizer.

        A caption that spells "<end_of_text>" gives the ids of its characters, not the
        special id that OpenAI's code gives.
        """
        rows = [
            [i for word in WORD.findall(text.clean(one)) for i in self._encode(word)]
            for one in text.check_list(texts)
        ]
        return FRAME.pack(rows, self.context_length)

    def state(self) -> None:
        """None: the vocabulary is fixed."""
        return None

    def __reduce__(self):
        return ClipTokenizer, (self.place, self.context_length)


def make(
    captions: Captions | None,
    state: str | None,
    *,
    context_length: int = 77,
    vocab: str = "",
) -> ClipTokenizer:
    """CLIP's tokenizer: start 49406, end 49407, padding 0.

    Args:
      captions, state: not used; it is not trained.
      context_length: tokens of a row, start and end included.
      vocab: the file bpe_simple_vocab_16e6.txt.gz (or its merges.txt form); empty:
        looked for, see the module.

    Raises UserError where the vocabulary is missing or is another one.
    """
    del captions, state
    return ClipTokenizer(vocab or _find(), context_length)


def _find() -> str:
    cached = files.cache_folder("clip_vocab") / FILE
    if cached.is_file():
        return str(cached)
    try:
        importlib.import_module("instant_clip_tokenizer")
        return WHEEL
    except ImportError:
        pass
    why = "huggingface_hub is not installed"
    try:
        hub = importlib.import_module("huggingface_hub")
        return hub.hf_hub_download(*HUB)
    except ImportError:
        pass
    except Exception as error:  # offline, refused, disk full: the library has many
        why = f"the Hugging Face hub: {type(error).__name__}"
    raise UserError(
        f"tokenizer clip_bpe finds no vocabulary ({why}); download {URL} to {cached}, "
        f"or name the file by --config.data.tokenizer.vocab"
    )


def _wheel() -> Callable[[str], Sequence[int]]:
    try:
        return importlib.import_module("instant_clip_tokenizer").Tokenizer().encode
    except ImportError as error:
        raise UserError(
            "tokenizer clip_bpe: pip install instant-clip-tokenizer in this environment"
        ) from error


class _Merges:
    """Encodes one word by the ranked merges of a file.

    Symbols are ids: a byte is 0 to 255, the last byte of a word 256 more, and the merge
    of rank r is 512 + r, so that the first merge to do is the one of the least id.
    """

    def __init__(self, path: pathlib.Path):
        symbols = byte_symbols()
        ids = {symbol: i for i, symbol in enumerate(symbols.values())}
        self._bytes = {byte: ids[symbol] for byte, symbol in symbols.items()}
        ids |= {f"{symbol}</w>": 256 + i for symbol, i in ids.items()}
        self._pairs: dict[tuple[int, int], int] = {}
        for new, line in enumerate(read_lines(path), start=512):
            first, second = line.split(" ")
            self._pairs[ids[first], ids[second]] = new
            ids[first + second] = new

    def __call__(self, word: str) -> list[int]:
        row = [self._bytes[byte] for byte in word.encode("utf-8", "replace")]
        row[-1] += 256
        while len(row) > 1:
            found = (
                self._pairs.get(pair, VOCAB_SIZE) for pair in itertools.pairwise(row)
            )
            merged = min(found)
            if merged == VOCAB_SIZE:
                break
            row = self._merge(row, merged)
        return row

    def _merge(self, row: list[int], merged: int) -> list[int]:
        """Replaces each pair, from the left, that makes `merged`."""
        after, i = [], 0
        while i < len(row):
            following = row[i + 1] if i + 1 < len(row) else -1
            hit = self._pairs.get((row[i], following)) == merged
            after.append(merged if hit else row[i])
            i += 2 if hit else 1
        return after


def byte_symbols() -> dict[int, str]:
    """byte -> the printable character that stands for it in the file, in id order.

    Bytes that are printable in Latin-1 stand for themselves and come first; the others
    are the characters from U+0100 on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    symbols = {byte: chr(byte) for byte in plain}
    return symbols | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


def read_lines(path: pathlib.Path) -> list[str]:
    """The merges that CLIP uses: the first after the header line."""
    try:
        data = path.expanduser().read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError) as error:
        raise UserError(
            f"tokenizer clip_bpe cannot read vocab={path} ({error}); download {URL}"
        ) from error
    lines = data.split(b"\n")[1 : 1 + MERGES]
    if hashlib.sha256(b"\n".join([*lines, b""])).hexdigest() != SHA256:
        raise UserError(
            f"tokenizer clip_bpe: {path} is not CLIP's vocabulary or is damaged; "
            f"download {URL}"
        )
    return [line.decode("utf-8") for line in lines]
