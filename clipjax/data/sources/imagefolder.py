"""Reads labelled images in folders, PATH/SPLIT/CLASS/*.jpg, for probes and zero-shot.

A split with its images in PATH/SPLIT itself, such as ImageNet's val, needs a table of
their classes; annotations/class_tables.py describes its forms. The label set is
"class". The class names are the folders' names, sorted, or those of `class_names_file`.
The option `caption_templates` makes captions of them.

    --config configs/x.py:data=imagefolder --config.data.eval.path=FOLDER
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from clipjax.data import class_lists
from clipjax.data.annotations import class_tables
from clipjax.data.images import image_files
from clipjax.data.storage import file_contents, local, packed_strings, selection
from clipjax.types import Example, UserError


def make(
    split: str,
    *,
    path: str = "",
    class_names_file: str = "",
    labels_file: str = "",
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
      path: the folder that holds the split folders.
      class_names_file: lines `folder<TAB>name` that replace the folders' names, or
        ImageNet's LOC_synset_mapping.txt; relative to `path`.
      labels_file: a table of images and classes, if there are no class folders:
        ImageNet's LOC_val_solution.csv; relative to `path`.
      caption_templates: "a photo of a {}.": captions made from the class's name, to
        tune a model of two towers on labels (arXiv 2212.00638); () for none.
      max_classes: use so many classes, renumbered from 0 (0: all).
      max_samples_per_class: use so many images per class (0: all).
      max_samples: use so many images in all (0: all).
      subset_seed: which ones: -1 the first, else a choice by this seed.

    Raises UserError for missing folders, classes without a name, and no images.
    """
    base = local.folder(path, "images by split and class")
    folder = base / split
    if not split or not folder.is_dir():
        raise UserError(_no_split(base, split))
    images_of: dict[str, list[str]] = {}
    others = image_files.Suffixes()
    problems: list[str] = []
    if labels_file:
        table = local.inside(base, labels_file, "labels_file")
        images_of, problems = class_tables.labels(
            table, image_files.find(folder, others)
        )
    present, train = sorted(images_of) or _folders(folder), _folders(base / "train")
    classes = train if set(present) <= set(train) else present
    names = [name.encode("utf-8", "backslashreplace").decode() for name in classes]
    if class_names_file:
        table = local.inside(base, class_names_file, "class_names_file")
        names = class_tables.names(table, classes)
    subset = selection.classes(len(classes), max_classes, subset_seed)
    classes, names = [classes[i] for i in subset], [names[i] for i in subset]
    if train and not set(present) <= set(train):
        problems.append("its classes are not among those of train: numbered apart")
    paths: list[str] = []
    numbers: list[int] = []
    for label, name in enumerate(classes):
        images, stray = images_of.get(name, []), image_files.Suffixes()
        if not labels_file and name in present:
            images = image_files.find(folder / name, stray)
        if not images:
            hint = f" ({file_contents.tally(stray)})" if stray else ""
            problems.append(f"the class {name} has no images{hint}")
        others += stray
        paths += [os.path.relpath(image, base) for image in images]
        numbers += [label] * len(images)
    if not labels_file and (outside := _images_in(folder)):
        if not paths:
            raise UserError(
                f"{folder} holds images but no class folders: name the table of their "
                f"classes by the option labels_file (ImageNet's LOC_val_solution.csv)"
            )
        problems.append(f"{outside} images outside the class folders, left out")
    if not paths:
        raise UserError(
            f"{folder} holds no images in class folders ({split}/CLASS/*.jpg, *.png, "
            f"...): {file_contents.summary(folder)}"
        )
    problems += image_files.left_out(others)
    shared = class_lists.shared_names(names) if caption_templates else {}
    if shared:
        problems.append(f"{class_lists.shared_words(shared)} have the same captions")
    local.report(f"imagefolder {folder}", problems)
    chosen = selection.examples(
        len(paths),
        labels=np.array(numbers),
        max_samples=max_samples,
        max_samples_per_class=max_samples_per_class,
        subset_seed=subset_seed,
    )
    for template in caption_templates:
        if template.count("{}") != 1:
            raise UserError(
                f"caption_templates: {template!r} needs one {{}} for the class name"
            )
    return ImageFolder(
        base,
        [paths[i] for i in chosen],
        np.array(numbers, np.int32)[chosen],
        names,
        [name.encode("utf-8", "backslashreplace").decode() for name in classes],
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
        return self._paths[index].encode("utf-8", "backslashreplace").decode()

    def captions_of(self, index: int) -> list[str]:
        """Returns an example's captions without reading its image."""
        label = self._labels[local.position(index, len(self))]
        name = self.class_names["class"][label]
        return [template.replace("{}", name) for template in self._captions]


def _folders(folder: pathlib.Path) -> list[str]:
    """Returns the subfolders' names, sorted, without hidden ones and those that macOS
    adds to archives.
    """
    if not folder.is_dir():
        return []
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
    )


def _images_in(folder: pathlib.Path) -> int:
    """Counts the images in the folder itself."""
    return sum(
        not entry.name.startswith(".")
        and entry.is_file()
        and image_files.is_image(entry.path)
        for entry in os.scandir(folder)
    )


def _no_split(base: pathlib.Path, split: str) -> str:
    """Returns the message for a missing split: the known ones, or that the class
    folders need a split folder above them.
    """
    inner, others = _folders(base), image_files.Suffixes()
    splits = [name for name in inner if _folders(base / name)]
    if splits:
        return f"{base} has no split {split!r}; its splits: {', '.join(splits)}"
    if any(image_files.find(base / name, others) for name in inner):
        return (
            f"{base} holds class folders ({', '.join(inner[:3])}, ...) but no split "
            f"folder: give its parent as path and {base.resolve().name!r} as split, or "
            f"move them into {base / (split or 'train')}"
        )
    return (
        f"{base / split} does not exist, and {base} has no SPLIT/CLASS/*.jpg: "
        f"{file_contents.summary(base)}. {local.set_path()}"
    )
