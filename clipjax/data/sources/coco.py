"""Reads MS-COCO's captions in their distributed layout.

PATH/annotations/captions_train2017.json with PATH/train2017/*.jpg, the same for val and
for 2014 (arXiv 1405.0312, 1504.00325). All captions of an image form one example. For
the usual test on 5,000 images see `karpathy`.

    --config configs/x.py:data=coco --config.data.train.path=FOLDER
"""

from __future__ import annotations

import pathlib

from clipjax.data.annotations import coco_json, image_list
from clipjax.data.storage import file_contents, json_files, local
from clipjax.types import UserError

SPLITS = ("train", "val")


def make(
    split: str,
    *,
    path: str = "",
    year: int = 0,
    images: str = "",
    max_samples: int = 0,
    subset_seed: int = -1,
) -> image_list.ImageList:
    """Reads the captions of split "train" or "val"; images are read on access.

    The images are in the order of the file's list `images`.

    Options:
      path: the folder of `annotations` and the images' folders.
      year: the edition, 2014 or 2017; 0: the only one in the folder.
      images: folder of the images, relative to `path`; "" finds train2017,
        images/train2017 and similar names.
      max_samples: use so many images (0: all).
      subset_seed: which images: -1 the first, else a choice by this seed.

    Raises UserError for missing files and for JSON of another form. A caption that is
    not text breaks its own image.
    """
    if split not in SPLITS:
        raise UserError(
            f"data=coco has captions of the splits train and val, not {split!r}; "
            f"data=karpathy has a test split"
        )
    base = local.folder(path, "MS-COCO's annotations and images")
    table = _find(base, split, year)
    entries, problems = coco_json.read(table, json_files.read(table))
    name = table.stem.removeprefix("captions_")
    folders = (name, f"images/{name}", f"{name}/{name}", "images")
    entries = image_list.portable(base, images, entries, table, problems, folders)
    local.report(f"coco {table}", problems)
    return image_list.make(
        base,
        images,
        entries,
        table,
        problems,
        max_samples=max_samples,
        subset_seed=subset_seed,
        folders=folders,
    )


def _find(base: pathlib.Path, split: str, year: int) -> pathlib.Path:
    """Returns the file of captions, by default of the only year in the folder."""
    folder = base / "annotations"
    if year:
        table = folder / f"captions_{split}{year}.json"
        if not table.is_file():
            raise local.missing(table, f"It holds split={split} of year={year}")
        return table
    tables = sorted(folder.glob(f"captions_{split}20[0-9][0-9].json"))
    if not tables:
        content = file_contents.summary(folder if folder.is_dir() else base)
        raise UserError(
            f"{folder} holds no captions_{split}2017.json or captions_{split}2014.json"
            f" ({content}): unpack MS-COCO's "
            f"annotations_trainval2017.zip in {base}, or read one file by "
            f"data=captions with the option table"
        )
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise UserError(f"{folder} holds {names}: set the option year")
    return tables[0]
