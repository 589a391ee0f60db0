"""How long a device waits for data, measured on batches of known times."""

import concurrent.futures
import threading

import pytest

from clipjax import data_wait
from clipjax.data_wait import DataWait


class Clock:
    """In place of the module `time`; a thread that waits for a device stops there."""

    def __init__(self):
        self.now = 0.0
        self.moved = threading.Condition()
        self.seen = threading.local()

    def monotonic(self):
        return getattr(self.seen, "at", self.now)

    def move(self, seconds):
        with self.moved:
            self.now += seconds
            self.moved.notify_all()


class Outputs:
    """What a device makes: there once `seconds` have passed."""

    def __init__(self, clock, seconds):
        self.clock, self.at = clock, clock.now + seconds

    def block_until_ready(self):
        with self.clock.moved:
            assert self.clock.moved.wait_for(lambda: self.clock.now >= self.at, 60)
        self.clock.seen.at = self.at
        return self


@pytest.mark.parametrize(
    ("data", "device", "expected"),
    [
        (0.1, 0.0, 0.4),  # the device waits for all of it
        (0.1, 0.06, 0.1 + 3 * 0.04),  # and here while it has nothing to do
        (0.02, 0.2, 0.02),  # for the first batch alone
    ],
)
def test_a_wait_counts_while_the_device_is_idle(data, device, expected, monkeypatch):
    clock, before = Clock(), threading.active_count()
    monkeypatch.setattr(data_wait, "time", clock)
    wait, made = DataWait(), []

    def batches():
        for number in range(4):
            clock.move(data)
            if made and made[-1].at <= clock.now:  # noted by now
                concurrent.futures.wait([wait._done], 60)
            yield number
        clock.move(60)  # until the device has done all of it

    for _ in wait.over(batches()):
        made.append(Outputs(clock, device))
        wait.follow(made[-1])
    assert wait.seconds == pytest.approx(expected)
    assert threading.active_count() <= before
