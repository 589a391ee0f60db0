"""Winoground in its public layout, and what is refused."""

import pickle
import shutil

import dataset_tools
import pytest
from source_tools import check_contract, jpeg

from clipjax.data.sources import winoground
from clipjax.types import BadExample, UserError


def test_as_distributed(tmp_path):
    dataset_tools.winoground(tmp_path)
    for path in (tmp_path, tmp_path / "data"):
        source = winoground.make("test", path=str(path))
        check_contract(source)
        assert len(source) == 6 and source.max_captions == 1
        assert source[3].key == "ex_1_img_1.png" and source[3].image == jpeg(3)
        assert source[3].captions == ("presents the watch",)
        assert [(p.id, p.first, p.second) for p in source.pairs] == [
            ("0", 0, 1),
            ("1", 2, 3),
            ("2", 4, 5),
        ]
        assert source.pairs[1].tags == {
            "tag": "Verb",
            "secondary_tag": "Symbolic",
            "num_main_preds": "2",
            "collapsed_tag": "Both",
        }
    assert pickle.loads(pickle.dumps(source)).pairs == source.pairs


def test_parquet(tmp_path):
    dataset_tools.winoground(tmp_path / "lines")
    dataset_tools.winoground_parquet(tmp_path / "parquet")
    lines = winoground.make("test", path=str(tmp_path / "lines"))
    for path in ("parquet", "parquet/data"):
        source = winoground.make("test", path=str(tmp_path / path))
        check_contract(source)
        assert source.pairs == lines.pairs and source.problems == []
        for index in range(6):
            assert source[index].image == lines[index].image
            assert source[index].captions == list(lines[index].captions)
    assert source[3].key == "test-00000-of-00002.parquet:1/0/image_1"
    assert pickle.loads(pickle.dumps(source))[5].image == lines[5].image


def test_parquet_of_another_form(tmp_path):
    dataset_tools.hub(tmp_path, {"test": 4})
    with pytest.raises(UserError, match="image_0.*image, caption, label"):
        winoground.make("test", path=str(tmp_path))


def test_a_parquet_row_without_an_image(tmp_path):
    import pyarrow.parquet

    dataset_tools.winoground_parquet(tmp_path)
    place = tmp_path / "data" / "test-00000-of-00002.parquet"
    table = pyarrow.parquet.read_table(place)
    rows = table.to_pylist()
    rows[1] |= {"image_1": None, "caption_0": "", "id": None, "tag": None}
    table = pyarrow.Table.from_pylist(rows, table.schema)
    pyarrow.parquet.write_table(table, place)
    source = winoground.make("test", path=str(tmp_path))
    with pytest.raises(BadExample, match="parquet:0/1/image_1: it has no image"):
        source[3]
    assert source[2].captions == [] and source.caption_counts.tolist()[2:4] == [0, 1]
    assert source.pairs[1].id == "1" and "tag" not in source.pairs[1].tags


def test_images_elsewhere_and_of_other_formats(tmp_path):
    dataset_tools.winoground(tmp_path)
    data = tmp_path / "data"
    (data / "images" / "ex_1_img_0.png").rename(data / "images" / "ex_1_img_0.webp")
    (data / "images").rename(tmp_path / "pictures")
    source = winoground.make("test", path=str(data), images="../pictures")
    assert source[2].key == "ex_1_img_0.webp" and source[2].image == jpeg(2)
    (tmp_path / "pictures" / "ex_2_img_1.png").unlink()
    source = winoground.make("test", path=str(data), images="../pictures")
    assert len(source.pairs) == 3
    with pytest.raises(BadExample, match="ex_2_img_1.*is missing"):
        source[5]
    # All in one folder.
    for place in (tmp_path / "pictures").iterdir():
        shutil.move(place, data / place.name)
    assert winoground.make("test", path=str(data))[0].image == jpeg(0)


def test_refused(tmp_path):
    with pytest.raises(UserError, match="no folder of Winoground's pairs is given"):
        winoground.make("test")
    with pytest.raises(UserError, match="has no examples.jsonl .*: put there examples"):
        winoground.make("test", path=str(tmp_path))
    dataset_tools.winoground(tmp_path)
    path = str(tmp_path)
    with pytest.raises(UserError, match=r"the split test only, not 'val': .*split=tes"):
        winoground.make("val", path=path)
    with pytest.raises(UserError, match="named by the option images=there"):
        winoground.make("test", path=path, images="there")
    (tmp_path / "data" / "images.zip").write_bytes(b"PK")
    shutil.rmtree(tmp_path / "data" / "images")
    with pytest.raises(UserError, match="images.zip is not unpacked: unzip it in"):
        winoground.make("test", path=path)
    (tmp_path / "data" / "images.zip").unlink()
    with pytest.raises(UserError, match="no image of .*such as 'ex_0_img_0'"):
        winoground.make("test", path=path)
