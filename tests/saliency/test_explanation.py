"""`clipjax.explain` of a saved run, and its command."""

import json
import pathlib
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

import clipjax
from clipjax import maps
from clipjax.saliency import sheets
from clipjax.types import UserError

SAVED = pathlib.Path(__file__).parents[1] / "scenarios" / "goldens"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    with tarfile.open(SAVED / "saved_run.tar.gz") as file:
        file.extractall(folder, filter="data")
    return folder / "run"


@pytest.fixture(scope="module")
def clip(run):
    return clipjax.load(run)


def picture(side=40, seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (side, side, 3), np.uint8)


def test_explain(clip, tmp_path):
    images, texts = [picture(), picture(24, 1)], ["a red star", "two blue rings"]
    found = clipjax.explain(clip, images, texts)
    np.testing.assert_allclose(
        found.similarity, clip.similarity(images, texts), atol=2e-5
    )
    assert found.maps.shape[:2] == (2, 2) and found.method == "chefer"
    for image, pixels in zip(images, found.pixels, strict=True):
        np.testing.assert_array_equal(pixels, clip.preprocess(image))
    for text, (words, shares) in zip(texts, found.words, strict=True):
        assert words == text.split() and shares.shape == (2, len(words))
    assert found.overlay(0, 1, 64).size == (64, 64)
    found.sheet(0, 64, wrong=1).save(tmp_path / "sheet.png")
    # One image and one text are as several; a Loaded is still itself after it.
    one = clipjax.explain(clip, images[1], texts[0])
    np.testing.assert_allclose(one.maps[0, 0], found.maps[1, 0], rtol=1e-3, atol=1e-6)
    assert pickle.loads(pickle.dumps(clip)).step == clip.step


def test_mistakes(clip):
    image = picture()
    for images, texts, options, message in (
        ([image], [], {}, "no texts"),
        ([], "a", {}, "no images"),
        ([image, "gone.png"], "a", {}, r"image 1 \('gone.png'\): there is no such"),
        ([image], "a", {"method": "gradcam"}, "must be one of chefer"),
        ([image], ["a", 3], {}, "not text"),
    ):
        with pytest.raises(UserError, match=message):
            clipjax.explain(clip, images, texts, **options)


def command(*argv):
    return maps.main(["maps", *map(str, argv)])


@pytest.mark.thorough
def test_the_command(run, tmp_path, capsys):
    """A sheet per image, a table of all numbers, and what was left out."""
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(picture()).save(folder / "a b.png")
    Image.fromarray(picture(20, 1)).save(folder / "deep" / "ä.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("x")
    given = "--model", run, "--images", folder, "--out", out
    assert command(*given, "--texts", "a red star| a ring ", "--wrong", "x") == 0
    printed = capsys.readouterr().out
    assert "left out" in printed and "broken.jpg" in printed
    assert f"2 sheets in {out}, 1 images left out" in printed
    names = sorted(path.name for path in out.iterdir())
    assert names == ["00000_a_b.png", "00002_ä.png", "maps.jsonl"]
    lines = (out / "maps.jsonl").read_text(encoding="utf-8").splitlines()
    first, second = map(json.loads, lines)
    assert second["image"].endswith("ä.png") and second["file"] == names[1]
    assert [text["text"] for text in first["texts"]] == ["a red star", "a ring", "x"]
    assert [text["wrong"] for text in first["texts"]] == [False, False, True]
    clip = clipjax.load(run)
    found = clipjax.explain(clip, folder / "a b.png", ["a red star", "a ring", "x"])
    values = [text["maps"]["chefer"] for text in first["texts"]]
    np.testing.assert_allclose(values, found.maps[0], atol=1e-5)
    with Image.open(out / names[0]) as sheet:
        assert sheet.width > 4 * 256


@pytest.mark.thorough
def test_the_command_with_data_and_all_methods(run, tmp_path, capsys):
    texts = tmp_path / "texts.txt"
    texts.write_text("a red star\n\na ring\n", encoding="utf-8")
    data = "--data=scenes", "--data.eval_size=4", "--data.resolution=32"
    assert command("--model", run, *data, "--out", tmp_path / "a", "--method=all") == 0
    assert "4 sheets" in capsys.readouterr().out
    table = (tmp_path / "a" / "maps.jsonl").read_text(encoding="utf-8")
    for line in map(json.loads, table.splitlines()):
        own, wrong = line["texts"]
        assert own["text"] != wrong["text"] and wrong["wrong"]
        assert list(own["maps"]) == ["chefer", "grad_eclip", "maskclip", "attention"]
    Image.fromarray(picture()).save(tmp_path / "one.png")
    given = "--images", tmp_path / "one.png", "--texts", texts, "--wrong="
    assert command("--model", run, *given, "--out", tmp_path / "b", "--size=64") == 0
    (line,) = (tmp_path / "b" / "maps.jsonl").read_text().splitlines()
    assert [text["text"] for text in json.loads(line)["texts"]] == [
        "a red star",
        "a ring",
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--images", "."], "no --out given"),
        (["--out", "o", "--images", "."], "--images needs --texts"),
        (["--out", "o", "--texts", "a"], "--texts needs --images"),
        (["--out", "o", "--images", "gone", "--texts", "a"], "no such file or folder"),
        (
            ["--out", "o", "--images", "a.png", "--texts", " | "],
            "there is no text in it",
        ),
        (["--out", "o", "--images", ".", "--texts", "a"], "the folder has no images"),
        (["--out", "o", "--size", "8"], "--size=8: use 32 to 2048"),
        (["--out", "o", "--count=-1"], "--count=-1"),
        (
            ["--out", "o", "--data=scenes", "--images", ".", "--texts", "a"],
            "--images and --data",
        ),
    ],
)
def test_mistakes_of_the_command(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "a.png" in argv:
        Image.fromarray(picture()).save("a.png")
    with pytest.raises(UserError, match=message):
        command("--model", "runs/x", *argv)


def test_texts_that_are_no_file_names():
    for text in ("\u6f22" * 100, "a" * 5000, "http://a.b/c", "~nobody/x", "a\0b", "//"):
        assert maps._texts(f"{text}| a ring") == [text, "a ring"]


def test_any_key_gives_a_file_name(tmp_path):
    for key in ("\U00020000" * 62 + ".jpg", "a/b c?\n.png", "\udcff.jpg", "..", ""):
        name = f"00000_{sheets._stem(key)}.png"
        assert len(name.encode()) <= 90
        (tmp_path / name).write_text("")
    assert len([*tmp_path.iterdir()]) == 5
