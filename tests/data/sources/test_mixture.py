"""data=mixture: ids, shares, order, labels, and the words that name its parts."""

import collections
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_tools import Tiny, Tokens, assert_same, batches, joined
from source_tools import check_contract, jpeg

from clipjax.data import mixture_spec
from clipjax.data.batching import pipeline
from clipjax.data.sources import mixture
from clipjax.data.sources.mixture import Mixture
from clipjax.types import BadExample, UserError


def plan(source, count, step=0, unit="image"):
    return pipeline.plan(source, seed=5, global_batch=count, step=step, unit=unit)


# Ids and order


def test_examples_lie_one_part_after_the_other():
    source = Mixture({"a": Tiny(3), "b": Tiny(5, counts=[2, 0, 1, 1, 4])})
    assert len(source) == 8 and source.max_captions == 4
    assert source.caption_counts.tolist() == [1, 2, 3, 2, 0, 1, 1, 4]
    assert [source[i].image[0, 0, 0] for i in range(8)] == [0, 1, 2, 0, 1, 2, 3, 4]
    assert source[4].key == "b: tiny/1" and source[2].captions == ["2 0", "2 1", "2 2"]
    assert list(source.captions_of(5)) == ["2 0"]
    for index in (-1, 8):
        with pytest.raises(IndexError):
            source[index]
    assert pickle.loads(pickle.dumps(source))[7].captions == source[7].captions
    with pytest.raises(BadExample, match="^b: example 1: it is broken"):
        Mixture({"a": Tiny(3), "b": Tiny(5, broken=[1])})[4]


def test_without_weights_it_is_one_source():
    """An epoch in the order of a plain source of that size, each example once."""
    source = Mixture({"a": Tiny(3, [], [1] * 3), "b": Tiny(10, [], [1] * 10)})
    plain = Tiny(13, [], [1] * 13)
    assert plan(source, 26) == plan(plain, 26)
    assert sorted(p.index for p in plan(source, 13)) == list(range(13))


def test_weights_are_shares_evenly_spread():
    source = Mixture({"a": Tiny(10), "b": Tiny(30)}, (3.0, 1.0))
    assert pipeline.epoch_size(source, "image") == 40
    planned = [p.index for p in plan(source, 240)]
    for start in range(0, 240, 4):
        assert sum(i < 10 for i in planned[start : start + 4]) == 3
    small = [i for i in planned if i < 10]
    for start in range(0, 180, 10):  # each part goes through epochs of its own
        assert sorted(small[start : start + 10]) == list(range(10))
    large = [i for i in planned if i >= 10]
    assert sorted(large[:30]) == list(range(10, 40)) and large[:30] != large[30:]


def test_golden_order_of_a_mixture():
    """Changes only with grain's mix or our plan: then runs no longer resume."""
    source = Mixture({"a": Tiny(3), "b": Tiny(5)}, (2.0, 1.0))
    assert [p.index for p in plan(source, 12)] == GOLDEN
    assert [p.index for p in plan(source, 4, step=2)] == GOLDEN[8:]


GOLDEN = [0, 2, 3, 1, 0, 4, 2, 1, 5, 0, 1, 6]


@given(
    sizes=st.lists(st.integers(20, 40), min_size=2, max_size=4),
    weights=st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
    unit=st.sampled_from(["image", "pair"]),
    size=st.integers(1, 6),
)
@settings(deadline=None, max_examples=12)
def test_shares_and_epochs_for_any_parts(sizes, weights, unit, size):
    weights = weights[: len(sizes)]
    source = Mixture({str(i): Tiny(n) for i, n in enumerate(sizes)}, weights)
    count = 120
    planned = plan(source, count, unit=unit)
    ends = np.cumsum(sizes)
    parts = np.searchsorted(ends, [p.index for p in planned], side="right")
    for part, weight in enumerate(weights):
        share = weight / sum(weights) * count
        # Each other part can be one example ahead of it, or behind.
        assert abs((parts == part).sum() - share) <= len(sizes) - 1 + 0.02 * share
        mine = [
            (p.index, p.caption)
            for p, q in zip(planned, parts, strict=True)
            if q == part
        ]
        counts = source.caption_counts[ends[part] - sizes[part] : ends[part]]
        epoch = int(counts.sum()) if unit == "pair" else sizes[part]
        for start in range(0, len(mine) - epoch + 1, epoch):
            visited = mine[start : start + epoch]
            ids = visited if unit == "pair" else [i for i, _ in visited]
            assert len(set(ids)) == epoch
    # A later step, on its own, is what the whole stream says.
    later = plan(source, size, step=3, unit=unit)
    assert later == planned[3 * size : 4 * size]


def test_resume_hosts_and_threads_change_nothing():
    source = Mixture({"a": Tiny(4, broken=[2]), "b": Tiny(9)}, (1.0, 2.0))
    whole = batches(source, 9, size=6)
    assert_same(batches(source, 4, start=5, size=6), whole[5:])
    assert_same(batches(source, 9, size=6, threads=3), whole)
    blocks = [
        batches(source, 9, size=6, process_index=i, process_count=2) for i in (0, 1)
    ]
    for name in ("image", "text", "image_id", "text_id"):
        both = [
            np.concatenate([a[name], b[name]]) for a, b in zip(*blocks, strict=True)
        ]
        for one, other in zip(both, whole, strict=True):
            np.testing.assert_array_equal(one, other[name])
    assert not (joined(whole, "image_id") == 2).any()
    ids = joined(whole, "image_id")
    np.testing.assert_array_equal(
        joined(whole, "image")[:, 0, 0, 0], ids % 4 * (ids < 4) + (ids - 4) * (ids >= 4)
    )


def test_a_broken_example_is_replaced_by_one_of_its_part():
    source = Mixture({"a": Tiny(4, broken=[2]), "b": Tiny(90)}, (1.0, 1.0))
    found = batches(source, 20, size=8)
    ids, replaced = joined(found, "image_id"), joined(found, "replaced")
    assert replaced.sum() >= 15 and (ids[replaced] < 4).all()
    assert (ids < 4).sum() == 80


# Labels


class Labelled(Tiny):
    def __init__(self, size, **class_names):
        super().__init__(size)
        self.class_names = class_names
        self.templates = {name: ("a {}.",) for name in class_names}


def test_label_sets_of_the_same_classes_are_one_and_others_apart():
    pets, cars = ("even", "odd"), ("slow", "fast")
    source = Mixture(
        {
            "a": Labelled(2, kind=pets),
            "b": Labelled(2, kind=cars),
            "c": Labelled(2, kind=list(pets), other=cars),
        }
    )
    assert dict(source.class_names) == {"kind": pets, "b.kind": cars, "other": cars}
    assert set(source.templates) == {"kind", "b.kind", "other"}
    labels = [dict(source[i].labels) for i in (1, 3, 5)]
    assert labels == [{"kind": 1}, {"b.kind": 1}, {"kind": 1, "other": 1}]
    found = batches(source, 4, size=6, label_set="b.kind")
    own = (joined(found, "image_id") // 2) == 1
    labels = joined(found, "label")
    assert (labels[own] >= 0).all() and (labels[~own] == -1).all()
    with pytest.raises(UserError, match="label sets kind, b.kind, other"):
        batches(source, 1, label_set="kin")


# Words


def test_parts_from_words(tmp_path):
    for split, name, count in (
        ("train", "cat", 3),
        ("val", "cat", 1),
        ("test", "dog", 2),
    ):
        (tmp_path / "my data" / split / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "my data" / split / name / f"{i}.jpg").write_bytes(jpeg(i))
    path = f"path='{tmp_path}/my data'"
    words = f"imagefolder {path} caption_templates='a {{}}' + scenes size=5 eval_size=4"
    train = mixture.make("train", parts=words)
    check_contract(train)
    assert len(train) == 8 and train.shares == ()
    assert list(train[2].captions) == ["a cat"]
    val = mixture.make("val", parts=words)
    assert len(val) == 5
    words = f"imagefolder {path} as=x weight=2 split=test"
    words += f" + imagefolder {path} split.val=test weight=.5"
    train, val = (mixture.make(split, parts=words) for split in ("train", "val"))
    assert train.shares == ((2, 2.0), (3, 0.5)) and val.shares == ((2, 2.0), (2, 0.5))
    assert train[0].key == "x: test/dog/0.jpg"
    assert train[2].key == "imagefolder: train/cat/0.jpg"


def test_words_have_the_options_types():
    (part,) = mixture_spec.parts("captions path=/x val_fraction=1 max_samples=7")
    assert part.options == {"path": "/x", "val_fraction": 1.0, "max_samples": 7}
    assert (part.label, part.weight, dict(part.splits)) == ("captions", None, {})
    (part,) = mixture_spec.parts("""tfds labels="('a', 'b')" """)
    assert part.options["labels"] == ("a", "b")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "needs the option parts"),
        ("captoins path=x", "Did you mean 'captions'"),
        ("captions pth=x", "captions: pth. Did you mean 'path'"),
        ("captions path", "'path' is not of the form key=value"),
        ("captions path=", "'path=' is not of the form"),
        ("captions path=a path=b", "path is given twice"),
        ("captions max_samples=many", "max_samples='many': must be int"),
        ("captions path='x", "No closing quotation"),
        ("captions path=x +", "write them as webdataset"),
        ("path=x", "write them as webdataset"),
        ("scenes + scenes", "'scenes' appears twice; name them by as="),
        ("scenes weight=2 + categories", "scenes has a weight and categories has none"),
        ("scenes weight=0", "scenes: weight=0.0: must be above 0"),
        ("scenes weight=nan", "weight"),
        ("scenes + webdataset", "webdataset: no folder of webdataset shards"),
        ("scenes split=foo", "foo"),
        ("mixture parts=scenes as=m + scenes", "m is a mixture itself"),
    ],
)
def test_mistakes_in_words(words, told):
    with pytest.raises(UserError) as caught:
        mixture.make("train", parts=words)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_a_weighed_part_without_captions_is_refused():
    source = Mixture({"a": Tiny(3), "b": Tiny(3, counts=[0] * 3)}, (1.0, 1.0))
    with pytest.raises(UserError, match="part 2 of the mixture has no captions"):
        batches(source, 1, tokenizer=Tokens)
    union = Mixture({"a": Tiny(3), "b": Tiny(3, counts=[0] * 3)})
    ids = collections.Counter(joined(batches(union, 6, size=3), "image_id").tolist())
    assert ids == {0: 6, 1: 6, 2: 6}
