"""Parquet files that the library `datasets` wrote, against what it reads of them."""

from __future__ import annotations

import numpy as np
import pytest
from source_tools import check_contract, jpeg

from clipjax.data.images import decoding
from clipjax.data.sources import parquet
from clipjax.types import UserError

datasets = pytest.importorskip("datasets")

pytestmark = pytest.mark.parity


@pytest.fixture(autouse=True)
def quiet(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(
        datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf")
    )
    datasets.disable_progress_bars()


def made(folder, count, form):
    """A data set with images given as encoded files (on the disk, or in memory) or as
    arrays, which the library encodes itself.
    """
    if form == "files":
        for i in range(count):
            (folder / f"{i}.jpg").write_bytes(jpeg(i))
        column = [str(folder / f"{i}.jpg") for i in range(count)]
    elif form == "arrays":
        rng = np.random.default_rng(0)
        column = list(rng.integers(0, 255, (count, 5, 7, 3), np.uint8))
    else:
        column = [{"bytes": jpeg(i), "path": None} for i in range(count)]
    columns = {
        "image": column,
        "captions": [[f"Größe {i}, {c}" for c in range(i % 3)] for i in range(count)],
        "text": [f"text {i}" for i in range(count)],
        "label": [i % 3 if i % 5 else None for i in range(count)],
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "captions": datasets.Sequence(datasets.Value("string")),
            "text": datasets.Value("large_string"),
            "label": datasets.ClassLabel(names=["a cat", "dog", "größe"]),
        }
    )
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.mark.parametrize("form", ["files", "arrays", "bytes"])
def test_what_it_writes_is_what_is_read(form, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    whole = made(tmp_path, 25, form)
    if form == "files":  # of which to_parquet writes the paths; push_to_hub embeds them
        whole.to_parquet(str(tmp_path / "paths.parquet"))
        with pytest.raises(UserError, match="holds paths of images, not images"):
            parquet.make("all", path=str(tmp_path))
        (tmp_path / "paths.parquet").unlink()
        embed = datasets.table.embed_table_storage
        whole = whole.with_format("arrow").map(embed, batched=True).with_format(None)
    splits = {"train": whole.select(range(17)), "test": whole.select(range(17, 25))}
    for split, own in splits.items():
        for i in range(2):
            place = data / f"{split}-{i:05}-of-00002.parquet"
            part = own.shard(2, i, contiguous=True)
            part.to_parquet(str(place), batch_size=4)
    loaded = datasets.load_dataset(str(tmp_path / "data"))
    assert {split: len(own) for split, own in loaded.items()} == {
        split: len(own) for split, own in splits.items()
    }
    for split, theirs in loaded.items():
        options = {"path": str(tmp_path), "val_fraction": 0.0}
        one = parquet.make(split, **options)
        several = parquet.make(split, caption_column="captions", **options)
        check_contract(one)
        feature = theirs.features["label"]
        assert one.class_names == {"label": feature.names} and not one.problems
        assert len(one) == len(several) == len(theirs)
        for i, row in enumerate(theirs):
            example = one[i]
            pixels = np.asarray(decoding.decode(example.image))
            assert np.array_equal(pixels, np.asarray(row["image"].convert("RGB")))
            assert example.captions == [row["text"]]
            assert several.captions_of(i) == row["captions"]
            label = {} if row["label"] is None else {"label": row["label"]}
            assert example.labels == label
