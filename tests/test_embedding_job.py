"""Embeddings of a source or of texts on disk: what they are, and how jobs end."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import released_tools
from command_tools import failure
from embedding_tools import (
    BROKEN,
    SCENES,
    captions,
    content,
    embed,
    picture,
    run,
    shards,
)
from marks import mostly

import clipjax
from clipjax import embed as command
from clipjax import embedding_job
from clipjax.data.sources import scenes
from clipjax.embeddings import header, parts
from clipjax.embeddings.text_file import TextFile
from clipjax.preempt import StopRequest
from clipjax.types import UserError
from run_tools import ROOT

pytestmark = pytest.mark.usefixtures("on_one_device")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return run(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def clip(model):
    return clipjax.load(model)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """What an undisturbed job writes: scenes in four parts, the last one of one."""
    folder = tmp_path_factory.mktemp("whole") / "emb"
    done, _ = embed(model, folder)
    assert done.parts == (4, 4) and done.examples == 10
    return content(folder)


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_they_are_those_of_the_library(model, clip, tmp_path):
    data = {"data": "webdataset", "data_options": {"path": str(shards(tmp_path / "d"))}}
    done, said = embed(model, tmp_path / "emb", outputs=("embed", "features"), **data)
    stored = clipjax.read_embeddings(tmp_path / "emb")
    fine = [number for number in range(7) if number != BROKEN]
    images = clip.encode_image([picture(number) for number in fine])
    np.testing.assert_allclose(stored.images[fine], images, rtol=1e-5, atol=1e-6)
    texts = [text for number in fine for text in captions(number)]
    np.testing.assert_allclose(stored.texts, clip.encode_text(texts), atol=1e-6)
    for name in ("images", "texts"):
        features = np.asarray(getattr(stored, name[:-1] + "_features"))
        rows = np.abs(features).sum(1) > 0
        kernel = clip.variables["params"][name[:-1] + "_projection"]["kernel"]
        made = unit(features[rows] @ np.asarray(kernel))
        found = np.asarray(getattr(stored, name))[rows]
        np.testing.assert_allclose(found, made, atol=1e-5)
    table = stored.table.to_pydict()
    assert table["index"] == list(range(7))
    expected = [captions(n) if n in fine else [] for n in range(7)]
    assert table["captions"] == expected
    counts = [len(one) for one in expected]
    assert stored.text_ends.tolist() == [0, *np.cumsum(counts).tolist()]
    assert table["label_class"] == [None if n == BROKEN else n % 2 for n in range(7)]
    sizes = [(20 + n, 30 - n) for n in fine]
    assert [
        size
        for size in zip(table["width"], table["height"], strict=True)
        if size != (None, None)
    ] == sizes
    # The broken one is listed, its rows are zeros, and nothing else is.
    (bad,) = stored.broken
    assert bad == done.broken[0] and bad.index == BROKEN and "004" in bad.key
    assert not stored.images[BROKEN].any()
    assert (
        "broken, with a row of zeros: 1 of this job's images" in said
        and f"  {bad.key}: {bad.reason}" in said
    )
    line = r"embedded 7 images and 5 captions in 0:\d\d: [\d.,]+ images/s on 1 x \S+, "
    assert re.search(line + r"which waited for data \d+% of the time", said)


def test_half_precision_and_what_it_cannot_hold(model, whole, tmp_path):
    embed(model, tmp_path / "emb", dtype="float16")
    stored = clipjax.read_embeddings(tmp_path / "emb")
    assert stored.images.dtype == stored.texts.dtype == np.float16
    full = np.load(_file(whole, "part-00001-of-00004/images.npy", tmp_path))
    np.testing.assert_array_equal(stored.images[:3], full.astype(np.float16))
    encoder = embedding_job.PartEncoder(None, {}, "float16", False, False)
    with pytest.raises(UserError, match="use --dtype=float32"):
        encoder._stored("image_features", np.array([[1e5]], np.float32))


def _file(files, name, folder):
    (folder / "one.npy").write_bytes(files[name])
    return folder / "one.npy"


def test_two_jobs_write_what_one_writes(model, whole, tmp_path):
    out = tmp_path / "emb"
    done, said = embed(model, out, part=(2, 2))
    assert done.parts == (2, 4) and done.examples == 4
    assert "2 of 4 parts are there; other jobs (--part) make the rest" in said
    with pytest.raises(UserError, match=r"part-00001-of-00004 and 1 more of 4 parts"):
        clipjax.read_embeddings(out)
    embed(model, out, part=(1, 2))
    assert content(out) == whole
    done, said = embed(model, out)
    assert done.examples == 0 and done.kept == 4
    assert "4 of this job's parts were there already" in said


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program catches it."""


@pytest.mark.parametrize("after", mostly([0, 3, 6], [3]))
def test_a_killed_job_goes_on(model, whole, tmp_path, monkeypatch, after):
    """Killed before the file number `after` is on disk, with all that is left over."""
    out, synced, sync = tmp_path / "emb", [], os.fsync

    def fsync(descriptor):
        if str(out) in os.readlink(f"/proc/self/fd/{descriptor}"):
            synced.append(descriptor)
            if len(synced) > after:
                raise Killed
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(shutil, "rmtree", lambda *args, **options: None)
        patch.setattr("pathlib.Path.unlink", lambda *args, **options: None)
        patch.setattr(os, "getpid", lambda: 2**22 + 1)  # above the largest id
        with pytest.raises(Killed):
            embed(model, out)
    assert any(path.name.endswith(".tmp") for path in out.iterdir())
    embed(model, out)
    assert content(out) == whole


def test_what_others_are_writing_stays(model, whole, tmp_path, monkeypatch):
    out = tmp_path / "emb"
    host = socket.gethostname()
    of_live = out / f".part-00001-of-00004.{host}-{os.getppid()}-1.tmp"
    elsewhere = out / ".part-00002-of-00004.elsewhere-7-1.tmp"
    old = out / ".part-00002-of-00004.elsewhere-8-1.tmp"
    for folder in (of_live, elsewhere, old):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    embed(model, out)
    assert {path.name for path in out.glob(".*.tmp")} == {of_live.name, elsewhere.name}
    # A part that another job has made meanwhile is kept.
    write = parts.write

    def after_another(*args):
        write(*args)
        write(*args)

    monkeypatch.setattr(parts, "write", after_another)
    embed(model, tmp_path / "twice")
    assert content(tmp_path / "twice") == whole


def test_a_signal_ends_it_between_batches(model, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["embed", f"--model={model}", "--data=scenes", "--out=emb"]
    argv += [f"--data.{key}={value}" for key, value in SCENES.items()]
    argv += ["--batch_size=2", "--part_size=3"]
    signal_number, calls = StopRequest.signal_number, []

    def at_the_fourth(self, step):
        calls.append(step)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGTERM)
        return signal_number(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "signal_number", at_the_fourth)
        assert command.main(argv) == 128 + signal.SIGTERM
    assert (
        "stopped: 1 of 4 parts are whole; the same command" in capsys.readouterr().out
    )
    assert command.main(argv) == 0
    assert content(tmp_path / "emb") == whole


def test_a_program_may_embed_in_a_thread(model, whole, tmp_path):
    """Signals reach the main thread alone."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(embed, model, tmp_path / "emb").result()
    assert content(tmp_path / "emb") == whole


def test_lines_of_a_file(model, clip, tmp_path):
    lines = ["a red circle", "", "zwei Sterne é", "a blue star"]
    content = "\r\n".join(lines).encode().replace(b"blue", b"bl\xffue")
    (tmp_path / "texts.txt").write_bytes(b"\xef\xbb\xbf" + content + b"\r\n")
    done, said = embed(model, tmp_path / "emb", texts=tmp_path / "texts.txt")
    assert done.parts == (2, 2) and "embedded 4 texts in" in said
    stored = clipjax.read_embeddings(tmp_path / "emb")
    assert stored.images is None and stored.image_features is None
    np.testing.assert_allclose(stored.texts[:3], clip.encode_text(lines[:3]), atol=1e-6)
    assert not stored.texts[3].any()
    assert stored.table["captions"].to_pylist() == [*([x] for x in lines[:3]), [None]]
    (bad,) = stored.broken
    assert bad.key == "texts.txt:4" and "not UTF-8" in bad.reason
    # Damage that the same command meets at its next start.
    table = tmp_path / "emb" / "part-00001-of-00002" / "rows.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[:-9])
    with pytest.raises(
        UserError, match=r"rows.parquet cannot be read .*delete .*-00002"
    ):
        embed(model, tmp_path / "emb", texts=tmp_path / "texts.txt")
    table.write_bytes(whole)
    (tmp_path / "texts.txt").write_text("others\n" * 4)
    with pytest.raises(UserError, match=r"texts of .*texts\.txt there, other texts"):
        embed(model, tmp_path / "emb", texts=tmp_path / "texts.txt")


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"a\nb", ["a", "b"]),
        (b"a\nb\n", ["a", "b"]),
        (b"\n\na\r\n\r\n", ["", "", "a", ""]),
        (b"\n", [""]),
        (b"\xef\xbb\xbf\nb", ["", "b"]),
        (b"\xef\xbb\xbfa\xef\xbb\xbf", ["a\ufeff"]),
        ("é\x0b\u2028\x85東".encode(), ["é\x0b\u2028\x85東"]),
    ],
)
def test_lines_end_at_line_feeds(content, lines, tmp_path):
    (tmp_path / "x.txt").write_bytes(content)
    file = TextFile(tmp_path / "x.txt")
    assert [file.text_of(index) for index in range(len(file))] == lines


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", "a\nb\n".encode("utf-16")])
def test_files_without_lines(content, tmp_path):
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(
        UserError, match=r"x.txt is (empty: it needs|UTF-16: convert it)"
    ):
        TextFile(tmp_path / "x.txt")


def test_other_embeddings_in_the_folder(model, tmp_path):
    out = tmp_path / "emb"
    embed(model, out, data_options={**SCENES, "eval_size": 4})
    before = content(out)
    other = released_tools.FORMS["hf"](tmp_path / "hf")
    for who, changes, words in [
        (other, {}, "other weights and model settings and preprocessing and tokenizer"),
        (model, {"split": "train"}, "split 'val' there, 'train' here"),
        (model, {"data_options": SCENES}, "4 examples -> 10"),
        (model, {"dtype": "float16"}, "dtype float32 there, float16 here"),
        (
            model,
            {"outputs": ("embed", "features")},
            "outputs embed there, embed,features here",
        ),
        (model, {"part_size": 2}, "part_size 3 there, 2 here"),
    ]:
        options = {"data_options": {**SCENES, "eval_size": 4}, **changes}
        with pytest.raises(UserError, match=words) as found:
            embed(who, out, data="scenes", **options)
        assert str(found.value).startswith(f"{out} holds other embeddings (")
    assert content(out) == before


def test_data_that_hang(model, tmp_path, monkeypatch):
    free = threading.Event()
    read = scenes.Scenes.__getitem__

    def hanging(self, index):
        if index == 4:
            free.wait(200)
        return read(self, index)

    monkeypatch.setattr(scenes.Scenes, "__getitem__", hanging)
    copied = shutil.copytree(model, tmp_path / "run")
    settings = (copied / "config.json").read_text()
    (copied / "config.json").write_text(
        settings.replace('"timeout": 600.0', '"timeout": 2.0', 1)
    )
    begin = time.monotonic()
    try:
        with pytest.raises(UserError, match="val/4 has not been read for 2 s"):
            embed(copied, tmp_path / "emb", threads=2)
    finally:
        free.set()
    assert time.monotonic() - begin < 100


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--part=0/2"], "--part=0/2: use 1/n to n/n"),
        (["--part=3/2"], "--part=3/2: use 1/n to n/n"),
        (["--part=half"], "--part=half: use 1/n to n/n"),
        (["--outputs=features"], "use embed, or embed,features"),
        (["--outputs=embed,featurs"], "Did you mean 'features'?"),
        (["--dtype=int8"], "float32"),
        (["--part_size=0"], "part_size=0"),
        (["--threads=0"], "--threads=0: use 1 or more"),
        (["--data=imagefolder"], "set it with --data.path=FOLDER"),
        (["--data=imagefolder", "--data.path=none"], "none"),
        (["--data=scenes", "--texts=x.txt"], "--texts and --data both say"),
        (["--data=scenes", "--data.sise=3"], "sise"),
        (["--texts=nothing.txt"], "nothing.txt"),
        (["--texts=empty.txt"], "empty.txt is empty: it needs one text per line"),
        (["--out=empty.txt"], "empty.txt"),
        (["--out="], "no --out given"),
    ],
)
def test_mistakes(model, flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    if not any(flag.startswith("--out=") for flag in flags):
        flags = [*flags, "--out=emb"]
    assert words in failure(capsys, command.main, f"--model={model}", *flags)
    assert not (tmp_path / "emb").exists()


def test_a_released_model_has_no_data(tmp_path):
    other = released_tools.FORMS["hf"](tmp_path / "hf")
    with pytest.raises(UserError, match="which has no data of its own: name them by"):
        clipjax.embed_data(other, tmp_path / "emb")


def test_an_empty_source(model, tmp_path, monkeypatch):
    monkeypatch.setattr(scenes.Scenes, "__len__", lambda self: 0)
    with pytest.raises(UserError, match="the source is empty"):
        embed(model, tmp_path / "emb")


def start(model, out, *flags):
    """A job as a process of its own, of forty parts."""
    words = [sys.executable, "-m", "clipjax.embed", f"--model={model}", "--data=scenes"]
    words += [f"--data.{key}={value}" for key, value in SCENES.items()]
    words += ["--data.eval_size=80", f"--out={out}", "--part_size=2", "--batch_size=2"]
    words = [word for word in words if word != "--data.eval_size=10"]
    log = open(out.with_suffix(".log"), "a")
    environment = {key: x for key, x in os.environ.items() if key != "XLA_FLAGS"}
    with log:
        return subprocess.Popen(
            [*words, *flags], cwd=ROOT, env=environment, stdout=log, stderr=log
        )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_five_times_and_by_two_processes(model, tmp_path):
    one, two, killed = (tmp_path / name for name in ("one", "two", "killed"))
    assert start(model, one).wait(300) == 0
    halves = [start(model, two, f"--part={i}/2") for i in (1, 2)]
    assert [half.wait(300) for half in halves] == [0, 0]
    assert content(two) == content(one)
    draw = random.Random(0)
    for number in range(5):
        job = start(model, killed)
        enough = draw.randint(6 * number, 6 * number + 5)
        while job.poll() is None and len(list(killed.glob("part-*0"))) < enough:
            time.sleep(0.001)
        time.sleep(draw.random() * 0.01)
        job.send_signal(signal.SIGKILL)
        assert job.wait(60) == -signal.SIGKILL
    assert start(model, killed).wait(300) == 0
    assert content(killed) == content(one)
    assert len(content(one)) == 40 * 3 + 1
    assert header.FILE in content(one)
