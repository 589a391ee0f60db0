"""Shared memory that a killed run left is freed at its next start, and nothing else."""

from __future__ import annotations

import json
import os
import pathlib
from multiprocessing import shared_memory as system

import pytest

from clipjax.engine import shared_memory
from clipjax.types import UserError

SHM = pathlib.Path("/dev/shm")
OTHERS = f"psm_{os.getpid():08x}"  # which no other test process makes
pytestmark = pytest.mark.skipif(not SHM.is_dir(), reason="no /dev/shm")


@pytest.fixture
def piece():
    """Makes a file in /dev/shm, as a killed process leaves it."""
    made = []

    def make(name):
        made.append(SHM / name)
        made[-1].write_bytes(b"left")
        return made[-1]

    yield make
    for path in made:
        path.unlink(missing_ok=True)


def test_the_next_start_frees_what_its_record_names(tmp_path, piece):
    said = []
    first = shared_memory.begin(tmp_path, 2, said.append)
    other = shared_memory.begin(tmp_path / "..", 0, said.append)
    assert first.startswith("psm_") and other == "" and said == []
    left = [piece(f"{first}{n}") for n in range(3)]
    foreign = [piece(f"psm_{first[4:-1]}"), piece(f"x{first}"), piece(OTHERS)]
    second = shared_memory.begin(tmp_path, 2, said.append)
    assert second != first
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in foreign)
    assert said == ["freed 3 pieces of shared memory that a killed run left"]


def test_what_a_live_process_maps_stays_until_it_ends(tmp_path):
    first = shared_memory.begin(tmp_path, 1, print)
    held = system.SharedMemory(f"{first}held", create=True, size=10)
    try:
        shared_memory.begin(tmp_path, 0, print)
        assert (SHM / held.name).exists()
    finally:
        held.close()
    shared_memory.begin(tmp_path, 0, print)  # also without workers of its own
    assert not (SHM / held.name).exists()
    with pytest.raises(FileNotFoundError):
        held.unlink()


@pytest.mark.parametrize(
    "record", ["{", "[]", "{}", '{"names_begin_with": 3}', "[" * 10_000]
)
def test_a_damaged_record_is_said_and_made_anew(tmp_path, record, piece):
    (tmp_path / shared_memory.FILE).write_text(record)
    said = []
    first = shared_memory.begin(tmp_path, 1, said.append)
    assert len(said) == 1 and str(tmp_path / shared_memory.FILE) in said[0]
    left = piece(f"{first}1")
    shared_memory.begin(tmp_path, 1, said.append)
    assert not left.exists()


def test_a_record_that_names_everything_names_nothing(tmp_path, piece):
    other = piece(OTHERS)
    record = {"names_begin_with": ["", "psm_", OTHERS[:8], 3]}
    (tmp_path / shared_memory.FILE).write_text(json.dumps(record))
    shared_memory.begin(tmp_path, 1, print)
    assert other.exists()


def test_the_record_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "KEPT", 3)
    names = [shared_memory.begin(tmp_path, 1, print) for _ in range(5)]
    found = json.loads((tmp_path / shared_memory.FILE).read_text())
    assert found == {"names_begin_with": names[-3:]}


def test_a_record_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"absent/shared_memory\.json cannot be used"):
        shared_memory.begin(tmp_path / "absent", 1, print)
