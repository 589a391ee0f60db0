"""Caption tables as distributed: official lists of Flickr8k, Flickr30k, JSON lines."""

import json
import unicodedata

import dataset_tools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tools import check_contract

from clipjax.data.annotations import caption_tables
from clipjax.data.sources import captions
from clipjax.types import BadExample, UserError


def keys(source):
    return [source[i].key for i in range(len(source))]


@pytest.mark.parametrize("form", ["as distributed", "beside", "kaggle"])
def test_the_official_lists_of_flickr8k(form, tmp_path):
    dataset_tools.flickr8k(tmp_path)
    text = tmp_path / "Flickr8k_text"
    if form == "beside":
        for place in text.iterdir():
            place.rename(tmp_path / place.name)
    elif form == "kaggle":
        (text / "Flickr8k.token.txt").unlink()
        (tmp_path / "Flicker8k_Dataset").rename(tmp_path / "Images")
        rows = [f"{n},A dog , {n} .\n" for n in dataset_tools.FLICKR]
        (tmp_path / "captions.txt").write_text("image,caption\n" + "".join(rows))
    path = str(tmp_path)
    for split in ("train", "val", "test"):
        source = captions.make(split, path=path)
        check_contract(source)
        own = [n for n, s in dataset_tools.FLICKR.items() if s == split]
        assert keys(source) == own and source.problems == []
        assert source.max_captions == (1 if form == "kaggle" else 5)
    mixed = captions.make("train", path=path, official=False, val_fraction=0.0)
    assert len(mixed) == (5 if form == "kaggle" else 6)
    first = captions.make("test", path=path, max_samples=1)
    assert keys(first) == ["1003163366_44323f5815.jpg"]


def test_official_lists_that_do_not_fit(tmp_path):
    dataset_tools.flickr8k(tmp_path)
    path, text = str(tmp_path), tmp_path / "Flickr8k_text"
    with pytest.raises(
        UserError, match="do not list the split 'dev'; add a split_file"
    ):
        captions.make("dev", path=path)
    own = "Flickr8k_text/Flickr_8k.devImages.txt"
    assert len(captions.make("dev", path=path, split_file=own)) == 1
    with (text / "Flickr_8k.trainImages.txt").open("a") as file:
        file.write("absent.jpg\n")
    source = captions.make("train", path=path)
    assert source.problems == [
        "1 names of Flickr_8k.trainImages.txt are not in the table"
    ]
    (text / "Flickr_8k.testImages.txt").unlink()
    with pytest.raises(
        UserError, match="add Flickr_8k.testImages.txt, or set official"
    ):
        captions.make("test", path=path)
    (text / "Flickr_8k.devImages.txt").write_text("absent.jpg\n")
    with pytest.raises(UserError, match="none of the 1 names of .*devImages"):
        captions.make("val", path=path)
    (text / "Flickr_8k.devImages.txt").write_bytes("café.jpg".encode("latin-1"))
    with pytest.raises(UserError, match="devImages.txt is not UTF-8"):
        captions.make("val", path=path)


@pytest.mark.parametrize("form", ["flickr30k", "flickr30k_kaggle"])
def test_flickr30k_as_distributed(form, tmp_path):
    getattr(dataset_tools, form)(tmp_path)
    source = captions.make("all", path=str(tmp_path))
    check_contract(source)
    assert keys(source) == list(dataset_tools.FLICKR30K) and source.problems == []
    last = "Two men , 4 , are" if form == "flickr30k" else "A dog runs across the grass"
    assert len(source[2].captions) == 5 and source[2].captions[4].startswith(last)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda text: text.strip() == text != ""
)
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a.jpg", "ü/b.png", "no suffix"]), st.lists(TEXT, min_size=1)
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.booleans())
def test_json_lines_round_trip(tmp_path_factory, rows, ascii_only):
    place = tmp_path_factory.mktemp("table") / "t.jsonl"
    lines, expected = [], {}
    for i, (name, texts) in enumerate(rows):
        single = i % 2 == 0 and len(texts) == 1
        found = {"caption": texts[0]} if single else {"captions": texts}
        lines.append(
            json.dumps({"id": i, "image": name, **found}, ensure_ascii=ascii_only)
        )
        expected.setdefault(name, []).extend(texts)
    place.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    entries, problems = caption_tables.read(place, "", "")
    assert {k: entry.captions for k, entry in entries.items()} == expected
    assert list(entries) == list(expected) and problems == []
    listed = place.with_suffix(".txt" if ascii_only else ".json")
    text = json.dumps([json.loads(line) for line in lines], indent=1 if i % 2 else None)
    listed.write_text(text, encoding="utf-8")
    assert caption_tables.read(listed, "", "") == (entries, [])


def test_json_lists_as_blip_and_llava_distribute_them(tmp_path):
    dataset_tools.images(tmp_path / "val2014", ["COCO_1.jpg", "COCO_2.jpg"])
    rows = [  # coco_karpathy_train.json: a row for each caption
        {"caption": f"number {i}", "image": f"val2014/COCO_{i % 2 + 1}.jpg"}
        for i in range(4)
    ]
    place = tmp_path / "captions.json"
    place.write_text(json.dumps([{**row, "image_id": "coco_1"} for row in rows]))
    source = captions.make("all", path=str(tmp_path))
    check_contract(source)
    assert source[0].captions == ("number 0", "number 2")
    meta = [{"id": "2", "image": "val2014/COCO_2.jpg", "blip_caption": "a dog"}]
    (tmp_path / "meta.json").write_text(json.dumps(meta, indent=2))
    named = {"table": "meta.json", "caption_column": "blip_caption"}
    assert captions.make("all", path=str(tmp_path), **named)[0].captions == ("a dog",)
    with pytest.raises(UserError, match="cannot tell the image and caption columns"):
        captions.make("all", path=str(tmp_path), table="meta.json")
    meta.append("x")
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    source = captions.make("all", path=str(tmp_path), **named)
    assert source.problems == ["1 rows that name no image, left out"]
    place.write_text(place.read_text()[:90])
    with pytest.raises(UserError, match="captions.json is not JSON, or truncated: "):
        captions.make("all", path=str(tmp_path))
    place.write_text("[]")
    with pytest.raises(UserError, match="captions.json: none of its .* JSON object"):
        captions.make("all", path=str(tmp_path))


FAULTS = {  # a line -> fault of its image, or what is said of the table
    '{"image": "b.jpg"}': "no caption field",
    '{"image": "b.jpg", "caption": 3}': "not text but 3",
    '{"image": "b.jpg", "caption": {"en": "x"}}': 'not text but {"en"',
    '{"image": "b.jpg", "captions": ["x", 3]}': "not text but 3",
    '{"image": "b.jpg", "captions": ["x", ["y"]]}': r'not text but \["y"\]',
    '{"image": "b.jpg", "captions": [null, " "]}': "2 empty",
    '{"image": "b.jpg", "caption": "\\udc80"}': "not UTF-8",
    '{"image": "b.jpg", "caption": null}': "1 empty",
    '{"image": "b.jpg", "captions": []}': "1 empty",
    '{"image": "b.jpg", "caption": "x"': "rows that name no image",
    '["image", "caption"]': "rows that name no image",
    '{"caption": "lost"}': "rows that name no image",
    '{"image": 7, "caption": "lost"}': "rows that name no image",
}


@pytest.mark.parametrize("line", FAULTS)
def test_a_broken_json_line_breaks_its_image_alone(line, tmp_path):
    dataset_tools.images(tmp_path / "images", ["a.jpg", "b.jpg", "c.jpg"])
    good = '{"image": "%s.jpg", "caption": "fine"}\n'
    (tmp_path / "captions.jsonl").write_text(good % "a" + line + "\n" + good % "c")
    source = captions.make("all", path=str(tmp_path))
    found = {}
    for i in range(len(source)):
        try:
            found[source[i].key] = list(source[i].captions)
        except BadExample as error:
            found[error.key] = error.reason
    assert found.pop("a.jpg") == found.pop("c.jpg") == ["fine"]
    complaint = FAULTS[line]
    if complaint.endswith("empty"):
        assert found == {"b.jpg": []}
        assert source.problems == [f"{complaint} captions, left out"]
    elif complaint.startswith("rows"):
        assert found == {} and source.problems == [f"1 {complaint}, left out"]
    else:
        assert list(found) == ["b.jpg"]
        with pytest.raises(BadExample, match=complaint):
            source[1]
        assert source.problems == ["1 images with a caption that cannot be read"]


def test_columns_of_json_lines(tmp_path):
    dataset_tools.images(tmp_path, ["a.jpg"])
    row = {"file_name": "a.jpg", "text": "usual", "alt": ["mine"], "key": "a.jpg"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    path = str(tmp_path)
    assert captions.make("all", path=path)[0].captions == ("usual",)
    named = captions.make("all", path=path, image_column="key", caption_column="alt")
    assert named[0].captions == ("mine",)
    with pytest.raises(UserError, match="no columns 'other' and 'for captions'"):
        captions.make("all", path=path, image_column="other")
    (tmp_path / "metadata.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(UserError, match="cannot tell the image and caption columns"):
        captions.make("all", path=path)
    (tmp_path / "metadata.jsonl").write_text("image,caption\n")
    with pytest.raises(UserError, match="none of its lines or items is a JSON object"):
        captions.make("all", path=path)


MADE_BY_HAND = {  # a table as people write them -> captions of a.jpg and b.jpg
    "commas": 'image,caption\na.jpg,A dog, wet\nb.jpg,"A cat, dry"\n',
    "no header": 'a.jpg,A dog, wet\nb.jpg,"A cat, dry"\n',
    "numbered": "a.jpg,0,A dog, wet\nb.jpg,0,A cat, dry\n",
    "spaces": 'image, caption\na.jpg, "A dog, wet"\nb.jpg, A cat, dry\n',
    "more commas": "image,caption\na.jpg,A dog, wet,,\nb.jpg,A cat, dry,,,\n",
    "semicolons": "\ufeffimage;caption\r\na.jpg;A dog, wet\r\nb.jpg;A cat, dry\r\n",
    "semicolons alone": 'a.jpg;A dog, wet\nb.jpg;"A cat, dry"\n',
}


@pytest.mark.parametrize("form", MADE_BY_HAND)
def test_tables_as_people_write_them(form, tmp_path):
    place = tmp_path / "t.csv"
    place.write_text(MADE_BY_HAND[form], encoding="utf-8", newline="")
    entries, problems = caption_tables.read(place, "", "")
    found = {name: entry.captions for name, entry in entries.items()}
    assert found == {"a.jpg": ["A dog, wet"], "b.jpg": ["A cat, dry"]}
    assert problems == []


def test_quotes_in_tables(tmp_path):
    place = tmp_path / "t.tsv"
    place.write_text(
        'image\tcaption\na.jpg\t"A ""big"" dog"\na.jpg\t"quoted"\na.jpg\t""\n'
        'b.jpg\tthe 6" pipe\tbent\n'
    )
    entries, _ = caption_tables.read(place, "", "")
    assert entries["a.jpg"].captions == ['A "big" dog', '"quoted"', '""']
    assert entries["b.jpg"].captions == ['the 6" pipe\tbent']
    place = tmp_path / "t.csv"
    place.write_text('image;caption\na.jpg;"x; ""y""\nz"\nb.jpg;"open\nc.jpg;x\n')
    with pytest.raises(UserError, match="line 4: a quote is never closed"):
        caption_tables.read(place, "", "")
    place.write_text('image;caption\na.jpg;"x; ""y""\nz"\n')
    assert caption_tables.read(place, "", "")[0]["a.jpg"].captions == ['x; "y"\nz']


def test_a_table_of_tabs_with_quotes_all_over(tmp_path):
    place = tmp_path / "t.tsv"
    place.write_text('"image"\t"caption"\n"a.jpg"\t"A\tdog ""x""\nruns"\n')
    entries, problems = caption_tables.read(place, "", "")
    assert entries["a.jpg"].captions == ['A\tdog "x"\nruns'] and problems == []


@pytest.mark.parametrize("option", ["table", "split_file"])
def test_a_file_that_cannot_be_read(option, tmp_path):
    dataset_tools.flickr30k(tmp_path)
    place = "/proc/self/mem"
    files = {"table": "", "split_file": "", option: place}
    with pytest.raises(UserError, match=f"^cannot read {place}: "):
        captions.make(
            "all",
            path=str(tmp_path),
            table=files["table"],
            split_file=files["split_file"],
        )


def test_a_comma_too_many_before_the_last_column_breaks_its_image(tmp_path):
    place = tmp_path / "t.csv"
    place.write_text("image,caption,from\na.jpg,A dog, wet,me\nb.jpg,A cat,me\n")
    entries, problems = caption_tables.read(place, "", "")
    assert "no caption field, or too many" in entries["a.jpg"].fault
    assert entries["b.jpg"].captions == ["A cat"]
    assert problems == ["1 images with a caption that cannot be read"]


@pytest.mark.parametrize(
    "text",
    [
        "a bus station\thttp://example.org/a.jpg\n",  # CC3M
        "https://example.org/a.jpg\ta bus station\n",  # CC12M
        "url,caption\nx,y\n",
    ],
)
def test_a_table_of_addresses_is_told(text, tmp_path):
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(UserError, match="download them with img2dataset"):
        captions.make("all", path=str(tmp_path))
    with pytest.raises(UserError, match="no columns 'photo' and 'for captions'"):
        captions.make("all", path=str(tmp_path), image_column="photo")


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_written_in_another_way(forms, tmp_path):
    listed, there = (unicodedata.normalize(form, "caf\u00e9.jpg") for form in forms)
    dataset_tools.images(tmp_path, [there])
    (tmp_path / "captions.csv").write_text(f"image,caption\n{listed},x\n")
    check_contract(captions.make("all", path=str(tmp_path)))


def test_split_lists_without_suffixes(tmp_path):
    """As the lists of the Flickr30k Entities have them."""
    dataset_tools.flickr30k(tmp_path)
    first, second, *_ = dataset_tools.FLICKR30K
    (tmp_path / "test.txt").write_text(f"{second[:-4]}\n{first}\n31415\n")
    source = captions.make("test", path=str(tmp_path), split_file="test.txt")
    assert keys(source) == [first, second]
    assert source.problems == ["1 names of test.txt are not in the table"]


def test_a_first_json_line_may_lack_a_field(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "images" / name).write_bytes(b"")
    lines = ['{"image": "a.jpg"}', '{"image": "b.jpg", "caption": "a dog"}']
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    source = captions.make("all", path=str(tmp_path))
    assert [source.key_of(i) for i in range(2)] == ["a.jpg", "b.jpg"]
    assert source.captions_of(1) == ("a dog",)
    with pytest.raises(BadExample, match="a.jpg"):
        source.captions_of(0)
