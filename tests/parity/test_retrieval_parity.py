"""Recalls of CLIP_benchmark and open_clip themselves, where they are installed."""

from __future__ import annotations

import gallery_tools
import pytest

pytest.importorskip("torch")
import library_recalls  # noqa: E402

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", list(gallery_tools.GALLERIES))
@pytest.mark.parametrize(
    ("package", "measure"),
    [
        ("clip_benchmark", library_recalls.by_clip_benchmark),
        ("open_clip_train", library_recalls.by_open_clip),
    ],
)
def test_recalls(name, package, measure):
    pytest.importorskip(package)
    gallery = gallery_tools.make(name)
    if package == "open_clip_train" and len(gallery.owner) > len(gallery.images):
        pytest.skip("it takes one caption per image")
    expected = measure(gallery)
    found = gallery_tools.ours(gallery)
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-7)
