"""Files that are there whole or not at all."""

import concurrent.futures
import json

import pytest

from clipjax import whole


def test_an_error_leaves_what_was_there(tmp_path):
    place = tmp_path / "a.json"
    whole.write_json(place, {"old": "é"})
    for sync in (True, False):
        with pytest.raises(ZeroDivisionError), whole.opened(place, sync=sync) as file:
            file.write("half")
            raise ZeroDivisionError
    assert json.loads(place.read_text("utf-8")) == {"old": "é"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_threads_may_write_the_same_file(tmp_path):
    place = tmp_path / "a"
    texts = [letter * 100_000 for letter in "abcdefgh"]

    def write(text):
        for _ in range(20):
            with whole.opened(place, sync=False) as file:
                file.write(text)
            assert place.read_text() in texts

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(write, texts))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
