"""The bigram model's probabilities, by hand."""

import itertools
import math
import random

import pytest

from clipjax.evals.common.text_likelihood import Bigrams


def test_by_hand():
    model = Bigrams({0: ["a b", "b"], 7: ["a b."]})
    # Without image 0: "a b" alone. Pairs: start-a, a-b, b-end. 3 kinds of next words
    # (a, b, end) and one for new ones; 3 in all. Shares: (1 + 1) / (3 + 4) each, 1 / 7
    # of new ones.
    usual = (1 + 2 / 7) / 2 * (1 + 2 / 7) / 2 * (1 + 2 / 7) / 2
    assert math.exp(model.log_likelihood("A b", 0)) == pytest.approx(usual)
    new = (1 / 7) / 2 * (2 / 7) / 1  # start-c, c-end
    assert math.exp(model.log_likelihood("c", 0)) == pytest.approx(new)
    # Without image 7: 5 pairs, start-a, a-b, b-end twice, start-b.
    share = (2 + 1) / (5 + 4)
    alone = (1 + share) / (2 + 1) * (2 + share) / (2 + 1)
    assert math.exp(model.log_likelihood("b", 7)) == pytest.approx(alone)


def plain(corpus, text, left_out):
    """The same from a list of pairs, and the sum of the probabilities of next words."""

    def pairs(texts):
        lists = [["<", *text.split(), ">"] for text in texts]
        return [pair for one in lists for pair in itertools.pairwise(one)]

    known = {after for own in corpus.values() for _, after in pairs(own)} | {"new"}
    seen = pairs(x for at, own in corpus.items() if at != left_out for x in own)

    def probability(before, after):
        share = sum(pair[1] == after for pair in seen) + 1
        share /= len(seen) + len(known)
        context = sum(pair[0] == before for pair in seen)
        return (seen.count((before, after)) + share) / (context + 1)

    for before in [*known, "<"]:
        assert sum(probability(before, x) for x in known) == pytest.approx(1)
    return math.prod(probability(*pair) for pair in pairs([text]))


@pytest.mark.parametrize("seed", range(5))
def test_equals_counting(seed):
    draw = random.Random(seed)
    corpus = {
        at: [" ".join(draw.choices("abcd", k=draw.randint(1, 5))) for _ in range(2)]
        for at in range(4)
    }
    model = Bigrams(corpus)
    for text in ("a b c", "d", "new a", "b b b b"):
        for left_out in (2, 0, 2):
            expected = plain(corpus, text, left_out)
            assert math.exp(model.log_likelihood(text, left_out)) == pytest.approx(
                expected
            )


def test_equal_pairs_are_exactly_as_likely():
    """Sums are exact, so that texts of the same pairs in another order tie."""
    model = Bigrams({0: ["q"], 1: ["a b a c a d a", "a d a b a c a", "e"]})
    texts = [" a ".join(order) for order in itertools.permutations("bcd")]
    assert len({model.log_likelihood(f"a {text} a", 0) for text in texts}) == 1


def test_one_image_alone_knows_nothing():
    model = Bigrams({3: ["a b c"]})
    assert model.log_likelihood("a b c", 3) == model.log_likelihood("c a b", 3)
    assert model.log_likelihood("a", 3) > model.log_likelihood("a b", 3)
