"""What tests of stored embeddings share: a trained model, pictures, whole folders."""

from __future__ import annotations

import io
import json
import pathlib
import tarfile

import numpy as np
from PIL import Image
from rich.console import Console
from source_tools import write_tar

import clipjax

RUN = pathlib.Path(__file__).parent / "scenarios" / "goldens" / "saved_run.tar.gz"
SCENES = {"eval_size": 10, "resolution": 16}
BROKEN = 4  # the number of the picture that is none


def run(folder):
    """A tiny trained run, "folder/run"."""
    with tarfile.open(RUN) as file:
        file.extractall(folder, filter="data")
    return folder / "run"


def picture(number):
    wide, high = 20 + number, 30 - number
    draw = np.random.default_rng(number)
    stream = io.BytesIO()
    small = draw.integers(0, 256, (high, wide, 3), np.uint8)
    Image.fromarray(small).save(stream, "PNG")
    return stream.getvalue()


def shards(folder, count=7):
    """A folder of webdataset shards, one of whose pictures is broken: `captions` has
    0, 1 or 2 captions each, and the classes are 0 and 1.
    """
    folder.mkdir(parents=True)
    members = []
    for number in range(count):
        content = b"no picture" if number == BROKEN else picture(number)
        fields = {"captions": captions(number)}
        members += [
            (f"{number:03}.png", content),
            (f"{number:03}.json", json.dumps(fields).encode()),
            (f"{number:03}.cls", str(number % 2).encode()),
        ]
    write_tar(folder / "val-0.tar", members)
    (folder / "classnames.txt").write_text("dog\ncat\n")
    return folder


def captions(number):
    return [f"a large red circle {number}", f"two stars {number}"][: number % 3]


def embed(model, out, **options):
    """What `embed_data` returns, with what it said as `said`."""
    stream = io.StringIO()
    console = Console(file=stream, width=200)
    options = {"batch_size": 2, "part_size": 3, "console": console, **options}
    if not options.get("texts") and "data" not in options:
        options = {"data": "scenes", "data_options": SCENES, **options}
    return clipjax.embed_data(model, out, **options), stream.getvalue()


def content(folder):
    """Every file of a folder: its path -> its bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
