"""Reads Flickr8k, Flickr30k and MS-COCO in the splits of Karpathy and Fei-Fei.

Retrieval is usually reported on their test images: 1,000 each of Flickr8k and
Flickr30k, 5,000 of MS-COCO (arXiv 1412.2306). `dataset_flickr8k.json`,
`dataset_flickr30k.json` and `dataset_coco.json` list the splits.

    --config configs/x.py:data=karpathy --config.data.train.path=FOLDER
"""

from __future__ import annotations

import pathlib

from clipjax.data.annotations import caption_entries, image_list
from clipjax.data.annotations.caption_entries import Counts, Entry
from clipjax.data.storage import file_contents, json_files, local
from clipjax.types import UserError

FILES = (
    *("dataset_flickr8k.json", "dataset_flickr30k.json", "dataset_coco.json"),
    "dataset.json",
)
SPLITS = ("train", "val", "test")
RESTVAL = "restval"  # images of COCO's validation set that are in neither val nor test


def make(
    split: str,
    *,
    path: str = "",
    file: str = "",
    images: str = "",
    restval: bool = True,
    max_samples: int = 0,
    subset_seed: int = -1,
) -> image_list.ImageList:
    """Reads the captions of split "train", "val" or "test"; images are read on access.

    Options (paths are relative to `path`, or absolute):
      path: the folder of the JSON file and the images; MS-COCO's images are in its
        subfolders train2014 and val2014.
      file: the JSON file; "" finds the usual ones.
      images: folder of the images, or of COCO's two folders; "" finds the usual ones.
      restval: train on MS-COCO's 30,504 images of "restval" too, as is customary.
      max_samples: use so many images (0: all).
      subset_seed: which images: -1 the first, else a choice by this seed.

    Raises UserError for missing files and for JSON of another form. A caption that is
    not text breaks its own image.
    """
    if split not in SPLITS:
        raise UserError(
            f"data=karpathy has no split {split!r}; use {', '.join(SPLITS)} (and the "
            f"option restval)"
        )
    base = local.folder(path, "images and Karpathy's splits")
    table = local.inside(base, file, "file") if file else _find(base)
    splits = {split, RESTVAL} if split == "train" and restval else {split}
    entries, problems = read(table, splits)
    entries = image_list.portable(base, images, entries, table, problems)
    local.report(f"karpathy {table}", problems)
    return image_list.make(
        base,
        images,
        entries,
        table,
        problems,
        max_samples=max_samples,
        subset_seed=subset_seed,
    )


def read(table: pathlib.Path, splits: set[str]) -> tuple[dict[str, Entry], list[str]]:
    """Returns (image path -> its captions, for these splits; problems)."""
    content = json_files.read(table)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise UserError(
            f"{table} does not have the form of Karpathy's splits, an object with the "
            f"list 'images', but is {json_files.describe(content)}"
        )
    counts = Counts()
    entries: dict[str, Entry] = {}
    known: set[str] = set()
    for image in content["images"]:
        image_split = image.get("split") if isinstance(image, dict) else None
        name = image.get("filename") if isinstance(image, dict) else None
        if not isinstance(image_split, str) or not isinstance(name, str) or not name:
            counts["images without split or filename, left out"] += 1
            continue
        known.add(image_split)
        if image_split not in splits:
            continue
        if folder := image.get("filepath"):
            name = f"{folder}/{name}"
        if name in entries:
            counts["images listed twice, left out"] += 1
            continue
        entry = entries[name] = Entry()
        sentences = image.get("sentences")
        if not isinstance(sentences, list):
            entry.mark("it has no list of sentences")
            continue
        for sentence in sentences:
            raw = sentence.get("raw") if isinstance(sentence, dict) else None
            if raw is None:
                entry.mark("one of its sentences has no raw text")
            else:
                entry.add(raw, counts)
    if not entries:
        raise UserError(
            f"{table} has no images of {' or '.join(sorted(splits))}; its splits: "
            f"{', '.join(sorted(known)) or '(none)'} ('images' is "
            f"{json_files.describe(content['images'])})"
        )
    return entries, caption_entries.problems(counts, entries)


def _find(base: pathlib.Path) -> pathlib.Path:
    tables = [base / name for name in FILES if (base / name).is_file()]
    if not tables:
        raise UserError(
            f"{base} has none of {', '.join(FILES)} ({file_contents.summary(base)}): "
            "put one there, from caption_datasets.zip on Karpathy's page, or set the "
            "option file"
        )
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise UserError(f"{base} holds {names}: set the option file")
    return tables[0]
