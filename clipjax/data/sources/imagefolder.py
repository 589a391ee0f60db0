"""Reads labelled images in class folders, for probes, zero-shot and classifiers.

The folders are PATH/SPLIT/CLASS/*.jpg, or PATH/CLASS/*.jpg with a held-out share
(`val_fraction`). A split with its images in PATH/SPLIT itself, such as ImageNet's val,
needs a table of their classes; annotations/class_tables.py describes its forms. The
label set is "class". The classes' names are their folders' in words, those of a public
data set (`class_names`) or those of a file (`class_names_file`). The option
`caption_templates` makes captions of them.

    --config configs/x.py:data=imagefolder --config.data.eval.path=FOLDER
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from clipjax import paths
from clipjax.data import class_lists
from clipjax.data.annotations import class_naming, class_tables, prompt_templates
from clipjax.data.images import class_folders, image_files
from clipjax.data.storage import file_contents, local, packed_strings, selection
from clipjax.types import Example, UserError


def make(
    split: str,
    *,
    path: str = "",
    class_names: str = class_naming.AUTO,
    class_names_file: str = "",
    labels_file: str = "",
    val_fraction: float = 0.1,
    split_seed: int = 0,
    caption_templates: tuple[str, ...] = (),
    max_samples: int = 0,
    max_classes: int = 0,
    max_samples_per_class: int = 0,
    subset_seed: int = -1,
) -> ImageFolder:
    """Lists a split's images, sorted by class and path (subfolders included).

    Other files are left out and counted; see image_files.py.

    Classes are numbered as in PATH/train if it has all classes of this split, so that a
    split without some classes has the same numbers; else by this split's own folders.

    Options:
      path: the folder that holds the split folders, or the class folders themselves;
        then the splits are "train", "val" and "all".
      class_names: what the classes are called: "auto", the folders' names with spaces
        for `_` and `-`, and ImageNet's names for WordNet ids; "raw", the folders'
        names; or those of a data set of tensorflow-datasets ("food101").
      class_names_file: a file of names, relative to `path`: lines `folder<TAB>NAME`,
        ImageNet's LOC_synset_mapping.txt, a name per line in the folders' order, or
        JSON (class_tables.names).
      labels_file: a table of images and classes, if there are no class folders:
        ImageNet's LOC_val_solution.csv; relative to `path`.
      val_fraction: without split folders, the share of each class's images in "val".
      split_seed: without split folders, chooses these images.
      caption_templates: "a photo of a {}.": captions made from the class's name, to
        tune a model of two towers on labels (arXiv 2212.00638); () for none.
      max_classes: use so many classes, renumbered from 0 (0: all).
      max_samples_per_class: use so many images per class (0: all).
      max_samples: use so many images in all (0: all).
      subset_seed: which ones: -1 the first, else a choice by this seed.

    Raises UserError for missing folders, classes without a name, and no images.
    """
    prompt_templates.check(caption_templates, "caption_templates")
    if class_names_file and class_names != class_naming.AUTO:
        raise UserError(
            f"class_names={class_names} and class_names_file={class_names_file} both "
            f"name the classes: remove one"
        )
    base = local.folder(path, "images by split and class")
    plain = not labels_file and class_folders.is_plain(base, split)
    folder = base if plain else base / split
    if not split or not folder.is_dir():
        raise UserError(class_folders.no_split(base, split))
    images_of: dict[str, list[str]] = {}
    others = image_files.Suffixes()
    problems: list[str] = []
    if labels_file:
        table = local.inside(base, labels_file, "labels_file")
        images_of, problems = class_tables.labels(
            table, image_files.find(folder, others)
        )
    present = sorted(images_of) or class_folders.names_in(folder)
    train = present if plain else class_folders.names_in(base / "train")
    classes = train if set(present) <= set(train) else present
    readable = [paths.readable(name) for name in classes]
    if class_names_file:
        table = local.inside(base, class_names_file, "class_names_file")
        names, notes = class_tables.names(table, classes), []
    else:
        names, notes = class_naming.name_classes(readable, class_names)
    subset = selection.classes(len(classes), max_classes, subset_seed)
    classes, names = [classes[i] for i in subset], [names[i] for i in subset]
    if train and not set(present) <= set(train):
        problems.append("its classes are not among those of train: numbered apart")
    if not labels_file:
        images_of = {}
        for name in classes:
            stray = image_files.Suffixes()
            images_of[name] = (
                image_files.find(folder / name, stray) if name in present else []
            )
            if stray and not images_of[name]:
                problems.append(
                    f"the class {name} has no images ({file_contents.tally(stray)})"
                )
            elif not images_of[name]:
                problems.append(f"the class {name} has no images")
            others += stray
    listed = {
        name: [os.path.relpath(image, base) for image in images_of.get(name, [])]
        for name in classes
    }
    if plain:
        whole = listed
        listed = class_folders.in_split(whole, split, val_fraction, split_seed)
        empty = [name for name in classes if whole[name] and not listed[name]]
        if empty and any(listed.values()):
            problems.append(
                f"{len(empty)} classes have no image in {split}, such as {empty[0]} "
                f"with {len(whole[empty[0]])} in all"
            )
    files = [path for name in classes for path in listed[name]]
    if plain and split != "all":
        notes.append(
            f"no split folders: {split!r} has {len(files)} of "
            f"{sum(map(len, images_of.values()))} images by val_fraction={val_fraction}"
        )
    numbers = np.repeat(np.arange(len(classes)), [len(listed[n]) for n in classes])
    if not labels_file and (outside := class_folders.direct_images(folder)):
        if not files:
            raise UserError(
                f"{folder} holds images but no class folders: name the table of their "
                f"classes by the option labels_file (ImageNet's LOC_val_solution.csv)"
            )
        problems.append(f"{outside} images outside the class folders, left out")
    if not files and any(images_of.values()):
        raise UserError(
            f"no image of {folder} falls into the split {split!r} with "
            f"val_fraction={val_fraction} "
            f"({sum(map(len, images_of.values()))} images); change it"
        )
    if not files:
        raise UserError(
            f"{folder} holds no images in class folders ({split}/CLASS/*.jpg, *.png, "
            f"...): {file_contents.summary(folder)}"
        )
    problems += image_files.describe_left_out(others)
    shared = class_lists.shared_names(names) if caption_templates else {}
    if shared:
        problems.append(f"{class_lists.shared_words(shared)} have the same captions")
    local.report(f"imagefolder {folder}", problems + notes)
    chosen = selection.examples(
        len(files),
        labels=numbers,
        max_samples=max_samples,
        max_samples_per_class=max_samples_per_class,
        subset_seed=subset_seed,
    )
    return ImageFolder(
        base,
        [files[i] for i in chosen],
        numbers[chosen].astype(np.int32),
        names,
        [readable[i] for i in subset],
        caption_templates,
        problems,
    )


class ImageFolder:
    """A `clipjax.types.Source`; `problems` lists, among others, empty classes."""

    def __init__(
        self,
        base: pathlib.Path,
        paths: list[str],
        labels: np.ndarray,
        names: list[str],
        folders: list[str],
        caption_templates: tuple[str, ...],
        problems: list[str],
    ):
        self._base = base
        self._paths = packed_strings.Strings(paths)
        self._labels = labels
        self.problems = problems
        self._captions = caption_templates
        self.max_captions = len(caption_templates)
        self.caption_counts = np.full(len(paths), self.max_captions, np.int32)
        self.class_names = {"class": names}
        self.class_ids = {"class": folders}
        self.templates = {"class": ("a photo of a {}.",)}

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Example:
        """Reads one image; raises BadExample, naming it, if that fails."""
        index = local.position(index, len(self))
        key = self.key_of(index)
        return Example(
            image=local.read_bytes(self._base / self._paths[index], key),
            captions=self.captions_of(index),
            labels={"class": int(self._labels[index])},
            key=key,
        )

    def key_of(self, index: int) -> str:
        """Returns an example's key without reading its image."""
        return paths.readable(self._paths[index])

    def captions_of(self, index: int) -> list[str]:
        """Returns an example's captions without reading its image."""
        label = self._labels[local.position(index, len(self))]
        name = self.class_names["class"][label]
        return prompt_templates.fill(self._captions, name)
