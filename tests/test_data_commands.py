"""The commands of docs/data.md find and read small data in the exact public forms."""

import io
import os
import pathlib
import re
import shlex

import dataset_tools
import fsspec
import pytest
import test_tfds
from fsspec.implementations.memory import MemoryFileSystem
from source_tools import jpeg

from clipjax import commandline, config, config_check, config_parts, prepare

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").replace("\\\n", " ")
COMMANDS = re.findall(r"python -m clipjax\.(?:train|evaluate) -[^`\n]+", TEXT)


class Bucket(MemoryFileSystem):
    protocol = "gs"
    store = {}
    pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("gs://", "memory://"))


def captions(folder):
    dataset_tools.images(folder / "images", [f"{i}.jpg" for i in range(40)])
    rows = "".join(f'{i}.jpg,"A caption, of {i}."\n' for i in range(40))
    (folder / "captions.csv").write_text("image,caption\n" + rows)


def flickr30k(folder):
    """With names enough that the hash leaves some for validation."""
    names = dataset_tools.FLICKR30K
    dataset_tools.FLICKR30K = tuple(f"{n}.jpg" for n in range(1000092795, 1000092825))
    try:
        dataset_tools.flickr30k(folder)
    finally:
        dataset_tools.FLICKR30K = names


def shards(folder):
    """332 of them, as CC3M has, all alike."""
    dataset_tools.img2dataset(folder, "webdataset")
    for i in range(2, 332):
        os.link(folder / "00001.tar", folder / f"{i:05}.tar")


def bucket(folder):
    shards(folder / "bucket")
    store = fsspec.filesystem("gs")
    for place in (folder / "bucket").glob("*.tar"):
        store.pipe(f"/my-bucket/cc3m/{place.name}", place.read_bytes())


def img2dataset(form):
    """So many that some fall into validation by their keys."""

    def build(folder):
        kept = dataset_tools.KEYS
        dataset_tools.KEYS = tuple(f"{s:05}{i:04}" for s in (0, 1) for i in range(200))
        try:
            dataset_tools.img2dataset(folder, form)
        finally:
            dataset_tools.KEYS = kept

    return build


def classes(folder):
    for split, count in (("train", 3), ("val", 2)):
        for name in ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                place = folder / split / name / f"{name}_{i}.JPEG"
                place.write_bytes(jpeg(i))
        (folder / split / "n01496331").mkdir()
        (folder / split / "n01496331" / "0.JPEG").write_bytes(jpeg())


def imagenet(folder):
    """As classes, with the validation images in one folder."""
    names = ("n01440764", "n01443537", "n01484850")
    rows = []
    for i, name in enumerate(names):
        (folder / "train" / name).mkdir(parents=True)
        (folder / "train" / name / f"{name}_18.JPEG").write_bytes(jpeg(i))
        (folder / "val").mkdir(exist_ok=True)
        place = folder / "val" / f"ILSVRC2012_val_{i + 1:08}.JPEG"
        place.write_bytes(jpeg(i))
        rows.append(f"{place.stem},{name} 111 108 230 190 \n")
    (folder / "../../../LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n" + "".join(rows)
    )


def records(folder):
    captions(folder.parent / "source")
    for split in ("train", "val"):
        flags = ["--data=captions", f"--data.path={folder.parent / 'source'}"]
        flags += [f"--split={split}", f"--out={folder}"]
        assert prepare.main(["prepare", "convert", *flags]) == 0


def tfds(folder):
    def features(made):
        return {
            "image": made.Image(encoding_format="jpeg"),
            "captions": made.Sequence({"text": made.Text()}),
        }

    counts = {"train": 5, "validation": 3}
    test_tfds.prepare(
        folder,
        "CocoCaptions",
        features,
        {
            split: [
                {
                    "image": io.BytesIO(jpeg(i)),
                    "captions": [{"text": f"{i}, {c}"} for c in range(5)],
                }
                for i in range(count)
            ]
            for split, count in counts.items()
        },
    )


def hub_labels(folder):
    counts = {"train": 3, "validation": 3, "test": 3}
    dataset_tools.hub(folder, counts, name="default/{split}/{i:04}.parquet")


BUILDERS = {
    "data/hub_captions": lambda folder: dataset_tools.hub(
        folder, {"train": 9, "validation": 4}, labels=False
    ),
    "data/hub_labels": hub_labels,
    "data/records": records,
    "data/tfds": tfds,
    "data/mine": captions,
    "data/flickr8k": dataset_tools.flickr8k,
    "data/flickr30k": flickr30k,
    "data/coco": lambda folder: dataset_tools.coco(folder, (2014, 2017)),
    "data/karpathy": lambda folder: dataset_tools.karpathy(folder, "coco"),
    "data/cc3m": shards,
    "gs://my-bucket/cc3m": bucket,
    "data/cc3m_files": img2dataset("files"),
    "data/cc3m_parquet": img2dataset("parquet"),
    "data/imagenet": classes,
    "data/ILSVRC/Data/CLS-LOC": imagenet,
}
# Examples of the training and the evaluation source.
SIZES = {
    "data/hub_captions": (9, 4),
    "data/hub_labels": (3, 3),
    "data/records": (36, 4),
    "data/tfds": (5, 3),
    "data/mine": (36, 4),
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


def opened(command):
    """The config of a command, as clipjax.train and evaluate make it."""
    argv = ["train", *shlex.split(command)[3:]]
    made = commandline.load_file(commandline.config_value(argv))
    chosen = made.copy_and_resolve_references()
    commandline.parse(argv, made, workdir="", extend=False, dry_run=False)
    config_check.validate(made, chosen)
    return made


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
    for name in registry.names("data"):
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
    made = opened(command)
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
