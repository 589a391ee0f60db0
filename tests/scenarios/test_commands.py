"""The commands as a user types them: what they print, and one line for each mistake."""

import errno
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_tools import failure
from PIL import Image

import clipjax
from clipjax import atomic_files, commandline, evaluate, results, train
from clipjax.engine import memory_check, resume

ROOT = pathlib.Path(__file__).parents[2]
QUICKSTART = str(ROOT / "configs" / "quickstart.py")
TINY = [
    "--config.train.steps=4",
    "--config.train.val_batches=1",
    "--config.data.batch_size=16",
    "--config.data.image_size=16",
    "--config.data.train.eval_size=24",
    "--config.model.image.width=32",
    "--config.model.image.depth=1",
    "--config.model.image.heads=2",
    "--config.model.text.width=32",
    "--config.model.text.depth=1",
    "--config.model.text.heads=2",
    "--config.log.tensorboard=False",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["no --config", "configs/quickstart.py"]),
        (["--config"], ["no --config"]),
        (["--config", "nowhere.py"], ["no file nowhere.py"]),
        (["--config", f"{QUICKSTART[:-4]}"], ["Did you mean 'quickstart.py'"]),
        (["--config", f"{QUICKSTART}:loss=clop"], ["'clop'", "Did you mean 'clip'"]),
        (["--config", f"{QUICKSTART}:clip"], ["write it as name=value"]),
        (
            [f"--config={QUICKSTART}", "--config.optim.lrr=1"],
            ["Did you mean --config.optim.lr?"],
        ),
        (
            [f"--config={QUICKSTART}", "--config.lr=1"],
            ["Did you mean --config.optim.lr?"],
        ),
        ([f"--config={QUICKSTART}", "--config.optim=1"], ["is a section", "optim.lr"]),
        (
            [f"--config={QUICKSTART}", "--config.optim.lr=fast"],
            ["config.optim.lr", "fast"],
        ),
        (
            [f"--config={QUICKSTART}", "--config.train.steps=1.5"],
            ["train.steps", "1.5"],
        ),
        ([f"--config={QUICKSTART}", "--config.optim.name=sgd"], [":optim=sgd"]),
        (
            [f"--config={QUICKSTART}", "config.optim.lr=1"],
            ["dashes? --config.optim.lr=1"],
        ),
        ([f"--config={QUICKSTART}", "workdir=x"], ["dashes? --workdir=x"]),
        ([f"--config={QUICKSTART}", "--workdri=x"], ["--workdri", "'workdir'"]),
        ([f"--config={QUICKSTART}", "stray"], ["'stray'"]),
        ([f"--config={QUICKSTART}", "--config.train.steps=0"], ["set one of the two"]),
        (
            [f"--config={QUICKSTART}", "--config.mesh.fsdp=3"],
            ["mesh.fsdp=3", "devices, 8"],
        ),
        (
            [f"--config={QUICKSTART}", "--config.data.batch_size=30"],
            ["30", "8 devices"],
        ),
        pytest.param(
            [f"--config={QUICKSTART}", "--config.model.image.variant=B16"],
            ["'B16'", "'B/16'"],
            marks=pytest.mark.thorough,
        ),
        ([f"--config={QUICKSTART}:data=webdataset"], ["data.train.path"]),
        (
            [f"--config={QUICKSTART}:data=captions", "--config.data.train.path=gone"],
            ["gone", "does not exist"],
        ),
        ([f"--config={QUICKSTART}", "--config.init_from=gone"], ["gone"]),
        (["--config", "README.md"], ["no file README.md"]),
        ([f"--config={QUICKSTART}", "--config", QUICKSTART], ["--config is given 2"]),
        ([f"--config={QUICKSTART}", "--config.optim.lr=nan"], ["optim.lr=nan"]),
        ([f"--config={QUICKSTART}", "--config.optim.lr=-1"], ["optim.lr=-1"]),
        ([f"--config={QUICKSTART}", "--config.train.epochs=inf"], ["train.epochs=inf"]),
        (
            [f"--config={QUICKSTART}", "--config.model.mean=0.5"],
            ["model.mean", "3 entr"],
        ),
        (
            [
                f"--config={QUICKSTART}:augment=crop",
                "--config.data.augment.scale=('a',)",
            ],
            ["data.augment.scale"],
        ),
        pytest.param(
            [f"--config={QUICKSTART}", "--config.data.eval.split=foo"],
            ["foo", "heldout"],
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            [f"--config={QUICKSTART}", "--config.evals.zeroshot.label_sets=('shap',)"],
            ["shap"],
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_mistakes_of_train(capsys, argv, words):
    line = failure(capsys, train.main, *argv)
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["no --model"]),
        (["--workdir", "gone"], ["gone is no run directory"]),
        (["--workdir=x", "--config.evals.retrieval.block=2"], ["needs --config"]),
        (
            ["--workdir=x", f"--config={QUICKSTART}", "--config.model.embed_dim=9"],
            ["only evals"],
        ),
    ],
)
def test_mistakes_of_evaluate(capsys, argv, words):
    line = failure(capsys, evaluate.main, *argv)
    for word in words:
        assert word in line


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("model.embed_dim=65536", "on each device, which has 0.1 GB"),
        (
            "data.image_size=528",
            "data.batch_size=128, data.image_size=528: the pixels",
        ),
        ("data.workers=9", "data.workers=9: so many processes take 0.9 GB"),
    ],
)
def test_what_cannot_fit_is_told_before_memory_is_taken(
    capsys, monkeypatch, flag, words
):
    monkeypatch.setattr(memory_check, "_of_host", lambda: 50_000_000)
    argv = [f"--config={QUICKSTART}", f"--config.{flag}"]
    assert words in failure(capsys, train.main, *argv)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nat x"),
            "memory of a device is too small (RESOURCE_EXHAUSTED: Out of memory): use",
        ),
        (MemoryError(), "memory of the machine is too small (MemoryError): use"),
        (
            MemoryError("Unable to allocate 7.11 PiB"),
            "machine is too small (Unable to allocate 7.11 PiB): use",
        ),
    ],
)
def test_memory_that_ends_is_one_line(capsys, error, words):
    def main(argv):
        raise error

    line = failure(capsys, main)
    assert words in line and "data.batch_size" in line


def test_help_lists_every_component(capsys):
    assert train.main(["train", "--help"]) == 0
    printed = capsys.readouterr().out
    for word in ("loss", "clip", "webdataset", "vit", "quickstart.py", "--dry_run"):
        assert word in printed
    assert evaluate.main(["evaluate", "--help"]) == 0
    assert "retrieval" in capsys.readouterr().out


@pytest.mark.thorough
def test_dry_run_shows_and_trains_nothing(capsys, on_one_device):
    """Also if another run is in the way, which is mentioned."""
    kept = pathlib.Path("runs/quickstart/config.json")
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    argv = ["train", f"--config={QUICKSTART}", *TINY, "--dry_run"]
    assert train.main(argv) == 0
    printed = capsys.readouterr().out
    for word in ("text/token_embedding", "GFLOP", "MiB", "image_id", "parameters"):
        assert word in printed
    assert "training it would be refused: " in printed and "is damaged" in printed
    assert list(kept.parent.iterdir()) == [kept] and kept.read_text() == "{}"


ABSENT = {
    "a folder": ("vit_b16.py", [], True),
    "no folder given": ("flickr8k_vit.py", [], False),  # its tokenizer is trained
    "shards": ("memory_network.py", ["--config.data.train.path=gone"], False),
    "labelled": (
        "reports/resnet_classifier.py",
        ["--config.data.train.path=gone", "--config.model.image.variant=18"],
        True,
    ),
    "evaluation's alone": (
        "quickstart.py:evals=zeroshot@imagefolder,tokenizer=char",
        ["--config.evals.zeroshot.data.path=gone"],
        True,
    ),
}


@pytest.mark.parametrize("what", ABSENT)
def test_dry_run_without_data(capsys, on_one_device, what):
    config, flags, known = ABSENT[what]
    argv = ["train", f"--config={ROOT / 'configs' / config}", *flags, "--dry_run"]
    assert train.main(argv) == 0
    printed = capsys.readouterr().out
    last = printed.strip().splitlines()[-1]
    assert last.startswith("the data are absent, so ")
    assert "path=FOLDER" in last
    assert ("parameters, steps" in last) == (not known)
    assert bool(re.search(r"^[\d,]+ parameters$", printed, re.MULTILINE)) == known
    assert ("the model is not described: tokenizer" in printed) == (not known)


def test_messages_name_extras_that_there_are():
    """As `pip install -e '.[x]'`: the package is on no index."""
    spec = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = spec["project"]["optional-dependencies"].keys()
    places = [
        ROOT / "README.md",
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("clipjax/**/*.py"),
    ]
    texts = [place.read_text(encoding="utf-8") for place in places]
    named = [
        name for text in texts for name in re.findall(r"\.\[([a-z,0-9]+)\]'", text)
    ]
    assert len(named) >= 8
    assert {one for name in named for one in name.split(",")} <= extras
    assert not any("clipjax[" in text for text in texts)


@pytest.mark.thorough
def test_train_evaluate_and_load(capsys, on_one_device):
    """The README's three ways in, on the shrunk quickstart."""
    assert train.main(["train", f"--config={QUICKSTART}", *TINY]) == 0
    printed = capsys.readouterr().out
    assert "starting from scratch" in printed
    assert "mean_recall@1" in printed and "chance" in printed
    run = pathlib.Path("runs/quickstart")

    assert evaluate.main(["evaluate", "--workdir", str(run)]) == 0
    assert "step 4" in capsys.readouterr().out
    found = results.read(run / "evaluations" / "4")
    assert results.folders(run) == [found.folder]  # training wrote the same
    trained = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    for label, result in found.results.items():
        for name, metric in result.metrics.items():
            logged = trained[f"eval/{label}/{name}"]
            assert metric.value == pytest.approx(logged, abs=0.05)
        assert found.counts[label] == len(found.rows(label)["key"]) > 0

    argv = ["evaluate", "--workdir", str(run), f"--config={QUICKSTART}:evals=retrieval"]
    argv += ["--config.data.eval.eval_size=20", "--out=other"]
    argv += ["--config.data.eval.split=val"]
    assert evaluate.main(argv) == 0
    other = results.read("other").results
    assert list(other) == ["retrieval"]
    assert other["retrieval"].size.startswith("20 images")

    clip = clipjax.load(run)
    image = Image.fromarray(np.full((40, 30, 3), 200, np.uint8))
    embeds = clip.encode_image([image, image.convert("L")])
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(embeds[0], embeds[1], atol=1e-6)
    texts = clip.encode_text(["a red circle"])
    ids, mask = map(jnp.asarray, clip.tokenizer(["a red circle"]))
    again = clip.model.encode_text(clip.variables, ids, mask)["text_embed"]
    np.testing.assert_allclose(texts, again, atol=1e-5)
    assert clip.logit_scale == pytest.approx(1 / 0.07, rel=0.01)
    one = clip.encode_text("a red circle")
    np.testing.assert_allclose(one, texts[0], atol=1e-6)
    with pytest.raises(clipjax.UserError):
        clip.encode_image([b"no image"])


def test_results_that_cannot_be_kept_are_told_at_the_start(
    capsys, tmp_path, monkeypatch
):
    """A run of someone else, or on a disk that is full or mounted read-only."""
    (tmp_path / "run").mkdir()
    config = commandline.load_file(QUICKSTART)
    resume.save(tmp_path / "run", config)

    def read_only(folder):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))

    monkeypatch.setattr(
        atomic_files.tempfile, "TemporaryFile", lambda dir: read_only(dir)
    )
    line = failure(capsys, evaluate.main, "--workdir=run")
    assert f"written to {tmp_path / 'run' / 'evaluations'} (Read-only" in line
    assert "--out DIR" in line
    line = failure(capsys, evaluate.main, "--workdir=run", "--out=x")
    assert f"error: the results cannot be written to {tmp_path} (Read-only" in line
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    # Where that is right, the next thing that is missing is told.
    assert "is missing" in failure(capsys, evaluate.main, "--workdir=run")


def test_where_results_cannot_go(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    resume.save(tmp_path / "run", commandline.load_file(QUICKSTART))
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for name in ("file", "full"):
        line = failure(capsys, evaluate.main, "--workdir=run", f"--out={name}")
        assert f"{tmp_path / name} exists: name a new folder" in line
    for name in ("file/x", "new/x/y"):
        line = failure(capsys, evaluate.main, "--workdir=run", f"--out={name}")
        # The tokenizer's file is missing, which comes after.
        assert ("Not a directory" in line) == name.startswith("file")
    assert {*os.listdir(tmp_path)} - {"cache"} == {"file", "full", "run"}


def test_as_a_process():
    """python -m clipjax.train: a mistake is told in one line and exits with 2."""
    env = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "clipjax.train", "--config", QUICKSTART, "--cfg=1"],
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [done.stderr.strip()]
    assert "unknown flag '--cfg=1'" in done.stderr
