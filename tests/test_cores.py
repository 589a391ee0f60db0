"""The number of cores, with and without a system that binds processes to some."""

import os

import pytest

from clipjax import cores


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="processes are not bound here"
)
def test_of_a_bound_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7})
    assert cores.usable() == 3


@pytest.mark.parametrize(("told", "count"), [(6, 6), (None, 1)])
def test_of_a_system_that_binds_none(monkeypatch, told, count):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: told)
    assert cores.usable() == count
