"""Small tokenizer files for tests, in the forms of BERT, CLIP, T5, Gemma and SigLIP."""

from __future__ import annotations

import collections
import importlib.util
import io
import itertools
import math
import string

import varied_texts

NOUNS = ("dog", "cat", "bird", "horse", "caf\u00e9")
PLACES = ("mat", "sofa", "table", "grass")
COLOURS = ("red", "green", "blue", "black", "big")
# Special tokens spelt out, in the manner of each family.
SPELT = ("a [SEP] b", "</s> x <pad>", "<unk>", "<|endoftext|> y", "<eos><bos>")
ODD = (
    "",
    " ",
    "\n\t",
    "A Dog's Caf\u00c9, 2nd!",
    "\u65e5\u672c\u8a9e x \uac00\uac01",
    "\U0001f436\u200d\U0001f9ba \u2581 under",
    "<b>fish</b> &amp; chips",
    "e\u0301 \ufb01ne \u0130stanbul \u03a3\u0391\u03a3",
    "nul\0 bell\7 \ufffd \u00a0nbsp",
    "z" * 150,
    "the red dog " * 60,
)


def corpus():
    return [
        f"the {colour} {noun} sat on a {place}, and it's {colour}!"
        for colour, noun, place in itertools.product(COLOURS, NOUNS, PLACES)
    ]


def texts(count=500):
    """Strings of every kind but none that spells a special token."""
    varied = [text for kind, text in varied_texts.made(count) if "special" not in kind]
    return [*ODD, *corpus()[:20], *varied]


def bert_vocab(path):
    """Writes a vocab.txt whose special tokens are where BERT's are not."""
    letters = string.ascii_letters + string.digits
    words = [*COLOURS, *NOUNS[:4], *PLACES, "the", "cafe", "A", "Dog", "\u65e5"]
    pieces = [f"##{letter}" for letter in letters] + [
        "##og",
        "##ing",
        "##at",
        "##\u00e9",
    ]
    lines = ["[UNK]", "[PAD]", *letters, *string.punctuation, "\u00e9", "\u043f"]
    lines += [*words, *pieces, "[CLS]", "[SEP]", "[MASK]"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def sentence_piece_model(path, **options):
    """Trains a model in the form of T5's: padding 0, end 1, unknown 2, no start."""
    import sentencepiece

    written = io.BytesIO()
    options = {
        "vocab_size": 80,
        "pad_id": 0,
        "eos_id": 1,
        "unk_id": 2,
        "bos_id": -1,
        "normalization_rule_name": "nfkc",
    } | options
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=written,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    path.write_bytes(written.getvalue())
    return path


def unigram_json():
    """T5's form: a Unigram model and </s> after the text; no padding section.

    Its scores are counted, since the library's trainer gives others each time.
    """
    import tokenizers

    words = collections.Counter(
        f"\u2581{word}" for text in corpus() for word in text.split()
    )
    counts = words + collections.Counter("".join(words.elements()))
    total = counts.total()
    special = ["<pad>", "</s>", "<unk>"]
    vocab = [(name, 0.0) for name in special]
    vocab += [(piece, math.log(n / total)) for piece, n in sorted(counts.items())]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(vocab, unk_id=2))
    made.normalizer = tokenizers.normalizers.NFKC()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    made.add_special_tokens([*special, "<extra_id_0>"])
    made.add_tokens(["\n\n"])
    return made.to_str()


def _merges(words):
    """The merges of byte pair encoding, as long as a pair is there twice; of those
    equally frequent the last by name, which the library leaves to chance.
    """
    merges = []
    while True:
        counts = collections.Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                counts[pair] += count
        best = max(counts, key=lambda pair: (counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            return merges
        merges.append(best)
        words = {_merged(word, best): count for word, count in words.items()}


def _merged(word, pair):
    found = []
    for piece in word:
        if found and (found[-1], piece) == pair:
            found[-1] += piece
        else:
            found.append(piece)
    return tuple(found)


def clip_json():
    """CLIP's form: bytes of words with </w>, framed as RoBERTa does."""
    import tokenizers

    before = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(
                tokenizers.Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"),
                "removed",
                invert=True,
            ),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    split = (before.pre_tokenize_str(text.lower()) for text in corpus())
    words = collections.Counter(word for pieces in split for word, _ in pieces)
    merges = _merges({(*word[:-1], f"{word[-1]}</w>"): n for word, n in words.items()})
    tokens = [
        *("<|startoftext|>", "<|endoftext|>"),
        *alphabet,
        *(f"{letter}</w>" for letter in alphabet),
        *(one + other for one, other in merges),
    ]
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {token: number for number, token in enumerate(tokens)},
            merges,
            unk_token="<|endoftext|>",
            end_of_word_suffix="</w>",
        )
    )
    made.add_special_tokens(tokens[:2])
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = before
    made.post_processor = tokenizers.processors.RobertaProcessing(
        ("<|endoftext|>", 1), ("<|startoftext|>", 0), False, False
    )
    made.enable_padding(pad_id=1, pad_token="<|endoftext|>")
    return made.to_str()


def gemma_json():
    """SigLIP 2's form: BPE over whole texts with bytes to fall back on, <eos> last.

    Two merges make the name of a special token, which no caption may reach.
    """
    import tokenizers

    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    letters = [*string.ascii_lowercase, *string.punctuation, "\u2581"]
    merges = [("d", "o"), ("do", "g"), ("\u2581", "dog"), ("<", "e"), ("o", "s")]
    merges += [("os", ">"), ("<e", "os>"), ("c", "a"), ("ca", "t")]
    pieces = [*specials, *(f"<0x{i:02X}>" for i in range(256)), *letters]
    pieces += [a + b for a, b in merges if a + b not in specials]
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    made.normalizer = tokenizers.normalizers.Replace(" ", "\u2581")
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(" ", "merged_with_previous")
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    made.add_special_tokens(specials)
    made.enable_padding(pad_id=0, pad_token="<pad>", direction="left")
    made.enable_truncation(3)
    return made.to_str()


def has_wheel() -> bool:
    """Whether the wheel with CLIP's vocabulary is installed."""
    return importlib.util.find_spec("instant_clip_tokenizer") is not None
