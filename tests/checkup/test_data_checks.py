"""The first examples of data: broken images, wrong encodings, blank captions."""

import numpy as np
import pytest
from PIL import Image

from clipjax.checkup import data_checks
from clipjax.data.sources import captions


def source(folder, texts, encoding="utf-8", broken=(), side=32):
    folder.mkdir(exist_ok=True)
    rows = ["image,caption"]
    draw = np.random.default_rng(0)
    for i, text in enumerate(texts):
        pixels = draw.integers(0, 255, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
        if i in broken:
            content = (folder / f"{i}.jpg").read_bytes()
            (folder / f"{i}.jpg").write_bytes(content[: len(content) // 2])
        rows.append(f"{i}.jpg,{text}")
    (folder / "captions.csv").write_bytes("\n".join(rows).encode(encoding))
    return captions.make("train", path=str(folder), val_fraction=0.0)


def checked(made, image_size=32):
    found = data_checks.first_examples(made, "data.train", image_size, 2)
    return [(one.state, one.line()) for one in found]


GERMAN = [f"ein Hündchen läuft über Straße {i}" for i in range(30)]


def test_good_data(tmp_path):
    ((state, line),) = checked(source(tmp_path / "d", GERMAN))
    assert state == "ok" and "30 of the first 30 examples are whole, of 30" in line


def test_captions_that_were_read_in_another_encoding(tmp_path):
    wrong = [text.encode().decode("latin-1") for text in GERMAN]
    _, (state, line) = checked(source(tmp_path / "d", wrong))
    assert state == "error" and "30 of 30 captions look like text of another" in line
    some = [*wrong[:2], *GERMAN[2:]]
    _, (state, line) = checked(source(tmp_path / "e", some))
    assert state == "warning" and "2 of 30 captions" in line


def test_a_table_that_is_not_utf_8(tmp_path):
    texts = [*GERMAN[:9], "a dog", "two cats on a mat"]
    (state, line), _ = checked(source(tmp_path / "d", texts, "latin-1"))
    assert state == "warning" and "caption that cannot be read" in line


@pytest.mark.parametrize(("broken", "state"), [([3], "warning"), (range(9), "error")])
def test_broken_images(tmp_path, broken, state):
    made = source(tmp_path / "d", GERMAN, broken=broken)
    ((found, line),) = checked(made)
    assert found == state and f"{30 - len(broken)} of the first 30" in line
    assert "prepare verify" in line


def test_the_wrong_column(tmp_path):
    _, (state, line) = checked(source(tmp_path / "d", ["photo"] * 30))
    assert state == "warning" and "30 of 30 captions are 'photo'" in line


def test_small_images(tmp_path):
    _, (state, line) = checked(source(tmp_path / "d", GERMAN, side=16), 64)
    assert state == "warning" and "30 of 30 images are smaller than half" in line


def test_only_the_first_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(data_checks, "FIRST", 5)
    made = source(tmp_path / "d", GERMAN, broken=[20])
    ((state, line),) = checked(made)
    assert state == "ok" and "5 of the first 5 examples are whole, of 30" in line
