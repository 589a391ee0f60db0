"""A worker or thread that hangs is an error in time, and lets its process end."""

import pathlib
import re
import subprocess
import sys
import threading
import time

import pytest
from pipeline_tools import Noise, Tiny, Tokens

from clipjax.data.batching import pipeline, prefetch
from clipjax.data.batching.prefetch import Ahead, Late
from clipjax.types import UserError

# At step 3, from 0, of batches of 4 from seed 0; see `test_the_stuck_one_is_of_step_3`.
STUCK = 12
REACHED = threading.Event()


class Stuck(Tiny):
    """One example is never read."""

    def __init__(self):
        super().__init__()
        REACHED.clear()

    def __getitem__(self, index):
        if index == STUCK:
            REACHED.set()
            time.sleep(10**6)
        return super().__getitem__(index)


def made_of(source, **options):
    return pipeline.train_batches(
        source, Tokens(), Noise(), seed=0, global_batch=4, start_step=0, **options
    )


def at_the_stuck_one(made, timeout):
    """The same batches, at the one that hangs; the first ones take what they take."""
    for _ in range(3):
        next(made)
    made._timeout = timeout
    return made


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_stuck_one_is_of_step_3():
    steps = [pipeline.plan(Tiny(), seed=0, global_batch=4, step=s) for s in range(4)]
    assert [STUCK in [p.index for p in step] for step in steps] == [0, 0, 0, 1]


def test_a_thread_that_hangs_is_an_error_that_names_the_example():
    made = at_the_stuck_one(made_of(Stuck(), threads=2), timeout=1.0)
    assert REACHED.wait(60)
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"step 4 has not come for 1 s.*example 12;"):
        next(made)
    assert 0.9 <= time.monotonic() - begin < prefetch.PATIENCE  # it does not wait more
    assert all(t.daemon for t in threading.enumerate() if "clipjax" in t.name)
    with pytest.raises(ValueError, match="closed"):
        next(made)
    made.close()


class Named(Stuck):
    def __init__(self, hangs):
        super().__init__()
        self.hangs = hangs

    def key_of(self, index):
        if self.hangs:
            time.sleep(10**6)
        return f"named/{index}"


@pytest.mark.parametrize(
    ("hangs", "name"),
    [
        (False, "named/12"),
        pytest.param(True, "example 12", marks=pytest.mark.slow),
    ],
)
def test_the_key_is_named_where_it_can_be_had(hangs, name, monkeypatch):
    if not hangs:
        monkeypatch.setattr(prefetch, "NAMING", 60.0)
    made = at_the_stuck_one(made_of(Named(hangs)), timeout=0.5)
    assert REACHED.wait(60)
    with pytest.raises(UserError, match=f"hangs in reading {name};"):
        next(made)


class Slow(Tiny):
    def __getitem__(self, index):
        time.sleep(0.02)
        return super().__getitem__(index)


@pytest.mark.slow
def test_what_is_slow_is_no_error():
    for timeout in (0.0, 1.5):  # a batch takes 0.08 s, all of them more than that
        made = made_of(Slow(), timeout=timeout, total_steps=25)
        assert len(list(made)) == 25
        made.close()


def test_a_negative_timeout_is_refused():
    with pytest.raises(UserError, match="timeout=-1"):
        made_of(Tiny(), timeout=-1)


# The means


def test_ahead_keeps_order_and_depth():
    begun = []

    def call(n):
        begun.append(n)
        time.sleep(0.01 * (n % 3))
        return n

    made = Ahead(call, range(5, 25), threads=3, depth=4)
    assert begun == []
    assert made.take(0) == 5
    wait_for(lambda: len(begun) == 5)
    time.sleep(0.1)  # in which no other begins
    assert sorted(begun) == list(range(5, 10))
    assert [made.take(60) for _ in range(19)] == list(range(6, 25))
    with pytest.raises(StopIteration):
        made.take(0)
    assert made.close() and made.close()


@pytest.mark.parametrize("threads", [0, 2])
def test_ahead_passes_errors_on(threads):
    def call(n):
        if n == 1:
            raise TimeoutError("the store's own")
        return n

    made = Ahead(call, range(9), threads=threads, depth=1)
    assert made.take(60) == 0
    with pytest.raises(TimeoutError, match="the store's own"):
        made.take(60)
    assert made.take(60) == 2
    assert made.close()


def test_ahead_finishes_once_and_says_what_does_not_end():
    ended = []
    free = threading.Event()
    made = Ahead(
        lambda n: free.wait(),
        range(9),
        threads=2,
        depth=3,
        finish=lambda: ended.append(1),
    )
    with pytest.raises(Late):
        made.take(0.05)
    assert not made.close(0.05) and ended == []
    free.set()
    assert made.close() and ended == [1]
    unused = Ahead(print, range(9), threads=2, depth=3, finish=lambda: ended.append(2))
    assert unused.close() and unused.close() and ended == [1, 2]


# Whole processes

PROGRAM = """
import sys
sys.path[:0] = {places!r}
from test_stalls import Stuck, at_the_stuck_one, made_of
from clipjax.data.batching import workers
from clipjax.types import UserError

if __name__ == "__main__":
    made = at_the_stuck_one(made_of(Stuck(), {options}), timeout=2.0)
    print(*workers.pids())
    try:
        {then}
    except UserError as error:
        print(error)
    print(workers.pids())
"""


def ended(tmp_path, options, then="next(made)"):
    """What a process said that ended by itself."""
    here = pathlib.Path(__file__)
    places = [str(here.parent), str(here.parents[2])]  # this file, and its tools
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(places=places, options=options, then=then))
    ran = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=250
    )
    # What a killed worker had in shared memory is freed after it, and that is said.
    said = [line for line in ran.stderr.splitlines() if "resource_tracker" not in line]
    assert (ran.returncode, [line for line in said if "warn(" not in line]) == (0, [])
    return ran.stdout.splitlines()


@pytest.mark.slow
def test_a_process_with_a_hanging_thread_ends(tmp_path):
    pids, said, left = ended(tmp_path, "threads=2")
    assert "example 12;" in said and (pids, left) == ("", "[]")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_hangs_is_named_and_killed(tmp_path, workers):
    pids, said, left = ended(tmp_path, f"workers={workers}")
    pids = re.findall(r"\d+", pids)
    assert len(pids) == workers and left == "[]"
    (named,) = re.findall(r"worker process (\d+) hangs, and was killed", said)
    assert named in pids and "step 4 has not come for 2 s" in said


@pytest.mark.slow
def test_closing_does_not_wait_for_a_worker_that_hangs(tmp_path):
    _, left = ended(tmp_path, "workers=2", "made.close()")
    assert left == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("options", ["workers=2", "threads=2"])
def test_leaving_does_not_wait_for_what_hangs(tmp_path, options):
    assert len(ended(tmp_path, options, "pass")) == 2
