"""Recalls on the same embeddings as CLIP_benchmark's and open_clip's, without ties."""

import json
import pathlib

import gallery_tools
import pytest

# Made by tests/parity/make_retrieval_goldens.py; tests/parity/test_retrieval_parity.py
# compares with the libraries themselves.
GOLDENS = json.loads(
    (pathlib.Path(__file__).parent / "goldens" / "recalls.json").read_text()
)


@pytest.mark.parametrize("name", list(gallery_tools.GALLERIES))
def test_recalls_are_those_of_other_libraries(name):
    found = gallery_tools.ours(gallery_tools.make(name))
    for library, expected in GOLDENS[name].items():
        got = {key: found[key] for key in expected}
        # CLIP_benchmark averages in float32.
        assert got == pytest.approx(expected, abs=1e-7), library


def test_the_goldens_have_both_libraries():
    assert set(GOLDENS["one caption"]) == {"CLIP_benchmark", "open_clip"}
    assert len(GOLDENS["five captions"]["CLIP_benchmark"]) == 6
    assert len(GOLDENS["one caption"]["open_clip"]) == 10
