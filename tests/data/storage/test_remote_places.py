"""Places of shards whose names are patterns, and servers that send whole files."""

import functools
import http.server
import threading

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from source_tools import jpeg, write_tar

from clipjax.data.sources import webdataset
from clipjax.types import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path_factory.mktemp("cache")))


def shard(place, caption):
    place.parent.mkdir(parents=True, exist_ok=True)
    write_tar(place, [("a.jpg", jpeg()), ("a.txt", caption.encode())])


@pytest.mark.parametrize(
    "name", ["data [2024]", "a*b", "what?", "[!x]/[0-9]", "a::b", "x%20y#z"]
)
def test_a_folder_of_any_name_as_an_address(tmp_path, name):
    shard(tmp_path / name / "train-0.tar", "right")
    for other in ("data 2", "axb", "whats", "y/1"):  # as a pattern it names these
        shard(tmp_path / other / "train-0.tar", "wrong")
    source = webdataset.make("train", path=f"file://{tmp_path / name}")
    assert [source[i].captions for i in range(len(source))] == [["right"]]


def test_a_bucket_of_any_name(tmp_path):
    shard(tmp_path / "x.tar", "right")
    store = MemoryFileSystem()
    store.pipe("/odd/data [2024]/train-0.tar", (tmp_path / "x.tar").read_bytes())
    try:
        assert len(webdataset.make("train", path="memory://odd/data [2024]")) == 1
    finally:
        store.rm("/odd", recursive=True)


class Whole(http.server.SimpleHTTPRequestHandler):
    """Knows no Range; counts what it sends."""

    sent = 0

    def log_message(self, *args):
        pass

    def copyfile(self, source, outputfile):
        Whole.sent += 1
        try:
            super().copyfile(source, outputfile)
        except OSError:  # the client has seen enough
            self.close_connection = True


class Parts(Whole):
    """Knows Range."""

    def do_GET(self):  # noqa: N802
        wanted = self.headers.get("Range")
        if not wanted:
            return super().do_GET()
        with open(self.translate_path(self.path), "rb") as file:
            data = file.read()
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else None]
        self.send_response(206)
        end = int(first) + len(part) - 1
        self.send_header("Content-Range", f"bytes {first}-{end}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture
def serve(tmp_path):
    pytest.importorskip("aiohttp")
    made = []

    def start(kind):
        handler = functools.partial(kind, directory=str(tmp_path))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        made.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in made:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("name", ["data [2024]", "a b", "\u00e9", "x/y"])
def test_a_server_s_folder_of_any_name(name, serve, tmp_path):
    shard(tmp_path / name / "train 0.tar", "right")
    shard(tmp_path / name / "sub" / "train-1.tar", "below")
    shard(tmp_path / "data 2" / "train 0.tar", "wrong")  # what the pattern would name
    url = f"{serve(Parts)}/{name}"
    source = webdataset.make("train", path=url)
    assert [source[i].captions for i in range(len(source))] == [["right"]]
    for pattern in ("sub/*.tar", "*/train-?.tar", "**/*-1.tar"):
        source = webdataset.make("train", path=url, shards=pattern)
        assert [source[i].captions for i in range(len(source))] == [["below"]]
    with pytest.raises(UserError, match=r"has no query"):
        webdataset.make("train", path=f"{url}/?key=1")


def test_a_server_without_ranges_is_told_at_opening(serve, tmp_path):
    for i in range(3):
        shard(tmp_path / f"train-{i}.tar", "a caption")
    options = {"shards": "train-{0..2}.tar"}
    good = webdataset.make("train", path=serve(Parts), **options)
    assert good[2].captions == ["a caption"]
    with pytest.raises(UserError, match="whole files only .* Range"):
        webdataset.make("train", path=serve(Whole), **options)
