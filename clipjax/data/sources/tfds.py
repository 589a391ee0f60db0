"""Data sets that TensorFlow Datasets prepared as ArrayRecord, read without TensorFlow.

Nothing is downloaded or prepared here, and no data set's code is run: the folder that
`tfds build NAME --file_format=array_record` (or `download_and_prepare` of a builder
made with file_format="array_record") left is all that is needed.

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
from clipjax.data.storage import local, selection
from clipjax.types import BadExample, Example, UserError

INFO = "dataset_info.json"
CAPTIONS = ("captions", "caption", "text")  # if the option says nothing
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
    max_samples: int = 0,
    subset_seed: int = -1,
) -> Tfds:
    """Opens a split of a prepared data set.

    The split may be a slice, as TFDS writes it ("train[:90%]"); "val" is also the
    split "validation". If captions are a sequence, all are read once to be counted.

    Options:
      dataset: "name", "name/config", "name:1.2.3"; "" where data_dir is the prepared
        folder itself.
      data_dir: where TFDS keeps its data; "" is $TFDS_DATA_DIR, or
        ~/tensorflow_datasets.
      image: the feature with the image; "" finds "image", or the only one.
      captions: the feature with the text or texts, "objects/text" inside others; ""
        finds captions, caption or text; "none" for no captions.
      labels: features with classes; () finds "label", or the only one.
      max_samples: use so many images (0: all).
      subset_seed: which ones; -1: the first.

    Raises UserError if nothing is prepared there, or in another file format, and for
    splits and features that do not exist.
    """
    import tensorflow_datasets as tfds  # half a second, so only if it is chosen

    place = _prepared(dataset, data_dir)
    try:
        builder = tfds.builder_from_directory(str(place))
    except Exception as error:  # whatever its parsers raise at a damaged file
        raise UserError(
            f"{place} cannot be read by TensorFlow Datasets: {_line(error)}"
        ) from error
    split = _split(builder, split, place)
    kinds: Any = tfds.features
    features = dict(cast(Any, builder.info.features).items())
    images = [n for n, f in features.items() if isinstance(f, kinds.Image)]
    classes = [n for n, f in features.items() if isinstance(f, kinds.ClassLabel)]
    image = _one("image", image, "image", images, place)
    if not image:
        raise UserError(f"{place} has no image feature (it has {', '.join(features)})")
    if not labels:
        labels = tuple(filter(None, [_one("labels", "", "label", classes, place)]))
    for name in labels:
        _one("labels", name, "label", classes, place)
    path = _caption_path(captions, features, kinds, place)
    decode: Any = tfds.decode
    skip = {name: decode.SkipDecoding() for name in images}
    open_split: Any = builder.as_data_source
    try:
        data = open_split(split, decoders=skip)
    except NotImplementedError as error:
        form = getattr(builder.info.file_format, "value", "another format")
        raise UserError(
            f"{place} is prepared as {form}, which has no random access: prepare it "
            f"again with file_format='array_record', or use `tfds convert_format`"
        ) from error
    names = {name: list(features[name].names) for name in labels}
    chosen = selection.examples(
        len(data), max_samples=max_samples, subset_seed=subset_seed
    )
    return Tfds(data, place, split, image, path, names, chosen)


class Tfds:
    """See `clipjax.types.Source`."""

    def __init__(
        self,
        data: Any,
        place: pathlib.Path,
        split: str,
        image: str,
        path: tuple[str, ...],
        class_names: dict[str, list[str]],
        chosen: np.ndarray,
    ):
        self._data = data
        self._split = split
        self._image = image
        self._path = path
        self._chosen = chosen
        self.problems: list[str] = []
        self.class_names = class_names
        self.templates = {name: ("a photo of a {}.",) for name in class_names}
        self.caption_counts = self._counts(place)[chosen]
        self.max_captions = int(self.caption_counts.max(initial=0))

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Example:
        """Reads one example; raises BadExample, naming it, if it is broken."""
        index = int(self._chosen[local.position(index, len(self))])
        key = f"{self._split}:{index}"
        fields = self._fields(index)
        image = fields[self._image]  # None if TFDS reads past a cut
        if not isinstance(image, bytes):
            raise BadExample("it has no image; its shard may be damaged", key)
        labels = {name: int(fields[name]) for name in self.class_names}
        labels = {name: label for name, label in labels.items() if label >= 0}
        try:
            captions = tuple(_texts(fields, self._path))
        except UnicodeDecodeError as error:
            raise BadExample("a caption is not UTF-8 text", key) from error
        return Example(image, captions, labels, key)

    def captions_of(self, index: int) -> Sequence[str]:
        """The captions of an example, which its record holds beside the image."""
        return self[index].captions

    def key_of(self, index: int) -> str:
        """The key of an example, without reading it."""
        place = int(self._chosen[local.position(index, len(self))])
        return f"{self._split}:{place}"

    def _fields(self, index: int) -> Any:
        try:
            return self._data[index]
        except (RuntimeError, OSError, ValueError) as error:
            reason = f"cannot read the record: {_line(error)}"
            raise BadExample(reason, f"{self._split}:{index}") from error

    def _counts(self, place: pathlib.Path) -> np.ndarray:
        """Captions of each record, int32; counted once if they are sequences."""
        total = len(self._data)
        if not self._path:
            return np.zeros(total, np.int32)
        sample = self._fields(0)
        if isinstance(_at(sample, self._path), bytes | str):
            return np.ones(total, np.int32)
        stamp = [str(place), (place / INFO).stat().st_mtime_ns, total]
        stamp = json.dumps([*stamp, self._split, self._path])
        name = hashlib.sha256(stamp.encode()).hexdigest()[:32] + ".npy"
        kept = cache.folder("tfds") / name
        try:
            counts = np.load(kept, allow_pickle=False)
            if counts.shape == (total,) and counts.dtype == np.int32:
                return counts
        except (OSError, ValueError, EOFError):
            pass
        counts = np.fromiter(self._count_all(total), np.int32, total)
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            scratch = kept.with_name(f"{os.getpid()}-{name}")
            np.save(scratch, counts)
            scratch.replace(kept)
        except OSError as error:
            logger.warning("cannot keep caption counts in %s: %s", kept.parent, error)
        return counts

    def _count_all(self, total: int) -> Iterator[int]:
        for index in range(total):
            try:
                yield len(_at(self._fields(index), self._path))
            except BadExample:
                yield 1  # so that it is met, and its fault reported


def _at(fields: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        fields = fields[name]
    return fields


def _texts(fields: Any, path: tuple[str, ...]) -> Iterator[str]:
    found = _at(fields, path) if path else ()
    for text in [found] if isinstance(found, bytes | str) else found:
        yield text.decode("utf-8") if isinstance(text, bytes) else text


def _prepared(dataset: str, data_dir: str) -> pathlib.Path:
    """The folder of a prepared data set; raises UserError if there is none."""
    given = data_dir or os.environ.get("TFDS_DATA_DIR")
    if not given and os.path.expanduser("~") == "~":
        raise UserError(
            "data=tfds: no home folder is known, in which data sets lie: set the "
            f"option data_dir, {local.set_by('data_dir', 'FOLDER')}"
        )
    base = paths.given(given or "~/tensorflow_datasets")
    if not dataset and (base / INFO).is_file():
        return base
    if not dataset:
        raise UserError(
            f"no TFDS data set is given, and {base} holds no {INFO}: set the option "
            f"dataset, {local.set_by('dataset', 'NAME')}"
        )
    name, _, version = dataset.partition(":")
    place = base / name
    found = _versions(place)
    if not found and place.is_dir():
        configs = [p for p in sorted(place.iterdir()) if _versions(p)]
        if len(configs) > 1:
            listing = ", ".join(f"{name}/{p.name}" for p in configs)
            raise UserError(f"dataset={dataset} has several configs: use {listing}")
        found = _versions(configs[0]) if configs else {}
    if not found:
        how = PREPARE.format(name=paths.shell(dataset), base=paths.shell(base))
        raise UserError(f"{place} holds no prepared TFDS data set: {how}")
    if version and version not in found:
        raise UserError(f"dataset={dataset}: the versions in {place} are {list(found)}")
    newest = max(found, key=lambda v: tuple(map(int, v.split("."))))
    return found[version or newest]


def _versions(place: pathlib.Path) -> dict[str, pathlib.Path]:
    if not place.is_dir():
        return {}
    folders = (p for p in place.iterdir() if VERSION.fullmatch(p.name))
    return {p.name: p for p in folders if (p / INFO).is_file()}


def _split(builder: Any, split: str, place: pathlib.Path) -> str:
    known = sorted(builder.info.splits)
    if split == "val" and "val" not in known and "validation" in known:
        split = "validation"
    try:
        info = builder.info.splits[split]
        names, size = info.filenames, info.num_examples
    except Exception as error:  # of an unknown split, and of its parser for slices
        raise UserError(
            f"{place} has no split {split!r}.{registry.suggest(split, known)} Its "
            f"splits: {', '.join(known)}"
        ) from error
    for name in names:
        if not (place / name).is_file():
            raise local.missing(place / name, f"It is a shard of the split {split!r}")
    if not size:
        raise UserError(f"the split {split!r} of {place} is empty")
    return split


def _one(
    option: str, chosen: str, usual: str, fitting: list[str], place: pathlib.Path
) -> str:
    """The feature that an option names or that is found; "" if there is none."""
    if not chosen:
        if usual in fitting:
            return usual
        return fitting[0] if len(fitting) == 1 else ""
    if chosen not in fitting:
        hint = registry.suggest(chosen, fitting)
        what = f"no {usual} feature"
        raise UserError(
            f"{option}={chosen}: {place} has {what} of that name.{hint} It has "
            f"{', '.join(fitting) or '(none)'}"
        )
    return chosen


def _caption_path(
    chosen: str, features: dict[str, Any], kinds: Any, place: pathlib.Path
) -> tuple[str, ...]:
    """Where the text is in an example: the names to follow; () for no captions."""
    if chosen == "none":
        return ()
    texts: dict[str, tuple[str, ...]] = {}
    for name, feature in features.items():
        inner = getattr(feature, "feature", feature)  # of a sequence
        if isinstance(inner, kinds.Text):
            texts[name] = (name,)
        elif isinstance(inner, kinds.FeaturesDict):
            for part, what in inner.items():
                if isinstance(what, kinds.Text):
                    texts[f"{name}/{part}"] = (name, part)
    if chosen and chosen not in texts:
        raise UserError(
            f"captions={chosen}: {place} has no text of that name."
            f"{registry.suggest(chosen, texts)} It has {', '.join(texts) or '(none)'}"
        )
    usual = [n for name in CAPTIONS for n in (name, f"{name}/text")]
    return texts.get(chosen or next((n for n in usual if n in texts), ""), ())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
