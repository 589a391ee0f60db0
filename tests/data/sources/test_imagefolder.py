"""Labelled images as ImageNet comes, and folders as they lie on people's disks."""

import functools

import pytest
from source_tools import check_contract, jpeg

from clipjax.data.annotations import class_tables
from clipjax.data.sources import imagefolder
from clipjax.types import UserError

CLASSES = ("n01440764", "n01443537")
SOLUTION = (
    "ImageId,PredictionString\n"
    "ILSVRC2012_val_00000003,n01440764 111 108 230 190 \n"
    "ILSVRC2012_val_00000001,n01443537 1 1 2 2 n01443537 3 3 4 4\n"
    "ILSVRC2012_val_00000002,n01443537 1 1 2 2\n"
)
MAPPING = "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n"


def put(base, *names):
    for number, name in enumerate(names):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(jpeg(number))


@pytest.fixture
def imagenet(tmp_path):
    put(tmp_path, *(f"train/{name}/{name}_1.JPEG" for name in CLASSES))
    put(tmp_path, *(f"val/ILSVRC2012_val_0000000{i}.JPEG" for i in (1, 2, 3)))
    (tmp_path / "LOC_val_solution.csv").write_text(SOLUTION)
    (tmp_path / "LOC_synset_mapping.txt").write_text(MAPPING)
    return tmp_path


def test_imagenet_as_distributed(imagenet):
    with pytest.raises(UserError, match="val holds images but no .*option labels_file"):
        imagefolder.make("val", path=str(imagenet))
    make = functools.partial(
        imagefolder.make,
        "val",
        path=str(imagenet),
        class_names_file="LOC_synset_mapping.txt",
        labels_file="LOC_val_solution.csv",
    )
    val = make()
    check_contract(val)
    assert val.class_names == {"class": ["tench", "goldfish"]} and not val.problems
    assert [(val[i].key[-6:-5], val[i].labels["class"]) for i in range(3)] == [
        ("3", 0),
        ("1", 1),
        ("2", 1),
    ]
    one = make(max_classes=1)
    assert len(one) == 1 and one.class_names == {"class": ["tench"]}
    (imagenet / "val/ILSVRC2012_val_00000002.JPEG").unlink()
    assert make().problems == ["1 images of LOC_val_solution.csv are missing"]


def test_tables_of_classes(tmp_path):
    place = tmp_path / "labels.csv"
    images = ["val/a.jpg", "val/b.png"]
    place.write_text('a.jpg,golden retriever\n"b.png","cat"\n')
    found = {"golden retriever": ["val/a.jpg"], "cat": ["val/b.png"]}
    assert class_tables.labels(place, images) == (found, [])
    place.write_text("a\t7\nb\t7\n")
    assert class_tables.labels(place, images)[0] == {"7": images}
    for text, words in (
        ("a,x\n", "gives the image 'b.png' no class"),
        ("a,x\nb\n", "line 2: write IMAGE,CLASS"),
        ("a,x\nb,y\na,y\n", "line 3: 'a' has another class above"),
    ):
        place.write_text(text)
        with pytest.raises(UserError, match=words):
            class_tables.labels(place, images)


def test_folders_as_they_lie_on_disks(tmp_path):
    put(tmp_path, "train/cat/1.JPG", "train/cat/.ipynb_checkpoints/1-checkpoint.jpg")
    put(tmp_path, "train/cat/._1.JPG", "train/__MACOSX/cat/2.jpg", "far/in/3.jpeg")
    (tmp_path / "train/dog").symlink_to(tmp_path / "far")
    (tmp_path / "train/cat/more").symlink_to(tmp_path / "far/in")
    (tmp_path / "train/cat/loop").symlink_to(tmp_path / "train/cat")
    source = imagefolder.make("train", path=str(tmp_path))
    assert source.class_names == {"class": ["cat", "dog"]} and source.problems == []
    assert [source.key_of(i) for i in range(len(source))] == [
        "train/cat/1.JPG",
        "train/cat/more/3.jpeg",
        "train/dog/in/3.jpeg",
    ]


@pytest.mark.parametrize("form", ["val/{}", "val\\{}", ".\\{}", "./{}", "val//{}"])
def test_a_table_may_name_images_by_their_folders(form, tmp_path):
    put(tmp_path, "val/a.jpg", "val/b.jpg")
    for names in (("a.jpg", "b.jpg"), ("a", "b")):
        rows = [f"{form.format(name)},n{i}" for i, name in enumerate(names)]
        (tmp_path / "t.csv").write_text("file,class\r\n" + "\r\n".join(rows))
        source = imagefolder.make("val", path=str(tmp_path), labels_file="t.csv")
        assert [source[i].labels["class"] for i in range(2)] == [0, 1]
    (tmp_path / "t.csv").write_text("other/a.jpg,n0\n")
    with pytest.raises(UserError, match="'a.jpg' no class; it names them as 'other/a"):
        imagefolder.make("val", path=str(tmp_path), labels_file="t.csv")


def test_images_of_one_name_in_two_folders(tmp_path):
    put(tmp_path, "val/x/a.jpg", "val/y/a.jpg")
    (tmp_path / "t.csv").write_text("x/a.jpg,n0\ny/a.jpg,n1\na.jpg,n2\n")
    source = imagefolder.make("val", path=str(tmp_path), labels_file="t.csv")
    labels = [source[i].labels["class"] for i in range(2)]
    assert [source.class_names["class"][label] for label in labels] == ["n0", "n1"]
