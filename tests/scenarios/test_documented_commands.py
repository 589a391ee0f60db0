"""Every command and snippet of README.md and docs/ runs, made small, on small data."""

import contextlib
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import documented
import documented_data
import fsspec
import pytest
from documented import ROOT

import run_tools
from clipjax import (
    compare,
    config_check,
    doctor,
    embed,
    evaluate,
    export,
    maps,
    monitor,
    prepare,
    report,
    search,
    study,
    train,
)
from clipjax.testing import __main__ as testing

MAINS = {
    "clipjax.train": train,
    "clipjax.evaluate": evaluate,
    "clipjax.compare": compare,
    "clipjax.doctor": doctor,
    "clipjax.embed": embed,
    "clipjax.export": export,
    "clipjax.maps": maps,
    "clipjax.monitor": monitor,
    "clipjax.prepare": prepare,
    "clipjax.report": report,
    "clipjax.search": search,
    "clipjax.study": study,
    "clipjax.testing": testing,
}
# What a training command is made smaller by, if its config has the key.
TOWER = {"width": 32, "depth": 1, "heads": 2}
SMALLER = {
    "train.steps": 2,
    "train.epochs": 0.0,
    "train.eval_every": 2,
    "checkpoint.every": 2,
    "data.batch_size": 4,
    "data.image_size": 32,
    "data.workers": 0,
    "data.train.size": 64,
    "data.train.eval_size": 24,
    "data.train.resolution": 16,
    "model.embed_dim": 16,
    "model.latent_dim": 32,
    "model.memory_size": 8,
    "optim.schedule.warmup": 0.0,
    **{f"model.image.{key}": size for key, size in TOWER.items()},
    **{f"model.text.{key}": size for key, size in TOWER.items()},
}
# And where the small data are smaller than that, by their place.
SMALLER_DATA = {
    "data/imagenet": {"model.num_classes": 6},
    "data/ILSVRC/Data/CLS-LOC": {"model.num_classes": 3, "data.batch_size": 2},
}
# The same of benchmarks, which are processes of their own.
BENCHMARKS = {
    "compare_losses.py": "--losses clip --seeds 1 --steps 2",
    "embed.py": "--tiny --images 12 --batch 4 --rounds 1 --threads 1",
    "index_scale.py": "--examples 20000 --shards 10",
    "input_pipeline.py": "--images 40 --size 32 --batch 4 --rounds 1 --turn 400 "
    "--steps 1 --depth 1",
    "interval_coverage.py": "--images 20 --classes 5 --draws 2 --rank_draws 1 "
    "--drop_draws 1 --pair_draws 2",
    "loss_memory.py": "--width 16 --block 16 --timed 64 --seconds 0.1 --bound 256 "
    "--losses clip",
    "near_copies.py": "--data.max_samples=10",
    "photo_index.py": "--rounds 1 --batch 4 --threads 1",
    "photo_search.py": "--photos 300 --width 8 --rounds 1 --top 3",
    "pointing.py": "--scenes 4",
    "train_step.py": "--rounds 1 --steps 1 --case tiny --batch 2 --length 8",
}
# What a page's snippet leaves to its reader.
GIVEN = {
    "docs/models.md": "import clipjax\nimage = 'a.jpg'\n",
    "docs/memory_network.md": """
import clipjax
import numpy as np
clip = clipjax.load("runs/synthetic")
model, variables = clip.model, clip.variables
ids, mask = clip.tokenizer(["a", "b"])
image = np.zeros((2, 32, 32, 3), np.uint8)
batches = [{"image": image, "text": ids, "text_mask": mask}, {"image": image}]
""",
}
# `prepare verify` ends so where data have a fault, as Flickr8k's table does.
FAULTS = 1


def smaller(words):
    """Flags that shrink a training command, behind its own."""
    flat = config_check.to_dict(documented.opened(words))
    flags = []
    sizes = dict(SMALLER)
    if any("model=released" in word for word in words):  # it has its own sizes
        own = ("model.", "data.image_size")
        sizes = {key: x for key, x in sizes.items() if not key.startswith(own)}
    if any("early_stop." in word for word in words):  # evaluated before its end
        sizes["train.eval_every"] = 1
    for place, own in SMALLER_DATA.items():
        if any(word.endswith(f"={place}") for word in words):
            sizes |= own
    for key, value in sizes.items():
        if key == "model.image.depth" and any("block_1" in word for word in words):
            continue  # the pattern is of blocks that must be there
        section = flat
        for part in key.split("."):
            section = section.get(part, {}) if isinstance(section, dict) else {}
        given = any(word.startswith(f"--config.{key}=") for word in words)
        if not isinstance(section, dict) and not given:
            flags.append(f"--config.{key}={value}")
    return flags


def paths_of(text):
    """The places that a piece names, of those that can be made."""
    known = sorted(documented_data.TO_RUN, key=len, reverse=True)
    word = "|".join(map(re.escape, known))
    return re.findall(rf"(?<![\w/:])(?:{word})(?![\w/])", text)


def make_places(piece, shared):
    text = GIVEN.get(piece.page, "") + piece.command
    if "vit_b16.py" in text and "path=" not in text:
        text += " data/flickr30k"  # the config's own
    for path in dict.fromkeys(paths_of(text)):
        place = pathlib.Path(path if "://" not in path else "remote")
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            documented_data.TO_RUN[path](place)
    trained = re.findall(r"--workdir (\S+)", text) if "clipjax.train" in text else []
    for path in dict.fromkeys(re.findall(r"runs/\w+", text)):
        if not pathlib.Path(path).exists() and path not in trained:
            shutil.copytree(shared.run(path), path)
    folder = pathlib.Path("clip-vit-base-patch32")
    if folder.name in text and not folder.exists():
        shutil.copytree(shared.released(), folder)


class Shared:
    """Runs that are made once for all pieces which need one."""

    def __init__(self, folder):
        self.folder = folder

    def run(self, path):
        place = self.folder / path
        if not place.exists():
            data = self.folder / "data"
            if not data.exists():
                documented_data.TO_RUN["DATA/flickr8k"](data)
            if place.name == "flickr8k":  # as docs/results.md trains it
                self._results(data, place)
                return place
            made = run_tools.tiny("data=captions", evals=True, data__batch_size=4)
            for section in (made.data.train, made.data.eval):
                section.path = str(data)
            run_tools.train(made, place)
        return place

    def _results(self, data, place):
        words = ["--config", "configs/flickr8k_vit.py:size=cpu"]
        words += [f"--config.data.train.path={data}", "--workdir", str(place)]
        assert train.main(["train", *words, *smaller(words)]) == 0

    def released(self):
        place = self.folder / "released"
        if not place.exists():
            run = [
                "--config",
                "configs/quickstart.py:tokenizer=bpe",  # which knows every word
                "--workdir",
                str(place) + "_run",
            ]
            assert train.main(["train", *run, *smaller(run)]) == 0
            argv = ["export", *run[2:], "--format", "hf"]
            assert export.main([*argv, "--out", str(place)]) == 0
        return place


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documented")
    with run_tools.one_device():
        yield Shared(folder)


def execute(piece, shared):
    make_places(piece, shared)
    if piece.kind == "python":
        code = GIVEN.get(piece.page, "") + piece.text
        kept = [line for line in code.splitlines() if not documented.reason(line)]
        exec(compile("\n".join(kept), piece.page, "exec"), {})
        return
    if piece.argv[1].startswith("benchmarks/"):
        benchmark(piece.argv[1:])
        return
    python, _, module, *words = piece.argv
    assert python == "python" and module in MAINS, piece.command
    trains = module == "clipjax.train" and "--help" not in words
    if trains or (module == "clipjax.doctor" and "--config" in words):
        words += smaller(words)
    if module == "clipjax.study":
        words.append("--dry_run")
    status = MAINS[module].main([module, *words])
    assert status == 0 or (words[0], status) == ("verify", FAULTS)


def benchmark(words):
    flags = shlex.split(BENCHMARKS[pathlib.Path(words[0]).name])
    done = subprocess.run(
        [sys.executable, *words, *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@contextlib.contextmanager
def reader_at(place, monkeypatch):
    """A reader's clone: its configs, benchmarks and examples, and nothing else yet."""
    for name in ("configs", "benchmarks", "examples"):
        (place / name).symlink_to(ROOT / name)
    monkeypatch.chdir(place)
    # The test process emulates devices already.
    monkeypatch.setattr(testing, "emulate_devices", lambda: None)
    fsspec.register_implementation("gs", documented_data.Bucket, clobber=True)
    yield
    fsspec.register_implementation("gs", "gcsfs.GCSFileSystem", clobber=True)


def test_the_pages_are_read_whole():
    """Every line of a block is a piece, or stands in NOT_RUN."""
    assert [p.command for p in documented.pieces("README.md")][0] == (
        "python -m clipjax.train --config configs/quickstart.py"
    )
    counts = {page: len(documented.pieces(page)) for page in documented.PAGES}
    assert counts["README.md"] >= 10 and counts["docs/data.md"] >= 22
    for start in documented.NOT_RUN:
        assert any(start in documented.text_of(page) for page in documented.PAGES)


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_the_readme_in_its_order(tmp_path, monkeypatch, shared):
    with reader_at(tmp_path, monkeypatch):
        for piece in documented.pieces("README.md"):
            execute(piece, shared)


INLINE = [
    p for page in documented.PAGES for p in documented.pieces(page) if p.block < 0
]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", documented.PAGES[1:])
def test_a_page_in_its_order(page, tmp_path, monkeypatch, shared):
    with reader_at(tmp_path, monkeypatch):
        for piece in documented.pieces(page):
            if piece.block >= 0:
                execute(piece, shared)


@pytest.mark.slow
@pytest.mark.parametrize("piece", INLINE, ids=lambda piece: piece.text[:80])
def test_a_command_in_the_text(piece, tmp_path, monkeypatch, shared):
    with reader_at(tmp_path, monkeypatch):
        execute(piece, shared)
