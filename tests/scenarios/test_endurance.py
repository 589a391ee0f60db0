"""Memory and open files over many epochs, and with more shards than may be open."""

import gc
import os
import pathlib
import threading

import numpy as np
import pytest
from encoder_tools import Letters
from image_tools import encoded, picture
from source_tools import write_tar

from clipjax.data.batching import pipeline, workers
from clipjax.data.images import augment
from clipjax.data.sources import webdataset

SHARDS = 100  # above the 64 that may be open
IMAGE = 64
BLOCK = 4 * IMAGE * IMAGE * 3  # bytes of a batch's pixels


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    base = tmp_path_factory.mktemp("shards")
    for i in range(SHARDS):
        image = encoded(picture(24, 24, i), "JPEG")
        members = [(f"{i}.jpg", image), (f"{i}.txt", b"number %d" % i)]
        write_tar(base / f"train-{i:03}.tar", members)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPJAX_CACHE", str(base / "cache"))
        return webdataset.make("train", path=str(base))


def resident():
    """Bytes of this process and of its workers."""
    gc.collect()
    pages = 0
    for pid in ("self", *workers.pids()):
        pages += int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def handles():
    return len(os.listdir("/proc/self/fd"))


def made_of(source, **options):
    return pipeline.train_batches(
        source,
        Letters(),
        augment.crop(IMAGE),
        seed=0,
        global_batch=4,
        start_step=0,
        **options,
    )


def growth(source, epochs, **options):
    """(bytes, handles) that the process has more after the epochs than after three."""
    made = made_of(source, **options)
    try:
        for _ in range(3 * SHARDS // 4):
            next(made)
        before, opened = resident(), handles()
        for _ in range(epochs * SHARDS // 4):
            next(made)
        return resident() - before, handles() - opened
    finally:
        made.close()


@pytest.mark.thorough
@pytest.mark.parametrize("threads", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_memory_is_flat_over_epochs(source, threads):
    before = handles()
    grown, more = growth(source, 12, threads=threads)
    # Had every batch stayed, it were 300 of them.
    assert grown < 60 * BLOCK and more <= 2
    assert len(source._folder._pool) <= 64 and handles() - before <= 66


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"threads": 2}, {"workers": 2}])
def test_memory_is_flat_over_many_epochs(source, options):
    before = handles()
    grown, more = growth(source, 200, **options)
    assert grown < 200 * BLOCK  # of 5000 batches
    # Arrays of workers are closed a while after they were copied.
    assert more <= (300 if "workers" in options else 2)
    assert "workers" in options or handles() - before <= 66


@pytest.mark.slow
def test_batches_made_and_closed_leave_nothing(source):
    """As at each evaluation of the validation loss."""
    for times in (3, 40):
        before, opened = resident(), handles()
        for _ in range(times):
            made = made_of(source, threads=2)
            next(made)
            made.close()
    assert resident() - before < 40 * BLOCK and handles() - opened <= 2


def test_threads_end_with_their_batches(source):
    before = set(threading.enumerate())  # another test's may end meanwhile
    made = made_of(source, threads=3)
    next(made)
    assert len(set(threading.enumerate()) - before) == 3
    made.close()
    assert set(threading.enumerate()) <= before
    made = made_of(source, threads=3)
    next(made)
    del made
    assert set(threading.enumerate()) <= before


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_two_processes_with_workers_give_the_same_global_batches(source, count):
    def two_passes(steps=2 * SHARDS // 4, start=0, **options):
        made = pipeline.train_batches(
            source,
            Letters(),
            augment.crop(IMAGE),
            seed=7,
            global_batch=4,
            start_step=start,
            **options,
        )
        try:
            return [next(made) for _ in range(steps)]
        finally:
            made.close()

    whole = two_passes(threads=0)
    parts = [
        two_passes(workers=count, process_index=i, process_count=2) for i in range(2)
    ]
    for one, *blocks in zip(whole, *parts, strict=True):
        for name in one:
            np.testing.assert_array_equal(
                one[name], np.concatenate([block[name] for block in blocks])
            )
    for start in (1, 26, 33):
        rest = two_passes(steps=9, start=start, workers=count)
        for one, other in zip(whole[start:], rest, strict=False):
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])
