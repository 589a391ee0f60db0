"""Wrong captions by rule, by hand; and what holds of every one of them."""

import collections
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.evals.common import wrong_captions
from clipjax.evals.common.caption_words import NOUNS, bag, takes_an, words


def of(caption, rule, seed=0, right=()):
    return wrong_captions.make(
        caption, rule, seed, {words(caption), *map(words, right)}
    )


def every(caption, rule):
    """All that a rule makes of a caption, by many seeds."""
    return {of(caption, rule, seed) for seed in range(60)}


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("A dog chases a man.", {"A man chases a dog."}),
        ("Dog chases man", {"Man chases dog"}),
        ("DOG CHASES A MAN!", {"MAN CHASES A DOG!"}),
        ("two dogs chase the men", {"two men chase the dogs"}),
        ("an apple lies on an umbrella", {"an umbrella lies on an apple"}),
        # "an dog" would give itself away; two of one number differ in more than order.
        ("a dog eats an apple", {None}),
        ("two dogs chase a man", {None}),
        # What links two of them reads alike both ways.
        ("a man and a woman", {None}),
        ("a man, a woman and a dog run", {None}),
        ("the man is next to the dog", {None}),
        ("a tennis player", {None}),
        ("a man and a small dog", {"a dog and a small man"}),
        # One meaning.
        ("the kids watch the children", {None}),
        ("a man rides with a guy", {None}),
    ],
)
def test_nouns_change_places(caption, wrong):
    assert every(caption, "swap_nouns") == wrong


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("a red car near a blue house", {"a blue car near a red house"}),
        ("Red car, blue house.", {"Blue car, red house."}),
        ("two girls feed three birds", {"three girls feed two birds"}),
        ("the old man with two young boys", {"the young man with two old boys"}),
        # Another kind, the same noun, no noun, the same word, a wrong article.
        ("a small car near a blue house", {None}),
        ("a black and white dog", {None}),
        ("a black dog near the white dog", {None}),
        ("a man in black and a dog in white", {None}),
        ("a white dog and a white house", {None}),
        ("a young man with an old dog", {None}),
        ("a small boy on a little horse", {None}),
    ],
)
def test_attributes_change_places(caption, wrong):
    assert every(caption, "swap_attributes") == wrong


def test_two_words_change_places_each_pair_as_often():
    found = collections.Counter(of("a b c", "swap_words", seed) for seed in range(600))
    assert found.keys() == {"b a c", "c b a", "a c b"}
    assert min(found.values()) > 160
    assert of("A big, red dog", "swap_words", 1).count(",") == 1
    assert every("dog dog", "swap_words") == {None}


def test_shuffle_gives_every_other_order():
    others = {"a c b", "b a c", "b c a", "c a b", "c b a"}
    assert every("a b c", "shuffle") == others
    assert every("a a b", "shuffle") == {"a b a", "b a a"}
    assert every("A a", "shuffle") == every("", "shuffle") == every("!", "shuffle")
    assert of("A a", "shuffle") is None


def test_orders_of_trigrams():
    found = every("one two three four five six seven.", "shuffle_trigrams")
    assert found == {
        "one two three seven four five six.",
        "four five six one two three seven.",
        "four five six seven one two three.",
        "seven one two three four five six.",
        "seven four five six one two three.",
    }
    found = every("a b c d e", "shuffle_in_trigrams")
    starts = {"a b c", "a c b", "b a c", "b c a", "c a b", "c b a"}
    assert found == {f"{x} {y}" for x in starts for y in ("d e", "e d")} - {"a b c d e"}
    assert every("one two three", "shuffle_trigrams") == {None}
    assert every("a a a b", "shuffle_in_trigrams") == {None}


def test_another_right_caption_is_never_wrong():
    others = ["A c b!", "b a c", "B, c a", "c a b"]
    assert {of("a b c", "shuffle", seed, others) for seed in range(60)} == {"c b a"}
    assert of("A dog sees a cat", "swap_nouns", 0, ["a cat sees a dog."]) is None


@settings(max_examples=150, deadline=None)
@given(
    text=st.lists(
        st.sampled_from(
            [
                "A",
                "dog",
                "man",
                "red",
                "blue",
                "two",
                "three",
                "on",
                "é",
                "犬",
                ",",
                "!",
            ]
            + ["don't", "\ud800", "İ"]
        ),
        max_size=9,
    ).map(" ".join),
    rule=st.sampled_from(list(wrong_captions.RULES)),
    seed=st.integers(0, 3),
)
def test_every_one_has_the_same_words_in_another_order(text, rule, seed):
    wrong = of(text, rule, seed)
    assert wrong == of(text, rule, seed)
    if wrong is not None:
        assert words(wrong) != words(text)
        assert bag(wrong) == bag(text)
        kept = [[c for c in x if c in " ,!\ud800"] for x in (wrong, text)]
        assert kept[0] == kept[1]


class Counting(random.Random):
    """Counts the places that are drawn."""

    drawn = 0

    def sample(self, population, k, **options):
        self.drawn += k
        return super().sample(population, k, **options)


@pytest.mark.parametrize("rule", ["swap_words", "swap_nouns", "swap_attributes"])
def test_a_long_text_without_a_swap_ends(rule):
    """Its pairs are the square of its words: a text of 80,000 took hours."""
    word = {"swap_nouns": "dog", "swap_attributes": "red"}.get(rule, "x")
    rng = Counting(0)
    assert not list(wrong_captions.RULES[rule]([word] * 700, rng))
    assert rng.drawn < 80_000
    # All pairs of a text of usual length are looked at.
    plain = [word] * 120 + ["cat", "blue", "cat"]
    assert list(wrong_captions.RULES["swap_words"](plain, Counting(0)))
    rng = Counting(0)
    assert not list(wrong_captions.RULES[rule]([word] * 120, rng))
    assert rng.drawn == 120 * 121


@pytest.mark.parametrize("rule", ["shuffle", "shuffle_trigrams"])
def test_a_long_text_is_shuffled_a_few_times(rule):
    """Three words that are repeated have no other order of trigrams."""
    rng = Counting(0)
    assert len([*wrong_captions.RULES[rule](["a", "red", "car"] * 70_000, rng)]) == 4
    assert len([*wrong_captions.RULES[rule](["a", "red", "car"] * 9, rng)]) == 200


def test_another_process_makes_the_same():
    code = (
        "from clipjax.evals.common import wrong_captions as w; "
        "print(w.make('a b c d e f g h', 'shuffle', 5, []))"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == of("a b c d e f g h", "shuffle", 5)
    assert len({of("a b c d e f g h", "shuffle", seed) for seed in range(9)}) == 9


def test_words_of_any_script_and_articles():
    found = words("Don't MOVE, man-made é 犬が2匹")
    assert found == ("don't", "move", "man-made", "é", "犬が2匹")
    assert words("e\u0301a") == ("e\u0301a",)  # an accent is part of its letter
    for word in ("apple", "old", "umbrella", "orange"):
        assert takes_an(word)
    for word in ("dog", "uniform", "one"):
        assert not takes_an(word)
    assert NOUNS["ladies"] == NOUNS["children"] == NOUNS["benches"] == "many"
    assert NOUNS["boy"] == "one" and NOUNS["boys"] == "many" and "sheep" not in NOUNS
