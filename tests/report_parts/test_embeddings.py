import importlib.util
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import report_tools

from clipjax.report_parts import data_section, drawings, embedding_section, plane
from clipjax.report_parts.example_source import Sources
from clipjax.report_parts.page import Charts, Columns, Drawing, Gallery
from clipjax.report_parts.thumbnails import Pictures

DRAW = np.random.default_rng(0)


def test_pca_finds_the_directions_of_most_variance():
    spread = np.array([5.0, 2.0, 0.1, 0.1])
    turn = np.linalg.qr(DRAW.normal(size=(4, 4)))[0]
    points = DRAW.normal(size=(4000, 4)) * spread @ turn + 3
    found, shares = plane.pca(points)
    assert shares == pytest.approx([25 / 29.02, 4 / 29.02], abs=0.02)
    assert np.std(found, axis=0) == pytest.approx([5, 2], rel=0.05)
    covariance = np.cov(points.T)
    values = np.linalg.eigvalsh(covariance)[::-1]
    assert np.var(found, axis=0, ddof=1) == pytest.approx(values[:2])


def test_pca_of_one_dimension_and_of_equal_points():
    points, shares = plane.pca(np.arange(5.0)[:, None])
    assert points[:, 1].tolist() == [0] * 5 and shares.tolist() == [1, 0]
    points, shares = plane.pca(np.ones((5, 3)))
    assert not points.any() and not shares.any()


def test_tsne_keeps_neighbours_together():
    pytest.importorskip("sklearn")
    centres = np.eye(3, 8).repeat(10, axis=0)
    embed = centres + 0.05 * np.random.default_rng(1).normal(size=centres.shape)
    embed /= np.linalg.norm(embed, axis=1, keepdims=True)
    points = plane.tsne(embed)
    assert points is not None and points.shape == (30, 2)
    gaps = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(gaps, np.inf)
    assert (gaps.argmin(axis=1) // 10).tolist() == [0] * 10 + [1] * 10 + [2] * 10
    again = plane.tsne(embed)
    assert again is not None and (again == points).all()  # a page looks the same
    assert plane.tsne(embed[:9]) is None


def test_matrix_has_a_cell_per_pair():
    values = DRAW.normal(size=(3, 3))
    made = drawings.matrix(values, ["p0", "", "p2"], "words")
    root = ElementTree.fromstring(made.svg)
    kinds = [node.tag for node in root]
    assert kinds.count("rect") == 3 and kinds.count("use") == 2
    texts = [node.text for node in root if node.tag == "text"]
    assert texts[:3] == ["1", "2", "3"]
    assert texts[3:] == [f"{values.min():.2f}", f"{values.max():.2f}"]


def test_map_puts_pictures_at_their_points():
    points = np.array([[0.0, 0.0], [2.0, 1.0], [1.0, 0.5]])
    made = drawings.picture_map(points, ["p0", "p1", "p2"], "words")
    places = re.findall(r'#(p\d)" x="([\d.]+)" y="([\d.]+)"', made.svg)
    wide, high = (
        drawings.MAP_WIDTH - drawings.PICTURE,
        drawings.MAP_HEIGHT - drawings.PICTURE,
    )
    assert places[0] == ("p0", "0.0", f"{high:.1f}")  # below, on the left
    assert places[1] == ("p1", f"{wide:.1f}", "0.0")
    assert places[2] == ("p2", f"{wide / 2:.1f}", f"{high / 2:.1f}")


@pytest.mark.thorough
def test_section_of_a_run(tmp_path):
    run = report_tools.read(report_tools.run(tmp_path, model=True))
    pictures = Pictures()
    section = embedding_section.embedding_section(run, Sources(), pictures)
    lead, both, charts, picture_map = section.blocks
    assert "32 examples of scenes, split val" in lead.text and "step 2" in lead.text
    assert isinstance(both, Columns) and isinstance(charts, Charts)
    assert isinstance(picture_map, Drawing) and picture_map.svg.count("<use") == 32
    assert len(pictures) == 32 and len(both.columns[1][0].items) == 16
    has = importlib.util.find_spec("sklearn") is not None
    assert f"32 images by {'t-SNE' if has else 'PCA'}: what" in picture_map.words


def test_a_run_without_a_usable_checkpoint_says_so(tmp_path):
    place = report_tools.run(tmp_path, model=True)
    (place / "tokenizer.json").unlink()
    run = report_tools.read(place)
    (gap,) = embedding_section.embedding_section(run, Sources(), Pictures()).blocks
    assert gap.kind == "gap" and "tokenizer.json is missing" in gap.text


def test_data_section_counts(tmp_path):
    run = report_tools.read(report_tools.run(tmp_path))
    columns, cards = data_section.data_section(run, Sources(), Pictures()).blocks
    train, evaluation = (dict(map(tuple, one[0].rows)) for one in columns.columns)
    assert train["examples"] == "160" and train["captions"] == "480, 3 per image"
    assert evaluation["examples"] == "32"
    assert train["image sizes, of 24"] == "16 x 16 pixels"
    assert train["classes of shape"] == "6"
    assert isinstance(cards, Gallery) and len(cards.cards) == 6
