"""Labelled images in folders, PATH/SPLIT/CLASS/*.jpg, for probes and zero-shot tests.

A split whose images lie in PATH/SPLIT itself, such as ImageNet's val, needs a table of
their classes; see annotations/class_tables.py for its forms. The label set is "class",
the class names are the folders' names (or those of `class_names_file`), in the order of
the sorted folders. Captions are made of them if asked for.

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
    """Lists the images of a split, sorted by class and path (subfolders included).

    Other files are left out and counted; image_files.py says which.

    Classes are numbered as in PATH/train if that has all classes of this split, so
    that a split that lacks some keeps the numbers; else by this split's own folders.

    Options:
      path: the folder that holds the split folders.
      class_names_file: lines `folder<TAB>name`, to name the classes otherwise than by
        their folders, or ImageNet's LOC_synset_mapping.txt; relative to `path`.
      labels_file: a table of images and classes, where they lie in no class folders:
        ImageNet's LOC_val_solution.csv; relative to `path`.
      caption_templates: "a photo of a {}.": captions made of the class's name, to tune
        a model of two towers on labels (arXiv 2212.00638); () for none.
      max_classes: use so many classes, numbered anew (0: all).
      max_samples_per_class: use so many images of each class (0: all).
      max_samples: use so many images in all (0: all).
      subset_seed: which ones: -1 the first, else a choice by this seed.

    Raises UserError for missing folders, classes without a name, and no images.
    """
    base = local.folder(path, "images by split and class")
    place = base / split
    if not split or not place.is_dir():
        raise UserError(_no_split(base, split))
    listed: dict[str, list[str]] = {}
    others = image_files.Suffixes()
    problems: list[str] = []
    if labels_file:
        table = local.inside(base, labels_file, "labels_file")
        listed, problems = class_tables.labels(table, image_files.find(place, others))
    own, train = sorted(listed) or _folders(place), _folders(base / "train")
    classes = train if set(own) <= set(train) else own
    names = [name.encode("utf-8", "backslashreplace").decode() for name in classes]
    if class_names_file:
        table = local.inside(base, class_names_file, "class_names_file")
        names = class_tables.names(table, classes)
    kept = selection.classes(len(classes), max_classes, subset_seed)
    classes, names = [classes[i] for i in kept], [names[i] for i in kept]
    if train and not set(own) <= set(train):
        problems.append("its classes are not among those of train: numbered apart")
    paths: list[str] = []
    numbers: list[int] = []
    for label, name in enumerate(classes):
        found, strange = listed.get(name, []), image_files.Suffixes()
        if not labels_file and name in own:
            found = image_files.find(place / name, strange)
        if not found:
            seen = f" ({file_contents.tally(strange)})" if strange else ""
            problems.append(f"the class {name} has no images{seen}")
        others += strange
        paths += [os.path.relpath(image, base) for image in found]
        numbers += [label] * len(found)
    if not labels_file and (loose := _loose(place)):
        if not paths:
            raise UserError(
                f"{place} holds images but no class folders: name the table of their "
                f"classes by the option labels_file (ImageNet's LOC_val_solution.csv)"
            )
        problems.append(f"{loose} images beside the class folders, left out")
    if not paths:
        raise UserError(
            f"{place} holds no images in class folders ({split}/CLASS/*.jpg, *.png, "
            f"...): {file_contents.summary(place)}"
        )
    problems += image_files.left_out(others)
    shared = class_lists.shared_names(names) if caption_templates else {}
    if shared:
        problems.append(f"{class_lists.shared_words(shared)} have the same captions")
    local.report(f"imagefolder {place}", problems)
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
    """See `clipjax.types.Source`; `problems` says which classes are empty."""

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
        """The key of an example, without reading it."""
        return self._paths[index].encode("utf-8", "backslashreplace").decode()

    def captions_of(self, index: int) -> list[str]:
        """The captions of an example, without its image."""
        label = self._labels[local.position(index, len(self))]
        name = self.class_names["class"][label]
        return [template.replace("{}", name) for template in self._captions]


def _folders(place: pathlib.Path) -> list[str]:
    """Names of the subfolders, sorted; hidden ones and what macOS adds to archives left
    out; [] if none.
    """
    if not place.is_dir():
        return []
    return sorted(
        entry.name
        for entry in os.scandir(place)
        if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
    )


def _loose(place: pathlib.Path) -> int:
    """How many images lie in the folder itself."""
    return sum(
        not entry.name.startswith(".")
        and entry.is_file()
        and image_files.is_image(entry.path)
        for entry in os.scandir(place)
    )


def _no_split(base: pathlib.Path, split: str) -> str:
    """Says which splits there are, or that the class folders lack a split above."""
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
