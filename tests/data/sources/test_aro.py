"""ARO in its public layout: boxes of images, and what is refused."""

import io
import json
import pickle
import shutil

import dataset_tools
import numpy as np
import pytest
from PIL import Image
from source_tools import check_contract

from clipjax.data.images import decoding
from clipjax.data.sources import aro
from clipjax.types import BadExample, UserError


def test_as_distributed(tmp_path):
    dataset_tools.aro(tmp_path)
    source = aro.make("test", path=str(tmp_path))
    check_contract(source)
    assert len(source) == 6 + 25
    example = source[1]
    assert example.key == "vg_relation/1/2373554.jpg"
    assert example.captions == ("the cup is on the table",)
    assert source.choices[1].captions == (
        "the cup is on the table",
        "the table is on the cup",
    )
    picture = decoding.decode((tmp_path / "images" / "2373554.jpg").read_bytes())
    np.testing.assert_array_equal(example.image, np.asarray(picture)[1:7, 2:7])
    assert source[30].key == "vg_attribution/24/2391568.jpg"
    again = pickle.loads(pickle.dumps(source))
    assert again.choices == source.choices
    only = aro.make("test", path=str(tmp_path), part="attribution")
    assert {choice.kind for choice in only.choices} == {"vg_attribution"}
    (tmp_path / "visual_genome_attribution.json").unlink()
    assert len(aro.make("test", path=str(tmp_path))) == 6


def picture(orientation=1):
    """2 x 3 pixels of different greys, as a lossless file with an EXIF orientation."""
    pixels = np.arange(6, dtype=np.uint8).reshape(3, 2) * 40
    exif = Image.Exif()
    exif[decoding.ORIENTATION_TAG] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", exif=exif)
    return stream.getvalue(), pixels


def boxes(folder, content, *found):
    """A source of these boxes of one image."""
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / "1.jpg").write_bytes(content)
    entries = [
        dataset_tools.aro_entry(1, "a b", "b a", box, relation_name="on")
        for box in found
    ]
    (folder / "visual_genome_relation.json").write_text(json.dumps(entries))
    return aro.make("test", path=str(folder))


def test_boxes_by_hand(tmp_path):
    content, pixels = picture()
    source = boxes(
        tmp_path, content, (0, 0, 2, 3), (1, 1, 1, 2), (0.4, 1.6, 1, 1), (-1, 2, 2, 1)
    )
    found = [source[i].image[..., 0] for i in range(4)]
    np.testing.assert_array_equal(found[0], pixels)
    np.testing.assert_array_equal(found[1], pixels[1:, 1:])
    np.testing.assert_array_equal(found[2], pixels[2:, :1])
    # Beyond the picture it is black.
    np.testing.assert_array_equal(found[3], [[0, pixels[2, 0]]])


def test_boxes_are_of_the_upright_picture(tmp_path):
    content, pixels = picture(orientation=6)
    upright = np.rot90(pixels, -1)  # 3 wide, 2 high
    source = boxes(tmp_path, content, (1, 0, 2, 1), (2, 0, 1, 2))
    np.testing.assert_array_equal(source[0].image[..., 0], upright[:1, 1:])
    np.testing.assert_array_equal(source[1].image[..., 0], upright[:, 2:])


def test_broken_examples(tmp_path):
    content, _ = picture()
    outside = (2, 0, 5, 5), (0, 3, 1, 1), (-4, 0, 4, 3), (0, -9, 1, 9), (0, 0, 0, 2)
    mostly = (1, 1, 3, 1), (0, 0, 1e8, 1e8)
    source = boxes(tmp_path, content, *outside, *mostly, (1, 1, -1, 1))
    for index in range(len(source)):
        with pytest.raises(BadExample, match=r"out of the image, which has 2 x 3") as e:
            source[index]
        assert e.value.key == f"vg_relation/{index}/1.jpg"
    with pytest.raises(BadExample, match=r"box of 5 x 5 pixels at \(2, 0\)"):
        source[0]
    (tmp_path / "images" / "1.jpg").write_bytes(b"no image")
    with pytest.raises(BadExample, match="vg_relation/0/1.jpg: not an image of a"):
        source[0]
    (tmp_path / "images" / "1.jpg").unlink()
    with pytest.raises(BadExample, match="1.jpg is missing"):
        source[0]


def test_refused(tmp_path):
    with pytest.raises(UserError, match="no folder of ARO's lists and images is given"):
        aro.make("test")
    path = str(tmp_path)
    words = r"has no visual_genome_relation.json or .*: put ARO's lists there, beside"
    with pytest.raises(UserError, match=words):
        aro.make("test", path=path)
    dataset_tools.aro(tmp_path)
    with pytest.raises(UserError, match=r"the split test only, not 'val': .*split=tes"):
        aro.make("val", path=path)
    with pytest.raises(UserError, match="part='colour': use relation or attribution"):
        aro.make("test", path=path, part="colour")
    (tmp_path / "visual_genome_attribution.json").unlink()
    with pytest.raises(UserError, match="has no visual_genome_attribution.json \\("):
        aro.make("test", path=path, part="attribution")
    shutil.move(tmp_path / "images", tmp_path / "pictures")
    with pytest.raises(UserError, match="no image of .*'2373554.jpg'.*option images"):
        aro.make("test", path=path)
    assert len(aro.make("test", path=path, images="pictures")[0].image) == 8
