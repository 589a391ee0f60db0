"""Tokenizers: the shared contract, golden ids, training, faults, CLIP parity."""

import gzip
import html
import http.server
import itertools
import json
import pathlib
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import tokenizer_tools
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax import registry, testing
from clipjax.data.text import cleaning, clip_vocab
from clipjax.data.tokenizers import bpe, char, clip_bpe, words
from clipjax.testing import tokenizer_contract
from clipjax.types import UserError

CAPTIONS = [
    "A dog runs on the grass .",
    "Two dogs play; the brown dog's ball is red!",
    "a cat sleeps on a sofa",
    "The caf\u00e9 is open",
]
# open_clip's SimpleTokenizer, without the start and end tokens. Update never: these
# ids belong to released weights.
GOLDEN = {
    "": "",
    "a photo of a cat": "320 1125 539 320 2368",
    "A Photo  of\ta CAT.\n": "320 1125 539 320 2368 269",
    "two dogs' toys; they're red!": "1237 3255 262 7162 282 889 982 736 256",
    "I'd've gone, we'll see": "328 1896 1200 3601 267 649 1342 862",
    "1234 birds": "272 273 274 275 4337",
    "caf\xe9 na\xefve": "15304 1097 35689 563",
    "caf\xc3\xa9 na\xc3\xafve": "15304 1097 35689 563",
    "\u201ccurly\u201d \u2018quotes\u2019 \u2013 dash\u2026": (
        "257 20795 257 262 5808 262 1224 10206 959"
    ),
    "fish &amp; chips": "2759 261 8855",
    "fish &amp;amp; chips &lt;b&gt;": "2759 261 8855 283 321 285",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8": (
        "39121 44353 34002 252 21575 2429 228 47121 32421 486"
    ),
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440": (
        "26302 16370 29503 110 22176 141 480 267 38018 16701 141 478"
    ),
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 family \U0001f389\U0001f389": (
        "26304 26304 964 356 1315 13450"
    ),
    "hello\xa0world\u200b!": "3306 1002 17086 256",
    "\ufb01ne ligature": "3797 19915 4490",
    "snake_case & kebab-case": "8798 318 2068 261 36497 268 2068",
    "antidisestablishmentarianism": "3120 4262 7726 12658 1585 44351",
    "xxxxx": "44195",
    "#hashtag @user http://t.co/abc?d=1": (
        "258 9238 287 7031 15066 12441 339 269 1320 270 5334 286 323 284 272"
    ),
    "\u216b \xbd \xb2": "158 227 375 33613 41175",
    "\x1b[31mred\x1b[0m": "736",
}


GOLDEN_FILE = pathlib.Path(__file__).parent / "goldens" / "clip_ids.json"


def captions():
    return iter(CAPTIONS)


@pytest.fixture
def vocab(shared_data):
    return str(shared_data / "clip_vocab" / clip_bpe.FILE)


@pytest.fixture(params=["wheel", "file"])
def clip(request):
    if request.param == "file":
        return clip_bpe.make(
            None, None, vocab=request.getfixturevalue("vocab"), context_length=77
        )
    if not tokenizer_tools.has_wheel():
        pytest.skip("needs instant-clip-tokenizer, which has no wheel for this machine")
    return clip_bpe.ClipTokenizer(clip_bpe.WHEEL, 77)


def made(name, **options):
    if name == "clip_bpe" and not tokenizer_tools.has_wheel():
        pytest.skip("needs instant-clip-tokenizer, which has no wheel for this machine")
    if name == "clip_bpe":
        return clip_bpe.ClipTokenizer(
            clip_bpe.WHEEL, **{"context_length": 77} | options
        )
    return registry.load("tokenizer", name)(captions, None, **options)


# What every tokenizer owes. `frame`: the ids of start and end.
EVERY = {
    "char": (34, 35),
    "words": (1, 2),
    "bpe": (1, 2),
    "clip_bpe": (49406, 49407),
}


def test_every_tokenizer_is_here():
    read = ["hf_json", "sentence_piece", "wordpiece"]  # see test_tokenizer_readers.py
    assert registry.names("tokenizer") == sorted([*EVERY, *read])


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("length", [6, 12])
def test_contract(name, length):
    if name == "clip_bpe":
        tokenizer_contract.check(made(name, context_length=length))
    else:
        testing.check_tokenizer(name, context_length=length)


@pytest.mark.parametrize("name", EVERY)
def test_start_and_end(name):
    start, end = EVERY[name]
    tokenizer = made(name, context_length=6)
    ids, mask = tokenizer(["", "a", *CAPTIONS, "x " * 50])
    lengths = mask.sum(1)
    assert tokenizer.context_length == 6 and tokenizer.pad_id == 0
    assert (ids[:, 0] == start).all()
    assert (ids[np.arange(len(ids)), lengths - 1] == end).all()
    assert (ids[mask] != 0).all()
    assert lengths[0] == 2 and lengths[-1] == 6  # the empty one and the cut one


@pytest.mark.parametrize("name", EVERY)
def test_a_context_too_short_is_refused(name):
    with pytest.raises(UserError, match="context_length=2"):
        made(name, context_length=2)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_a_row(caption):
    for tokenizer in HYPOTHESIS:
        ids, mask = tokenizer([caption])
        assert mask[0, 0] and ids.max() < tokenizer.vocab_size


HYPOTHESIS = [char.make(None, None), words.make(captions, None)]


# Cleaning


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=[chr(i) for i in range(0x20, 0x7F)], max_size=40))
def test_the_short_cut_of_cleaning_changes_nothing(caption):
    import ftfy

    slow = html.unescape(html.unescape(ftfy.fix_text(caption)))
    assert cleaning.clean(caption) == " ".join(slow.split()).lower()


def test_cleaning():
    assert cleaning.clean("  A\u00a0 &amp;amp; B\n") == "a & b"
    assert cleaning.clean("<i> &amp;amp;amp;") == "<i> &amp;"  # where ftfy leaves HTML
    assert cleaning.clean("CAF\u00c3\u00a9", lower=False) == "CAF\u00e9"
    assert cleaning.clean("A_b, (C)!  d", canonical=True) == "a b c d"


# char


def test_char_parity_mode():
    tokenizer = char.make(None, None, special=False, context_length=8)
    assert tokenizer.vocab_size == 34
    ids, mask = tokenizer(["A z.-", "", "1b\u00e9", "abcdefghijk"])
    np.testing.assert_array_equal(
        ids,
        [
            [2, 1, 27, 28, 33, 0, 0, 0],
            [0] * 8,
            [0, 3, 0, 0, 0, 0, 0, 0],
            [2, 3, 4, 5, 6, 7, 8, 9],
        ],
    )
    assert mask.sum(1).tolist() == [5, 1, 3, 8]


def test_char_drops_what_it_does_not_know():
    tokenizer = char.make(None, None, context_length=8)
    assert tokenizer.vocab_size == 36
    ids, _ = tokenizer(["1b\u00e9 c"])
    assert ids[0].tolist() == [34, 3, 1, 4, 35, 0, 0, 0]


def test_char_alphabet():
    assert len(char.CHARACTERS) == len(set(char.CHARACTERS)) == 33


# words


def test_words_golden():
    tokenizer = words.make(captions, None, context_length=10)
    vocabulary = json.loads(tokenizer.state())["words"]
    # By falling count, then by code points.
    assert vocabulary[:8] == ["a", "the", "is", "on", "!", ".", ";", "ball"]
    ids, _ = tokenizer(["The unknown dog's ball!"])
    dogs = 4 + vocabulary.index("dog's")
    assert ids[0].tolist() == [1, 5, 3, dogs, 11, 8, 2, 0, 0, 0]


def test_words_limits():
    assert words.make(captions, None, vocab_size=6).vocab_size == 6
    kept = json.loads(words.make(captions, None, min_count=2).state())["words"]
    assert kept == ["a", "the", "is", "on"]
    with pytest.raises(UserError, match="vocab_size=4"):
        words.make(captions, None, vocab_size=4)


@pytest.mark.parametrize("state", ["", "{}", "[]", "{"])
def test_words_damaged_state(state):
    with pytest.raises(UserError, match="damaged"):
        words.make(None, state)


@pytest.mark.parametrize("name", ["words", "bpe"])
def test_training_needs_captions(name):
    make = registry.load("tokenizer", name)
    with pytest.raises(UserError, match="none are available"):
        make(None, None)
    with pytest.raises(UserError, match="have none"):
        make(lambda: iter([None, 3]), None)


# bpe


def test_bpe_learns_and_is_reversible():
    tokenizer = bpe.make(captions, None, vocab_size=330, context_length=60)
    assert 259 < tokenizer.vocab_size <= 330
    few, many = tokenizer([CAPTIONS[0], "qzj kvx wqz jjq zz."])[1].sum(1)
    assert few < len(CAPTIONS[0]) * 0.6 and many > 15  # seen words merge, others not
    upper, lower = tokenizer(["A DOG", "a dog"])[0]
    np.testing.assert_array_equal(upper, lower)
    cased = bpe.make(captions, None, vocab_size=330, lowercase=False)
    assert (cased(["A DOG"])[0] != cased(["a dog"])[0]).any()


def test_bpe_special_tokens_cannot_be_spelt():
    tokenizer = bpe.make(captions, None, vocab_size=300)
    for name in ("<s>", "[PAD]", "<|endoftext|>", "<end_of_text>"):
        ids, mask = tokenizer([name])
        assert (ids[0, 1 : mask.sum() - 1] >= bpe.SPECIALS).all()


def test_bpe_training_is_deterministic():
    code = (
        "import random; from clipjax.data.tokenizers import bpe; "
        "draw = random.Random(0); letters = 'abcdefgh ';"
        "rows = [''.join(draw.choices(letters, k=40)) for _ in range(300)];"
        "import hashlib; state = bpe.make(lambda: iter(rows), None).state();"
        "print(hashlib.sha256(state.encode()).hexdigest())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    }
    assert len(printed) == 1


def test_bpe_faults(monkeypatch):
    with pytest.raises(UserError, match="vocab_size=258"):
        bpe.make(captions, None, vocab_size=258)
    with pytest.raises(UserError, match="damaged"):
        bpe.make(None, "{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[text\]'"):
        bpe.make(captions, None)


# clip_bpe


def test_clip_golden(clip):
    ids, mask = clip(list(GOLDEN))
    assert clip.vocab_size == 49408 and clip.state() is None
    for row, valid, expected in zip(ids, mask, GOLDEN.values(), strict=True):
        assert row[valid].tolist() == [49406, *map(int, expected.split()), 49407]
        assert not row[~valid].any()


def test_clip_gives_the_ids_of_open_clip(clip):
    """69 strings of 23 kinds; parity/test_open_clip_tokenizers.py has 5,000."""
    texts, expected = zip(*json.loads(GOLDEN_FILE.read_text("ascii")), strict=True)
    assert len(texts) == 69
    for text_, row, valid, wanted in zip(texts, *clip(texts), expected, strict=True):
        assert row[valid].tolist() == wanted, text_


def test_clip_letters_that_the_wheel_does_not_know(clip):
    """It would cut these; ids are those of open_clip."""
    expected = {
        "dog'\u017f": [1929, 6, 129, 379],  # the long s
        "!\U0001d6a6": [256, 6874, 248, 355],  # assigned to nothing
    }
    for row, valid, wanted in zip(*clip([*expected]), expected.values(), strict=True):
        assert row[valid].tolist() == [49406, *wanted, 49407]


def test_clip_without_punctuation(vocab):
    tokenizer = clip_bpe.make(None, None, vocab=vocab, canonicalize=True)
    ids, _ = tokenizer(["A photo_of, a (CAT)!&amp;", "a photo of a cat"])
    np.testing.assert_array_equal(ids[0], ids[1])
    again = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(again(["a cat!"])[0], tokenizer(["a cat"])[0])


def test_the_wheel_gives_the_merges_of_the_file(vocab):
    if not tokenizer_tools.has_wheel():
        pytest.skip("needs instant-clip-tokenizer")
    assert clip_vocab.read_lines(clip_vocab.WHEEL) == clip_vocab.read_lines(vocab)


def test_a_wheel_with_another_vocabulary_is_refused(monkeypatch):
    class Wheel:
        def decode(self, ids):
            return "x " * len(ids)

    clip_vocab._of_wheel.cache_clear()
    monkeypatch.setattr(clip_vocab, "wheel", Wheel)
    with pytest.raises(UserError, match="instant-clip-tokenizer is not CLIP"):
        clip_vocab.read_lines(clip_vocab.WHEEL)
    clip_vocab._of_wheel.cache_clear()


def slowly_merged(row, pairs):
    """Byte-pair encoding as it is defined."""
    row = [*row]
    while found := [pairs[p] for p in itertools.pairwise(row) if p in pairs]:
        new, i = min(found), 0
        while i < len(row) - 1:
            if pairs.get((row[i], row[i + 1])) == new:
                row[i : i + 2] = [new]
            i += 1
    return row


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 60))
def test_merging(draw, length):
    symbols, pairs = [1, 2, 3], {}
    for new in range(10, 40):
        pairs.setdefault((draw.choice(symbols), draw.choice(symbols)), new)
        symbols.append(new)
    row = [draw.choice([1, 2, 3]) for _ in range(length)]
    assert clip_vocab.merge(row, pairs) == slowly_merged(row, pairs)


def test_a_word_of_a_hundred_thousand_letters():
    pairs = {(1, 1): 2, (2, 2): 3, (3, 3): 4, (4, 4): 5, (5, 1): 6}
    assert clip_vocab.merge([1] * 100_001, pairs) == [5] * 6249 + [6]


def test_clip_truncation_keeps_the_end(clip):
    row = clip(["dog " * 100])[0][0]
    assert row[0] == 49406 and row[-1] == 49407 and (row[1:-1] == 1929).all()


def test_clip_special_tokens_cannot_be_spelt(clip):
    ids, mask = clip(["a <end_of_text> b <start_of_text>"])
    assert (ids[0, 1 : mask.sum() - 1] < 49406).all()
    assert mask.sum() > 12


def test_clip_file_pickles(vocab):
    tokenizer = clip_bpe.make(None, None, vocab=vocab)
    again = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(again(["a cat"])[0], tokenizer(["a cat"])[0])


def test_clip_finds_the_cache_first(vocab, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path))
    target = tmp_path / "clip_vocab" / clip_bpe.FILE
    target.parent.mkdir()
    target.write_bytes(pathlib.Path(vocab).read_bytes())
    assert clip_bpe.make(None, None).place == str(target)


def test_clip_takes_plain_merges(vocab, tmp_path):
    """The merges.txt of the hub's models is plain and ends after CLIP's merges."""
    lines = gzip.decompress(pathlib.Path(vocab).read_bytes()).split(b"\n")
    plain = tmp_path / "merges.txt"
    plain.write_bytes(b"\n".join([*lines[: 1 + clip_vocab.MERGES], b""]))
    ids, _ = clip_bpe.make(None, None, vocab=str(plain))(["a photo of a cat"])
    assert ids[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]


@pytest.fixture
def no_wheel(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", None)
    return tmp_path / "cache" / "clip_vocab" / clip_bpe.FILE


@pytest.fixture
def published(monkeypatch):
    """Serves the bytes that are put into it at the vocabulary's address."""
    content = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if content else 404)
            self.end_headers()
            self.wfile.write(content[0] if content else b"")

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("localhost", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://localhost:{server.server_address[1]}/{clip_bpe.FILE}"
        monkeypatch.setattr(clip_vocab, "URL", address)
        monkeypatch.setenv("no_proxy", "localhost")
        yield content
        server.shutdown()
        thread.join()


def test_clip_fetches_the_published_file_once(vocab, no_wheel, published):
    published.append(pathlib.Path(vocab).read_bytes())
    tokenizer = clip_bpe.make(None, None)
    assert tokenizer.place == str(no_wheel) and no_wheel.read_bytes() == published[0]
    ids, _ = tokenizer(["a photo of a cat"])
    assert ids[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    published.clear()
    assert clip_bpe.make(None, None).place == str(no_wheel)


@pytest.mark.parametrize("answer", [b"<html>sign in</html>", b"\x1f\x8bcut", b""])
def test_clip_keeps_no_other_file(answer, no_wheel, published):
    published.append(answer)
    with pytest.raises(UserError, match="http://.* is not CLIP's vocabulary"):
        clip_bpe.make(None, None)
    assert not no_wheel.parent.exists()


def test_clip_without_a_network_says_what_to_put_where(no_wheel, published):
    with pytest.raises(
        UserError, match=r"404.*download https://.*config\.data"
    ) as said:
        clip_bpe.make(None, None)
    assert str(no_wheel) in str(said.value)


def test_clip_refuses_another_vocabulary(tmp_path):
    path = tmp_path / "merges.txt"
    with pytest.raises(UserError, match="cannot read"):
        clip_bpe.make(None, None, vocab=str(path))
    path.write_text("#version\na b\n")
    with pytest.raises(UserError, match="not CLIP's vocabulary"):
        clip_bpe.make(None, None, vocab=str(path))
    path.write_bytes(b"\x1f\x8b\x08\x00damaged")
    with pytest.raises(UserError, match="cannot read|not CLIP"):
        clip_bpe.make(None, None, vocab=str(path))
