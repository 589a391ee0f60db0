"""Remote folders of shards: what is read, cached, changed, flaky or out of reach."""

import concurrent.futures
import os
import pathlib
import pickle
import subprocess
import sys
import types

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from source_tools import check_contract, count_open, jpeg, write_tar

from clipjax.data.containers import tar_index
from clipjax.data.sources import captions, webdataset
from clipjax.data.storage import remote, shard_files
from clipjax.types import BadExample, UserError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CLIPJAX_CACHE", str(folder))
    return folder / "index"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    waited = []
    monkeypatch.setattr(remote, "time", types.SimpleNamespace(sleep=waited.append))
    return waited


class Shop(MemoryFileSystem):
    """A store whose next requests fail as told, and that counts the bytes it gives."""

    protocol = "shop"
    store = {}
    pseudo_dirs = [""]
    failures = []
    given = []

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("shop://", "memory://"))

    def cat_file(self, path, start=None, end=None, **kwargs):
        if self.failures:
            raise self.failures.pop()
        self.given.append(end - start if end is not None else None)
        return super().cat_file(path, start, end, **kwargs)

    def info(self, path, **kwargs):
        if self.failures:
            raise self.failures.pop()
        return super().info(path, **kwargs)


@pytest.fixture
def shop():
    fsspec.register_implementation("shop", Shop, clobber=True)
    for kept in (Shop.store, Shop.failures, Shop.given):
        kept.clear()
    return fsspec.filesystem("shop")


def members(*keys):
    for i, key in enumerate(keys):
        yield f"{key}.jpg", jpeg(i)
        yield f"{key}.txt", f"text of {key}".encode()


def fill(store, tmp_path, count=3):
    """Shards of two examples each; returns what a local copy of them gives."""
    for i in range(count):
        place = write_tar(tmp_path / f"train-{i:02}.tar", members(f"{i}a", f"{i}b"))
        store.pipe(f"/bucket/set/train-{i:02}.tar", place.read_bytes())
    local = webdataset.make("train", path=str(tmp_path))
    return [local[i] for i in range(len(local))]


@pytest.mark.parametrize("shards", ["*{split}*.tar", "train-{00..02}.tar"])
def test_what_a_remote_folder_holds_is_what_is_read(shards, shop, tmp_path):
    expected = fill(shop, tmp_path)
    source = webdataset.make("train", path="shop://bucket/set/", shards=shards)
    check_contract(source)
    assert [source[i] for i in range(6)] == expected
    shop.given.clear()
    source[3]
    assert sum(shop.given) == len(expected[3].image) + len("text of 1b")  # ranges alone
    copy = pickle.loads(pickle.dumps(source))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(copy.__getitem__, range(6))) == expected


def test_patterns_of_a_remote_folder(shop, tmp_path):
    fill(shop, tmp_path)
    url = "shop://bucket/set"
    two = webdataset.make("val", path=url, shards="train-02.tar::train-{00..01}.tar")
    assert [two[i].key for i in (0, 2, 4)] == [
        f"train-{i:02}.tar:{i}a" for i in (2, 0, 1)
    ]
    for shards, complaint in {
        "train-{01..03}.tar": r"bucket/set/train-03.tar does not exist. shards=train",
        "val-*.tar": r"no shard of shop:.* matches val-\*.tar: it holds 3 files t",
        "gs://x/y.tar": "patterns relative to path=shop://bucket/set",
        "train-*.tar::": "patterns relative",
    }.items():
        with pytest.raises(UserError, match=complaint):
            webdataset.make("train", path=url, shards=shards)
    with pytest.raises(UserError, match="^shop://bucket/none does not exist"):
        webdataset.make("train", path="shop://bucket/none")


def test_classes_of_a_remote_folder(shop, tmp_path):
    place = write_tar(tmp_path / "v.tar", [*members("a"), ("a.cls", b"1")])
    shop.pipe("/bucket/val.tar", place.read_bytes())
    shop.pipe("/bucket/names.txt", b"cat\r\nsnow leopard\r\n")
    source = webdataset.make("val", path="shop://bucket", classes="names.txt")
    assert source.class_names == {"class": ["cat", "snow leopard"]}
    with pytest.raises(UserError, match="bucket/gone.txt does not exist.*classes=gone"):
        webdataset.make("val", path="shop://bucket", classes="gone.txt")


def test_the_index_of_a_remote_shard_is_kept_until_it_changes(
    shop, tmp_path, cache, monkeypatch
):
    fill(shop, tmp_path, 1)
    cached = len(list(cache.iterdir()))
    built, build = [], tar_index.build
    monkeypatch.setattr(
        tar_index, "build", lambda shard: built.append(shard.address) or build(shard)
    )

    def open_again():
        return webdataset.make("train", path="shop://bucket/set")

    source = open_again()
    open_again()
    assert built == ["shop://bucket/set/train-00.tar"]
    assert len(list(cache.iterdir())) == cached + 1
    other = write_tar(tmp_path / "o.tar", members("x", "y"))
    assert other.stat().st_size == (tmp_path / "train-00.tar").stat().st_size
    shop.pipe("/bucket/set/train-00.tar", other.read_bytes())
    with pytest.raises(BadExample, match="train-00.tar:0b: .*changed since it was"):
        source[1]
    assert open_again()[1].key == "train-00.tar:y" and len(built) == 2


def test_a_request_that_fails_is_made_again(shop, tmp_path, no_waiting):
    expected = fill(shop, tmp_path)
    source = webdataset.make("train", path="shop://bucket/set")
    shop.failures += [RuntimeError("reset by peer"), TimeoutError()]
    assert source[0] == expected[0] and no_waiting == [0.5, 2.0]
    shop.failures += [RuntimeError("reset\nby peer")] * 4
    with pytest.raises(BadExample, match="^train-00.tar:0b: .*shard: reset by peer$"):
        source[1]
    assert source[1] == expected[1]
    shop.failures += [PermissionError("no")]
    with pytest.raises(BadExample, match="shard: no"):
        source[1]
    assert no_waiting == [0.5, 2.0, 0.5, 2.0, 8.0]


def test_a_folder_out_of_reach_is_one_line(shop, tmp_path):
    fill(shop, tmp_path)
    shop.failures += [ConnectionError("no route\n to host")] * 50
    with pytest.raises(UserError) as caught:
        webdataset.make("train", path="shop://bucket/set", shards="train-{00..02}.tar")
    assert str(caught.value) == "cannot reach shop://bucket/set: no route to host"


def run_python(code):
    root = pathlib.Path(webdataset.__file__).parents[3]
    printed = subprocess.run(
        [sys.executable, "-c", code],
        **dict(capture_output=True, text=True, check=True),
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    return printed.stdout.splitlines()


def test_a_missing_package_is_named():
    """In a process of its own, since fsspec keeps what it has once imported."""
    expected = {
        "gs://bucket/x": "needs the package gcsfs: pip install gcsfs",
        "s3://bucket/x": "needs the package s3fs: pip install s3fs",
        "https://h/x": "needs the package aiohttp: pip install aiohttp",
        "hf://datasets/a/b": "needs the package huggingface_hub: pip install "
        "huggingface_hub",
        "foo://bucket/x": ": unknown kind of address foo://; use gs://, s3://, hf://, "
        "https:// or a local folder",
    }
    code = f"""
import sys
for package in ("gcsfs", "s3fs", "aiohttp", "huggingface_hub"):
    sys.modules[package] = None
from clipjax.data.sources import webdataset
from clipjax.types import UserError
for url in {list(expected)}:
    try:
        webdataset.make("train", path=url)
    except UserError as error:
        print(error)
"""
    lines = run_python(code)
    assert len(lines) == len(expected)
    for line, (url, words) in zip(lines, expected.items(), strict=True):
        assert line.startswith(url) and line.endswith(words)


def test_other_sources_say_that_they_are_local():
    with pytest.raises(UserError, match="^gs://b/x: .* of the sources only webdataset"):
        captions.make("train", path="gs://b/x")


def test_a_damaged_remote_shard_is_as_a_local_one(shop, tmp_path):
    whole = write_tar(tmp_path / "train-00.tar", members("a", "b")).read_bytes()
    local = shard_files.LocalFolder(tmp_path)
    far = remote.RemoteFolder("shop://bucket")
    for cut in range(0, len(whole), 700):
        (tmp_path / "train-00.tar").write_bytes(whole[:cut])
        shop.pipe("/bucket/train-00.tar", whole[:cut])
        here, there = (
            tar_index.build(folder.shard("train-00.tar")) for folder in (local, far)
        )
        assert here.problems == there.problems
        for name in tar_index.ARRAYS:
            assert getattr(here, name).tolist() == getattr(there, name).tolist()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts /proc/self/fd")
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_shards_need_few_handles(count, tmp_path):
    one = write_tar(tmp_path / "one", members("a"))
    for i in range(count):
        os.link(one, tmp_path / f"train-{i:05}.tar")
    pattern = f"train-{{00000..{count - 1:05}}}.tar"
    webdataset.make("train", path=str(tmp_path), shards=pattern)
    assert count_open(tmp_path) == 0
    source = webdataset.make("train", path=str(tmp_path), shards=pattern)
    assert len(source) == count
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(source.__getitem__, range(count)))
    assert [e.key for e in found] == [f"train-{i:05}.tar:a" for i in range(count)]
    assert count_open(tmp_path) == 64


def test_fsspec_is_imported_for_remote_folders_alone(tmp_path):
    write_tar(tmp_path / "train.tar", members("a"))
    code = (
        "import sys; from clipjax.data.sources import webdataset; "
        f"webdataset.make('train', path={str(tmp_path)!r}); "
        "print('fsspec' in sys.modules)"
    )
    assert run_python(code) == ["False"]
