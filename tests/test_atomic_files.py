"""Files that are there whole or not at all."""

import concurrent.futures
import errno
import json
import os
import stat

import pytest
from fault_tools import small_files

from clipjax import atomic_files


def test_an_error_leaves_what_was_there(tmp_path):
    place = tmp_path / "a.json"
    atomic_files.write_json(place, {"old": "é"})
    for sync in (True, False):
        with (
            pytest.raises(ZeroDivisionError),
            atomic_files.open_to_write(place, sync=sync) as file,
        ):
            file.write("half")
            raise ZeroDivisionError
    assert json.loads(place.read_text("utf-8")) == {"old": "é"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    place = tmp_path / "a.json"
    atomic_files.write_json(place, "old")
    with small_files(10), pytest.raises(OSError) as found:
        atomic_files.write_json(place, "x" * 100)
    assert found.value.filename == str(place)
    told = atomic_files.describe_os_error(found.value)
    assert (
        told == f"{place} cannot be used (File too large): free space and start again"
    )
    assert json.loads(place.read_text()) == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_another_file_that_cannot_be_read_keeps_its_name(tmp_path):
    with (
        pytest.raises(FileNotFoundError) as found,
        atomic_files.open_to_write(tmp_path / "a"),
    ):
        (tmp_path / "b").read_text()
    assert found.value.filename == str(tmp_path / "b")


@pytest.mark.parametrize("depth", [101, 900, 100_000])
@pytest.mark.parametrize("kind", ["[]", "{}"])
def test_deep_json_is_damage(depth, kind):
    opening = {"[]": "[", "{}": '{"a":'}[kind]
    for level in (99, depth):
        text = opening * level + "0" + kind[1] * level
        if level == 99:
            assert atomic_files.parse_json(text)
            continue
        with pytest.raises(ValueError, match="too deep"):
            atomic_files.parse_json(text)


def test_threads_may_write_the_same_file(tmp_path):
    place = tmp_path / "a"
    texts = [letter * 100_000 for letter in "abcdefgh"]

    def write(text):
        for _ in range(20):
            with atomic_files.open_to_write(place, sync=False) as file:
                file.write(text)
            assert place.read_text() in texts

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(write, texts))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_is_whole_or_absent(tmp_path):
    place = tmp_path / "a"
    with pytest.raises(ZeroDivisionError), atomic_files.new_folder(place) as folder:
        (folder / "half").touch()
        raise ZeroDivisionError
    assert not [*tmp_path.iterdir()]
    with atomic_files.new_folder(place) as folder:
        (folder / "in").mkdir()
        (folder / "in" / "b").write_text("b")
        assert not place.exists()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [
        "a",
        "a/in",
        "a/in/b",
    ]
    with pytest.raises(OSError) as found, atomic_files.new_folder(place):
        pass
    assert (found.value.errno, found.value.filename) == (errno.ENOTEMPTY, str(place))
    assert (place / "in" / "b").read_text() == "b" and len([*tmp_path.iterdir()]) == 1


def test_what_is_no_file_is_written_to(tmp_path):
    """A pipe here; /dev/null, which root could replace, is of the same kind."""
    place = tmp_path / "pipe"
    os.mkfifo(place)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        read = pool.submit(place.read_text)
        atomic_files.write_json(place, {"a": 1})
        assert json.loads(read.result(30)) == {"a": 1}
    assert stat.S_ISFIFO(place.stat().st_mode) and len([*tmp_path.iterdir()]) == 1


def test_whether_a_folder_could_be_written(tmp_path):
    (tmp_path / "file").touch()
    atomic_files.check_place(tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(NotADirectoryError) as found:
        atomic_files.check_place(tmp_path / "file" / "b")
    assert found.value.filename == str(tmp_path / "file")


@pytest.mark.parametrize("name", ["x" * 255, "東" * 85, "a[1]*", "é" * 40])
def test_any_name_of_a_disk(name, tmp_path):
    """Temporary names are longer, and are found again."""
    for _ in range(2):
        atomic_files.write_json(tmp_path / name, 1)
    (tmp_path / name).unlink()
    with atomic_files.new_folder(tmp_path / name) as scratch:
        (scratch / "x").touch()
    (tmp_path / name / "x").unlink()
    atomic_files._scratch(tmp_path / name, ".").mkdir()
    atomic_files._scratch(tmp_path / name).touch()
    atomic_files.remove_leftovers(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
