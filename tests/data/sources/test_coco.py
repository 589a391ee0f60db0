"""MS-COCO's captions and Karpathy's splits: public layout, splits, faults."""

import json

import dataset_tools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tools import check_contract, jpeg

from clipjax.data.sources import coco, karpathy
from clipjax.types import BadExample, UserError


def read(source):
    return {
        e.key: list(e.captions) for e in map(source.__getitem__, range(len(source)))
    }


@pytest.mark.parametrize("year", [2014, 2017])
def test_coco_as_distributed(year, tmp_path):
    dataset_tools.coco(tmp_path, (year,))
    for split in ("train", "val"):
        source = coco.make(split, path=str(tmp_path))
        check_contract(source)
        assert read(source) == {
            dataset_tools.coco_name(split, year, number): [
                f"Caption {i} of {number}." for i in range(5)
            ]
            for number in dataset_tools.coco_ids(split)
        }
        assert source.max_captions == 5 and source.problems == []
        assert source[1].image == jpeg(1)
        assert source.captions_of(1) == source[1].captions
    few = coco.make("train", path=str(tmp_path), max_samples=2, subset_seed=3)
    assert len(few) == 2 and set(read(few)) < set(
        read(coco.make("train", path=str(tmp_path)))
    )
    with pytest.raises(UserError, match="train and val, not 'test'; data=karpathy"):
        coco.make("test", path=str(tmp_path))


def test_coco_years_and_folders(tmp_path):
    dataset_tools.coco(tmp_path, (2014, 2017))
    path = str(tmp_path)
    with pytest.raises(UserError, match="train2014.json, .*set the option year"):
        coco.make("train", path=path)
    assert coco.make("val", path=path, year=2017)[0].key == "000000203564.jpg"
    assert coco.make("val", path=path, year=2014)[0].key.startswith("COCO_val2014_")
    with pytest.raises(UserError, match="captions_val2015.json does not exist"):
        coco.make("val", path=path, year=2015)
    (tmp_path / "images").mkdir()
    (tmp_path / "val2017").rename(tmp_path / "images" / "val2017")
    assert len(coco.make("val", path=path, year=2017)) == 2
    (tmp_path / "images" / "val2017").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no image of .*'000000203564.jpg'.*images"):
        coco.make("val", path=path, year=2017)
    assert len(coco.make("val", path=path, year=2017, images="elsewhere")) == 2


FAULTS = {  # a change of one annotation -> what its image alone then says
    "a caption is missing": (lambda note: note.pop("caption"), "captions is missing"),
    "null": (lambda note: note.update(caption=None), "captions is missing"),
    "a list": (lambda note: note.update(caption=[["a"]]), r'not text but \["a"'),
    "a number": (lambda note: note.update(caption=3), "not text but 3"),
    "a surrogate": (lambda note: note.update(caption="\udc80"), "not UTF-8"),
}


@pytest.mark.parametrize("fault", FAULTS)
@settings(max_examples=5, deadline=None)
@given(st.integers(0, 19))
def test_a_broken_caption_breaks_its_image_alone(fault, tmp_path_factory, at):
    folder = tmp_path_factory.mktemp("coco")
    dataset_tools.coco(folder)
    whole = read(coco.make("train", path=str(folder)))
    place = folder / "annotations" / "captions_train2017.json"
    text = json.loads(place.read_text())
    change, complaint = FAULTS[fault]
    change(text["annotations"][at])
    place.write_text(json.dumps(text))
    source = coco.make("train", path=str(folder))
    broken = f"{text['annotations'][at]['image_id']:012}.jpg"
    assert source.caption_counts.tolist() == [5] * 4
    assert source.problems == ["1 images with a caption that cannot be read"]
    for i, (key, captions) in enumerate(whole.items()):
        if key == broken:
            with pytest.raises(BadExample, match=f"^{broken}: .*{complaint}"):
                source[i]
        else:
            assert list(source[i].captions) == captions


def test_coco_entries_that_cannot_be_used_are_counted(tmp_path):
    dataset_tools.coco(tmp_path)
    place = tmp_path / "annotations" / "captions_val2017.json"
    text = json.loads(place.read_text())
    text["images"] += [
        {"id": 203564, "file_name": "other.jpg"},
        {"id": 7, "file_name": "000000203564.jpg"},
        {"id": 8},
        "x",
        {"id": 9, "file_name": "a\0b.jpg"},
    ]
    text["annotations"] += [
        {"image_id": 1, "caption": "of none"},
        {"image_id": [], "caption": "of none"},
        {"image_id": 203564, "caption": "  "},
        {"image_id": 9, "caption": "of a file that cannot be"},
    ]
    place.write_text(json.dumps(text))
    source = coco.make("val", path=str(tmp_path))
    assert source.caption_counts.tolist() == [5, 5, 1]
    assert source.problems == [
        "2 captions of no image in the list, left out",
        "1 empty captions, left out",
        "2 images whose id or file_name was there before, left out",
        "2 images without id or file_name, left out",
    ]
    with pytest.raises(BadExample, match="cannot read the file: .*null"):
        source[2]
    (tmp_path / "val2017" / "000000179765.jpg").unlink()
    with pytest.raises(BadExample, match="^000000179765.jpg: the file .* is missing"):
        source[1]


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "is not JSON, or truncated"),
        (b'{"images": [{"id": 1, "file_name": "a.jpg"}, {"id"', "or truncated"),
        (
            b"[]",
            "an object with the lists 'images' and 'annotations', but is an empty list",
        ),
        (
            b'[{"image": "a.jpg"}]',
            "but is a list of 1 objects with 'image'; data=captions",
        ),
        (b'{"images": []}', r"but is an object with 'images' \(a list of 0\)"),
        (b'{"images": [], "annotations": []}', "lists no images .* is an empty list"),
        (
            b'{"images": [{"id": 1, "name": "a"}], "annotations": [{"x": 1}]}',
            "lists no images .* is a list of 1 objects with 'id', 'name'$",
        ),
        (
            b'{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"bbox": 1}]}',
            "has no captions .*: 'annotations' is a list of 1 objects with 'bbox'; ",
        ),
        (b"[" * 5000, "its JSON is nested too deep to be read"),
    ],
)
def test_files_of_another_form(raw, complaint, tmp_path):
    dataset_tools.coco(tmp_path)
    place = tmp_path / "annotations" / "captions_val2017.json"
    place.write_bytes(raw)
    with pytest.raises(UserError, match=complaint) as caught:
        coco.make("val", path=str(tmp_path))
    assert str(place) in str(caught.value) and "\n" not in str(caught.value)


def coco_of(folder, images, notes):
    dataset_tools.images(folder / "train2017", list(images.values()))
    listed = [{"id": own, "file_name": name} for own, name in images.items()]
    noted = [{"image_id": own, "caption": repr(own)} for own in notes]
    place = folder / "annotations" / "captions_train2017.json"
    place.parent.mkdir()
    place.write_text(json.dumps({"images": listed, "annotations": noted}))
    return coco.make("train", path=str(folder))


def test_ids_below_zero_and_of_many_digits(tmp_path):
    images = {"-8": "a.jpg", "9" * 30: "b.jpg", 10**30: "c.jpg"}
    source = coco_of(tmp_path, images, [-8, int("9" * 30), str(10**30)])
    assert source.problems == [] and len(source) == 3


def test_ids_that_never_meet_are_named(tmp_path):
    with pytest.raises(UserError, match="such as '7', is an 'id' .*such as '0007'"):
        coco_of(tmp_path, {"0007": "a.jpg"}, [7])


def test_ids_are_numbers_or_text(tmp_path):
    """As some exporters write them; "7" and 7 are the same, "007" is another."""
    for name in ("train2017", "val2017"):
        dataset_tools.images(tmp_path / name, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    images = [
        *({"id": "7", "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}),
        *({"id": "x_9", "file_name": "c.jpg"}, {"id": "007", "file_name": "d.jpg"}),
    ]
    notes = [
        {"image_id": image_id, "caption": f"{image_id!r}"}
        for image_id in (7, "7", " 7 ", "8", 8.0, "x_9", "007", "7.5", True, "")
    ]
    place = tmp_path / "annotations" / "captions_val2017.json"
    place.parent.mkdir()
    place.write_text(json.dumps({"images": images, "annotations": notes}))
    source = coco.make("val", path=str(tmp_path))
    assert list(read(source).values()) == [
        *(["7", "'7'", "' 7 '"], ["'8'", "8.0"], ["'x_9'"], ["'007'"])
    ]
    assert source.problems == ["3 captions of no image in the list, left out"]
    with pytest.raises(UserError, match="holds no captions_train2017.json .*it holds"):
        coco.make("train", path=str(tmp_path))


def test_bytes_that_are_no_utf8_break_their_image_alone(tmp_path):
    dataset_tools.coco(tmp_path)
    place = tmp_path / "annotations" / "captions_val2017.json"
    place.write_bytes(place.read_bytes().replace(b"Caption 2 of 179765", b"caf\xe9", 1))
    source = coco.make("val", path=str(tmp_path))
    assert len(source[0].captions) == 5
    with pytest.raises(BadExample, match="^000000179765.jpg: a caption is not UTF-8"):
        source[1]


@pytest.mark.parametrize("name", ["flickr8k", "flickr30k", "coco"])
def test_karpathy_as_distributed(name, tmp_path):
    dataset_tools.karpathy(tmp_path, name)
    path = str(tmp_path)
    if name == "coco":
        every = {
            f"{place}/COCO_{place}_{number:012}.jpg": split
            for (place, number), split in dataset_tools.COCO_SPLITS.items()
        }
    else:
        every = dataset_tools.FLICKR
    for split in ("train", "val", "test"):
        source = karpathy.make(split, path=path)
        check_contract(source)
        into = (split, "restval") if split == "train" else (split,)
        assert read(source) == {
            key: [f"A dog, number {i} of {number} ." for i in range(5)]
            for number, (key, own) in enumerate(every.items())
            if own in into
        }
        assert source.problems == []
    if name == "coco":
        assert len(karpathy.make("train", path=path)) == 3
        assert len(karpathy.make("train", path=path, restval=False)) == 1
    assert len(karpathy.make("train", path=path, max_samples=1)) == 1
    with pytest.raises(UserError, match="no split 'restval'; use train, val, test"):
        karpathy.make("restval", path=path)


def test_karpathy_files(tmp_path):
    path = str(tmp_path)
    with pytest.raises(UserError, match="none of dataset_flickr8k.json"):
        karpathy.make("test", path=path)
    dataset_tools.karpathy(tmp_path, "flickr8k")
    dataset_tools.karpathy(tmp_path, "flickr30k")
    with pytest.raises(UserError, match="dataset_flickr30k.json: set the option file"):
        karpathy.make("test", path=path)
    source = karpathy.make("test", path=path, file="dataset_flickr8k.json")
    assert len(source) == 2
    (tmp_path / "x.json").write_text('{"images": [{"split": "val", "filename": "a"}]}')
    with pytest.raises(UserError, match="no images of test; its splits: val"):
        karpathy.make("test", path=path, file="x.json")


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 4),
    st.sampled_from(
        [
            ({"sentences": "x"}, "no list of sentences"),
            ({"sentences": [{"raw": ["a"]}]}, "not text"),
            ({"sentences": [{"tokens": ["a"]}]}, "no raw text"),
            ({"sentences": [3]}, "no raw text"),
        ]
    ),
)
def test_a_broken_sentence_breaks_its_image_alone(tmp_path_factory, at, fault):
    folder = tmp_path_factory.mktemp("karpathy")
    dataset_tools.karpathy(folder, "flickr8k")
    place = folder / "dataset_flickr8k.json"
    text = json.loads(place.read_text())
    change, complaint = fault
    image = text["images"][at]
    image.update(change)
    text["images"] += [{"split": "train"}, None, {**image, "sentences": []}]
    place.write_text(json.dumps(text))
    source = karpathy.make(image["split"], path=str(folder))
    assert source.problems == [
        "1 images listed twice, left out",
        "1 images with a caption that cannot be read",
        "2 images without split or filename, left out",
    ]
    names = [n for n, own in dataset_tools.FLICKR.items() if own == image["split"]]
    for i, name in enumerate(names):
        if name == image["filename"]:
            with pytest.raises(BadExample, match=f"^{name}: .*{complaint}"):
                source[i]
        else:
            assert len(source[i].captions) == 5
