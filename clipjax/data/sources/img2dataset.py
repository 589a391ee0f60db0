"""Reads img2dataset's downloads: CC3M, CC12M, LAION and other lists of addresses.

It reads the output formats `files` (00000/000000012.jpg with .txt and .json) and
`parquet` (00000.parquet with columns key, caption, status, jpg and others, through
`data=parquet`); `data=webdataset` reads the format `webdataset` (00000.tar). Failed
downloads are left out. After github.com/rom1504/img2dataset. One folder of images with
text files of their names is read in the same way, by `data=captions` too.

    --config configs/x.py:data=img2dataset --config.data.train.path=FOLDER
"""

from __future__ import annotations

import os
import pathlib

from clipjax.data.containers import parquet_splits
from clipjax.data.sources import image_texts, parquet
from clipjax.data.storage import file_contents, local, selection, shard_files
from clipjax.types import UserError


def make(
    split: str,
    *,
    path: str = "",
    shards: str = "*",
    image_column: str = "",
    caption_column: str = "",
    text_lines: bool = True,
    val_fraction: float = 0.01,
    max_samples: int = 0,
    subset_seed: int = -1,
) -> image_texts.Files | parquet.Parquet:
    """Lists the images, in the order of their shards; reads them on access.

    The split is "train", "val" or "all"; an example belongs to "val" by a hash of its
    key, see clipjax.data.storage.selection.is_held_out.

    Options:
      path: the folder that was img2dataset's `output_folder`.
      shards: names without suffix: a pattern, or numbered shards of which none may be
        missing, "{00000..00331}"; several are joined by "::".
      image_column, caption_column: of parquet files; "" finds the usual ones.
      text_lines: whether each line of a `.txt` with several lines is a caption.
      val_fraction: share of the examples in "val", in [0, 1].
      max_samples: use so many examples (0: all).
      subset_seed: which ones: -1 the first, else a choice by this seed.

    Raises UserError for missing folders and shards, for files of another form, and
    if no example is left.
    """
    if split not in selection.SPLITS:
        raise UserError(
            f"data=img2dataset has no split {split!r}; use "
            f"{', '.join(selection.SPLITS)}, or one path for each split"
        )
    selection.check_fraction(val_fraction)
    base = local.folder(path, "img2dataset's shards")
    form = _form(base)
    if form == "parquet":
        return parquet.make(
            split,
            path=path,
            shards="::".join(
                f"{pattern}{parquet_splits.SUFFIX}" for pattern in shards.split("::")
            ),
            image_column=image_column,
            caption_column=caption_column,
            val_fraction=val_fraction,
            max_samples=max_samples,
            subset_seed=subset_seed,
        )
    if image_column or caption_column:
        raise UserError(
            f"image_column and caption_column are of parquet files; {base} holds "
            f"folders of images: remove the options"
        )
    names = [""]
    if form == "files":
        folder = shard_files.LocalFolder(base, subfolders=True)
        found = shard_files.find(folder, shards, split)
        names = [name for name in found if not name.startswith((".", "_"))]
    return image_texts.list_folders(
        base,
        names,
        split,
        text_lines=text_lines,
        val_fraction=val_fraction,
        max_samples=max_samples,
        subset_seed=subset_seed,
    )


def _form(base: pathlib.Path) -> str:
    """The folder's form: "files", "parquet", or "flat" for images with texts in the
    folder itself.

    Raises UserError if it has the format `webdataset`, or no output of img2dataset.
    """
    entries = sorted(
        (entry for entry in os.scandir(base) if not entry.name.startswith((".", "_"))),
        key=lambda entry: entry.name,
    )
    tars = [entry.name for entry in entries if entry.name.endswith(".tar")]
    if tars:
        raise UserError(
            f"{base} holds img2dataset's tar shards ({tars[0]}, ...): read them with "
            f"data=webdataset and the option shards='*.tar'"
        )
    if any(entry.is_dir() for entry in entries):
        return "files"
    tables = [entry.name for entry in entries if entry.name.endswith(".parquet")]
    if not tables and image_texts.has_texts_beside(base):
        return "flat"
    if not tables:
        raise UserError(
            f"{base} holds neither folders (00000/) nor parquet files (00000.parquet) "
            f"of img2dataset: {file_contents.summary(base)}; {local.set_path()}"
        )
    return "parquet"
