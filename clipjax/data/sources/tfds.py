"""Reads data sets that TensorFlow Datasets prepared as ArrayRecord, without TensorFlow.

It downloads and prepares nothing and runs no data set's code. It needs only the folder
that `tfds build NAME --file_format=array_record` writes (or `download_and_prepare` of a
builder with file_format="array_record").

    --config configs/x.py:data=tfds --config.data.train.dataset=coco_captions
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np

from clipjax import cache, paths, registry
from clipjax.data.annotations import class_naming
from clipjax.data.storage import local, selection
from clipjax.types import BadExample, Example, UserError

INFO = "dataset_info.json"
CAPTIONS = ("captions", "caption", "text")  # the default features, best first
VERSION = re.compile(r"\d+\.\d+\.\d+")
PREPARE = (
    "prepare it, with a network, by `tfds build {name} --file_format=array_record "
    "--data_dir={base}`"
)

logger = logging.getLogger(__name__)


def make(
    split: str,
    *,
    dataset: str = "",
    data_dir: str = "",
    image: str = "",
    captions: str = "",
    labels: tuple[str, ...] = (),
    class_names: str = class_naming.AUTO,
    max_samples: int = 0,
    subset_seed: int = -1,
) -> Tfds:
    """Opens a split of a prepared data set.

    The split may be a slice in TFDS's form ("train[:90%]"); "val" also names the split
    "validation". If captions are a sequence, all are read once to count them.

    Options:
      dataset: "name", "name/config", "name:1.2.3"; "" if data_dir is the prepared
        folder itself.
      data_dir: TFDS's folder of data; "" is $TFDS_DATA_DIR, or
        ~/tensorflow_datasets.
      image: the feature with the image; "" finds "image", or the only one.
      captions: the feature with the text or texts, "objects/text" if nested; ""
        finds captions, caption or text; "none" for no captions.
      labels: features with classes; () finds "label", or the only one.
      class_names: "auto": the labels with spaces for `_` and `-`, and ImageNet's names
        for WordNet ids; "raw": the labels; or the name of another data set.
      max_samples: use so many images (0: all).
      subset_seed: which images: -1 the first, else a choice by this seed.

    Raises UserError if the data set is not prepared or has another file format, and for
    splits and features that do not exist.
    """
    import tensorflow_datasets as tfds  # here, because it takes half a second to import

    prepared = _prepared(dataset, data_dir)
    try:
        builder = tfds.builder_from_directory(str(prepared))
    except Exception as error:  # anything that its parsers raise for a damaged file
        raise UserError(
            f"{prepared} cannot be read by TensorFlow Datasets: {_one_line(error)}"
        ) from error
    split = _split(builder, split, prepared)
    feature_types: Any = tfds.features
    features = dict(cast(Any, builder.info.features).items())
    images = [n for n, f in features.items() if isinstance(f, feature_types.Image)]
    classes = [
        n for n, f in features.items() if isinstance(f, feature_types.ClassLabel)
    ]
    image = _feature("image", image, "image", images, prepared)
    if not image:
        raise UserError(
            f"{prepared} has no image feature (it has {', '.join(features)})"
        )
    if not labels:
        labels = tuple(
            filter(None, [_feature("labels", "", "label", classes, prepared)])
        )
    for name in labels:
        _feature("labels", name, "label", classes, prepared)
    caption_path = _caption_path(captions, features, feature_types, prepared)
    decode: Any = tfds.decode
    decoders = {name: decode.SkipDecoding() for name in images}
    open_split: Any = builder.as_data_source
    try:
        data = open_split(split, decoders=decoders)
    except NotImplementedError as error:
        file_format = getattr(builder.info.file_format, "value", "another format")
        raise UserError(
            f"{prepared} is prepared as {file_format}, which has no random access: "
            f"prepare it again with file_format='array_record', or use `tfds "
            f"convert_format`"
        ) from error
    ids = {name: list(features[name].names) for name in labels}
    named = {name: class_naming.name_classes(ids[name], class_names) for name in labels}
    names = {name: found for name, (found, _) in named.items()}
    local.report(f"tfds {prepared}", [n for _, notes in named.values() for n in notes])
    chosen = selection.examples(
        len(data), max_samples=max_samples, subset_seed=subset_seed
    )
    return Tfds(data, prepared, split, image, caption_path, names, ids, chosen)


class Tfds:
    """A split of a TFDS data set as a `clipjax.types.Source`."""

    def __init__(
        self,
        data: Any,
        prepared: pathlib.Path,
        split: str,
        image: str,
        caption_path: tuple[str, ...],
        class_names: dict[str, list[str]],
        class_ids: dict[str, list[str]],
        chosen: np.ndarray,
    ):
        self._data = data
        self._split = split
        self._image = image
        self._caption_path = caption_path
        self._chosen = chosen
        self.problems: list[str] = []
        self.class_names = class_names
        self.class_ids = class_ids
        self.templates = {name: ("a photo of a {}.",) for name in class_names}
        self.caption_counts = self._counts(prepared)[chosen]
        self.max_captions = int(self.caption_counts.max(initial=0))

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Example:
        """Reads one example; raises BadExample, naming it, if it is broken."""
        index = int(self._chosen[local.position(index, len(self))])
        key = f"{self._split}:{index}"
        fields = self._fields(index)
        image = fields[self._image]  # None if TFDS reads past the end of a shard
        if not isinstance(image, bytes):
            raise BadExample("it has no image; its shard may be damaged", key)
        labels = {name: int(fields[name]) for name in self.class_names}
        labels = {name: label for name, label in labels.items() if label >= 0}
        try:
            captions = tuple(_texts(fields, self._caption_path))
        except UnicodeDecodeError as error:
            raise BadExample("a caption is not UTF-8 text", key) from error
        return Example(image, captions, labels, key)

    def captions_of(self, index: int) -> Sequence[str]:
        """Returns an example's captions; reads its whole record, image included."""
        return self[index].captions

    def key_of(self, index: int) -> str:
        """Returns an example's key without reading the example."""
        position = int(self._chosen[local.position(index, len(self))])
        return f"{self._split}:{position}"

    def _fields(self, index: int) -> Any:
        try:
            return self._data[index]
        except (RuntimeError, OSError, ValueError) as error:
            reason = f"cannot read the record: {_one_line(error)}"
            raise BadExample(reason, f"{self._split}:{index}") from error

    def _counts(self, prepared: pathlib.Path) -> np.ndarray:
        """Returns each record's caption count, int32; sequences are counted once."""
        total = len(self._data)
        if not self._caption_path:
            return np.zeros(total, np.int32)
        sample = self._fields(0)
        if isinstance(_value_at(sample, self._caption_path), bytes | str):
            return np.ones(total, np.int32)
        stamp = [str(prepared), (prepared / INFO).stat().st_mtime_ns, total]
        stamp = json.dumps([*stamp, self._split, self._caption_path])
        name = hashlib.sha256(stamp.encode()).hexdigest()[:32] + ".npy"
        cache_file = cache.folder("tfds") / name
        try:
            counts = np.load(cache_file, allow_pickle=False)
            if counts.shape == (total,) and counts.dtype == np.int32:
                return counts
        except (OSError, ValueError, EOFError):
            pass
        counts = np.fromiter(self._count_all(total), np.int32, total)
        try:
            cache_file.parent.mkdir(parents=True, exist_ok=True)
            temporary = cache_file.with_name(f"{os.getpid()}-{name}")
            np.save(temporary, counts)
            temporary.replace(cache_file)
        except OSError as error:
            folder = cache_file.parent
            logger.warning("cannot cache caption counts in %s: %s", folder, error)
        return counts

    def _count_all(self, total: int) -> Iterator[int]:
        for index in range(total):
            try:
                yield len(_value_at(self._fields(index), self._caption_path))
            except BadExample:
                yield 1  # so that reading it reports its fault


def _value_at(fields: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        fields = fields[name]
    return fields


def _texts(fields: Any, path: tuple[str, ...]) -> Iterator[str]:
    value = _value_at(fields, path) if path else ()
    for text in [value] if isinstance(value, bytes | str) else value:
        yield text.decode("utf-8") if isinstance(text, bytes) else text


def _prepared(dataset: str, data_dir: str) -> pathlib.Path:
    """Returns a prepared data set's folder; raises UserError if there is none."""
    folder = data_dir or os.environ.get("TFDS_DATA_DIR")
    if not folder and os.path.expanduser("~") == "~":
        raise UserError(
            "data=tfds: no home folder is known: set the option data_dir, "
            f"{local.set_by('data_dir', 'FOLDER')}"
        )
    base = paths.expand(folder or "~/tensorflow_datasets")
    if not dataset and (base / INFO).is_file():
        return base
    if not dataset:
        raise UserError(
            f"no TFDS data set is given, and {base} holds no {INFO}: set the option "
            f"dataset, {local.set_by('dataset', 'NAME')}"
        )
    name, _, version = dataset.partition(":")
    dataset_folder = base / name
    folder_of = _versions(dataset_folder)
    if not folder_of and dataset_folder.is_dir():
        configs = [p for p in sorted(dataset_folder.iterdir()) if _versions(p)]
        if len(configs) > 1:
            listing = ", ".join(f"{name}/{p.name}" for p in configs)
            raise UserError(f"dataset={dataset} has several configs: use {listing}")
        folder_of = _versions(configs[0]) if configs else {}
    if not folder_of:
        fix = PREPARE.format(name=paths.shell(dataset), base=paths.shell(base))
        raise UserError(f"{dataset_folder} holds no prepared TFDS data set: {fix}")
    if version and version not in folder_of:
        raise UserError(
            f"dataset={dataset}: the versions in {dataset_folder} are {list(folder_of)}"
        )
    newest = max(folder_of, key=lambda v: tuple(map(int, v.split("."))))
    return folder_of[version or newest]


def _versions(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    if not folder.is_dir():
        return {}
    folders = (p for p in folder.iterdir() if VERSION.fullmatch(p.name))
    return {p.name: p for p in folders if (p / INFO).is_file()}


def _split(builder: Any, split: str, prepared: pathlib.Path) -> str:
    known = sorted(builder.info.splits)
    if split == "val" and "val" not in known and "validation" in known:
        split = "validation"
    try:
        info = builder.info.splits[split]
        names, size = info.filenames, info.num_examples
    except Exception as error:  # for an unknown split, or from its parser of slices
        raise UserError(
            f"{prepared} has no split {split!r}.{registry.suggest(split, known)} Its "
            f"splits: {', '.join(known)}"
        ) from error
    for name in names:
        if not (prepared / name).is_file():
            raise local.missing(
                prepared / name, f"It is a shard of the split {split!r}"
            )
    if not size:
        raise UserError(f"the split {split!r} of {prepared} is empty")
    return split


def _feature(
    option: str, chosen: str, usual: str, candidates: list[str], prepared: pathlib.Path
) -> str:
    """Returns the feature that an option names, or the default one; "" if none."""
    if not chosen:
        if usual in candidates:
            return usual
        return candidates[0] if len(candidates) == 1 else ""
    if chosen not in candidates:
        hint = registry.suggest(chosen, candidates)
        kind = f"no {usual} feature"
        raise UserError(
            f"{option}={chosen}: {prepared} has {kind} of that name.{hint} It has "
            f"{', '.join(candidates) or '(none)'}"
        )
    return chosen


def _caption_path(
    chosen: str, features: dict[str, Any], feature_types: Any, prepared: pathlib.Path
) -> tuple[str, ...]:
    """Returns the path of names to an example's text; () for no captions."""
    if chosen == "none":
        return ()
    texts: dict[str, tuple[str, ...]] = {}
    for name, feature in features.items():
        inner = getattr(feature, "feature", feature)  # if it is a sequence
        if isinstance(inner, feature_types.Text):
            texts[name] = (name,)
        elif isinstance(inner, feature_types.FeaturesDict):
            for part, inner_part in inner.items():
                if isinstance(inner_part, feature_types.Text):
                    texts[f"{name}/{part}"] = (name, part)
    if chosen and chosen not in texts:
        raise UserError(
            f"captions={chosen}: {prepared} has no text of that name."
            f"{registry.suggest(chosen, texts)} It has {', '.join(texts) or '(none)'}"
        )
    usual = [n for name in CAPTIONS for n in (name, f"{name}/text")]
    return texts.get(chosen or next((n for n in usual if n in texts), ""), ())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
