"""Jobs on an index of photos: what they read, and that a killed one loses nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys

import killed_index_jobs
import numpy as np
import pytest
from image_tools import bomb, encoded, motif
from killed_index_jobs import content, job

from clipjax.search_index import vector_file
from clipjax.search_index.photo_table import Photos
from clipjax.types import UserError
from run_tools import ROOT

THOROUGH, SLOW = pytest.mark.thorough, pytest.mark.slow


@pytest.fixture
def photos(tmp_path):
    """Seven photos in two folders, and a broken one."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number in range(7):
        name = f"deep/{number}.png" if number % 2 else f"{number}.png"
        (folder / name).write_bytes(encoded(motif(number, (40, 30))))
    (folder / "broken.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture
def db(tmp_path):
    return tmp_path / "x.clipjax"


def counts(done):
    names = ("new", "changed", "moved", "copied", "deleted", "unchanged", "encoded")
    return {name: getattr(done, name) for name in names if getattr(done, name)}


def test_only_what_changed_is_read(photos, db):
    assert counts(job(photos, db)) == {"new": 8, "encoded": 7}
    whole = content(db)
    assert counts(job(photos, db)) == {"unchanged": 8}
    (photos / "0.png").write_bytes(encoded(motif(20, (40, 30))))  # changed
    os.utime(photos / "2.png", ns=(1, 1))  # touched: the same content
    (photos / "4.png").rename(photos / "deep" / "moved.png")
    shutil.copy(photos / "6.png", photos / "copy.png")
    (photos / "deep" / "1.png").unlink()
    (photos / "new.png").write_bytes(encoded(motif(21, (40, 30))))
    shutil.copy(photos / "broken.jpg", photos / "broken2.jpg")
    expected = {"changed": 1, "moved": 1, "copied": 2, "deleted": 1, "new": 1}
    done = job(photos, db)
    assert counts(done) == {**expected, "unchanged": 5, "encoded": 2}
    found = content(db)
    assert found["moved.png"] == whole["4.png"] and found["copy.png"] == whole["6.png"]
    assert found["broken2.jpg"] == whole["broken.jpg"] != ""
    assert found.keys() == {path.name for path in photos.rglob("*.*")}
    assert content(db) == fresh(photos, db)
    assert counts(job(photos, db)) == {"unchanged": 10}
    # The vector of the deleted one is gone, and no hole is left.
    assert vector_file.beside(db).stat().st_size == 8 * 4 * killed_index_jobs.WIDTH


def fresh(photos, db):
    """What a new index of the same folder has."""
    other = db.with_name("fresh.clipjax")
    job(photos, other)
    return content(other)


def test_all_photos_are_read_again_if_asked(photos, db):
    """One that changed has the size and time that it had."""
    job(photos, db)
    place, other = photos / "0.png", photos / "2.png"
    data = {path: path.read_bytes() for path in (place, other)}
    size = max(map(len, data.values()))
    for path, content_ in data.items():
        path.write_bytes(content_ + bytes(size - len(content_)))
    assert job(photos, db).unchanged >= 6
    whole, stat = content(db), place.stat()
    place.write_bytes(other.read_bytes())
    os.utime(place, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert counts(job(photos, db)) == {"unchanged": 8}
    assert counts(job(photos, db, reread=True)) == {"unchanged": 7, "copied": 1}
    assert content(db)["0.png"] == whole["2.png"] != whole["0.png"]
    place.write_bytes(data[other][:-9] + b"new bytes" + bytes(size - len(data[other])))
    os.utime(place, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert counts(job(photos, db, reread=True)).get("changed") == 1


def test_a_moved_folder(photos, db, tmp_path):
    job(photos, db)
    whole = content(db)
    photos.rename(tmp_path / "elsewhere")
    done = job(tmp_path / "elsewhere", db)
    assert counts(done) == {"moved": 8} and content(db) == whole


def test_a_file_over_another_in_the_index(photos, db):
    job(photos, db)
    whole = content(db)
    (photos / "0.png").rename(photos / "2.png")
    assert counts(job(photos, db)) == {"moved": 1, "unchanged": 6}
    assert content(db)["2.png"] == whole["0.png"] and "0.png" not in content(db)


def test_what_is_left_out(photos, db, monkeypatch):
    for name in (
        ".hidden.png",
        "._0.png",
        "@eaDir/0.png",
        ".dir/0.png",
        "deep/a/b.png",
    ):
        (photos / name).parent.mkdir(exist_ok=True)
        shutil.copy(photos / "0.png", photos / name)
    (photos / "notes.txt").write_text("a")
    (photos / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (photos / "huge.png").write_bytes(bomb())
    (photos / "narrow.png").write_bytes(encoded(motif(9, (400, 1))))
    monkeypatch.setattr("clipjax.search_index.photo_reading.MOST_BYTES", 10**6)
    (photos / "film.jpg").write_bytes(bytes(10**6 + 1))
    done = job(photos, db)
    assert done.new == 12 and done.encoded == 8 and done.excluded == 1
    assert dict(done.others) == {".txt": 1, ".mp4": 1}
    found = content(db)
    assert "too large" in found["huge.png"]
    assert found["narrow.png"] == "the image is too narrow: 400 x 1 pixels"
    assert found["film.jpg"] == "the file is too large for a photo: 1,000,001 bytes"
    with Photos(db) as table:
        lines = done.lines(table, "1 x cpu")
    assert "2 files that are no images, left out (.mp4 1, .txt 1)" in lines
    assert "folders left out: 1" in lines
    assert lines[-1] == f"{db}: 8 photos"


def test_folders_that_cannot_be_listed_keep_their_photos(photos, db, monkeypatch):
    job(photos, db)
    scandir = os.scandir

    def failing(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    done = job(photos, db)
    assert not done.deleted and len(content(db)) == 8
    with Photos(db) as table:
        (line,) = [x for x in done.lines(table, "") if "not read" in x]
    assert line == f"not read, kept as it was: {photos}/deep (Permission denied)"


def test_what_cannot_be_looked_at_is_kept_and_said(photos, db, tmp_path, monkeypatch):
    """A drive that links lead to, and files without permission: no photo is lost."""
    drive = tmp_path / "drive"
    drive.mkdir()
    for number in range(20, 23):
        (drive / f"{number}.png").write_bytes(encoded(motif(number, (40, 30))))
    (photos / "linked").symlink_to(drive)
    (photos / "one.png").symlink_to(drive / "20.png")
    assert job(photos, db).encoded == 11
    drive.rename(tmp_path / "elsewhere")
    (photos / "circle.png").symlink_to("circle.png")
    stat = os.stat

    def failing(path, *args, **flags):
        if str(path).endswith("0.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **flags)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", failing)
        done = job(photos, db)
    assert counts(done) == {"unchanged": 7} and len(content(db)) == 12
    with Photos(db) as table:
        lines = [x for x in done.lines(table, "") if "not read" in x]
    nowhere = "(a link that leads nowhere)"
    assert lines == [
        f"not read, kept as it was: {photos}/circle.png {nowhere}",
        f"not read, kept as it was: {photos}/linked {nowhere}",
        f"not read, kept as it was: {photos}/one.png {nowhere}",
        f"not read, kept as it was: {photos}/0.png (Permission denied)",
    ]
    for name in ("linked", "one.png"):
        (photos / name).unlink()
    assert counts(job(photos, db)) == {"unchanged": 8, "deleted": 4}


def test_a_folder_is_forgotten_but_for_what_another_holds(photos, db):
    job(photos / "deep", db)
    job(photos, db)
    with Photos(db, write=True) as table:
        assert table.forget(os.fsencode(photos)) == 5
        assert [*table.folders()] == [os.fsencode(photos / "deep")]
    assert content(db).keys() == {"1.png", "3.png", "5.png"}
    assert counts(job(photos / "deep", db)) == {"unchanged": 3}
    assert vector_file.beside(db).stat().st_size == 3 * 4 * killed_index_jobs.WIDTH


def test_an_empty_folder_deletes_nothing(photos, db):
    job(photos, db)
    for path in [*photos.rglob("*.*")]:
        path.unlink()
    with pytest.raises(UserError, match="holds no photos, and the index has some"):
        job(photos, db)
    assert len(content(db)) == 8


def test_missing_vectors_are_made_again(photos, db):
    job(photos, db)
    whole = content(db)
    os.truncate(vector_file.beside(db), 5 * 4 * killed_index_jobs.WIDTH + 7)
    done = job(photos, db)
    assert done.restored == 2 and done.encoded == 2 and content(db) == whole


def test_what_could_not_be_read_is_read_again(photos, db, monkeypatch):
    """A broken file is not, unless a library or a permission was missing."""
    (photos / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with monkeypatch.context() as patch:
        from clipjax.data.images import camera_formats

        camera_formats._register.cache_clear()
        patch.setitem(sys.modules, "pillow_heif", None)
        job(photos, db)
    assert "pip install -e '.[photos]'" in content(db)["a.heic"]
    done = job(photos, db)
    assert done.changed == 1 and done.unchanged == 8


class StopAfter:
    """Asks a job to stop when it looks for the second time."""

    def __init__(self):
        self.asked = 0

    def signal_number(self, step):
        self.asked += 1
        return signal.SIGTERM if self.asked > 2 else 0


def test_a_signal_ends_a_job_between_two_batches(photos, db, monkeypatch):
    monkeypatch.setattr(killed_index_jobs, "StopRequest", StopAfter)
    done = job(photos, db)
    assert done.stopped_by == signal.SIGTERM and 0 < done.encoded < 7
    with Photos(db) as table:
        lines = done.lines(table, "1 x cpu")
    assert "stopped: what is encoded is kept; the same command goes on" in lines
    monkeypatch.undo()
    again = job(photos, db)
    assert again.new == 8 - done.new and content(db) == fresh(photos, db)


def test_two_writers(photos, db):
    with Photos(db, write=True):
        with pytest.raises(UserError, match="is being written by another process"):
            job(photos, db)


def test_a_reader_keeps_the_vectors(photos, db):
    """Holes are filled, and the file is cut, when nobody has it mapped."""
    job(photos, db)
    (photos / "0.png").unlink()
    size = vector_file.beside(db).stat().st_size
    width = killed_index_jobs.WIDTH
    with vector_file.Vectors(vector_file.beside(db), width) as reader:
        mapped = np.array(reader.mapped(7))
        job(photos, db)
        job(photos, db)
        assert vector_file.beside(db).stat().st_size == size
        np.testing.assert_array_equal(reader.mapped(7), mapped)
    job(photos, db)
    assert vector_file.beside(db).stat().st_size == size - 4 * width
    assert content(db) == fresh(photos, db)


@pytest.mark.parametrize(
    "step", [19, pytest.param(5, marks=THOROUGH), pytest.param(1, marks=SLOW)]
)
def test_a_job_killed_at_any_moment_loses_nothing(photos, db, step):
    """A first job, and one with everything to do; each child dies one operation later
    than the one before.
    """
    first = killed_jobs(photos, db, step)
    job(photos, db)
    before, expected = content(db), fresh(photos, db)
    check(first, {}, expected)
    (photos / "0.png").write_bytes(encoded(motif(20, (40, 30))))
    (photos / "4.png").rename(photos / "deep" / "moved.png")
    shutil.copy(photos / "6.png", photos / "copy.png")
    (photos / "deep" / "1.png").unlink()
    (photos / "deep" / "3.png").unlink()
    for number in range(30, 34):
        (photos / f"{number}.png").write_bytes(encoded(motif(number, (40, 30))))
    second = killed_jobs(photos, db, step)
    db.with_name("fresh.clipjax").unlink()
    vector_file.beside(db.with_name("fresh.clipjax")).unlink()
    check(second, before, fresh(photos, db))
    for killed in (first, second):
        assert len(killed) > 40 / step


def killed_jobs(photos, db, step):
    words = [sys.executable, killed_index_jobs.__file__, photos, db, "0", str(step)]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for left in db.parent.glob("killed-*"):
        left.unlink()
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(killed, before, expected):
    """Whatever was committed is right, nothing of it is encoded again, and the next job
    makes the rest.
    """
    known = [*before.items(), *expected.items()]
    images = {name for name, found in expected.items() if isinstance(found, list)}
    for one in killed:
        assert one["end"] == expected, one["at"]
        assert all(item in known for item in one["then"].items()), one["at"]
        kept = [name for name in images if one["then"].get(name) == expected[name]]
        assert one["encoded"] <= len(images) - len(kept), one["at"]
    assert [one["encoded"] for one in killed] == sorted(
        (one["encoded"] for one in killed), reverse=True
    )
