"""Parts of sources: which examples the limits keep, the same on every machine."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tools import check_contract, jpeg, write_tar

from clipjax import registry
from clipjax.data.sources import captions, imagefolder, webdataset
from clipjax.data.storage import selection
from clipjax.types import UserError

SOURCES = (
    *("captions", "imagefolder", "webdataset"),
    *("coco", "karpathy", "img2dataset", "parquet"),
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path_factory.mktemp("cache")))


def philox(key, count):
    """The words of Philox4x64-10 (Salmon et al., SC 2011), counter from 1."""
    mask, words = 2**64 - 1, []
    for number in range(1, -(-count // 4) + 1):
        c, k = [number, 0, 0, 0], list(key)
        for _ in range(10):
            a, b = c[0] * 0xD2E7470EE14C6C93, c[2] * 0xCA5A826395121157
            c = [(b >> 64) ^ c[1] ^ k[0], b & mask, (a >> 64) ^ c[3] ^ k[1], a & mask]
            k[0] = (k[0] + 0x9E3779B97F4A7C15) & mask
            k[1] = (k[1] + 0xBB67AE8584CAA73B) & mask
        words += c
    return words[:count]


def test_the_choice_of_a_seed_never_changes():
    words = philox((42, 0), 1000)
    smallest = sorted(sorted(range(1000), key=lambda i: words[i])[:5])
    got = selection.examples(1000, max_samples=5, subset_seed=42).tolist()
    assert got == smallest == [219, 311, 322, 377, 675]  # golden: never changes
    words = philox((42, 1), 1000)
    smallest = sorted(sorted(range(1000), key=lambda i: words[i])[:3])
    assert selection.classes(1000, 3, 42).tolist() == smallest
    assert selection.examples(9, max_samples=3, subset_seed=-1).tolist() == [0, 1, 2]
    assert selection.classes(9, 0, 5).tolist() == list(range(9))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.integers(0, 12),
    st.integers(0, 70),
    st.integers(-1, 2**63 - 1),
)
def test_the_limits_hold_and_larger_ones_take_more(labels, per_class, total, seed):
    labels = np.array(labels)

    def take(per_class, total):
        return selection.examples(
            len(labels),
            labels=labels,
            max_samples=total,
            max_samples_per_class=per_class,
            subset_seed=seed,
        )

    got = take(per_class, total)
    assert (np.diff(got) > 0).all() and got.dtype == np.int64
    by_class = take(per_class, 0)
    for label in set(labels.tolist()):
        there = int((labels == label).sum())
        expected = min(per_class or there, there)
        assert (labels[by_class] == label).sum() == expected
    assert len(got) == min(total or len(by_class), len(by_class))
    assert set(got) <= set(by_class)
    if per_class:
        assert set(by_class) <= set(take(per_class + 1, 0))
    if total:
        assert set(got) <= set(take(per_class, total + 1))
    if seed == -1 and not per_class:
        assert got.tolist() == list(range(len(got)))


def test_a_seeded_choice_is_fair_and_its_seeds_differ():
    chosen = [selection.examples(50, max_samples=10, subset_seed=s) for s in range(400)]
    times = np.bincount(np.concatenate(chosen), minlength=50)
    # Binomial(400, 0.2): mean 80, standard deviation 8; 5 of them for 50 positions.
    assert abs(times - 80).max() < 40
    assert len({tuple(c) for c in chosen}) == 400


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_samples": -1}, "max_samples=-1: use 0"),
        ({"max_samples_per_class": -2}, "max_samples_per_class=-2: use 0"),
        ({"subset_seed": -2}, "subset_seed=-2: use -1"),
        ({"subset_seed": 2**63}, "subset_seed=9223372036854775808"),
    ],
)
def test_limits_out_of_range(options, words):
    with pytest.raises(UserError, match=words):
        selection.examples(4, **{"max_samples": 1, "subset_seed": 0, **options})
    with pytest.raises(UserError, match="max_classes=-1"):
        selection.classes(4, -1, 0)


@pytest.mark.parametrize("name", SOURCES)
def test_every_file_source_has_the_options(name):
    known = registry.options(registry.load("data", name))
    assert known["max_samples"].default == 0 and known["subset_seed"].default == -1
    if name in ("imagefolder", "webdataset", "parquet"):
        assert {"max_classes", "max_samples_per_class"} <= set(known)


def keys(source):
    return [source[i].key for i in range(len(source))]


def test_captions_take_a_part(tmp_path):
    names = [f"{i}.jpg" for i in range(30)]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(jpeg(i))
    rows = "".join(f"{name},caption\n" for name in names)
    (tmp_path / "captions.csv").write_text("image,caption\n" + rows)
    path = str(tmp_path)
    assert keys(captions.make("all", path=path, max_samples=4)) == names[:4]
    some = captions.make("all", path=path, max_samples=4, subset_seed=7)
    expected = selection.examples(30, max_samples=4, subset_seed=7)
    assert keys(some) == [names[i] for i in expected] != names[:4]
    check_contract(some)


def test_imagefolder_takes_a_part_and_renumbers_its_classes(tmp_path):
    for split, count in (("train", 6), ("val", 2)):
        for name in "abcdefgh":
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count if name != "c" or split == "train" else 0):
                (tmp_path / split / name / f"{i}.jpg").write_bytes(jpeg(i))
    path = str(tmp_path)
    limits = dict(max_classes=4, max_samples_per_class=3, subset_seed=42)
    train = imagefolder.make("train", path=path, **limits)
    check_contract(train)
    expected = ["abcdefgh"[i] for i in selection.classes(8, 4, 42)]
    assert train.class_names == {"class": expected} != {"class": list("abcd")}
    assert len(train) == 12
    for i in range(12):
        example = train[i]
        name = example.key.split("/")[1]
        assert example.labels == {"class": expected.index(name)}
    val = imagefolder.make("val", path=path, **limits)
    assert val.class_names == train.class_names  # the same, though val lacks c
    first = imagefolder.make("train", path=path, max_classes=2)
    assert first.class_names == {"class": ["a", "b"]} and len(first) == 12
    assert len(imagefolder.make("train", path=path, max_samples=7)) == 7


def test_webdataset_takes_a_part_and_renumbers_its_classes(tmp_path):
    for shard in range(2):
        members = []
        for i in range(12):
            members += [(f"{shard}-{i}.jpg", jpeg(i)), (f"{shard}-{i}.txt", b"x")]
            if i < 10:
                members.append((f"{shard}-{i}.cls", str(i % 5).encode()))
        members += [("bad.jpg", jpeg()), ("bad.cls", b"nine")]
        write_tar(tmp_path / f"train-{shard}.tar", members)
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    path = str(tmp_path)
    limits = dict(max_classes=2, max_samples_per_class=3, subset_seed=1)
    source = webdataset.make("train", path=path, classes="names.txt", **limits)
    check_contract(source)
    expected = ["abcde"[i] for i in selection.classes(5, 2, 1)]
    assert source.class_names == {"class": expected} and len(source) == 6
    for i in range(6):
        key = source[i].key
        name = "abcde"[int(key.split("-")[-1]) % 5]
        assert source[i].labels == {"class": expected.index(name)}
        assert key == f"train-{key[6]}.tar:{key.split(':')[1]}"
    assert source.problems == ["6 images without one of the 5 classes, left out"]
    every = webdataset.make("train", path=path, classes="names.txt")
    assert len(every) == 26 and every.problems == []
    some = webdataset.make("train", path=path, max_samples=9, subset_seed=3)
    whole = webdataset.make("train", path=path)
    chosen = selection.examples(26, max_samples=9, subset_seed=3)
    assert keys(some) == [whole[int(i)].key for i in chosen]
    for option in ("max_classes", "max_samples_per_class"):
        with pytest.raises(UserError, match="need the names of classes"):
            webdataset.make("train", path=path, **{option: 1})
