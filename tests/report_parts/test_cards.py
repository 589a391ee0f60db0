import numpy as np
import report_tools

from clipjax.report_parts import class_cards, retrieval_cards
from clipjax.report_parts.example_source import Sources
from clipjax.report_parts.thumbnails import Pictures


def galleries(most=3):
    pictures, sources = Pictures(), Sources()
    rows = report_tools.retrieval_rows()
    made = retrieval_cards.galleries(
        rows, sources.of(report_tools.DATA), pictures, most
    )  # fmt: skip
    return {x.title: x.cards for x in made}, pictures


def test_galleries_have_ranks_and_marks():
    found, pictures = galleries()
    (hit,) = found["Image to captions: hits (1 of 8)"]
    assert hit.verdict == "rank 1" and hit.mark == "right" and hit.picture == "p0"
    assert [x.mark for x in hit.answers] == ["right", "wrong", "wrong"]
    hard = found["Image to captions: hardest"]
    assert [x.verdict for x in hard] == ["rank 8", "rank 7", "rank 6"]
    assert all(x.mark == "wrong" for x in hard[0].answers)
    misses = found["Image to captions: misses (7 of 8)"]
    # What is hardest is not shown twice.
    assert not {x.verdict for x in misses} & {x.verdict for x in hard}
    miss = found["Caption to images: misses (12 of 24)"][0]
    assert [x.mark for x in miss.answers] == ["wrong", "right", "wrong"]
    assert len(pictures) == report_tools.IMAGES


def test_the_right_image_is_shown_even_if_it_is_far_behind():
    rows = report_tools.retrieval_rows()
    at = rows["direction"].index("text_to_image") + 1
    rows["rank"][at], rows["neighbours"][at] = 70.0, [1, 2, 3, 4, 5]
    made = retrieval_cards.galleries(rows, None, Pictures(), 1)
    card = next(x for x in made if x.title == "Caption to images: hardest").cards[0]
    assert [x.text for x in card.answers] == ["1", "2", "3", "4", "5", "70"]
    assert card.answers[-1].mark == "right" and card.verdict == "rank 70"


def test_classes_and_their_mistakes():
    rows = report_tools.class_rows()
    recalls, matrix = class_cards.tables(rows, "shape")
    assert recalls.rows[0][:4] == ["square", "circle (2)", "4", "50.00 %"]
    assert [list(x) for x in matrix.rows] == [
        ["circle", "100", ""],
        ["square", "50", "50"],
    ]
    assert matrix.shades == [[None, 1.0, 0.0], [None, 0.5, 0.5]]
    pictures, sources = Pictures(), Sources()
    gallery = class_cards.mistakes(
        rows, "shape", sources.of(report_tools.DATA), pictures, 5
    )
    assert gallery.title.endswith("(2 of 8)")
    first = gallery.cards[0].answers  # of image 7, whose score is higher
    assert [(x.mark, x.text) for x in first] == [
        ("wrong", "circle"),
        ("right", "square"),
    ]
    rows["prediction"] = rows["label"]
    assert class_cards.mistakes(rows, "shape", None, pictures, 5) is None


def test_many_classes_have_no_matrix():
    count = 20
    rows = {
        "key": [str(i) for i in range(count)],
        "label_set": ["x"] * count,
        "label": np.arange(count),
        "prediction": (np.arange(count) + 1) % count,
        "label_name": [f"c{i}" for i in range(count)],
        "prediction_name": [f"c{(i + 1) % count}" for i in range(count)],
        "score": np.ones(count),
        "rank": np.full(count, 2.0),
        "ties": np.zeros(count, int),
    }
    recalls, confused = class_cards.tables(rows, "x")
    assert len(recalls.rows) == len(confused.rows) == class_cards.LINES
    assert confused.rows[0] == ["c0", "c1", "1", "1"]
