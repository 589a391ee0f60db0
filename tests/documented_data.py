"""Small data in the places that README.md and docs/ name, in the exact public forms."""

import io
import json
import os

import dataset_tools
import fsspec
import pytest
import tfds_tools
from fsspec.implementations.memory import MemoryFileSystem
from source_tools import jpeg, write_tar

from clipjax import prepare


class Bucket(MemoryFileSystem):
    protocol = "gs"
    store = {}
    pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("gs://", "memory://"))


def captions(folder):
    dataset_tools.images(folder / "images", [f"{i}.jpg" for i in range(40)])
    rows = "".join(f'{i}.jpg,"A caption, of {i}."\n' for i in range(40))
    (folder / "captions.csv").write_text("image,caption\n" + rows)


def texts_beside(folder):
    dataset_tools.images(folder, [f"{i}.jpg" for i in range(40)])
    for i in range(40):
        (folder / f"{i}.txt").write_text(f"A caption of {i}.\n")


def clip_benchmark(folder):
    (folder / "test").mkdir(parents=True)
    members = [
        member
        for i in range(4)
        for member in ((f"s{i}.jpg", jpeg(i)), (f"s{i}.cls", str(i % 2).encode()))
    ]
    write_tar(folder / "test" / "0.tar", members)
    (folder / "test" / "nshards.txt").write_text("1\n")
    (folder / "classnames.txt").write_text("airplane\nautomobile\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of {c}.\n")


def flickr30k(folder):
    """With names enough that the hash leaves some for validation."""
    names = dataset_tools.FLICKR30K
    dataset_tools.FLICKR30K = tuple(f"{n}.jpg" for n in range(1000092795, 1000092825))
    try:
        dataset_tools.flickr30k(folder)
    finally:
        dataset_tools.FLICKR30K = names


def shards(folder):
    """332 of them, as CC3M has, all alike."""
    dataset_tools.img2dataset(folder, "webdataset")
    for i in range(2, 332):
        os.link(folder / "00001.tar", folder / f"{i:05}.tar")


def bucket(folder):
    shards(folder / "bucket")
    store = fsspec.filesystem("gs")
    for place in (folder / "bucket").glob("*.tar"):
        store.pipe(f"/my-bucket/cc3m/{place.name}", place.read_bytes())


def img2dataset(form):
    """So many that some fall into validation by their keys."""

    def build(folder):
        kept = dataset_tools.KEYS
        dataset_tools.KEYS = tuple(f"{s:05}{i:04}" for s in (0, 1) for i in range(200))
        try:
            dataset_tools.img2dataset(folder, form)
        finally:
            dataset_tools.KEYS = kept

    return build


def classes(folder):
    for split, count in (("train", 3), ("val", 2)):
        for name in ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                place = folder / split / name / f"{name}_{i}.JPEG"
                place.write_bytes(jpeg(i))
        (folder / split / "n01496331").mkdir()
        (folder / split / "n01496331" / "0.JPEG").write_bytes(jpeg())


def imagenet(folder):
    """As classes, with the validation images in one folder."""
    names = ("n01440764", "n01443537", "n01484850")
    rows = []
    for i, name in enumerate(names):
        (folder / "train" / name).mkdir(parents=True)
        (folder / "train" / name / f"{name}_18.JPEG").write_bytes(jpeg(i))
        (folder / "val").mkdir(exist_ok=True)
        place = folder / "val" / f"ILSVRC2012_val_{i + 1:08}.JPEG"
        place.write_bytes(jpeg(i))
        rows.append(f"{place.stem},{name} 111 108 230 190 \n")
    (folder / "../../../LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n" + "".join(rows)
    )


def records(folder):
    captions(folder.parent / "source")
    for split in ("train", "val"):
        flags = ["--data=captions", f"--data.path={folder.parent / 'source'}"]
        flags += [f"--data.split={split}", f"--out={folder}"]
        assert prepare.main(["prepare", "convert", *flags]) == 0


def tfds(folder):
    def features(made):
        return {
            "image": made.Image(encoding_format="jpeg"),
            "captions": made.Sequence({"text": made.Text()}),
        }

    counts = {"train": 5, "validation": 3}
    tfds_tools.prepare(
        folder,
        "CocoCaptions",
        features,
        {
            split: [
                {
                    "image": io.BytesIO(jpeg(i)),
                    "captions": [{"text": f"{i}, {c}"} for c in range(5)],
                }
                for i in range(count)
            ]
            for split, count in counts.items()
        },
    )


def hub_labels(folder):
    counts = {"train": 3, "validation": 3, "test": 3}
    dataset_tools.hub(folder, counts, name="default/{split}/{i:04}.parquet")


BUILDERS = {
    "data/hub_captions": lambda folder: dataset_tools.hub(
        folder, {"train": 9, "validation": 4}, labels=False
    ),
    "data/hub_labels": hub_labels,
    "data/records": records,
    "data/tfds": tfds,
    "data/mine": captions,
    "data/pictures": texts_beside,
    "data/wds_cifar10": clip_benchmark,
    "data/flickr8k": dataset_tools.flickr8k,
    "data/flickr30k": flickr30k,
    "data/coco": lambda folder: dataset_tools.coco(folder, (2014, 2017)),
    "data/karpathy": lambda folder: dataset_tools.karpathy(folder, "coco"),
    "data/cc3m": shards,
    "gs://my-bucket/cc3m": bucket,
    "data/cc3m_files": img2dataset("files"),
    "data/cc3m_parquet": img2dataset("parquet"),
    "data/imagenet": classes,
    "data/ILSVRC/Data/CLS-LOC": imagenet,
}


def many(builder, name, value):
    """A builder with more images than the least that a reader's test needs."""

    def build(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dataset_tools, name, value)
            builder(folder)

    return build


SPLITS = ["train"] * 8 + ["val"] * 8 + ["test"] * 8
FLICKR = {f"{1000268201 + i}_x.jpg": split for i, split in enumerate(SPLITS)}
COCO = {
    (f"{'train' if split == 'train' else 'val'}2014", 100 + i): split
    for i, split in enumerate(SPLITS)
}


def flickr8k_in_both_forms(folder):
    """As distributed, and as shards, which configs/flickr8k_vit.py takes."""
    many(dataset_tools.flickr8k, "FLICKR", FLICKR)(folder)
    for split in ("train", "val", "test"):
        members = []
        for i, own in enumerate(SPLITS):
            if own == split:
                text = "\n".join(f"a dog, number {c} of {i}" for c in range(5))
                members += [(f"{i}.jpg", jpeg(i)), (f"{i}.txt", text.encode())]
        write_tar(folder / f"{split}-000.tar", members)


def labelled(*splits, count=4, of=5):
    """SPLIT/CLASS/*.jpg"""

    def build(folder):
        for split in splits:
            for number in range(count):
                place = folder / split / f"kind {number}"
                place.mkdir(parents=True)
                for i in range(of):
                    (place / f"{i}.jpg").write_bytes(jpeg(number * 10 + i))

    return build


def sugar_crepe(folder):
    """Two of its seven kinds, of MS-COCO's images."""
    folder.mkdir(parents=True)
    right, wrong = "A dog chases a man.", "A man chases a dog."
    for kind in ("swap_att", "swap_obj"):
        choices = {
            str(i): {
                "filename": dataset_tools.coco_name("val", 2017, number),
                "caption": right,
                "negative_caption": wrong,
            }
            for i, number in enumerate(dataset_tools.coco_ids("val"))
        }
        (folder / f"{kind}.json").write_text(json.dumps(choices))


def picture(folder):
    folder.write_bytes(jpeg())


# As BUILDERS, where running needs more images than reading, or is of another page.
TO_RUN = BUILDERS | {
    "data/flickr8k": many(dataset_tools.flickr8k, "FLICKR", FLICKR),
    "data/karpathy": many(
        lambda folder: dataset_tools.karpathy(folder, "coco"), "COCO_SPLITS", COCO
    ),
    "DATA": captions,
    "DATA/coco": lambda folder: dataset_tools.coco(folder, (2017,)),
    "DATA/sugar-crepe/data": sugar_crepe,
    "DATA/aro": dataset_tools.aro,
    "DATA/winoground": dataset_tools.winoground,
    "DATA/flickr8k": flickr8k_in_both_forms,
    "DATA/flickr8k_original_200": captions,
    "DATA/flowers": labelled("train", "test"),
    "DATA/pictures": labelled("train", "val", count=10),
    "PHOTOS": labelled(""),
    "a.jpg": picture,
    "b.jpg": picture,
    "suite.json": lambda place: place.write_text('{"own": {}}'),
}
