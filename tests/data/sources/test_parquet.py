"""Data sets as the Hugging Face hub distributes them: splits, columns, classes, faults.

What parquet files hold and how they break is tested in test_img2dataset.py too, whose
parquet form is read by the same source.
"""

import collections
import pickle

import dataset_tools
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tools import check_contract, jpeg

from clipjax.data.containers import parquet_rows as reader
from clipjax.data.containers import parquet_splits
from clipjax.data.sources import img2dataset, parquet
from clipjax.data.storage import selection
from clipjax.types import BadExample, UserError

IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
TEXTS = pyarrow.list_(pyarrow.string())


def write(place, columns, features=None, **options):
    """columns: name -> (values, type)."""
    place.parent.mkdir(parents=True, exist_ok=True)
    fields = [(name, kind) for name, (_, kind) in columns.items()]
    schema = dataset_tools.hub_schema(fields, features or {})
    arrays = [pyarrow.array(values, kind) for values, kind in columns.values()]
    table = pyarrow.Table.from_arrays(arrays, schema=schema)
    pyarrow.parquet.write_table(table, place, **options)


def picture(count):
    return [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in range(count)], IMAGE


def test_a_data_set_of_the_hub(tmp_path):
    dataset_tools.hub(tmp_path, {"train": 11, "validation": 4, "test": 5})
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "train.parquet").touch()
    for split, own, count in (
        ("train", "train", 11),
        ("val", "validation", 4),
        ("validation", "validation", 4),
        ("test", "test", 5),
    ):
        source = parquet.make(split, path=str(tmp_path))
        check_contract(source)
        assert len(source) == count and source.problems == []
        assert source.class_names == {"label": dataset_tools.HUB_CLASSES}
        for i in range(count):
            example = source[i]
            assert example.image == jpeg(i)
            texts = [f"{own} {i}, caption {c}." for c in range(i % 3)]
            assert example.captions == source.captions_of(i) == texts
            assert example.labels == ({} if split == "test" else {"label": i % 3})
        half = -(-count // 2)
        last = count - 1 - half
        file = f"data/{own}-00001-of-00002.parquet"
        assert example.key == f"{file}:{last // 3}/{last % 3}"
    assert len(parquet.make("all", path=str(tmp_path))) == 20
    inner = parquet.make("test", path=str(tmp_path / "data"))
    assert inner.key_of(0) == "test-00000-of-00002.parquet:0/0"
    with pytest.raises(
        UserError, match="no split 'tset'. Did you mean 'test'.*: test,"
    ):
        parquet.make("tset", path=str(tmp_path))
    with pytest.raises(UserError, match="no images, but parquet files:.*data=parquet"):
        img2dataset.make("train", path=str(tmp_path))


LAYOUTS = {  # as they are on the hub
    "data/{split}-{i:05}-of-{n:05}-0123456789abcdef.parquet": "validation",
    "{split}-{i:05}-of-{n:05}.parquet": "val",
    "data/{split}/{i:04}.parquet": "valid",
    "default/partial-{split}/{i:04}.parquet": "validation",
    "mnist/{split}-{i:05}-of-{n:05}.parquet": "dev",
    "{split}_{i}.parquet": "VALIDATION",
    "{split}.{i}.parquet": "dev",
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_splits_are_found_by_names_and_folders(name, tmp_path):
    dataset_tools.hub(tmp_path, {"train": 4, LAYOUTS[name]: 3}, name=name)
    assert len(parquet.make("train", path=str(tmp_path))) == 4
    val = parquet.make("val", path=str(tmp_path))
    assert val[1].captions == [f"{LAYOUTS[name]} 1, caption 0."]
    with pytest.raises(UserError, match="no split 'test'. Its splits: train, val, all"):
        parquet.make("test", path=str(tmp_path))


def test_validation_is_held_out_where_there_is_none(tmp_path):
    dataset_tools.hub(tmp_path, {"train": 40, "test": 3})
    path = str(tmp_path)
    train = parquet.make("train", path=path, val_fraction=0.3)
    val = parquet.make("val", path=path, val_fraction=0.3)
    keys = [[s.key_of(i) for i in range(len(s))] for s in (train, val)]
    places = [(i // 20, i % 20 // 3, i % 20 % 3) for i in range(40)]
    names = [f"data/train-{f:05}-of-00002.parquet:{g}/{r}" for f, g, r in places]
    assert sorted(keys[0] + keys[1]) == sorted(names)
    # By the files' own names, so that path=data/... makes no difference.
    held = [selection.is_held_out(name.removeprefix("data/"), 0.3) for name in names]
    assert keys[1] == [n for n, out in zip(names, held, strict=True) if out]
    assert 0 < len(keys[1]) < 20
    assert len(parquet.make("test", path=path, val_fraction=1.0)) == 3
    assert len(parquet.make("train", path=path, val_fraction=0.0)) == 40
    with pytest.raises(
        UserError, match="none of the 40 images .* 'val' with val_fract"
    ):
        parquet.make("val", path=path, val_fraction=0.0)
    # Named by the user, or by nothing, the same holds.
    named = parquet.make("val", path=path, val_fraction=0.3, shards="data/train-*")
    assert [named.key_of(i) for i in range(len(named))] == keys[1]
    assert len(parquet.make("all", path=path, shards="data/train-00001*")) == 20
    assert len(parquet.make("test", path=path, shards="data/{split}-*")) == 3
    with pytest.raises(
        UserError, match=r"no split 'test'; use train, val, all, or .*spl"
    ):
        parquet.make("test", path=path, shards="data/test-*")
    plain = tmp_path / "plain"
    dataset_tools.hub(plain, {"x": 40}, name="part-{i}.parquet")
    sizes = [
        len(parquet.make(split, path=str(plain), val_fraction=0.3))
        for split in ("train", "val", "all")
    ]
    assert sum(sizes[:2]) == sizes[2] == 40 and min(sizes) > 0


def test_files_that_do_not_fit_together(tmp_path):
    path = str(tmp_path)
    with pytest.raises(
        UserError,
        match=r"holds no .parquet files \(it is empty\): set it with --config",
    ):
        parquet.make("train", path=path)
    dataset_tools.hub(tmp_path, {"train": 4, "test": 4})
    extra = {"image": picture(2), "label": ([0, 1], pyarrow.int64())}
    write(tmp_path / "data" / "extra.parquet", extra)
    source = parquet.make("train", path=path)
    assert len(source) == 4 and source.problems == [
        "1 files whose names say no split, left out (data/extra.parquet)"
    ]
    with pytest.raises(UserError, match="other labels or class names than .*extra.par"):
        parquet.make("all", path=path)
    (tmp_path / "data" / "extra.parquet").unlink()
    dataset_tools.hub(tmp_path, {"train": 4}, name="other/{split}-{i}.parquet")
    with pytest.raises(UserError, match=r"several folders \(data, other\): give one"):
        parquet.make("train", path=path)
    place = tmp_path / "data" / "train-00000-of-00002.parquet"
    kept = place.read_bytes()
    place.unlink()
    path = str(tmp_path / "data")
    with pytest.raises(UserError, match="train-00000-of-00002.parquet is missing, one"):
        parquet.make("train", path=path)
    some = parquet.make("train", path=path, shards="train-00001-*", val_fraction=0.0)
    assert len(some) == 2
    for content, words in (
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        (b"", "is empty"),
        (kept[: len(kept) // 2], "is not a parquet file, or truncated"),
    ):
        place.write_bytes(content)
        with pytest.raises(UserError, match=f"{place.name} {words}") as caught:
            parquet.make("train", path=path)
        assert "\n" not in str(caught.value)
    place.unlink()
    place.symlink_to(tmp_path / "blobs" / "gone")  # in the hub's cache files are links
    with pytest.raises(UserError, match=f"cannot read .*{place.name}: No such file"):
        parquet.make("train", path=path)


def test_the_column_that_says_each_rows_split(tmp_path):
    """As in nlphuji/flickr30k, whose files are all of one split."""
    splits = ["train", "val", "test", "train", "validation"]
    columns = {
        "image": picture(5),
        "caption": ([[f"{i}"] for i in range(5)], TEXTS),
        "split": (splits, pyarrow.string()),
    }
    write(tmp_path / "TEST-00000-of-00001.parquet", columns)
    found = {
        split: [
            s.captions_of(i)[0]
            for s in [parquet.make(split, path=str(tmp_path), split_column="split")]
            for i in range(len(s))
        ]
        for split in ("train", "val", "test", "all")
    }
    assert found == {"train": ["0", "3"], "val": ["1", "4"], "test": ["2"]} | {
        "all": list("01234")
    }
    with pytest.raises(
        UserError, match="no split 'dog'. Its splits: test, train, val$"
    ):
        parquet.make("dog", path=str(tmp_path), split_column="split")
    with pytest.raises(
        UserError, match="no column split_column=splt. Did you mean 'spl"
    ):
        parquet.make("val", path=str(tmp_path), split_column="splt")


STRING, LARGE = pyarrow.string(), pyarrow.large_string()
FORMS = {  # columns of two rows, the option caption_column, the captions
    "caption": ({"caption": (["a", None], STRING)}, "", [["a"], []]),
    "text": ({"text": ([" a ", "b"], LARGE)}, "", [["a"], ["b"]]),
    "captions": ({"captions": ([["a", "b"], []], TEXTS)}, "", [["a", "b"], []]),
    "nulls": ({"captions": ([["a", None, " "], None], TEXTS)}, "", [["a"], []]),
    "large": (
        {"sentences": ([["a"], ["b", "c"]], pyarrow.large_list(LARGE))},
        "",
        [["a"], ["b", "c"]],
    ),
    "raw": ({"raw": (["a", "b"], STRING)}, "", [["a"], ["b"]]),
    "a struct": (
        {
            "sentences": (
                [{"raw": "a", "imgid": 3}, None],
                pyarrow.struct([("raw", STRING), ("imgid", pyarrow.int64())]),
            )
        },
        "",
        [["a"], []],
    ),
    "a field": (
        {"json": ([{"alt": "a"}, {"alt": "b"}], pyarrow.struct([("alt", STRING)]))},
        "json.alt",
        [["a"], ["b"]],
    ),
    "numbered": (  # jxie/flickr8k
        {f"caption_{i}": ([f"a{i}", f"b{i}"], STRING) for i in range(3)},
        "",
        [["a0", "a1", "a2"], ["b0", "b1", "b2"]],
    ),
    "several": (
        {"alt_1": (["a", "b"], STRING), "alt_2": ([["x"], []], TEXTS)},
        "alt_*",
        [["a", "x"], ["b"]],
    ),
    "none": ({"text": (["a", "b"], STRING)}, "none", [[], []]),
    "not there": ({"alt": (["a", "b"], STRING)}, "", [[], []]),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_captions(form, tmp_path):
    columns, option, expected = FORMS[form]
    write(tmp_path / "0.parquet", {**columns, "image": picture(2)})
    source = parquet.make("all", path=str(tmp_path), caption_column=option)
    check_contract(source)
    assert [list(source[i].captions) for i in range(2)] == expected
    assert source.caption_counts.tolist() == [len(texts) for texts in expected]


TEXT = st.one_of(st.none(), st.text(max_size=5))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.lists(TEXT, max_size=4)), st.booleans()),
        min_size=1,
        max_size=9,
    ),
    st.integers(1, 4),
)
def test_lists_and_images_of_a_struct_round_trip(tmp_path_factory, rows, group):
    place = tmp_path_factory.mktemp("parquet") / "0.parquet"
    images = [
        {"bytes": b"%d" % i if full else None, "path": f"{i}.jpg"}
        for i, (_, full) in enumerate(rows)
    ]
    columns = {"image": (images, IMAGE), "caption": ([r[0] for r in rows], TEXTS)}
    write(place, columns, row_group_size=group)
    if not any(full for _, full in rows):
        with pytest.raises(UserError, match="holds paths of images, not images: "):
            parquet.make("all", path=str(place.parent))
        return
    source = parquet.make("all", path=str(place.parent))
    for i, (texts, full) in enumerate(rows):
        kept = [t for t in texts or () if t and t.strip("\ufeff \n").strip()]
        if not any(t.startswith("\ufeff") for t in kept):  # a byte order mark
            assert source.captions_of(i) == [t.strip() for t in kept]
            assert source.caption_counts[i] == len(kept)
        if full:
            assert source[i].image == b"%d" % i
        else:
            with pytest.raises(BadExample, match=f"no image, only the path {i}.jpg"):
                source[i]


WRONG = {
    "paths": ({"image": (["a.jpg"], STRING)}, {}, "image holds string, not encoded im"),
    "addresses": (
        {"image_url": (["http://x"], STRING)},
        {},
        "lists addresses of images",
    ),
    "no image": ({"x": ([1], pyarrow.int64())}, {}, "no column of images, but x; set"),
    "images": (
        {"image": ([[{"bytes": b"", "path": ""}]], pyarrow.list_(IMAGE))},
        {},
        "the column image holds list<.*>, not encoded images",
    ),
    "structs": (
        {
            "image": picture(1),
            "sentences": (
                [[{"raw": "x"}]],
                pyarrow.list_(pyarrow.struct([("raw", STRING)])),
            ),
        },
        {},
        "column sentences holds list<.*>, not text; name another by caption_column",
    ),
    "a label of lists": (
        {"image": picture(1), "label": ([["cat"]], TEXTS)},
        {"labels": ("label",)},
        "the column label holds list<.*>, not classes as numbers or text",
    ),
    "a split of numbers": (
        {"image": picture(1), "split": ([1], pyarrow.int64())},
        {"split_column": "split"},
        "the column split holds int64, not text",
    ),
    "numbers as captions": (
        {"image": picture(1), "label": ([1], pyarrow.int64())},
        {"caption_column": "label"},
        "the column label holds int64, not text; name another by caption_column",
    ),
    "no label": (
        {"image": picture(1), "label": ([1], pyarrow.int64())},
        {"labels": ("lable",)},
        "no column labels=lable. Did you mean 'label'.* It has image, label$",
    ),
    "no pattern": (
        {"image": picture(1)},
        {"caption_column": "alt_*"},
        "no column caption_column=alt_.; it has image$",
    ),
    "an id": (
        {"image": picture(1), "label": ([10**9], pyarrow.int64())},
        {},
        "label holds 1000000000, no number of a class; choose another by",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_columns_are_told_in_one_line(case, tmp_path):
    columns, options, words = WRONG[case]
    write(tmp_path / "0.parquet", columns)
    with pytest.raises(UserError, match=words) as caught:
        parquet.make("all", path=str(tmp_path), **options)
    assert str(tmp_path / "0.parquet") in str(caught.value)
    assert "\n" not in str(caught.value)


# classes


def cifar(folder, count=12, **options):
    """CIFAR-100's columns: its image is called img, its classes are of two sets."""
    names = {"fine_label": ["apple", "bear", "boy"], "coarse_label": ["food", "life"]}
    features = {n: {"names": c, "_type": "ClassLabel"} for n, c in names.items()}
    columns = {
        "img": picture(count),
        "fine_label": ([i % 3 for i in range(count)], pyarrow.int64()),
        "coarse_label": ([min(i % 3, 1) for i in range(count)], pyarrow.int64()),
    }
    features["img"] = {"_type": "Image"}
    write(folder / "cifar100" / "train-00000-of-00001.parquet", columns, features)
    return parquet.make("train", path=str(folder), val_fraction=0.0, **options)


def test_several_label_sets(tmp_path):
    source = cifar(tmp_path)
    check_contract(source)
    assert list(source.class_names) == ["fine_label", "coarse_label"]
    assert source[2].labels == {"fine_label": 2, "coarse_label": 1}
    fine = cifar(tmp_path, labels=("fine_label",))
    assert fine.class_names == {"fine_label": ["apple", "bear", "boy"]}
    assert fine[2].labels == {"fine_label": 2} and fine.max_captions == 0
    assert fine.templates == {"fine_label": ("a photo of a {}.",)}
    with pytest.raises(
        UserError, match="one label set, .* has fine_label, coarse_label"
    ):
        cifar(tmp_path, max_classes=2)
    with pytest.raises(
        UserError, match="names one label set, .* has fine_label, coarse"
    ):
        cifar(tmp_path, classes="names.txt")


def test_a_part_of_the_classes(tmp_path):
    options = {"labels": ("fine_label",), "subset_seed": 4}
    some = cifar(tmp_path, max_classes=2, max_samples_per_class=3, **options)
    kept = selection.classes(3, 2, 4).tolist()
    names = [["apple", "bear", "boy"][i] for i in kept]
    assert some.class_names == {"fine_label": names}
    labels = [some[i].labels["fine_label"] for i in range(len(some))]
    assert collections.Counter(labels) == {0: 3, 1: 3}
    for i in range(len(some)):  # the image's number is its row, and gives its class
        row = int(some.key_of(i).rpartition("/")[2])
        assert some[i].image == jpeg(row) and kept[labels[i]] == row % 3
    first = cifar(tmp_path, labels=("fine_label",), max_samples=5)
    assert [first[i].image for i in range(len(first))] == [jpeg(i) for i in range(5)]


def test_labels_without_names_or_out_of_range(tmp_path):
    labels = [0, 2, None, -1, 1]
    write(
        tmp_path / "train.parquet",
        {"image": picture(5), "labels": (labels, pyarrow.int32())},
    )
    options = {"path": str(tmp_path), "val_fraction": 0.0}
    source = parquet.make("train", **options)
    assert source.class_names == {"labels": ["0", "1", "2"]}
    assert [source[i].labels for i in range(5)] == [
        {} if n in (None, -1) else {"labels": n} for n in labels
    ]
    assert source.problems[0].startswith("the column labels does not say what")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    named = parquet.make("train", classes="names.txt", **options)
    assert named.class_names == {"labels": ["cat", "dog"]} and named.problems == []
    with pytest.raises(
        BadExample, match="0/1: labels is 2, but there are 2 class names"
    ):
        named[1]
    part = parquet.make(
        "train", classes="names.txt", max_samples_per_class=9, **options
    )
    assert len(part) == 2 and part.problems == [
        "3 images without one of the classes, left out"
    ]
    write(
        tmp_path / "train.parquet",
        {"image": picture(2), "label": ([-1, None], pyarrow.int64())},
    )
    assert parquet.make("train", **options).class_names == {}


def labelled(folder, names, numbers, **options):
    features = {"label": {"names": names, "_type": "ClassLabel"}} if names else {}
    columns = {
        "image": picture(len(numbers)),
        "label": (list(numbers), pyarrow.int64()),
    }
    write(folder / "0.parquet", columns, features)
    return parquet.make("all", path=str(folder), **options)


def test_names_of_classes_in_words(tmp_path):
    written = ["apple_pie", "a_b c", "hot-dog", "hot dog"]
    source = labelled(tmp_path, written, range(4))
    # "a_b c" has a space; "hot-dog" would become another class's name.
    assert source.class_names == {"label": ["apple pie", *written[1:]]}
    assert source.class_ids == {"label": written} and source[0].labels == {"label": 0}
    assert source.problems == [
        "label: 1 class names with spaces for _ and - ('apple_pie' is 'apple pie'; "
        "class_names=raw keeps them)"
    ]
    raw = labelled(tmp_path, written, range(4), class_names="raw")
    assert raw.class_names == {"label": written} and raw.problems == []
    part = labelled(tmp_path, written, range(4), max_classes=1)
    assert part.class_names == {"label": ["apple pie"]}
    assert part.class_ids == {"label": ["apple_pie"]}
    wordnet = labelled(tmp_path, ["n01440764", "n01443537"], [1, 0])
    assert wordnet.class_names == {"label": ["tench", "goldfish"]}


def test_names_of_a_known_data_set(tmp_path):
    cifar10 = ["airplane", "automobile", "bird", "cat", "deer"]
    cifar10 += ["dog", "frog", "horse", "ship", "truck"]
    for names in (None, [str(i) for i in range(10)]):
        source = labelled(tmp_path, names, range(10), class_names="cifar10")
        assert source.class_names == {"label": cifar10}
    with pytest.raises(UserError, match="'9' is none of its 10 classes"):
        labelled(tmp_path, ["9", "10"], [0, 1], class_names="cifar10")
    with pytest.raises(UserError, match="classes=x and class_names=raw both name"):
        labelled(tmp_path, None, range(2), classes="x", class_names="raw")
    assert (
        labelled(tmp_path, None, range(2))
        .problems[0]
        .endswith("; the options classes and class_names name them")
    )


@pytest.mark.parametrize(
    "metadata", [b"{", b"[]", b'{"info": 3}', b'{"info": {"features": {"label": 3}}}']
)
def test_broken_metadata_is_as_none(metadata, tmp_path):
    table = pyarrow.table(
        [pyarrow.array(*picture(1)), pyarrow.array([1])], names=["image", "label"]
    ).replace_schema_metadata({b"huggingface": metadata})
    pyarrow.parquet.write_table(table, tmp_path / "0.parquet")
    source = parquet.make("all", path=str(tmp_path))
    assert source.class_names == {"label": ["0", "1"]}


# size


def test_memory_and_what_goes_to_a_worker_are_small(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"a class of this name {i}" for i in range(1000)]
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    for i in range(20):
        images = [{"bytes": rng.bytes(5_000), "path": "x"} for _ in range(50)]
        columns = {
            "image": (images, IMAGE),
            "caption": ([["a", "b"]] * 50, TEXTS),
            "label": ([7] * 50, pyarrow.int64()),
        }
        place = tmp_path / f"train-{i:05}-of-00020.parquet"
        write(place, columns, features, row_group_size=10)
    source = parquet.make("train", path=str(tmp_path), val_fraction=0.0)
    assert len(source) == 1000
    assert len(pickle.dumps(source)) < 80_000  # the names once, 24 bytes an example
    source._groups = reader.RowGroups(memory=200_000)
    for i in rng.permutation(1000)[:100]:
        assert source[int(i)].labels == {"label": 7}
    assert 100_000 < source._groups.cached_bytes <= 200_000
    assert source.problems == []


def test_row_groups_that_are_too_large_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MEMORY", 1000)
    write(tmp_path / "0.parquet", {"image": picture(9)})
    source = parquet.make("all", path=str(tmp_path))
    assert source.problems[0].startswith("an image is read with a row group of 0 MiB: ")


def test_files_may_be_counted_from_1(tmp_path):
    for i in (1, 2):
        write(tmp_path / f"train-{i:05}-of-00002.parquet", {"image": picture(2)})
    assert len(parquet.make("train", path=str(tmp_path), val_fraction=0.0)) == 4


def test_the_names_of_splits():
    assert [
        parquet_splits.canonical(s) for s in ("Valid", "dev", "testing", "odd")
    ] == [*("val", "val", "test", "odd")]
