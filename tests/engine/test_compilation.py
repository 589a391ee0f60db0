"""The compilation cache: unreadable entries go, whole ones stay."""

import os
import time
import zlib

import jax
import pytest

from clipjax.engine import compilation


@pytest.fixture
def cache(tmp_path, monkeypatch):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path))
    yield tmp_path / "xla"
    for name, value in before.items():
        jax.config.update(name, value)


def enable():
    said = []
    compilation.enable_cache(said.append)
    return said


def entry(cache, name="jit_f-1-cache", content=b"x" * 1000):
    cache.mkdir(exist_ok=True)
    path = cache / name
    path.write_bytes(zlib.compress(content))
    made_before(path, 9.0)
    return path


def made_before(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_jax_is_told(cache):
    assert enable() == []
    assert jax.config.jax_compilation_cache_dir == str(cache)


@pytest.mark.parametrize("harm", ["cut", "empty", "flip"])
def test_unreadable_entries_are_deleted(cache, harm):
    bad, good = entry(cache), entry(cache, "jit_g-2-cache")
    content = bytearray(bad.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
    bad.write_bytes({"cut": content[:-3], "empty": b"", "flip": content}[harm])
    made_before(bad, 9.0)
    assert enable() == ["deleted an unreadable compilation-cache entry: jit_f-1-cache"]
    assert not bad.exists() and good.exists()


@pytest.mark.parametrize(("age", "stays"), [(100.0, True), (900.0, False), (-9, False)])
def test_what_another_process_is_writing_stays(cache, age, stays, monkeypatch):
    """An entry of a clock that is ahead does not stay for ever."""
    monkeypatch.setattr(compilation, "FRESH", 500.0)
    path = entry(cache)
    path.write_bytes(path.read_bytes()[:-3])
    made_before(path, age)
    said = enable()
    assert path.exists() == stays == (said == [])
    if stays:
        made_before(path, 900.0)
        assert len(enable()) == 1 and not path.exists()


def test_damage_after_a_check_is_found(cache):
    path = entry(cache)
    assert enable() == []
    content = bytearray(path.read_bytes())
    content[8] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))  # however coarse the file system's clock
    assert len(enable()) == 1


def test_checked_entries_are_not_read_again(cache, monkeypatch):
    entry(cache)
    enable()
    monkeypatch.setattr(compilation, "_readable", lambda content: pytest.fail("read"))
    assert enable() == []


def test_what_jax_writes_is_readable(cache):
    enable()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    from jax._src import compilation_cache

    compilation_cache.reset_cache()  # jax looks at the folder only once
    try:
        jax.jit(lambda x: x * 3 + 1)(2.0)
        made = list(cache.glob("*-cache"))
        for path in made:
            made_before(path, 9.0)
        assert made and enable() == []
        listing = (cache / "checked.txt").read_text()
        assert all(path.name in listing for path in made)
    finally:
        compilation_cache.reset_cache()


def test_a_folder_that_cannot_be_used_costs_only_time(tmp_path, cache, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "file"))
    (line,) = enable()
    assert "CLIPJAX_CACHE" in line and str(tmp_path / "file") in line
