"""Searching one's own photos: from the command line to lines, paths and pages."""

import base64
import contextlib
import functools
import html.parser
import io
import os
import pathlib
import shutil
import sqlite3
import sys
import types
import urllib.parse

import browser_tools
import embedding_tools
import numpy as np
import pytest
import released_tools
from command_tools import failure
from image_tools import bomb, encoded, motif
from PIL import Image

import clipjax
from clipjax import commandline, identity, library, results, search
from clipjax.search_index import index_model, photo_reading
from clipjax.types import EvalResult, Metric

pytestmark = pytest.mark.usefixtures("on_one_device")
ODD = 'it\'s <img src=x onerror=alert(1)> "x".png'


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return embedding_tools.run(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def clip(model):
    return clipjax.load(model)


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """A model is read and compiled once, though each query is a command of its own."""
    with pytest.MonkeyPatch.context() as patch:
        once = types.SimpleNamespace(load=functools.cache(clipjax.load))
        patch.setattr(index_model, "clipjax", once)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine photos, two of them copies of others, and broken ones."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        (folder / f"{number}.png").write_bytes(encoded(motif(number)))
    (folder / ODD).write_bytes(encoded(motif(6)))
    shutil.copy(folder / "1.png", folder / "same.png")
    small = motif(3).resize((80, 60))
    (folder / "small.jpg").write_bytes(encoded(small, "JPEG", quality=90))
    (folder / "broken.jpg").write_bytes(b"no photo")
    (folder / "huge.png").write_bytes(bomb())
    return folder


@pytest.fixture(scope="module")
def db(model, folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("index") / "x.clipjax"
    assert called("index", folder, f"--model={model}", f"--db={place}") == 0
    return place


def called(*words):
    return search.main(["search", *(str(word) for word in words)])


def asked(capsys, *words):
    """The status and the lines of a query."""
    capsys.readouterr()
    status = called(*words)
    return status, capsys.readouterr().out.splitlines()


def images(folder):
    names = sorted(path.name for path in folder.iterdir())
    return [folder / n for n in names if n not in ("broken.jpg", "huge.png")]


def test_the_index_says_what_it_did(model, folder, tmp_path, capsys):
    place = tmp_path / "y.clipjax"
    status, lines = asked(
        capsys, "index", folder, f"--model={model}", f"--db={place}", "--exclude=a,b"
    )
    assert status == 0
    while not lines[0].startswith("encoded"):  # on a slow machine it says what it does
        lines = lines[1:]
    assert lines[0].startswith("encoded 9 photos in 0:0") and "photos/s on" in lines[0]
    assert lines[1].startswith("11 new, 0 changed, 0 moved, 0 copied, 0 deleted, 0 un")
    assert lines[2].startswith("broken, skipped: 2 files (all: python -m clipjax.sear")
    assert lines[3].startswith(f"  {folder}/broken.jpg: not an image of a known format")
    assert "huge.png: the image is too large" in lines[4]
    assert lines[5] == f"{place}: 9 photos"
    # Again, without naming anything, and without reading the model.
    shutil.move(str(model), str(model) + "-moved")
    try:
        status, lines = asked(capsys, "index", f"--db={place}")
        assert status == 0 and lines[0].endswith("0 deleted, 11 unchanged")
    finally:
        shutil.move(str(model) + "-moved", str(model))
    status, lines = asked(capsys, "status", f"--db={place}")
    assert lines[:3] == [
        f"{place}: 9 photos, 2 broken files",
        f"model: {model}, step 2; 16 numbers per photo",
        f"folder: {folder} (without a,b)",
    ]
    assert len(lines) == 5


def test_queries_are_those_of_the_library(db, clip, folder, capsys):
    names = images(folder)
    embeds = clip.encode_image(names).astype(np.float64)
    circle, stars = clip.encode_text(["a red circle", "two stars"]).astype(np.float64)
    wanted = {
        ("a red circle",): circle,
        ("a red circle", "+", "0.5*two stars"): circle + 0.5 * stars,
        ("a red circle - 2*two stars",): circle - 2 * stars,
        (folder / "2.png",): embeds[names.index(folder / "2.png")],
        (folder / "2.png", "a red circle"): embeds[names.index(folder / "2.png")]
        + circle,
    }
    for words, vector in wanted.items():
        status, lines = asked(capsys, "query", *words, f"--db={db}", "--top=20")
        assert status == 0 and lines[0] == "cosine  photo" and len(lines) == 10
        cosines = embeds @ (vector / np.linalg.norm(vector))
        found = [line.split(maxsplit=1) for line in lines[1:]]
        for cosine, path in found:
            at = names.index(pathlib.Path(path))
            assert float(cosine) == pytest.approx(cosines[at], abs=6e-4)
        told = [float(cosine) for cosine, _ in found]
        assert told == sorted(told, reverse=True)
    assert (
        asked(capsys, "query", "a red circle", f"--db={db}", "--top=2")[1][1:]
        == (asked(capsys, "query", "a red circle", f"--db={db}")[1][1:3])
    )
    # Copies tie, and are beside each other.
    lines = asked(capsys, "query", folder / "1.png", f"--db={db}", "--top=2")[1][1:]
    assert {line.split()[1] for line in lines} == {
        f"{folder}/1.png",
        f"{folder}/same.png",
    }


@pytest.fixture(scope="module")
def fitted(model, db, clip, folder, tmp_path_factory):
    """An evaluation with a cut-off in the middle of a text's cosines."""
    cosines = clip.similarity(images(folder), "a red circle")
    slope, middle = 50.0, float(np.median(cosines)) + 1e-4
    metrics = {"slope": Metric(slope), "intercept": Metric(-slope * middle)}
    found = EvalResult(metrics, "slope", "12 images")
    parts = library.read(str(model), "best", True)
    now = identity.identity(parts.config, parts.model, parts.variables, parts.tokenizer)
    meta = {"evals": {"match": {"name": "match"}}, "identity": now}
    place = tmp_path_factory.mktemp("fit") / "x"
    return results.save(place, {"": ({"match": found}, meta)})[0]


def test_a_threshold(db, fitted, folder, capsys):
    match = clipjax.load(db_model(db), match=fitted).match_probability
    names = images(folder)
    likely = dict(
        zip(map(str, names), match(names, "a red circle").tolist(), strict=True)
    )
    unlikely = dict(
        zip(map(str, names), match(names, "two stars").tolist(), strict=True)
    )
    flags = f"--db={db}", f"--match={fitted}"
    status, lines = asked(capsys, "query", "a red circle", *flags, "--threshold=0.5")
    assert status == 0 and lines[0] == "match  cosine  photo"
    assert {line.split(maxsplit=2)[2] for line in lines[1:]} == {
        name for name, p in likely.items() if p >= 0.5
    }
    assert 0 < len(lines) - 1 < 9
    for line in lines[1:]:
        probability, _, name = line.split(maxsplit=2)
        assert float(probability) == pytest.approx(likely[name], abs=6e-3)
    # Of more parts: each positive one with at least it, each negative one with less.
    one = max(likely, key=lambda name: likely[name] - unlikely[name])
    least = (likely[one] + unlikely[one]) / 2
    words = (
        "query",
        "a red circle",
        "-",
        "two stars",
        *flags,
        f"--threshold={least:.9f}",
    )
    _, lines = asked(capsys, *words)
    expected = {n for n in likely if likely[n] >= least > unlikely[n]}
    assert {line.split(maxsplit=2)[-1] for line in lines[1:]} == expected >= {one}
    status, lines = asked(capsys, "query", "a red circle", *flags, "--threshold=0.999")
    best = max(likely, key=lambda name: likely[name])
    assert status == 1 and lines == [
        f"nothing matches: of 9 photos {best} is nearest, with probability "
        f"{likely[best]:.2g} (--threshold=0.999)"
    ]
    status = called("query", "a red circle", *flags, "--threshold=0.999", "--paths")
    printed = capsys.readouterr()
    assert status == 1 and printed.out == "" and "nothing matches" in printed.err
    words = "query", f"{folder}/1.png", *flags, "--threshold=0.5"
    assert "--threshold judges texts" in failure(capsys, search.main, *words)


def db_model(db):
    (value,) = (
        sqlite3.connect(db)
        .execute("SELECT value FROM about WHERE key = 'place'")
        .fetchone()
    )
    return value.strip('"')


def test_a_model_without_a_cut_off(db, capsys):
    words = "query", "a red circle", f"--db={db}", "--threshold=0.5"
    told = failure(capsys, search.main, *words)
    assert "has no match cut-off: fit one on captioned data by python -m" in told


def test_paths_for_pipes(model, tmp_path, capfdbinary):
    odd = os.fsencode(tmp_path / "photos") + b"/\xff new\nline.png"
    (tmp_path / "photos").mkdir()
    with open(odd, "wb") as file:
        file.write(encoded(motif(0)))
    (tmp_path / "photos" / "a b.png").write_bytes(encoded(motif(1)))
    flag = f"--db={tmp_path / 'x.clipjax'}"
    assert called("index", tmp_path / "photos", f"--model={model}", flag) == 0
    capfdbinary.readouterr()
    assert called("query", "a red circle", "-0", flag) == 0
    out = capfdbinary.readouterr().out
    plain = os.fsencode(tmp_path / "photos" / "a b.png")
    assert sorted(out.split(b"\0")) == sorted([odd, plain, b""])
    assert called("query", "a red circle", flag) == 0
    lines = capfdbinary.readouterr().out.splitlines()
    assert len(lines) == 3 and any(b"/\\udcff new\\nline.png" in x for x in lines)
    (tmp_path / "photos" / "a b.png").unlink()
    assert called("query", "a red circle", flag) == 0
    assert b"a b.png  (gone)" in capfdbinary.readouterr().out
    assert called("query", "a red circle", "--paths", flag) == 0
    assert capfdbinary.readouterr().out == odd + b"\n"


class Page(html.parser.HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, place):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(place.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def check_page(place, expected):
    """A page needs nothing but itself, and shows these photos."""
    page = Page(place)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "iframe", "object", "form", "link", "base"}
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    for image in page.all("img"):
        head, _, data = image["src"].partition(",")
        assert head == "data:image/jpeg;base64"
        shown = Image.open(io.BytesIO(base64.b64decode(data)))
        assert shown.size == (int(image["width"]), int(image["height"]))
    links = [urllib.parse.unquote(a["href"]) for a in page.all("a")]
    assert links == [f"file://{path}" for path in expected]
    assert len(page.all("img")) == len(expected)
    return page


def test_a_page_of_a_query(db, folder, tmp_path, capsys):
    place = tmp_path / "deep" / "found.html"
    words = "<b>&\"dog\" + a 'cat'", f"--db={db}", f"--html={place}"
    status, lines = asked(capsys, "query", *words)
    assert status == 0
    found = [line.split(maxsplit=1)[1] for line in lines[1:]]
    page = check_page(place, found)
    assert ODD in page.text and "9 of 9 photos" in page.text
    assert "<b>&\"dog\" + a 'cat'" in page.text.replace("\xa0", " ")  # the title
    assert [a["class"] for a in page.all("span") if "class" in a][:2] == [
        "plain",
        "plus",
    ]
    assert "<b>" not in place.read_text(encoding="utf-8")
    again = asked(capsys, "query", *words)
    assert again == (status, lines)


@pytest.mark.thorough
@browser_tools.needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_in_a_browser(db, fitted, width, tmp_path, capsys):
    flags = f"--db={db}", f"--match={fitted}"
    pages = {name: tmp_path / f"{name}.html" for name in ("many", "none", "copies")}
    long = "red " * 60 + "W" * 300
    called("query", long, "-", "a circle", *flags, f"--html={pages['many']}")
    none = "--threshold=0.9999"
    assert called("query", "a star", none, *flags, f"--html={pages['none']}") == 1
    called("duplicates", f"--db={db}", f"--html={pages['copies']}")
    with browser_tools.browser(width) as window:
        for name, page in pages.items():
            for dark in (False, True):
                window.open(page, dark=dark)
                assert window.log() == []
                sizes = "const e = document.documentElement; "
                sizes += "return [e.scrollWidth, e.clientWidth]"
                assert len(set(window.run(sizes))) == 1
                shown = window.run(
                    "return [...document.images].map(x => [x.complete, x.naturalWidth])"
                )
                count = {"many": 9, "none": 1, "copies": 4}[name]
                assert len(shown) == count and all(a and b for a, b in shown)
                contrasts = window.run(browser_tools.CONTRASTS)
                assert contrasts[0][0] >= 4.5, contrasts[:3]
                back = window.run(
                    "return getComputedStyle(document.body).backgroundColor"
                )
                assert (sum(map(int, back[4:-1].split(","))) > 380) != dark


def test_duplicates(db, folder, tmp_path, capsys, monkeypatch):
    place = tmp_path / "copies.html"
    status, lines = asked(capsys, "duplicates", f"--db={db}", f"--html={place}")
    assert status == 0
    groups = "\n".join(lines[:-1]).strip().split("\n\n")
    names = [[pathlib.Path(x.split()[-1]).name for x in g.splitlines()] for g in groups]
    assert names == [["1.png", "same.png"], ["3.png", "small.jpg"]]
    assert "the same bytes" in groups[0] and "80 x 60" in groups[1]
    assert " bits differ" in groups[1] and "the largest" in groups[1]
    assert lines[-1].startswith("2 groups of copies among 9 photos: 2 more than one of")
    check_page(place, [folder / n for n in sum(names, [])])
    monkeypatch.setattr(photo_reading, "hashed", None)  # the hashes are kept
    _, paths = asked(capsys, "duplicates", f"--db={db}", "--paths")
    assert paths == [f"{folder}/same.png", f"{folder}/small.jpg"]
    # Without help of other bits only the same bytes remain, as a brute force says.
    _, lines = asked(capsys, "duplicates", f"--db={db}", "--near=16")
    assert sum("the largest" in line for line in lines) >= 2


def test_duplicates_are_other_files_that_are_as_they_were(model, tmp_path, capsys):
    """`duplicates -0 | xargs -0 rm` keeps one of each photo."""
    photos, flag = tmp_path / "photos", f"--db={tmp_path / 'x.clipjax'}"
    photos.mkdir()
    for name in ("b", "copy", "edited", "gone"):
        (photos / f"{name}.png").write_bytes(encoded(motif(0)))
    (photos / "a.png").symlink_to("b.png")
    (photos / "c.png").hardlink_to(photos / "b.png")
    assert called("index", photos, f"--model={model}", flag) == 0
    (photos / "edited.png").write_bytes(encoded(motif(5)))
    (photos / "gone.png").unlink()
    _, paths = asked(capsys, "duplicates", "--paths", flag)
    assert paths == [f"{photos}/copy.png"]
    called("duplicates", flag)
    told = capsys.readouterr()
    assert "1 group of copies among 6 photos: 1 more than" in told.out
    assert "2 of them left out, gone or changed since they were indexed" in told.err
    # A chain that is broken: its ends are no copies.
    rows = [(f"{n}.png", h) for n, h in (("b", 0), ("copy", 0b1111), ("gone", 0b11))]
    with contextlib.closing(sqlite3.connect(tmp_path / "x.clipjax")) as index, index:
        for name, value in rows:
            place = os.fsencode(photos / name)
            what = "UPDATE photos SET hash = ?, digest = ? WHERE path = ?"
            index.execute(what, (value, os.fsencode(name), place))
    _, paths = asked(capsys, "duplicates", "--paths", "--near=2", flag)
    assert paths == []


def test_a_page_replaces_no_other_file(db, folder, capsys):
    before = {path: path.read_bytes() for path in (db, folder / "1.png")}
    for action in (("query", "a red circle"), ("duplicates",)):
        for place in before:
            words = *action, f"--db={db}", f"--html={place}"
            assert "a page's name ends in .html" in failure(capsys, search.main, *words)
    assert {path: path.read_bytes() for path in before} == before


def test_a_folder_is_forgotten(db, folder, tmp_path, capsys):
    for name in (db.name, f"{db.name}.vectors"):
        shutil.copy(db.with_name(name), tmp_path / name)
    flag = f"--db={tmp_path / db.name}"
    told = failure(capsys, search.main, "forget", str(tmp_path), flag)
    assert f"is no folder of {tmp_path / db.name}; its folders: {folder}" in told
    assert "no folder given" in failure(capsys, search.main, "forget", flag)
    status, lines = asked(capsys, "forget", folder, flag)
    assert status == 0 and lines == [
        f"{folder}: 11 files taken out of the index",
        f"{tmp_path / db.name}: 0 photos",
    ]
    assert "no folder of photos given" in failure(capsys, search.main, "index", flag)
    missing = tmp_path / "none"
    words = "forget", str(folder), f"--db={missing}"
    assert "there is no such index" in failure(capsys, search.main, *words)
    assert not missing.exists()


def test_a_killed_job_may_leave_a_file_without_tables(folder, tmp_path, capsys):
    place = tmp_path / "x.clipjax"
    with contextlib.closing(sqlite3.connect(place)) as index:
        index.execute("CREATE TABLE a(b)")
        index.execute("DROP TABLE a")
    words = "index", str(folder), f"--db={place}"
    assert "no --model given" in failure(capsys, search.main, *words)


def test_the_place_of_a_moved_model_is_kept(model, folder, db, tmp_path, capsys):
    for name in (db.name, f"{db.name}.vectors"):
        shutil.copy(db.with_name(name), tmp_path / name)
    flag = f"--db={tmp_path / db.name}"
    moved = shutil.copytree(model, tmp_path / "moved")
    assert called("index", f"--model={moved}", flag) == 0
    assert f"model: {moved}, step 2" in asked(capsys, "status", flag)[1][1]


@pytest.mark.thorough
def test_another_model_is_refused(db, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = released_tools.hf(tmp_path / "other")
    flag = f"--db={db}"
    for words in (
        ("index", str(folder), f"--model={other}", flag),
        ("query", "a red circle", f"--model={other}", flag),
        ("query", "a red circle", f"--workdir={other}", flag),
    ):
        told = failure(capsys, search.main, *words)
        assert "is of a model with other weights" in told and "step 2" in told


def test_mistakes(db, folder, tmp_path, capsys, monkeypatch, model):
    monkeypatch.chdir(tmp_path)

    def told(*words):
        return failure(capsys, search.main, *words)

    flag = f"--db={db}"
    assert "no action given. Use index, query, duplicates, forget, status" in told()
    assert "'queri' is no action. Did you mean 'query'?" in told("queri")
    assert "photos.clipjax: there is no such index: make one" in told(
        "query", "a red circle"
    )
    assert "no --model given" in told("index", str(folder))
    assert "no folder of photos given" in told("index", f"--model={model}")
    assert "gone does not exist: name a folder" in told("index", "gone", flag)
    assert "1.png is no folder" in told("index", f"{folder}/1.png", flag)
    assert "status takes no words" in told("status", "a", flag)
    assert "no query given" in told("query", flag)
    assert "use a probability above 0" in told("query", "a", "--threshold=1", flag)
    assert "--prior=x: use a probab" in told("query", "a", "--prior=x", flag)
    assert "--top=0: use 1 to 10000" in told("query", "a", "--top=0", flag)
    assert "--near=17: use 0 to 16" in told("duplicates", "--near=17", flag)
    assert "cancel out" in told("query", "a star - a star", flag)
    assert "broken.jpg cannot be used: not an" in told(
        "query", f"{folder}/broken.jpg", flag
    )
    assert "is a folder: name a file" in told("query", "a", f"--html={folder}", flag)
    (tmp_path / "text").write_text("no database " * 100)
    assert "text is no index of photos" in told("status", "--db=text")
    assert "text is no index of photos" in told("index", f"--db={tmp_path}/text")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert "needs jinja2: pip install -e '.[look]'" in told(
        "query", "a", "--html=x.html", flag
    )


@pytest.mark.parametrize("size", [100, 5000])
def test_a_damaged_index(db, tmp_path, capsys, size):
    copy = tmp_path / db.name
    shutil.copy(db, copy)
    os.truncate(copy, size)
    for action in ("status", "duplicates"):
        told = failure(capsys, search.main, action, f"--db={copy}")
        assert f"{copy} is damaged (database disk image is malformed): rest" in told


@pytest.mark.thorough
def test_an_index_without_vectors(db, tmp_path, capsys):
    for name in (db.name, f"{db.name}.vectors"):
        shutil.copy(db.with_name(name), tmp_path / name)
    copy = tmp_path / db.name
    os.truncate(tmp_path / f"{db.name}.vectors", 100)
    words = "query", "a red circle", f"--db={copy}"
    assert "has 1 of 9 vectors: index the photos again" in failure(
        capsys, search.main, *words
    )
    (tmp_path / f"{db.name}.vectors").unlink()
    assert "is missing, which has the photos' vectors" in failure(
        capsys, search.main, *words
    )


@pytest.mark.thorough
def test_duplicates_and_status_start_without_jax(db):
    import subprocess

    code = (
        "import sys; from clipjax import search\n"
        f"search.main(['search', 'duplicates', '--db={db}'])\n"
        f"search.main(['search', 'status', '--db={db}'])\n"
        "print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_words_of_a_command_line():
    argv = ["c", "a", "-", "--top", "3", "- b", "--paths", "d", "--db=x", "-"]
    assert commandline.split_words(argv, ["paths"]) == (
        ["a", "-", "- b", "d", "-"],
        ["c", "--top", "3", "--paths", "--db=x"],
    )
