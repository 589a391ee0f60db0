"""How long a device waits for data, measured on batches of known times."""

import threading
import time

import pytest

from clipjax.data_wait import DataWait


class Outputs:
    """What a device makes: there once `seconds` have passed."""

    def __init__(self, seconds):
        self._at = time.monotonic() + seconds

    def block_until_ready(self):
        time.sleep(max(0.0, self._at - time.monotonic()))
        return self


def slow(seconds, count):
    for number in range(count):
        time.sleep(seconds)
        yield number


@pytest.mark.parametrize(
    ("data", "device", "expected"),
    [
        (0.1, 0.0, 0.4),  # the device waits for all of it
        (0.1, 0.06, 0.1 + 3 * 0.04),  # and here while it has nothing to do
        (0.02, 0.2, 0.02),  # for the first batch alone
    ],
)
def test_a_wait_counts_while_the_device_is_idle(data, device, expected):
    wait = DataWait()
    for _ in wait.over(slow(data, 4)):
        wait.follow(Outputs(device))
    assert wait.seconds == pytest.approx(expected, abs=0.035)
    assert threading.active_count() < 20
