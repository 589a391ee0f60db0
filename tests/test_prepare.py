"""python -m clipjax.prepare: what it writes, what survives a kill, what it refuses."""

import errno
import html.parser
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from command_tools import failure
from image_tools import encoded, picture
from PIL import Image

from clipjax import prepare
from clipjax.data.containers import record_shards
from clipjax.data.images import decoding
from clipjax.data.prepare import convert, subset, survey, writing
from clipjax.data.sources import arrayrecord, captions, imagefolder, scenes, webdataset
from clipjax.types import BadExample, Example, UserError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))


def run(*words, status=0):
    assert prepare.main(["prepare", *map(str, words)]) == status


@pytest.fixture
def pairs(tmp_path):
    """A folder of nine captioned images: 2 is broken, 5 repeats 1, 7 stands upright."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    rows = []
    for i in range(9):
        made = picture(40, 60, seed=1 if i == 5 else i)
        if i == 7:
            made = made.resize((30, 90))
        data = encoded(made, "PNG" if i == 3 else "JPEG")
        (folder / f"{i}.jpg").write_bytes(data[:50] if i == 2 else data)
        rows += [f"{i}.jpg,picture {i} of größe {c}\n" for c in range(1 + i % 2)]
    (folder / "captions.csv").write_text("image,caption\n" + "".join(rows))
    return folder


def told(capsys):
    return capsys.readouterr().out


PAIRS = ("--data=captions", "--data.path=pairs", "--data.split=all")


# convert


@pytest.mark.parametrize("to", ["arrayrecord", "tar"])
def test_what_is_converted_is_read_back(pairs, to, capsys):
    run("convert", *PAIRS, "--out=o", f"--to={to}", "--shard_size=4", "--out_split=x")
    printed = told(capsys)
    assert "x: 8 examples, 12 captions in 3 shards" in printed
    assert "1 broken, left out" in printed and "2.jpg " in printed
    before = captions.make("all", path="pairs")
    if to == "tar":
        after = webdataset.make("x", path="o")
        assert "data=webdataset --config.data.train.path=o" in printed
    else:
        after = arrayrecord.make("x", path="o")
    assert len(after) == 8
    for place, index in enumerate([0, 1, 3, 4, 5, 6, 7, 8]):
        assert after[place].image == before[index].image
        assert list(after[place].captions) == list(before[index].captions)
    notes = json.loads(pathlib.Path("o/x.json").read_text())
    assert notes["examples"] == 8 and notes["captions"] == 12
    assert [key for key, _ in notes["made"]["broken"]] == ["2.jpg"]
    assert not list(pathlib.Path("o").glob(".*"))


def test_a_tar_is_what_others_read(tmp_path):
    """webdataset's form: files of one key side by side, and .cls numbers."""
    for name in ("b", "a"):
        (tmp_path / "d" / "train" / name).mkdir(parents=True)
        image = picture(8, 8).convert("P")
        image.save(tmp_path / "d" / "train" / name / "1.gif")
    run("convert", "--data=imagefolder", "--data.path=d", "--out=o", "--to=tar")
    with tarfile.open("o/train-00000.tar") as tar:
        names = tar.getnames()
        numbers = [tar.extractfile(f"{k:09d}.cls").read() for k in (0, 1)]
        fields = json.load(tar.extractfile("000000001.json"))
        data = tar.extractfile("000000000.png").read()
    assert names[:3] == ["000000000.png", "000000000.json", "000000000.cls"]
    assert len(names) == 6 and numbers == [b"0", b"1"]
    assert fields == {"captions": [], "key": "train/b/1.gif", "labels": {"class": 1}}
    gif = decoding.decode((tmp_path / "d/train/a/1.gif").read_bytes())
    np.testing.assert_array_equal(np.asarray(decoding.decode(data)), np.asarray(gif))
    assert pathlib.Path("o/classes.txt").read_text() == "a\nb\n"
    found = webdataset.make("train", path="o", classes="classes.txt")
    assert [found[i].labels["class"] for i in (0, 1)] == [0, 1]


def test_resize_and_dedup(pairs, capsys):
    run("convert", *PAIRS, "--out=o", "--resize=32", "--dedup")
    assert "7 examples" in (printed := told(capsys))
    assert "all: 1 repeated" in printed and "5.jpg repeats 1.jpg" in printed
    before = captions.make("all", path="pairs")
    after = arrayrecord.make("all", path="o")
    sizes = [decoding.size(after[i].image) for i in range(7)]
    # 60 x 40 becomes 48 x 32; 30 wide is small enough, and keeps its bytes.
    assert sizes == [(48, 32)] * 5 + [(30, 90)] + [(48, 32)]
    assert after[5].image == before[7].image
    assert decoding.format_of(after[2].image) == "JPEG"
    wanted = decoding.decode(before[0].image).resize((48, 32), Image.Resampling.BICUBIC)
    error = np.asarray(decoding.decode(after[0].image), int) - np.asarray(wanted)
    assert np.abs(error).mean() < 6


def test_orientation_survives_resizing():
    made = picture(40, 60)
    exif = made.getexif()
    exif[0x0112] = 6  # lies on its side: upright it is 40 wide
    data = encoded(made, "JPEG", exif=exif)
    small = writing.Fit(resize=20)(Example(data)).image
    assert decoding.size(data) == (40, 60) and decoding.size(small) == (20, 30)
    kept = writing.Fit(resize=40)(Example(data)).image
    assert kept == data


class Counting(scenes.Scenes):
    """Counts what is read, and fails at one example."""

    def __init__(self, size, fails=None):
        super().__init__("train", 0, size, 16)
        self.read = set()
        self.fails = fails

    def __getitem__(self, index):
        if index == self.fails:
            raise OSError("the disk is full")
        self.read.add(index)
        return super().__getitem__(index)


def converted(folder, source, **options):
    options = convert.Options(**{"shard_size": 5, "threads": 1, **options})
    return convert.convert(source, "train", pathlib.Path(folder), options, {})


def files_of(folder):
    found = sorted(p for p in pathlib.Path(folder).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


@pytest.mark.parametrize("to", ["arrayrecord", "tar"])
def test_finished_shards_are_not_made_again(to):
    converted("whole", Counting(23), to=to, dedup=True)
    with pytest.raises(OSError, match="disk is full"):
        converted("o", Counting(23, fails=13), to=to, dedup=True)
    assert not list(pathlib.Path("o").glob("train*"))
    with pytest.raises(UserError, match="unfinished conversion of the split 'train'"):
        arrayrecord.make("train", path="o")
    again = Counting(23)
    outcome = converted("o", again, to=to, dedup=True)
    assert outcome.kept_shards == 2 and min(again.read) == 10
    assert files_of("o") == files_of("whole")
    last = Counting(23)
    assert converted("o", last, to=to, dedup=True).done_before and not last.read


def test_a_repeated_image_is_found_across_a_restart():
    class Same(Counting):
        def __getitem__(self, index):
            return super().__getitem__(index % 7 if index != self.fails else index)

    with pytest.raises(OSError):
        converted("o", Same(20, fails=11), dedup=True)
    outcome = converted("o", Same(20), dedup=True)
    assert outcome.kept_shards == 2 and len(outcome.repeated) == 13
    assert sum(s.examples for s in outcome.split.shards) == 7
    assert [s.file[6:11] for s in outcome.split.shards] == ["00000", "00001"]


def test_killed_while_the_shards_move(monkeypatch):
    converted("whole", Counting(23))
    real, moved = pathlib.Path.replace, []

    def replace(path, target):
        if pathlib.Path(target).parent.name == "o" and path.suffix == ".arrayrecord":
            moved.append(path)
            if len(moved) == 3:
                raise OSError("killed")
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "replace", replace)
        with pytest.raises(OSError, match="killed"):
            converted("o", Counting(23))
    again = Counting(23)
    assert converted("o", again).kept_shards == 5
    assert not again.read and files_of("o") == files_of("whole")


def test_a_killed_process_leaves_what_the_next_finishes(tmp_path):
    """SIGKILL in the middle of a shard, so that nothing can clean up."""
    script = (
        "import os, pathlib, signal, test_prepare as t\n"
        "class Killer(t.Counting):\n"
        "    def __getitem__(self, index):\n"
        "        if index == 17: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().__getitem__(index)\n"
        "t.converted('o', Killer(23))\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=env)
    assert done.returncode == -9
    left = {p.name for p in pathlib.Path("o/.train.partial").iterdir()}
    assert {"00000.json", "train-00000.arrayrecord", "plan.json"} <= left
    assert not list(pathlib.Path("o").glob("train*"))
    outcome = converted("o", Counting(23))
    assert 1 <= outcome.kept_shards <= 3
    converted("whole", Counting(23))
    assert files_of("o") == files_of("whole")


def test_conversions_that_do_not_fit_are_refused():
    with pytest.raises(OSError):
        converted("o", Counting(23, fails=13))
    for change, word in (
        ({"shard_size": 6}, "another shard_size (5, not 6)"),
        ({"resize": 8}, "another resize (0, not 8)"),
    ):
        with pytest.raises(UserError, match=re.escape(word)):
            converted("o", Counting(23), **change)
    with pytest.raises(UserError, match="another examples"):
        converted("o", Counting(24))
    converted("o", Counting(23))
    with pytest.raises(UserError, match="already exists, of other data or options"):
        converted("o", Counting(23), resize=8)
    pathlib.Path("o/train.json").unlink()
    with pytest.raises(UserError, match="already holds train-00000.arrayrecord"):
        converted("o", Counting(23))


def test_what_stands_in_the_way_is_told_in_one_line(pairs, capsys):
    argv = ["convert", *PAIRS, "--out=o"]
    pathlib.Path("o").mkdir()
    for text in ('{"images": []}', '{"made": 3}', '{"cut', "[]"):
        pathlib.Path("o/all.json").write_text(text)
        assert "another origin" in failure(capsys, prepare.main, *argv)
    pathlib.Path("o/all.json").unlink()
    run(*argv)
    pathlib.Path("o/all-00000.arrayrecord").unlink()
    line = failure(capsys, prepare.main, *argv)
    assert "all-00000.arrayrecord is missing" in line and "delete o/all.json" in line
    pathlib.Path("file").write_text("")
    for action in ("convert", "inspect", "tiny"):
        line = failure(capsys, prepare.main, action, *PAIRS, "--out=file/x")
        assert "file/x" in line and "choose another --out" in line
    line = failure(capsys, prepare.main, *argv[:3], "--data.split=all,al", "--out=p")
    assert "'al'" in line and not pathlib.Path("p").exists()


@pytest.mark.parametrize("to", ["arrayrecord", "tar"])
def test_a_full_disk_is_told_and_what_is_finished_kept(to, pairs, capsys, monkeypatch):
    del pairs
    full = errno.ENOSPC, os.strerror(errno.ENOSPC)

    class Full:
        written = 0

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def close(self):
            self.inner.close()
            if Full.written > 2:
                if to == "tar":
                    raise OSError(*full)
                raise RuntimeError(f"write() failed: {full[1]}; at byte 3; closing")

    def limited(open_file):
        def opened(*args, **options):
            made = Full()
            made.inner = open_file(*args, **options)
            Full.written += 1
            return made

        return opened

    with monkeypatch.context() as patch:
        patch.setattr(record_shards, "writer", limited(record_shards.writer))
        patch.setattr(tarfile, "open", limited(tarfile.open))
        argv = ["convert", *PAIRS, "--out=o", f"--to={to}", "--shard_size=2"]
        line = failure(capsys, prepare.main, *argv)
    assert full[1] in line and "free space and run the same command" in line
    run(*argv)
    assert "2 of the shards kept" in told(capsys)


def test_two_processes_do_not_write_the_same():
    import fcntl

    pathlib.Path("o/.train.partial").mkdir(parents=True)
    with open("o/.train.partial/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is converting into o"):
            converted("o", Counting(5))


def test_nothing_usable_and_nothing_fitting():
    class Bad(Counting):
        def __getitem__(self, index):
            raise BadExample("never there", f"k{index}")

    with pytest.raises(UserError, match="none of the 6 .* first: k0: never there"):
        converted("o", Bad(6))
    run("convert", "--data=multimodal", "--data.size=3", "--out=m")
    with pytest.raises(UserError, match="no place for audio: use --to=arrayrecord"):
        run("convert", "--data=multimodal", "--data.size=3", "--out=t", "--to=tar")


# verify


def test_verify_lists_all_that_is_broken(pairs, capsys):
    (pairs / "4.jpg").unlink()
    with open(pairs / "captions.csv", "ab") as table:
        table.write(b"8.jpg,\xff\n")
    run("verify", *PAIRS, status=1)
    lines = told(capsys).splitlines()
    keys = [line.split("\t")[0] for line in lines if "\t" in line]
    assert keys[:2] == ["2.jpg", "4.jpg"]
    assert "2.jpg\tthe image cannot be opened" in lines[1]
    assert lines[-1].startswith("9 examples and ")
    run("convert", *PAIRS, "--out=o")
    told(capsys)
    run("verify", "--data=arrayrecord", "--data.path=o", "--data.split=all")
    assert ": 0 broken" in told(capsys)


def test_verify_of_arrayrecord_checks_the_files_too(pairs, capsys, monkeypatch):
    run("convert", *PAIRS, "--out=o")
    shard = pathlib.Path("o/all-00000.arrayrecord")
    data = bytearray(shard.read_bytes())
    data[data.index(b"\xff\xd8\xff", 200) + 300] ^= 1
    shard.write_bytes(data)
    told(capsys)
    run("verify", "--data=arrayrecord", "--data.path=o", "--data.split=all", status=1)
    printed = told(capsys)
    assert "all-00000.arrayrecord: its SHA-256 is not" in printed
    assert ": 1 broken, 1 problem(s)" in printed
    argv = "verify", "--data=arrayrecord", "--data.path=o", "--data.split=all"
    with monkeypatch.context() as patch:
        patch.setattr(record_shards, "altered_shards", unreadable)
        line = failure(capsys, prepare.main, *argv)
    assert "cannot go on at the data: Permission denied" in line


def unreadable(*_):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_examples_that_break_the_source_s_promises():
    class Odd(Counting):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            changes = {
                1: {"captions": [b"bytes"] * len(example.captions)},
                2: {"captions": [*example.captions, "one more"]},
                3: {"labels": {"colour": 99}},
                4: {"others": {"audio": np.zeros(3)}},
            }
            fields = {**example.__dict__, **changes.get(index, {})}
            return Example(**fields)

    found = survey.survey(Odd(6), decode=True, threads=2)
    reasons = " | ".join(bad.reason for bad in found.broken)
    assert len(found.broken) == 4
    for words in ("not text", "captions, not", "colour=99", "other modalities"):
        assert words in reasons


# inspect


def test_a_survey_counts():
    class Made(Counting):
        class_names = {"kind": ["a", "b"]}
        examples = [
            Example(encoded(picture(10, 20), "PNG"), ["one two", "three"], {"kind": 1}),
            Example(encoded(picture(30, 20), "JPEG"), ["one two", " "], {"kind": 1}),
            Example(np.zeros((5, 5, 3), np.uint8), [], {}),
            Example(b"broken", ["x"], {"kind": 0}),
        ]

        def __init__(self):
            self.caption_counts = np.array([2, 2, 0, 1], np.int32)
            self.templates, self.problems = {}, ["a row ignored"]

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return self.examples[index]

    found = survey.survey(Made(), decode=False, threads=1)
    assert (found.examples, len(found.broken), survey.usable(found)) == (4, 1, 3)
    assert found.wide == [20, 20, 5] and found.high == [10, 30, 5]
    assert found.formats == {"PNG": 1, "JPEG": 1, "array": 1}
    assert found.captions == [2, 2, 0] and found.words == [2, 1, 2, 0]
    assert (found.blank, found.repeated) == (1, 1)
    assert found.labels["kind"].tolist() == [0, 2] and found.unlabelled["kind"] == 1
    assert found.problems == ["a row ignored"]


class Checker(html.parser.HTMLParser):
    """Collects text, pictures and whatever a page would fetch."""

    def __init__(self):
        super().__init__()
        self.text, self.pictures, self.fetched = "", [], []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if tag == "img" and name == "src":
                self.pictures.append(value)
            elif name in ("src", "href"):
                self.fetched.append(value)
        if tag in ("script", "link"):
            self.fetched.append(tag)

    def handle_data(self, data):
        self.text += data


def test_inspect_writes_a_page(pairs, capsys):
    table = pairs / "captions.csv"
    table.write_text(
        table.read_text().replace("picture 0", "<script>alert(1)</script>")
    )
    run("inspect", *PAIRS, "--samples=8", "--out=look")
    printed = told(capsys)
    for words in ("examples", "1 PNG", "words a caption", "1 broken"):
        assert words in printed
    assert re.search(r"captions +12\n", re.sub(r" +\n", "\n", printed))
    assert [*files_of("look")] == ["all.html"]
    page = Checker()
    text = pathlib.Path("look/all.html").read_text(encoding="utf-8")
    page.feed(text)
    assert not page.fetched and "<script>" not in text
    assert "<script>alert(1)</script> of größe 0" in page.text
    assert "2.jpg" in page.text  # among the problems
    assert len(page.pictures) == 8
    assert all(src.startswith("data:image/jpeg;base64,") for src in page.pictures)
    run("inspect", *PAIRS, "--samples=8", "--out=again")
    assert files_of("look") == files_of("again")


def test_a_folder_s_name_that_is_no_utf8_is_shown(capsys):
    folder = b"odd/train/caf\xe9"
    os.makedirs(folder)
    with open(folder + b"/1.jpg", "wb") as file:
        file.write(encoded(picture(8, 8), "JPEG"))
    odd = ("--data=imagefolder", "--data.path=odd")
    run("inspect", *odd, "--out=look")
    assert "caf\\udce9" in pathlib.Path("look/train.html").read_text()
    run("convert", *odd, "--out=o")
    assert arrayrecord.make("train", path="o").class_names["class"] == ["caf\\udce9"]


# tiny


def make_classes(base, layout):
    for number, (place, count) in enumerate(layout.items()):
        (base / place).mkdir(parents=True)
        for i in range(count):
            image = encoded(picture(8, 8, seed=100 * number + i), "JPEG")
            (base / place / f"{i}.jpg").write_bytes(image)


LAYOUT = {f"{s}/{c}": 6 for s in ("train", "val") for c in ("a", "b", "c/d", "e")}


def test_tiny(tmp_path, capsys):
    make_classes(tmp_path / "d", LAYOUT)
    (tmp_path / "d/train/a/0.jpg").write_bytes(b"broken")
    words = ("tiny", "--data=imagefolder", "--data.path=d", "--data.split=train,val")
    words += ("--classes=3", "--per_class=4")
    run(*words, "--out=o", "--seed=3")
    found = {s: imagefolder.make(s, path="o") for s in ("train", "val")}
    assert len(found["train"]) == len(found["val"]) == 12
    assert found["train"].class_names == found["val"].class_names
    assert len(found["train"].class_names["class"]) == 3
    source = imagefolder.make("train", path="d")
    known = {source[i].image: source[i].labels["class"] for i in range(len(source))}
    names = source.class_names["class"]
    for i in range(12):
        example = found["train"][i]
        name = found["train"].class_names["class"][example.labels["class"]]
        assert names[known[example.image]] == name
    run(*words, "--out=again", "--seed=3", "--threads=3")
    assert files_of("again") == files_of("o")
    run(*words, "--out=other", "--seed=4")
    assert files_of("other") != files_of("o")
    run(*words, "--out=ar", "--seed=3", "--to=arrayrecord")
    records = arrayrecord.make("val", path="ar")
    assert records.class_names == found["val"].class_names
    assert {records[i].image for i in range(12)} == {
        found["val"][i].image for i in range(12)
    }
    assert "already exists" in failure(capsys, prepare.main, *words, "--out=o")
    assert not list(tmp_path.glob("o/.*"))


def test_tiny_takes_what_there_is():
    source = scenes.make("attributes", eval_size=60)
    part = subset.choose(
        source, classes=2, per_class=500, seed=0, threads=1, label_set="colour"
    )
    names = part.class_names["colour"]
    assert len(names) == 2 and names == [
        n for n in source.class_names["colour"] if n in names
    ]
    labels = [part[i].labels for i in range(len(part))]
    assert all(set(each) == {"colour"} for each in labels)
    wanted = [source.class_names["colour"].index(n) for n in names]
    there = [source[i].labels["colour"] for i in range(60)]
    assert len(part) == sum(there.count(label) for label in wanted)


# Mistakes


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["no action", "convert, inspect, verify, tiny"]),
        (["covnert"], ["'covnert' is no action", "Did you mean 'convert'"]),
        (["verify"], ["no --data given", "webdataset"]),
        (["verify", "--data=captoins"], ["'captoins'", "Did you mean 'captions'"]),
        (["verify", "--data=captions", "--data.pth=x"], ["--data.pth", "'path'"]),
        (["verify", "--data.path=x"], ["--data.path needs --data=NAME"]),
        (
            ["verify", "--data=captions", "--data.path"],
            ["write it as --data.path=VALUE"],
        ),
        (
            ["verify", "--data=scenes", "--data.size=many"],
            ["--data.size='many'", "int"],
        ),
        (["verify", "--data=captions"], ["no --data.path given"]),
        (["verify", "--data=scenes", "--data.split=foo"], ["foo"]),
        (["verify", "--data=scenes", "--data.split=train,val"], ["give one split"]),
        (["verify", "--data=scenes", "--out=x"], ["--out needs --against"]),
        (
            ["verify", "--data=scenes", "--config=x.py"],
            ["unknown flag '--config=x.py'"],
        ),
        (["verify", "--data=scenes", "--threads=0"], ["--threads=0"]),
        (["verify", "--data=scenes", "--threads=x"], ["threads"]),
        (["convert", "--data=scenes"], ["no --out given"]),
        (
            ["convert", "--data=scenes", "--out=o", "--data.split=train,val"]
            + ["--out_split=x"],
            ["--out_split=x: give one --data.split"],
        ),
        (["convert", "--data=scenes", "--out=o", "--to=zip"], ["--to=zip"]),
        (["convert", "--data=scenes", "--out=o", "--quality=99"], ["--quality=99"]),
        (["convert", "--data=scenes", "--out=o", "--resize=-1"], ["--resize=-1"]),
        (["convert", "--data=scenes", "--out=o", "--shard_size=0"], ["--shard_size=0"]),
        (
            ["convert", "--data=scenes", "--out=o", "--out_split=../x"],
            ["'../x' cannot be a file's name"],
        ),
        (["convert", "--data=scenes", "out=o"], ["dashes? --out=o"]),
        (["inspect", "--data=scenes", "--samples=0"], ["--samples=0"]),
        (["tiny", "--data=scenes", "--out=o"], ["one label set", "--label_set="]),
        (["tiny", "--data=captions", "--out=o", "--data.path=pairs"], ["none"]),
        (
            ["tiny", "--data=scenes", "--label_set=shape", "--classes=99", "--out=o"],
            ["--classes=99", "the data have 6"],
        ),
        (["tiny", "--data=scenes", "--out=o", "--to=zip"], ["--to=zip"]),
        (
            ["tiny", "--data=scenes", "--out=o", "--per_class=0", "--label_set=size"]
            + ["--classes=1"],
            ["--per_class=0"],
        ),
    ],
)
def test_mistakes(pairs, capsys, argv, words):
    line = failure(capsys, prepare.main, *argv)
    for word in words:
        assert word in line
    assert not pathlib.Path("o").exists()


def test_help(capsys):
    assert prepare.main(["prepare", "--help"]) == 0
    printed = told(capsys)
    for flags in prepare.FLAGS.values():
        for flag in flags:
            assert f"--{flag}" in printed or f"--no{flag}" in printed
    assert max(map(len, printed.replace(", ", ",").splitlines())) < 200


# Real data


def test_flickr8k_and_flowers_there_and_back(shared_data, capsys):
    path = shared_data / "flickr8k_original_200"
    run(
        "convert",
        "--data=captions",
        f"--data.path={path}",
        "--data.split=val",
        "--out=o",
    )
    before = captions.make("val", path=str(path))
    after = arrayrecord.make("val", path="o")
    assert len(after) == len(before) > 10
    for i in (0, len(after) - 1):
        assert after[i] == before[i]
    capsys.readouterr()
    flowers = f"--data.path={shared_data / 'flowers5'}"
    run(
        "tiny", "--data=imagefolder", flowers, "--out=t", "--classes=2", "--per_class=3"
    )
    assert len(imagefolder.make("train", path="t")) == 6
