import html
import json
import re

import numpy as np
import pytest
import report_tools

from clipjax import report
from clipjax.run_record import status
from clipjax.types import UserError


def make(*names, out="report.html", **flags):
    more = [f"--{key}={value}" for key, value in flags.items()]
    assert report.main(["report", *map(str, names), f"--out={out}", *more]) == 0


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run, and the text of its report in both forms."""
    folder = tmp_path_factory.mktemp("whole")
    place = report_tools.run(folder)
    make(place, out=f"{folder / 'a.html'},{folder / 'a.md'}")
    return folder, (folder / "a.html").read_text(), (folder / "a.md").read_text()


def test_page_holds_the_numbers_and_no_other_file(whole):
    _, page, _ = whole
    text = html.unescape(re.sub("<[^>]*>", " ", page))
    assert "31.25 %" in text and "20.00 - 45.00" in text and "chance 12.50 %" in text
    assert "40 of 40" in text  # steps
    assert "Image to captions: hits (1 of 8)" in text
    assert "Caption to images: misses (12 of 24)" in text
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert not re.search(r'(?:src|href)="(?!#|data:image/)', page)


def test_each_picture_is_there_once(whole):
    _, page, _ = whole
    uris = re.findall(r'href="(data:image/webp[^"]*)"', page)
    sample = 6  # of the training data
    assert len(uris) == len(set(uris)) == report_tools.IMAGES + sample
    used = set(re.findall(r'<use href="#(p\d+)"', page))
    assert used == set(re.findall(r'<symbol id="(p\d+)"', page))


def test_identifiers_are_unique(whole):
    _, page, _ = whole
    names = re.findall(r'\sid="([^"]*)"', page)
    assert len(names) == len(set(names))


def test_markdown_has_its_pictures_beside_it(whole):
    folder, _, text = whole
    named = set(re.findall(r'(?:\]\(|src=")(a_files/[^)"]*)', text))
    there = {f"a_files/{x.name}" for x in (folder / "a_files").iterdir()}
    assert named == there and len(named) > 8
    assert "31.25 %" in text and "## Evaluation" in text


def test_captions_and_keys_are_no_markup(here):
    bad = "<script>alert(1)</script> | *a* [b](c) `d`"
    texts = [bad] * (report_tools.IMAGES * report_tools.CAPTIONS)
    place = report_tools.run(here, 'it\'s "x" <b>', captions=texts)
    make(place, out="r.html,r.md")
    page, text = (here / "r.html").read_text(), (here / "r.md").read_text()
    assert "<script" not in page and "<b>&#39;" not in page
    assert html.escape("<script>alert(1)</script>") in page
    assert "it&#39;s &#34;x&#34; &lt;b&gt;" in page
    assert "<script" not in text and "\\*a\\* \\[b\\](c) \\`d\\`" in text


@pytest.mark.thorough
def test_several_runs(here):
    places = [report_tools.run(here, f"run {n}") for n in range(5)]
    log = json.loads((places[1] / "config.json").read_text())
    log["optim"]["lr"] = 0.125
    (places[1] / "config.json").write_text(json.dumps(log))
    make(*places[:2], out="two.html")
    two = (here / "two.html").read_text()
    assert "optim.lr" in two and "0.125" in two and "var(--s1)" in two
    make(*places, out="five.html")
    assert (here / "five.html").read_text().count("var(--s4)") > 1


def gaps(page):
    found = re.findall(r'<p class="gap">(.*?)</p>', page, re.DOTALL)
    return html.unescape(" ".join(found))


def test_an_empty_run_names_what_is_missing(here):
    (here / "x").mkdir()
    make("x")
    found = gaps((here / "report.html").read_text())
    for words in ("config.json is missing", "no rows", "no checkpoint", "evaluation"):
        assert words in found


def test_a_killed_run_and_a_half_written_line(here):
    place = report_tools.run(here)
    now = status.Status("running", pid=2**22 + 1, born=5.0, machine=status.here())
    now.step, now.total_steps, now.beat, now.started = 40, 90, 2e9, 1e9
    status.write(place, now, sync=False)
    with (place / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "time\n{"step": 41, "ti')
    make(place)
    page = (here / "report.html").read_text()
    assert "1 lines of metrics.jsonl cannot be read" in gaps(page)
    assert "<b>dead</b>" in page and "step 40 of 90" in page


@pytest.mark.thorough
def test_damaged_parts_are_named(here):
    place = report_tools.run(here, model=True)
    state = place / "checkpoints" / "2" / "state" / "_METADATA"
    state.write_text(state.read_text()[:-9])
    (place / "config.json").write_text("{")
    (place / "evaluations" / "2" / "retrieval.parquet").write_bytes(b"PAR1")
    (place / "status.json").write_text("[]")
    make(place)
    found = gaps((here / "report.html").read_text())
    assert "The checkpoint of step 2 is damaged: state/_METADATA has" in found
    assert "config.json is damaged" in found and "status.json is damaged" in found
    assert "retrieval.parquet cannot be read" in found


@pytest.mark.thorough
def test_missing_images_are_named(here):
    section = {"name": "captions", "split": "test", "path": str(here / "gone")}
    place = report_tools.run(here, data=section)
    make(place)
    page = (here / "report.html").read_text()
    assert "are not shown, as the data cannot be read" in gaps(page)
    examples = page.partition('<section id="examples">')[2].partition("</section>")[0]
    assert "hits (1 of 8)" in examples and "<use" not in examples


@pytest.mark.thorough
def test_other_data_than_evaluated_are_not_shown(here):
    keys = [f"scenes/val/{n + 1}" for n in range(report_tools.IMAGES)]
    make(report_tools.run(here, keys=keys))
    found = gaps((here / "report.html").read_text())
    assert "the data have no example" in found


@pytest.mark.thorough
def test_pictures_get_smaller_and_then_go(here):
    place = report_tools.run(here)
    make(place)
    size = (here / "report.html").stat().st_size
    make(place, max_mb=(size - 1000) / 1e6)
    assert (here / "report.html").stat().st_size < size - 1000
    assert "data:image/webp" in (here / "report.html").read_text()
    with pytest.raises(UserError, match="without any picture: give a larger --max_mb"):
        make(place, max_mb=0.01)


@pytest.mark.thorough
def test_watch_renews_the_page_until_the_run_has_ended(here, monkeypatch):
    place = report_tools.run(here)
    now = status.Status("running", beat=2e9, total_steps=90)
    monkeypatch.setattr(
        status.Status, "condition", lambda self: status.Condition(self.state, 0.0)
    )
    status.write(place, now, sync=False)
    seen = []

    def sleep(seconds):
        seen.append((seconds, (here / "report.html").read_text()))
        now.state = "finished" if len(seen) == 2 else "running"
        status.write(place, now, sync=False)

    monkeypatch.setattr(report.time, "sleep", sleep)
    make(place, watch=7)
    assert [seconds for seconds, _ in seen] == [7, 7]
    later = "Embeddings are shown once the run has ended."
    assert all(later in page for _, page in seen)
    assert later not in (here / "report.html").read_text()
    refresh = '<meta http-equiv="refresh" content="7">'
    assert all(refresh in page for _, page in seen)
    assert refresh not in (here / "report.html").read_text()


@pytest.mark.parametrize(
    "argv, words",
    [
        ([], "no run is named"),
        (["nowhere"], "there is no such folder"),
        (["other"], "is no run"),
        (["x", "--out=a.pdf"], "ends in .html or .md"),
        (["x", "--out=no/a.html"], "there is no folder"),
        (["x", "--max_mb=0"], "--max_mb=0"),
        (["x", "--watch=-1"], "--watch=-1"),
    ],
)
def test_mistakes_have_one_line(here, argv, words):
    (here / "x").mkdir()
    (here / "other").mkdir()
    (here / "other" / "thesis.tex").touch()
    with pytest.raises(UserError, match=re.escape(words)):
        report.main(["report", *argv])


@pytest.mark.thorough
def test_a_row_per_step_does_not_make_the_page_large(here):
    place = report_tools.saved_run(here)
    values = np.random.default_rng(0).normal(2, 0.1, 5000)
    report_tools.log(
        place, loss=values, grad_norm=values, time_images_per_second=values
    )
    make(place)
    assert (here / "report.html").stat().st_size < 400_000


def test_broken_images_are_counted(here):
    folder = here / "photos"
    folder.mkdir()
    lines = ["image,caption"]
    for number in range(4):
        (folder / f"{number}.png").write_bytes(b"no image")
        lines.append(f"{number}.png,a photo")
    (folder / "captions.txt").write_text("\n".join(lines))
    place = report_tools.run(here)
    config = json.loads((place / "config.json").read_text())
    options = {"path": str(folder), "split": "train", "name": "captions"}
    config["data"]["train"] = options
    (place / "config.json").write_text(json.dumps(config))
    make(place)
    found = gaps((here / "report.html").read_text())
    # The split keeps one image for validation.
    assert "3 images cannot be decoded and are grey: not an image" in found
