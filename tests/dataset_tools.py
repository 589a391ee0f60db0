"""Small data sets in the exact form in which the public ones are distributed.

Each builder takes a folder and fills it; names, fields and their order are those of the
public files, and images and captions are few and small.
"""

import hashlib
import json

from source_tools import jpeg, write_tar


def images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        (folder / name).write_bytes(jpeg(i))


def coco_ids(split):
    return [391895, 522418, 184613, 318219] if split == "train" else [203564, 179765]


def coco_name(split, year, number):
    prefix = f"COCO_{split}2014_" if year == 2014 else ""
    return f"{prefix}{number:012}.jpg"


def coco(folder, years=(2017,)):
    """MS-COCO: annotations/captions_*.json of annotations_trainval*.zip, image folders.

    As there, captions of an image do not stand together, and are in another order than
    the images.
    """
    (folder / "annotations").mkdir(parents=True)
    for year in years:
        for split in ("train", "val"):
            ids = coco_ids(split)
            names = [coco_name(split, year, number) for number in ids]
            images(folder / f"{split}{year}", names)
            listed = [
                {
                    "license": 3,
                    "file_name": name,
                    "coco_url": f"http://images.cocodataset.org/{split}{year}/{name}",
                    "height": 8,
                    "width": 12,
                    "date_captured": "2013-11-14 11:18:45",
                    "flickr_url": "http://farm9.staticflickr.com/8186/8119368305.jpg",
                    "id": number,
                }
                for name, number in zip(names, ids, strict=True)
            ]
            notes = [
                {
                    "image_id": number,
                    "id": 37 + 5 * k + i,
                    "caption": f"Caption {i} of {number}." + " \n" * (i == 1),
                }
                for i in range(5)
                for k, number in enumerate(reversed(ids))
            ]
            text = {
                "info": {"description": f"COCO {year} Dataset", "year": year},
                "images": listed,
                "licenses": [{"url": "http://x", "id": 1, "name": "Attribution"}],
                "annotations": notes,
            }
            place = folder / "annotations" / f"captions_{split}{year}.json"
            place.write_text(json.dumps(text))


FLICKR = {
    "1000268201_693b08cb0e.jpg": "train",
    "1001773457_577c3a7d70.jpg": "train",
    "1002674143_1b742ab4b8.jpg": "val",
    "1003163366_44323f5815.jpg": "test",
    "1007129816_e794419615.jpg": "test",
}
COCO_SPLITS = {
    ("val2014", 391895): "test",
    ("val2014", 60623): "restval",
    ("val2014", 483108): "val",
    ("train2014", 57870): "train",
    ("val2014", 222016): "restval",
}


def _sentences(imgid):
    return [
        {
            "tokens": ["a", "dog", str(i)],
            "raw": f"A dog, number {i} of {imgid} .",
            "imgid": imgid,
            "sentid": 5 * imgid + i,
        }
        for i in range(5)
    ]


def karpathy(folder, name):
    """Karpathy's dataset_flickr8k.json, dataset_flickr30k.json or dataset_coco.json."""
    listed = []
    if name == "coco":
        for imgid, ((place, number), split) in enumerate(COCO_SPLITS.items()):
            filename = f"COCO_{place}_{number:012}.jpg"
            images(folder / place, [filename])
            listed.append(
                {
                    "filepath": place,
                    "sentids": list(range(5 * imgid, 5 * imgid + 5)),
                    "filename": filename,
                    "imgid": imgid,
                    "split": split,
                    "sentences": _sentences(imgid),
                    "cocoid": number,
                }
            )
    else:
        place = "Flicker8k_Dataset" if name == "flickr8k" else "flickr30k-images"
        images(folder / place, FLICKR)
        for imgid, (filename, split) in enumerate(FLICKR.items()):
            listed.append(
                {
                    "sentids": list(range(5 * imgid, 5 * imgid + 5)),
                    "imgid": imgid,
                    "sentences": _sentences(imgid),
                    "split": split,
                    "filename": filename,
                }
            )
    text = json.dumps({"images": listed, "dataset": name})
    folder.mkdir(exist_ok=True)
    (folder / f"dataset_{name}.json").write_text(text)


def flickr8k(folder):
    """Flickr8k_Dataset.zip and Flickr8k_text.zip, both unpacked here.

    As there, the one image 2258277193_586949ec62.jpg.1 of the table is in no list and
    has no file.
    """
    images(folder / "Flicker8k_Dataset", FLICKR)
    text = folder / "Flickr8k_text"
    text.mkdir()
    rows = [
        f"{name}#{i}\tA dog , number {i} of {name} .\n"
        for name in (*FLICKR, "2258277193_586949ec62.jpg.1")
        for i in range(5)
    ]
    (text / "Flickr8k.token.txt").write_text("".join(rows))
    (text / "Flickr8k.lemma.token.txt").write_text("".join(rows).lower())
    for split, name in (("train", "train"), ("val", "dev"), ("test", "test")):
        names = [f"{image}\n" for image, own in FLICKR.items() if own == split]
        (text / f"Flickr_8k.{name}Images.txt").write_text("".join(names))


# Caption 0, caption 1, and the tags in the order of the file.
WINOGROUND = (
    ("a dog on a cat", "a cat on a dog", ("Noun", "", 1, "Object")),
    ("the watch presents", "presents the watch", ("Verb", "Symbolic", 2, "Both")),
    ("he lights a fire", "he fires a light", ("Swap", "Symbolic,Series", 1, "Object")),
)


def winoground(folder):
    """facebook/winoground: data/examples.jsonl and data/images.zip, unpacked there."""
    place = folder / "data"
    images(place / "images", [f"ex_{n}_img_{i}.png" for n in range(3) for i in (0, 1)])
    fields = "tag", "secondary_tag", "num_main_preds", "collapsed_tag"
    lines = [
        {
            "id": n,
            "caption_0": one,
            "caption_1": other,
            "image_0": f"ex_{n}_img_0",
            "image_1": f"ex_{n}_img_1",
            **dict(zip(fields, tags, strict=True)),
        }
        for n, (one, other, tags) in enumerate(WINOGROUND)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (place / "examples.jsonl").write_text(text)


def winoground_parquet(folder):
    """The same as `datasets` writes it, in two files of small row groups."""
    import pyarrow
    import pyarrow.parquet

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    fields = [
        ("id", pyarrow.int32()),
        *((f"image_{i}", image) for i in (0, 1)),
        *((f"caption_{i}", pyarrow.string()) for i in (0, 1)),
        ("tag", pyarrow.string()),
        ("secondary_tag", pyarrow.string()),
        ("num_main_preds", pyarrow.int32()),
        ("collapsed_tag", pyarrow.string()),
    ]
    features = {f"image_{i}": {"_type": "Image"} for i in (0, 1)}
    rows = [
        [
            n,
            *(
                {"bytes": jpeg(2 * n + i), "path": f"ex_{n}_img_{i}.png"}
                for i in (0, 1)
            ),
            *(one, other, *tags),
        ]
        for n, (one, other, tags) in enumerate(WINOGROUND)
    ]
    (folder / "data").mkdir(parents=True)
    for number, part in enumerate((rows[:2], rows[2:])):
        table = pyarrow.Table.from_pylist(
            [dict(zip((name for name, _ in fields), row, strict=True)) for row in part],
            hub_schema(fields, features),
        )
        place = folder / "data" / f"test-{number:05}-of-00002.parquet"
        pyarrow.parquet.write_table(table, place, row_group_size=1)


def aro_entry(number, right, wrong, box, **group):
    """An entry of ARO's lists."""
    names = "bbox_x", "bbox_y", "bbox_w", "bbox_h"
    return {
        "image_id": f"{number}",
        "image_path": f"{number}.jpg",
        **dict(zip(names, box, strict=True)),
        "true_caption": right,
        "false_caption": wrong,
        **group,
    }


def aro(folder):
    """ARO's visual_genome_relation.json and visual_genome_attribution.json, images/."""
    images(folder / "images", ["2373554.jpg", "2391568.jpg"])  # of 12 x 8 pixels
    boxes = ((0, 0, 12, 8), (2, 1, 5, 6), (4, 4, 8, 4))
    relations = [
        aro_entry(
            number,
            f"the {one} is {name} the {other}",
            f"the {other} is {name} the {one}",
            boxes[i],
            relation_name=name,
            object_1=one,
            object_2=other,
        )
        for number in (2373554, 2391568)
        for i, (one, name, other) in enumerate(
            (("horse", "eating", "grass"), ("cup", "on", "table"), ("man", "by", "dog"))
        )
    ]
    attributes = [
        aro_entry(
            2391568,
            "the old dog and the red car",
            "the red dog and the old car",
            boxes[i % 3],
            attributes=["old", "red"],
            obj1_name="dog",
            obj2_name="car",
        )
        for i in range(25)
    ]
    for kind, entries in (("relation", relations), ("attribution", attributes)):
        (folder / f"visual_genome_{kind}.json").write_text(json.dumps(entries))


FLICKR30K = ("1000092795.jpg", "10002456.jpg", "1000268201.jpg")


def flickr30k_kaggle(folder):
    """Kaggle's copy: results.csv, with its row that lacks a bar, beside the images."""
    images(folder / "flickr30k_images", FLICKR30K)
    rows = ["image_name| comment_number| comment"]
    for name in FLICKR30K:
        rows += [f"{name}| {i}| Two men , {i} , are in their yard ." for i in range(5)]
    rows[-1] = f"{FLICKR30K[-1]}| 4   A dog runs across the grass ."
    (folder / "results.csv").write_text("\n".join(rows) + "\n")


def flickr30k(folder):
    """flickr30k.tar.gz and flickr30k-images.tar, both unpacked here."""
    images(folder / "flickr30k-images", FLICKR30K)
    rows = [
        f"{name}#{i}\tTwo men , {i} , are in their yard ."
        for name in FLICKR30K
        for i in range(5)
    ]
    (folder / "results_20130124.token").write_text("\n".join(rows) + "\n")
    (folder / "readme.txt").write_text("Flickr30k")


# Of eight addresses in two shards, two could not be downloaded, one had no caption.
FAILED, BARE = ("000000001", "000010002"), "000000003"
KEYS = tuple(f"{shard:05}{i:04}" for shard in range(2) for i in range(4))


def img2dataset_caption(key):
    return "" if key == BARE else f"a picture of number {int(key)}"


def _img2dataset_fields(key):
    failed = key in FAILED
    sizes = dict.fromkeys(("width", "height", "original_width", "original_height"))
    if not failed:
        sizes = {
            "width": 12,
            "height": 8,
            "original_width": 640,
            "original_height": 427,
        }
    return {
        "url": f"http://example.com/{key}.jpg",
        "caption": img2dataset_caption(key),
        "key": key,
        "status": "failed_to_download" if failed else "success",
        "error_message": "HTTP Error 404: Not Found" if failed else None,
        **sizes,
        "exif": None if failed else "{}",
        "sha256": None if failed else hashlib.sha256(key.encode()).hexdigest(),
    }


def img2dataset(folder, form):
    """What `img2dataset --output_format=files|webdataset|parquet` leaves, two shards.

    A parquet file is written in row groups of 100 rows there, of two rows here.
    """
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    types = {"width": pyarrow.int32(), "height": pyarrow.int32()}
    types |= {"original_width": pyarrow.int32(), "original_height": pyarrow.int32()}
    names = list(_img2dataset_fields(KEYS[0]))
    schema = pyarrow.schema([(n, types.get(n, pyarrow.string())) for n in names])
    if form == "parquet":
        schema = schema.append(pyarrow.field("jpg", pyarrow.binary()))
    for shard in ("00000", "00001"):
        rows = [_img2dataset_fields(key) for key in KEYS if key.startswith(shard)]
        good = [row for row in rows if row["status"] == "success"]
        if form == "parquet":
            rows = [
                {**r, "jpg": jpeg(int(r["key"])) if r in good else None} for r in rows
            ]
        members = []
        for row in good:
            text = json.dumps({n: row[n] for n in names}, indent=4)
            members += [
                (f"{row['key']}.jpg", jpeg(int(row["key"]))),
                (f"{row['key']}.json", text.encode()),
                (f"{row['key']}.txt", row["caption"].encode()),
            ]
        if form == "files":
            (folder / shard).mkdir()
            for name, data in members:
                (folder / shard / name).write_bytes(data)
        elif form == "webdataset":
            write_tar(folder / f"{shard}.tar", members)
        table = pyarrow.Table.from_pylist(rows, schema)
        pyarrow.parquet.write_table(
            table, folder / f"{shard}.parquet", row_group_size=2
        )
        stats = {"count": 4, "successes": len(good), "failed_to_download": 1}
        (folder / f"{shard}_stats.json").write_text(json.dumps(stats, indent=4))


def hub_schema(fields, features):
    """The schema of what `datasets` writes: its features stand in the metadata."""
    import pyarrow

    text = json.dumps({"info": {"features": features}})
    return pyarrow.schema(fields, metadata={b"huggingface": text.encode()})


HUB_CLASSES = ["tench, Tinca tinca", "goldfish", "great white shark"]


def hub(folder, counts, *, labels=True, name="data/{split}-{i:05}-of-{n:05}.parquet"):
    """What the Hugging Face hub distributes: images as {bytes, path}, lists of
    captions, classes with their names, two files a split, in small row groups.

    counts: split -> examples. Image i of a split is jpeg(i); it has i % 3 captions and
    the class i % 3, -1 in the split test.
    """
    import pyarrow
    import pyarrow.parquet

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    fields = [("image", image), ("caption", pyarrow.list_(pyarrow.string()))]
    features = {
        "image": {"_type": "Image"},
        "caption": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
    }
    if labels:
        fields.append(("label", pyarrow.int64()))
        features["label"] = {"names": HUB_CLASSES, "_type": "ClassLabel"}
    for split, count in counts.items():
        rows = [
            {
                "image": {"bytes": jpeg(i), "path": f"{split}_{i}.jpg"},
                "caption": [f"{split} {i}, caption {c}." for c in range(i % 3)],
                "label": -1 if split == "test" else i % 3,
            }
            for i in range(count)
        ]
        half = -(-count // 2)
        for i, part in enumerate((rows[:half], rows[half:])):
            place = folder / name.format(split=split, i=i, n=2)
            place.parent.mkdir(parents=True, exist_ok=True)
            table = pyarrow.Table.from_pylist(part, hub_schema(fields, features))
            pyarrow.parquet.write_table(table, place, row_group_size=3)
