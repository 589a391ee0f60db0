"""The order of training data, its blocks, broken examples, workers."""

import collections
import pathlib
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import mostly
from pipeline_tools import (
    Noise,
    Tiny,
    Tokens,
    all_batches,
    assert_same,
    batches,
    joined,
)

from clipjax.data.batching import order, pipeline
from clipjax.types import BATCH_KEYS, BadExample, Example, UserError

# The batch


def test_batch_keys_shapes_and_contents():
    source = Tiny()
    (batch,) = batches(source, 1)
    assert batch.keys() == BATCH_KEYS.keys()
    assert batch["image"].shape == (4, 2, 2, 3) and batch["image"].dtype == np.uint8
    assert batch["text"].dtype == np.int32 and batch["text_mask"].dtype == np.bool_
    for name in ("image_id", "text_id", "label"):
        assert batch[name].dtype == np.int32 and batch[name].shape == (4,)
    for name in ("valid", "replaced"):
        assert batch[name].dtype == np.bool_ and batch[name].shape == (4,)
    assert batch["valid"].all() and not batch["replaced"].any()
    ids = batch["image_id"]
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], ids)
    np.testing.assert_array_equal(batch["text"][:, 0], ids + 1)
    captions = batch["text"][:, 1] - 1
    np.testing.assert_array_equal(batch["text_id"], ids * 3 + captions)
    np.testing.assert_array_equal(batch["label"], ids % 2)


def test_plan_tells_the_batch():
    source = Tiny()
    for step, batch in enumerate(batches(source, 5)):
        plan = pipeline.plan(source, seed=3, global_batch=4, step=step)
        assert batch["image_id"].tolist() == [item.index for item in plan]
        captions = batch["text"][:, 1] - 1
        assert captions.tolist() == [item.caption for item in plan]
        assert all(0 <= item.draw < 2**63 for item in plan)


def test_golden_order():
    """Changes only with grain's shuffle or our plan: then runs no longer resume."""
    plan = pipeline.plan(Tiny(), seed=3, global_batch=13, step=0)
    order = [4, 6, 9, 7, 5, 3, 1, 12, 10, 0, 2, 8, 11]
    captions = [0, 0, 0, 0, 2, 0, 1, 0, 1, 0, 0, 1, 2]
    assert [item.index for item in plan] == order
    assert [item.caption for item in plan] == captions
    assert plan[0].draw == 5552302599486987651


def test_without_text_or_labels():
    source = Tiny(counts=[0] * 9, labels=("a", "b"))
    (batch,) = batches(source, 1, tokenizer=None)
    assert batch.keys() == BATCH_KEYS.keys() - {"text", "text_mask", "text_id"}
    assert (batch["label"] == -1).all()  # two label sets, and none was named
    (batch,) = batches(source, 1, tokenizer=None, label_set="b")
    np.testing.assert_array_equal(batch["label"], batch["image_id"] % 2)


# Epochs


@pytest.mark.parametrize("size", [4, 5, 13])
def test_an_image_epoch_visits_every_image_once(size):
    source = Tiny()
    ids = joined(batches(source, 40, size=size), "image_id")
    for epoch in range(len(ids) // 13):
        part = ids[13 * epoch : 13 * (epoch + 1)]
        assert sorted(part) == list(range(13))


def test_a_pair_epoch_visits_every_caption_once():
    source = Tiny()
    pairs = int(source.caption_counts.sum())
    found = batches(source, 20, size=7, unit="pair")
    ids = joined(found, "text_id")
    every = [i * 3 + c for i in range(13) for c in range(1 + i % 3)]
    assert pairs == len(every) and len(ids) > 4 * pairs
    for epoch in range(len(ids) // pairs):
        assert sorted(ids[pairs * epoch : pairs * (epoch + 1)]) == every
    np.testing.assert_array_equal(ids // 3, joined(found, "image_id"))


def test_epochs_differ_in_order_captions_and_draws():
    source = Tiny(size=12)
    found = batches(source, 2, size=12)
    first, second = (batch["image_id"] for batch in found)
    assert first.tolist() != second.tolist()
    one, two = (
        batch["image"][np.argsort(batch["image_id"])][..., 1:] for batch in found
    )
    assert (one != two).any(axis=(1, 2, 3)).all()
    one, two = (batch["text"][np.argsort(batch["image_id"])] for batch in found)
    assert (one != two).any()


@pytest.mark.thorough
def test_captions_are_drawn_evenly():
    source = Tiny(counts=[3, 2] * 50)
    plan = pipeline.plan(source, seed=3, global_batch=6000, step=0)
    counts = collections.Counter((item.index % 2, item.caption) for item in plan)
    # 3000 draws each from the images of three captions and of two; 5 deviations.
    assert set(counts) == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)}
    for (two, _), count in counts.items():
        assert abs(count - (1500 if two else 1000)) < 140


def test_the_order_of_ten_million_is_computed_not_stored():
    source = Tiny(counts=np.ones(10**7, np.int32))
    tracemalloc.start()
    try:
        plan = pipeline.plan(source, seed=0, global_batch=100, step=10**6)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len({item.index for item in plan}) == 100
    assert peak < 10 * 10**7  # 8 bytes for the numbers of what has a caption


def test_seeds_differ():
    source = Tiny(size=40)
    plans = [
        pipeline.plan(source, seed=seed, global_batch=40, step=0)
        for seed in (0, 1, 2**40 + 1, 2**63 - 1)
    ]
    assert len({tuple(plan) for plan in plans}) == 4
    assert len({tuple(item.index for item in plan) for plan in plans}) == 4
    # Nor does one seed's second epoch repeat another's first.
    second = pipeline.plan(source, seed=0, global_batch=40, step=1)
    assert [item.index for item in second] != [item.index for item in plans[1]]


def test_examples_without_a_caption_are_left_out():
    source = Tiny(counts=[2, 0, 1, 0, 3])
    for unit, epoch in (("image", 3), ("pair", 6)):
        made = pipeline.train_batches(
            source,
            Tokens(),
            Noise(),
            seed=0,
            global_batch=epoch,
            start_step=0,
            unit=unit,
        )
        ids = next(made)["image_id"]
        made.close()
        assert made.left_out == 2
        assert set(ids.tolist()) == {0, 2, 4}


def test_steps_per_epoch():
    source = Tiny()
    assert [pipeline.steps_per_epoch(source, "image", b) for b in (1, 4, 13)] == [
        13,
        3,
        1,
    ]
    assert pipeline.steps_per_epoch(source, "pair", 5) == 5
    with pytest.raises(UserError, match="batch_size=14.*13 images"):
        pipeline.steps_per_epoch(source, "image", 14)


# Resuming, processes, threads, workers


@settings(max_examples=15, deadline=None)
@given(
    start=st.integers(0, 100_000),
    size=st.integers(1, 9),
    unit=st.sampled_from(order.UNITS),
)
def test_resume_at_any_step(start, size, unit):
    source = Tiny()
    back = min(start, 3)
    whole = batches(source, back + 2, start=start - back, size=size, unit=unit)
    assert_same(batches(source, 2, start=start, size=size, unit=unit), whole[back:])


def test_total_steps_end_the_iterator():
    assert len(list(all_batches(Tiny(), total_steps=5, start_step=3))) == 2
    assert len(list(all_batches(Tiny(), total_steps=5, start_step=5))) == 0


def test_processes_split_the_global_batch():
    source = Tiny(size=24, broken=[5])
    whole = batches(source, 6, size=8)
    parts = [
        batches(source, 6, size=8, process_index=i, process_count=2) for i in range(2)
    ]
    for batch, left, right in zip(whole, *parts, strict=True):
        assert_same([batch], [{n: np.concatenate([left[n], right[n]]) for n in batch}])
        assert not set(left["image_id"]) & set(right["image_id"])
        assert (left["image"][..., 1:] != right["image"][..., 1:]).any((1, 2, 3)).all()


@pytest.mark.parametrize(
    "options",
    mostly([{"threads": 1}, {"threads": 3}, {"workers": 2}], [{"threads": 3}]),
)
def test_threads_and_workers_change_nothing(options):
    source = Tiny(broken=[2, 7])
    expected = batches(source, 9, start=5)
    made = all_batches(source, start_step=5, **options)
    try:
        found = [next(made) for _ in range(9)]
        broken = made.take_broken()
    finally:
        made.close()
    assert_same(found, expected)
    assert all(type(array) is np.ndarray for array in found[0].values())
    assert sorted(broken) == [
        ("example 2", "it is broken"),
        ("example 7", "it is broken"),
    ]


@pytest.mark.thorough
def test_one_worker_changes_nothing_and_brings_its_errors():
    source = Tiny(size=5)
    assert_same(batches(source, 3, workers=1), batches(source, 3))
    with pytest.raises(UserError, match="example 3 is broken: it is broken;"):
        batches(Tiny(broken=[3]), 9, workers=1, on_broken="raise")


def test_a_worker_that_dies_is_named():
    with pytest.raises(UserError, match="worker process died.*exit code -9"):
        batches(Tiny(killer=3), 9, workers=1)


# Broken examples


def test_replacing_leaves_the_others_alone():
    whole, hurt = Tiny(), Tiny(broken=[4, 9])
    for good, found in zip(batches(whole, 20), batches(hurt, 20), strict=True):
        lost = np.isin(good["image_id"], [4, 9])
        np.testing.assert_array_equal(found["replaced"], lost)
        for name in good:
            if name != "replaced":
                np.testing.assert_array_equal(good[name][~lost], found[name][~lost])
        # The replacement is a whole example of its own.
        assert not np.isin(found["image_id"], [4, 9]).any()
        np.testing.assert_array_equal(found["image"][:, 0, 0, 0], found["image_id"])
        captions = found["text"][:, 1] - 1
        np.testing.assert_array_equal(
            found["text_id"], found["image_id"] * 3 + captions
        )
        assert found["valid"].all()


def test_replacements_vary():
    found = batches(Tiny(broken=[4]), 120)
    others = joined(found, "image_id")[joined(found, "replaced")]
    assert len(set(others.tolist())) > 5


def test_closed_batches_are_closed():
    made = all_batches(Tiny(), start_step=0)
    made.close()
    made.close()
    with pytest.raises(ValueError, match="closed"):
        next(made)


def test_broken_examples_are_told_once():
    source = Tiny(broken=[4])
    made = all_batches(source, start_step=0, threads=0)
    for _ in range(4):
        next(made)
    assert made.take_broken() == [("example 4", "it is broken")]
    for _ in range(8):
        next(made)
    assert made.take_broken() == []
    made.close()


class NoText(Tiny):
    def __getitem__(self, index):
        example = super().__getitem__(index)
        captions = [None] * 3 if index == 4 else example.captions
        captions = captions[:0] if index == 5 else captions
        return Example(example.image, captions, example.labels, example.key)


class Picky(Noise):
    def __call__(self, image, rng):
        if image[0, 0, 0] == 6:
            raise BadExample("the image cannot be decoded")
        return super().__call__(image, rng)


def test_broken_anywhere_is_replaced_and_named_by_its_key():
    made = pipeline.train_batches(
        NoText(), Tokens(), Picky(), seed=0, global_batch=13, start_step=0
    )
    batch = next(made)
    assert not np.isin(batch["image_id"], [4, 5, 6]).any()
    assert batch["replaced"].sum() == 3
    told = dict(made.take_broken())
    made.close()
    assert told["tiny/4"] == "the caption is not text"
    assert "no caption number" in told["tiny/5"]
    assert told["tiny/6"] == "the image cannot be decoded"


def test_on_broken_raise():
    with pytest.raises(UserError, match="example 4 is broken: it is broken; mend"):
        batches(Tiny(broken=[4]), 9, on_broken="raise")


def test_nothing_but_broken_examples_ends_the_run():
    with pytest.raises(UserError, match="20 examples drawn to replace it are all"):
        batches(Tiny(broken=range(13)), 1)


class Faulty(Tiny):
    def __getitem__(self, index):
        raise PermissionError("no")


@pytest.mark.parametrize("threads", [0, 1])
def test_other_errors_are_not_swallowed(threads):
    with pytest.raises(PermissionError, match="no"):
        batches(Faulty(), 1, threads=threads)


# Wrong options, closing, captions


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": -1}, "seed=-1"),
        ({"global_batch": 0}, "global_batch=0"),
        ({"start_step": -1}, "start_step=-1"),
        ({"workers": -1}, "workers=-1"),
        ({"threads": -1}, "threads=-1"),
        ({"unit": "caption"}, "unit='caption': use image or pair"),
        ({"on_broken": "skip"}, "on_broken='skip': use replace or raise"),
        ({"process_count": 3}, "batch_size=4 is not divisible by the 3 processes"),
        (
            {"label_set": "colour"},
            "label_set='colour': the data have the label sets class",
        ),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        batches(Tiny(), 0, **options)


def test_wrong_sources():
    with pytest.raises(UserError, match="no captions"):
        batches(Tiny(counts=[0, 0, 0]), 1)
    with pytest.raises(UserError, match="no captions; use image"):
        batches(Tiny(counts=[0, 0, 0]), 1, tokenizer=None, unit="pair")
    with pytest.raises(UserError, match="empty"):
        batches(Tiny(counts=[]), 1, tokenizer=None)
    huge = Tiny()
    huge.max_captions = 2**30
    with pytest.raises(UserError, match="32-bit"):
        batches(huge, 1)


def test_captions():
    source = Tiny(size=6, counts=[2, 0, 1, 1, 1, 1], broken=[3])
    assert list(pipeline.captions(source)) == ["0 0", "0 1", "2 0", "4 0", "5 0"]
    # Evenly spread, and no more examples than the limit.
    assert list(pipeline.captions(source, limit=2)) == ["0 0", "0 1", "4 0"]
    assert list(pipeline.captions(source, limit=1)) == ["0 0", "0 1"]
    assert list(pipeline.captions(Tiny(counts=[0, 0]))) == []


PROGRAM = """
import sys
sys.path.insert(0, {here!r})
from pipeline_tools import Noise, Tiny, Tokens
from clipjax.data.batching import order, pipeline

if __name__ == "__main__":
    made = pipeline.train_batches(
        Tiny(), Tokens(), Noise(), seed=0, global_batch=4, start_step=0, {options}
    )
    kept = [next(made), next(made)]
    {closing}
    print("done")
"""


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options, closing",
    mostly(
        [
            ("workers=2", "made.close(); made.close()"),
            ("workers=1", "pass"),
            ("threads=2", "made.close()"),
            ("threads=2", "pass"),
        ],
        [("workers=1", "pass"), ("threads=2", "made.close()")],
    ),
)
def test_ending_early_is_silent(tmp_path, options, closing):
    here = str(pathlib.Path(__file__).parents[2])
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(here=here, options=options, closing=closing))
    ran = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=250
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")
