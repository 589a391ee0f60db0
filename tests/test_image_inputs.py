"""Images as users give them: lazily, by path, open; few at a time; errors that name."""

import io
import pathlib
import resource
import tarfile
import zipfile

import numpy as np
import pytest
from encoder_tools import (
    Counted,
    Letters,
    Sums,
    expected_embed,
    make_encoder,
    make_pictures,
    make_variables,
    png_bytes,
)
from PIL import Image

from clipjax.data.images import preprocess
from clipjax.loaded import Loaded
from clipjax.types import Example, UserError

COUNT = 40


def library(batch_size=4):
    made = make_encoder(batch_size=batch_size)
    parts = Sums(), make_variables(), Letters(), preprocess.clip(4)
    return Loaded(None, *parts, made, 0)


@pytest.fixture(scope="module")
def clip():
    return library()


@pytest.fixture
def files(tmp_path):
    found = []
    for i, picture in enumerate(make_pictures(COUNT)):
        found.append(tmp_path / f"{i} [x].png")
        found[-1].write_bytes(png_bytes(picture))
    return found


class Lazy:
    """A sequence that opens what is asked for; no iterator, no end by IndexError."""

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return Image.open(self.files[index % len(self.files)])


class Labelled:
    """As pandas: numbers in brackets are labels, and iterating gives the values."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(self.values)

    def __getitem__(self, label):
        raise KeyError(label)


def in_tar(files):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for file in files:
            tar.add(file, file.name)
    return tarfile.open(fileobj=io.BytesIO(made.getvalue()))


def in_zip(files):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for file in files:
            archive.write(file, file.name)
    return zipfile.ZipFile(io.BytesIO(made.getvalue()))


def read_before(files):
    opened = [file.open("rb") for file in files]
    for file in opened:
        file.read()
    yield from opened
    for file in opened:
        file.close()


def members(files):
    tar = in_tar(files)
    return [tar.extractfile(member) for member in tar.getmembers()]


FORMS = {
    "paths": lambda files: files,
    "names": lambda files: [str(file) for file in files],
    "generator of paths": lambda files: (file for file in files),
    "generator of images": lambda files: (Image.open(file) for file in files),
    "map of bytes": lambda files: map(pathlib.Path.read_bytes, files),
    "lazy": Lazy,
    "labelled": lambda files: Labelled([file.read_bytes() for file in files]),
    "in memory": lambda files: [io.BytesIO(file.read_bytes()) for file in files],
    "read before": read_before,
    "tar": members,
    "opened in a tar": lambda files: (
        Image.open(tar.extractfile(member)) for tar in [in_tar(files)] for member in tar
    ),
    "zip": lambda files: (
        archive.open(name) for archive in [in_zip(files)] for name in archive.namelist()
    ),
    "examples": lambda files: [Example(file.read_bytes()) for file in files],
    "mixed": lambda files: [
        files[0],
        str(files[1]),
        Image.open(files[2]),
        np.asarray(Image.open(files[3])),
        *(file.read_bytes() for file in files[4:]),
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_images_of_every_form_are_encoded(form, clip, files):
    embed = clip.encode_image(FORMS[form](files))
    expected = expected_embed(make_pictures(COUNT))
    np.testing.assert_allclose(embed, expected, rtol=1e-4, atol=1e-5)


def test_one_image_many_times(clip, files):
    """Threads must not read the same open file at once."""
    embed = clip.encode_image([Image.open(files[0])] * 16)
    expected = expected_embed(make_pictures(1) * 16)
    np.testing.assert_allclose(embed, expected, rtol=1e-4, atol=1e-5)


def open_files():
    return len(list(pathlib.Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not pathlib.Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("form", ["generator of images", "lazy"])
def test_few_files_are_open_at_a_time(form, clip, files):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 12, limits[1]))
    try:
        assert len(clip.encode_image(FORMS[form](files))) == COUNT
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_few_images_are_kept_at_a_time():
    pictures = Counted(make_pictures(200))
    assert len(library(batch_size=64).encode_image(iter(pictures))) == 200
    assert pictures.most < 16


BROKEN = {
    "no image": (b"broken", "image 1: not an image"),
    "empty": (b"", "image 1: the image is empty"),
    "no file": ("gone.png", r"image 1 \('gone.png'\): there is no such file"),
    "address": ("https://a.b/c.jpg", "image 1 .*not an address"),
    "folder": (pathlib.Path("."), r"image 1 \('.'\): the file cannot be read: Is a"),
    "NUL": ("a\0b", "image 1 .*the file cannot be read"),
    "nothing": (None, "image 1: give a path, encoded bytes.*not NoneType"),
    "number": (7, "image 1: give a path, encoded bytes.*not int"),
    "list": ([[0]], "image 1: give a path, encoded bytes.*not list"),
    "integers": (np.zeros((4, 4, 3), int), "image 1: .*must be uint8"),
    "floats up to 255": (np.full((4, 4, 3), 200.0), r"floats must be in \[0, 1\].*200"),
    "negative floats": (np.full((4, 4, 3), -0.5), r"floats must be in \[0, 1\]"),
    "NaN": (np.full((4, 4, 3), np.nan), r"floats must be in \[0, 1\]"),
    "text file": (io.StringIO("x"), "image 1: .*mode 'rb'"),
    "text file on disk": (io.TextIOWrapper(io.BytesIO(b"\xff")), ".*mode 'rb'"),
    "file for writing": (
        io.BufferedWriter(io.BytesIO()),
        "image 1: the file is not open for reading",
    ),
    "no pixels": (Image.new("RGB", (0, 3)), "image 1: the image has no pixels: 0 x 3"),
    "vector": (np.full(4, -0.5), r"image 1: .*must be uint8 \[h w 3\]"),
    "NumPy's text": (np.str_("gone.png"), r"image 1 \('gone.png'\): there is no"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_image_is_told_at_once(fault, clip):
    bad, words = BROKEN[fault]
    taken = []

    def images():
        for i, picture in enumerate(make_pictures(400)):
            taken.append(i)
            yield bad if i == 1 else picture

    with pytest.raises(UserError, match=words):
        clip.encode_image(images())
    assert len(taken) < 16


def test_a_cut_file_opened_lazily_is_broken(clip, files):
    whole = Image.effect_noise((64, 64), 50)
    file = io.BytesIO()
    whole.save(file, "JPEG")
    files[3].write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    with pytest.raises(UserError, match="image 3: the image cannot be decoded"):
        clip.encode_image(Image.open(file) for file in files)


def test_an_error_of_the_generator_is_the_users_own(clip, files):
    files[5].unlink()
    with pytest.raises(FileNotFoundError):
        clip.encode_image(Image.open(file) for file in files)


@pytest.mark.parametrize("texts", [b"a dog", None, 3, {"a": 1}, np.zeros((2, 2))])
def test_no_list_of_texts(texts, clip):
    with pytest.raises(UserError, match="a list of strings.*, not "):
        clip.encode_text(texts)


@pytest.mark.parametrize("images", [None, 3, {"a": 1}])
def test_no_list_at_all(images, clip):
    with pytest.raises(UserError, match="a list of images, not"):
        clip.encode_image(images)


def test_no_images_give_an_empty_array_of_the_width(clip):
    assert clip.encode_image(iter(())).shape == clip.encode_image([]).shape == (0, 5)


@pytest.mark.parametrize("bad", [None, 3, b"a dog"])
def test_what_is_no_text_is_named_by_its_number(bad, clip):
    with pytest.raises(UserError, match="text 2: the caption is not text but"):
        clip.encode_text(text for text in ("a", "b", bad))
