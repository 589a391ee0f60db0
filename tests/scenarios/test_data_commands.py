"""The commands of docs/data.md find and read small data in the exact public forms."""

import pathlib
import re
import shlex

import documented
import fsspec
import pytest
from documented_data import BUILDERS, Bucket

from clipjax import config, config_parts

ROOT = pathlib.Path(__file__).parents[2]
COMMANDS = [
    piece.command
    for piece in documented.pieces("docs/data.md")
    if piece.block < 0 and piece.command.startswith("python -m clipjax.train -")
]


# Examples of the training and the evaluation source.
SIZES = {
    "data/hub_captions": (9, 4),
    "data/hub_labels": (3, 3),
    "data/records": (36, 4),
    "data/tfds": (5, 3),
    "data/mine": (36, 4),
    "data/pictures": (38, 2),
    "data/wds_cifar10": (4, 4),
    "data/flickr8k": (2, 1),
    "data/flickr30k": (28, 2),
    "data/coco": (4, 2),
    "data/karpathy": (3, 1),  # validation and test have one image each
    "data/cc3m": (993, 3),
    "gs://my-bucket/cc3m": (993, 3),
    "data/cc3m_files": (396, 2),
    "data/cc3m_parquet": (396, 2),
    "data/imagenet": (16, 11),
    "data/ILSVRC/Data/CLS-LOC": (3, 3),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    fsspec.register_implementation("gs", Bucket, clobber=True)
    yield tmp_path
    fsspec.register_implementation("gs", "gcsfs.GCSFileSystem", clobber=True)


def test_the_page_has_a_command_for_each_source():
    from clipjax import registry

    chosen = " ".join(COMMANDS)
    benchmarks = {"aro", "winoground"}  # which docs/evaluation.md has
    for name in sorted({*registry.names("data")} - benchmarks):
        default = {
            "scenes": "quickstart",
            "captions": "flickr8k",
            "multimodal": "memory",
        }
        assert f"data={name}" in chosen or default.get(name, f"@{name}") in chosen
    assert len(COMMANDS) >= 15


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_reads_its_data(command, place):
    paths = re.findall(r"(?:path|data_dir)=(\S+)", command)
    for path in dict.fromkeys(paths):
        local = place / (path if "://" not in path else "remote")
        local.parent.mkdir(parents=True, exist_ok=True)
        BUILDERS[path](local)
    made = documented.opened(shlex.split(command)[3:])
    sections = [made.data.train, made.data.eval]
    evals = [made.evals[label] for label in config_parts.labels(made.evals, "evals")]
    sections += [section.data for section in evals if "data" in section]
    sources = [config.create("data", s, s["split"]) for s in sections]
    for source in sources:
        for i in (0, len(source) - 1):
            example = source[i]
            assert len(example.captions) == source.caption_counts[i]
            assert example.image is not None
    if paths:
        expected = SIZES[paths[0]]
        if "data=mixture" in command:
            expected = tuple(map(sum, zip(*map(SIZES.get, paths), strict=True)))
        if "max_classes" in command:
            expected = (13, 9)
            assert len(sources[0].class_names["class"]) == 5
        assert (len(sources[0]), len(sources[1])) == expected
    if "zeroshot@" in command and len(paths) > 1:
        assert len(sources[2]) == SIZES[paths[1]][1]
