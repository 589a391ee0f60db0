"""Run folders for tests of reports: a saved tiny run with numbers and evaluations."""

from __future__ import annotations

import json
import pathlib
import shutil
import tarfile

import numpy as np

from clipjax import registry, results
from clipjax.report_parts import run_files
from clipjax.types import EvalResult, Metric

SAVED = pathlib.Path(__file__).parent / "scenarios" / "goldens" / "saved_run.tar.gz"
DATA = {
    "name": "scenes", "split": "val", "seed": 0,
    "size": 160, "eval_size": 32, "resolution": 16,
}  # fmt: skip
IMAGES, CAPTIONS = 8, 3


def saved_run(folder: pathlib.Path, name: str = "run") -> pathlib.Path:
    """The saved run, as an earlier version of clipjax left it; it has no evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(SAVED) as file:
        file.extractall(folder, filter="data")
    return (folder / "run").rename(folder / name)


def run(
    folder: pathlib.Path, name: str = "run", *, model: bool = False, **changes
) -> pathlib.Path:
    """A run of 40 logged steps with a retrieval and a classification.

    model: whether it keeps its checkpoint, which takes seconds to compile. changes: of
    `evaluate`.
    """
    place = saved_run(folder, name)
    if not model:
        shutil.rmtree(place / "checkpoints")
    config = json.loads((place / "config.json").read_text())
    config["train"]["steps"] = 40
    (place / "config.json").write_text(json.dumps(config))
    log(place, loss=4.0 * 0.93 ** np.arange(40))
    evaluate(place, **changes)
    return place


def log(place: pathlib.Path, **series) -> None:
    """Writes metrics.jsonl: a row per step with train/NAME, or eval/NAME and time/NAME
    for names that begin with eval_ or time_."""
    count = max(map(len, series.values()))
    with (place / "metrics.jsonl").open("w") as file:
        for at in range(count):
            row = {"step": at + 1, "time": 1e9 + 2 * at}
            for name, values in series.items():
                part, _, rest = name.partition("_")
                key = f"{part}/{rest}" if part in ("eval", "time") else f"train/{name}"
                if at < len(values):
                    row[key] = float(values[at])
            file.write(json.dumps(row) + "\n")


def read(place: pathlib.Path) -> run_files.RunFiles:
    return run_files.Reader(str(place)).read()


def logged(folder: pathlib.Path, **series) -> run_files.RunFiles:
    """A run of these numbers."""
    place = saved_run(folder)
    log(place, **series)
    return read(place)


def retrieval_rows(captions=None, keys=None) -> dict:
    """The rows of IMAGES images with CAPTIONS captions each.

    Image 0 finds its caption first, image i at rank i + 1; caption c finds its image
    first if c is even, else second. The best answers that are wrong are the next ones.
    """
    source = registry.load("data", "scenes")(
        DATA["split"],
        **{k: DATA[k] for k in ("seed", "size", "eval_size", "resolution")},
    )
    keys = keys or [source.key_of(i) for i in range(IMAGES)]
    texts = captions or [x for i in range(IMAGES) for x in source.captions_of(i)]
    total = len(texts)
    rows = {
        "key": [], "protocol": [], "direction": [], "fold": [], "query": [],
        "captions": [], "right": [], "prediction": [], "score": [], "rank": [],
        "ties": [], "own": [], "neighbours": [],
    }  # fmt: skip

    def add(key, direction, query, said, right, rank, best):
        line = [key, "standard", direction, 0, query, said, right, best[0], 0.5]
        line += [float(rank), 0, 1, best]
        for name, value in zip(rows, line, strict=True):
            rows[name].append(value)

    for image in range(IMAGES):
        own = [CAPTIONS * image + n for n in range(CAPTIONS)]
        others = [(own[-1] + 1 + n) % total for n in range(5)]
        best = [*others[:image], own[0], *others][:5]
        said = [texts[x] for x in own]
        add(keys[image], "image_to_text", image, said, own, image + 1, best)
    for text in range(total):
        image, wrong = (
            text // CAPTIONS,
            [(text // CAPTIONS + n) % IMAGES for n in (1, 2)],
        )
        best = [image, *wrong] if text % 2 == 0 else [wrong[0], image, wrong[1]]
        said = [texts[text]]
        rank = 1 + text % 2
        add(keys[image], "text_to_image", text, said, [image], rank, [*best, -1, -1])
    numbers = ("fold", "query", "prediction", "score", "rank", "ties", "own")
    rows.update({name: np.array(rows[name]) for name in numbers})
    rows["neighbours"] = np.array(rows["neighbours"])
    return rows


def class_rows() -> dict:
    """Eight images of the classes circle and square; 5 and 7 are taken for circles."""
    names = ["circle", "square"]
    label = np.arange(IMAGES) % 2
    prediction = np.where(np.isin(np.arange(IMAGES), (5, 7)), 0, label)
    return {
        "key": [f"scenes/val/{i}" for i in range(IMAGES)],
        "label_set": ["shape"] * IMAGES,
        "label": label,
        "prediction": prediction,
        "label_name": [names[x] for x in label],
        "prediction_name": [names[x] for x in prediction],
        "score": np.linspace(0.1, 0.8, IMAGES),
        "rank": np.where(label == prediction, 1.0, 2.0),
        "ties": np.zeros(IMAGES, int),
        "neighbours": np.stack([prediction, 1 - prediction], 1),
    }


def evaluate(place: pathlib.Path, captions=None, keys=None, data=DATA) -> None:
    """Writes the run's evaluation of step 2."""
    recall = Metric(0.3125, 0.125, "fraction", low=0.2, high=0.45, n=32)
    rank = Metric(1.5, 4.5, "rank", False)
    top1 = Metric(0.75, 0.5, "fraction", low=0.4, high=0.93, n=IMAGES)
    found = {
        "retrieval": EvalResult(
            {"mean_recall@1": recall, "mean_rank": rank},
            "mean_recall@1",
            "8 images x 24 captions",
            rows=retrieval_rows(captions, keys),
        ),
        "zeroshot": EvalResult(
            {"shape/top1": top1}, "shape/top1", "8 images, 2 classes", rows=class_rows()
        ),
    }
    evals = {name: {"name": name} for name in found}
    meta = {"step": 2, "ema": False, "evals": evals, "data": data}
    results.save(place / "evaluations" / "2", {"": (found, meta)})
