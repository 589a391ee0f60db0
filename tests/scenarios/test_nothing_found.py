"""A complaint that something is not there says what is, and how to use it."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest
from source_tools import jpeg, write_tar

from clipjax import registry
from clipjax.data.sources import webdataset
from clipjax.data.storage import brace_patterns, file_contents
from clipjax.types import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path_factory.mktemp("cache")))


def said(source, path, split="train", **options):
    with pytest.raises(UserError) as error:
        registry.load("data", source)(split, path=str(path), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def shards(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        write_tar(folder / name, [("a.jpg", jpeg())])


@pytest.mark.parametrize(
    "suffix",
    [".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".zip", ".tar.lz4"]
    + [".tlz", ".tar.lz", ".tar.Z", ".TAR.GZ", ".tar.br", ".tzst", ".tar.zstd"],
)
def test_packed_shards_are_named(suffix, tmp_path):
    for i in range(2):
        (tmp_path / f"train-{i}{suffix}").write_bytes(b"packed")
    words = said("webdataset", tmp_path)
    assert f"it holds 2 files train-*{suffix} (compressed: unpack them" in words
    for source in ("parquet", "imagefolder", "captions", "img2dataset", "arrayrecord"):
        assert f"train-*{suffix} (compressed" in said(source, tmp_path), source


def zipped(data):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("a.jpg", data)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("pack", "words"),
    [
        (gzip.compress, "is compressed: unpack it to a plain .tar .gunzip."),
        (bz2.compress, "is compressed: .*bunzip2"),
        (lzma.compress, "is compressed: .*unxz"),
        (lambda data: lzma.compress(data, lzma.FORMAT_ALONE), "compressed: .*unlzma"),
        (lambda data: b"\x28\xb5\x2f\xfd" + data, "is compressed: .*unzstd"),
        (zipped, "is a zip archive"),
        (lambda data: b"LZIP\1" + data, "is compressed: .*lzip -d"),
        (lambda data: b"\x89LZO\0\r\n" + data, "is compressed: .*lzop -d"),
        (lambda data: b"\xff\6\0\0sNaPpY" + data, "is compressed: .*snzip -d"),
        (lambda data: b"\x50\x2a\x4d\x18" + data, "is compressed: .*unzstd"),
        (lambda data: b"\x02\x21\x4c\x18" + data, "is compressed: .*unlz4"),
        (lambda data: b"PK\5\6" + bytes(18), "is a zip archive"),
        (lambda data: b"<!DOCTYPE html>" + data, "a web page, which a failed download"),
        (lambda data: b"PAR1" + data, "is a parquet file: read it by data=parquet"),
        (lambda data: b"ARROW1\0\0" + data, "is an Arrow file"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    ],
)
def test_a_shard_of_another_kind_is_named(pack, words, tmp_path):
    shards(tmp_path, "train-0.tar")
    place = tmp_path / "train-0.tar"
    place.write_bytes(pack(place.read_bytes()))
    with pytest.raises(UserError, match=words):
        webdataset.make("train", path=str(tmp_path))


def test_a_tar_is_a_tar_whatever_its_first_name(tmp_path):
    for i, name in enumerate(("BZh.jpg", "PAR1.jpg", "ARROW1.jpg")):
        write_tar(tmp_path / f"train-{i}.tar", [(name, jpeg())])
    assert len(webdataset.make("train", path=str(tmp_path))) == 3


def test_only_compressed_files_are_called_so(tmp_path):
    for name in ("a.tar.part", "a.tar.md5", "a.tar.idx"):
        (tmp_path / name).write_bytes(b"x")
    assert "unpack" not in said("webdataset", tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"{}"), "compressed by gzip: unpack it"),
        (zipped(b"x"), "a zip archive, or a spreadsheet"),
        ('{"images": []}'.encode("utf-16"), "UTF-16 text: save it as UTF-8"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"ARROW1\0\0", "an Arrow file"),
    ],
    # Not the contents, in which the time stands: every test process must find the same.
    ids=["gzip", "zip", "utf-16", "html", "git-lfs", "arrow"],
)
def test_a_file_of_another_kind_is_named(content, words, tmp_path):
    """Where JSON, a table, parquet or a list of classes should be."""
    for name in ("annotations/captions_train2017.json", "dataset.json", "a.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "captions.csv").write_bytes(content)
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "train-0.tar", [("a.jpg", jpeg()), ("a.cls", b"0")])
    for source, table in (
        ("coco", "captions_train2017.json is not JSON, but"),
        ("karpathy", "dataset.json is not JSON, but"),
        ("parquet", "a.parquet is "),
        ("captions", "captions.csv is not a table of text, but"),
    ):
        found = said(source, tmp_path)
        assert table in found and words in found, source
    if not _is_utf8(content):
        (tmp_path / "tars" / "classes.txt").write_bytes(content)
        found = said("webdataset", tmp_path / "tars", classes="classes.txt")
        assert words in found


def _is_utf8(content):
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_what_save_to_disk_leaves_is_named(tmp_path):
    for name in ("state.json", "dataset_info.json", "data-00000-of-00001.arrow"):
        (tmp_path / "one").mkdir(exist_ok=True)
        (tmp_path / "one" / name).write_bytes(b"{}")
        (tmp_path / "several" / "train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "several" / "train" / name).write_bytes(b"{}")
    (tmp_path / "several" / "dataset_dict.json").write_text("{}")
    for folder in ("one", "several"):
        for source in (
            "webdataset",
            "parquet",
            "imagefolder",
            "arrayrecord",
            "coco",
        ) + (("karpathy", "captions") + ("img2dataset",) * (folder == "several")):
            words = said(source, tmp_path / folder)
            assert "an Arrow data set of datasets' save_to_disk" in words, source
            assert "to_parquet" in words


def test_a_wrong_split_lists_those_that_are_there(tmp_path):
    names = [f"train-{i:03}.tar" for i in range(5)] + ["val-000.tar", "val-001.tar"]
    shards(tmp_path / "tars", *names)
    words = said("webdataset", tmp_path / "tars", "validation")
    assert "it holds 5 files train-*.tar, 2 files val-*.tar; set the option" in words
    assert "another split than 'validation'" in words
    for split in ("train", "val"):
        (tmp_path / "folders" / split / "cat").mkdir(parents=True)
        (tmp_path / "folders" / split / "cat" / "a.jpg").write_bytes(jpeg())
    assert "its splits: train, val" in said("imagefolder", tmp_path / "folders", "test")
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "a.jpg").write_bytes(jpeg())
    assert "it holds a.jpg" in said("imagefolder", tmp_path / "loose")


def test_folders_in_words(tmp_path):
    assert file_contents.summary(tmp_path) == "it is empty"
    assert file_contents.summary(tmp_path / "none") == "there is no such folder"
    for i in range(12):
        (tmp_path / f"{'abcdefghijkl'[i]}.jpg").write_bytes(b"")
    (tmp_path / ".hidden").write_bytes(b"")
    (tmp_path / "note.txt").write_bytes(b"")
    assert file_contents.summary(tmp_path) == "it holds 12 files *.jpg, note.txt"


# Hand-made by `echo PATTERN` in bash.
BRACES = {
    "{a,b}-{0..1}.tar": ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"],
    "{train,val}": ["train", "val"],
    "x{00..10..5}y": ["x00y", "x05y", "x10y"],
    "{a,b{1..2}}": ["a", "b1", "b2"],
    "{a,}z": ["az", "z"],
    "{a}{b}": ["{a}{b}"],
    "{a{1..2}}": ["{a1}", "{a2}"],
    "{a..c}{X..Y}": ["aX", "aY", "bX", "bY", "cX", "cY"],
    "{a..3}": ["{a..3}"],
    "{" + "1..1},{" * 2000 + "b": ["1," * 2000 + "{b"],
    "a{b,c": ["a{b,c"],
    "a}b{c,d}": ["a}bc", "a}bd"],
    "plain*.tar": ["plain*.tar"],
}


@pytest.mark.parametrize("pattern", BRACES)
def test_braces_are_expanded_as_in_a_shell(pattern):
    assert brace_patterns.expand(pattern) == BRACES[pattern]


def test_more_names_than_can_be_looked_up():
    for pattern in (
        "{0..999999999}",
        "{0..9999}{0..9999}",
        "{a,b}" * 30,
        "{{0..999999},{0..999999}}",
    ):
        with pytest.raises(UserError, match="more than 1,000,000"):
            brace_patterns.expand(pattern)
    with pytest.raises(UserError, match="names, more than 5"):
        brace_patterns.expand("{0..999999}" + "x" * 5000)  # too many letters of them


def test_braces_that_no_one_means():
    """Each at once, where it took minutes, or Python's numbers and stack ended."""
    for pattern in ("{" * 3000, "{a," * 3000 + "}" * 3000, "a" + "{b,{" * 8):
        with pytest.raises(UserError, match="braces are more than 10 deep"):
            brace_patterns.expand(pattern)
    for digits in (20, 5000):
        with pytest.raises(UserError, match="its numbers are long"):
            brace_patterns.expand(f"{{0..{'9' * digits}}}")
    with pytest.raises(UserError, match="{c..a} runs backwards"):
        brace_patterns.expand("{c..a}")


def test_every_source_takes_alternatives(tmp_path):
    shards(tmp_path, *(f"{name}-{i}.tar" for name in "abc" for i in range(2)))
    source = webdataset.make("train", path=str(tmp_path), shards="{a,c}-{0..1}.tar")
    assert [source.key_of(i).partition(":")[0] for i in range(4)] == [
        *("a-0.tar", "a-1.tar", "c-0.tar", "c-1.tar")
    ]
    assert len(webdataset.make("train", path=str(tmp_path), shards="{a,b}-*.tar")) == 4
    words = said("webdataset", tmp_path, shards="{a,d}-0.tar")
    assert "d-0.tar does not exist. shards={a,d}-0.tar names it" in words
    for name in ("00000", "00001", "00003"):
        (tmp_path / "files" / name).mkdir(parents=True)
        (tmp_path / "files" / name / "a.jpg").write_bytes(jpeg())
    make = registry.load("data", "img2dataset")
    path = str(tmp_path / "files")
    assert len(make("all", path=path, shards="{00000,00003}")) == 2
