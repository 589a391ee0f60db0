"""Folders of evaluations: what is written comes back, and none is replaced."""

import json
import math
import pathlib

import hypothesis
import numpy as np
import pyarrow.parquet
import pytest
from fault_tools import small_files
from hypothesis import strategies
from hypothesis.extra import numpy as arrays

from clipjax import atomic_files, results
from clipjax.types import EvalResult, Metric, UserError

METRICS = {
    "top1": Metric(0.3, 0.0002, "fraction", low=0.2724, high=0.3291, n=1000),
    "rank": Metric(math.nan, 5, "rank", higher_is_better=False, n=np.int64(7)),
}
ROWS = {
    "key": ["a", "ü\udcff", ""],
    "rank": np.array([1.5, np.nan, np.inf]),
    "label": np.array([3, -1, 2**40]),
    "right": [[1, 2], [], [3]],
    "captions": [["x"], [], ["y", None]],
    "hit": np.array([True, False, True]),
    "score": np.float32([0.1, 0.2, np.nan]),
    "neighbours": np.arange(6).reshape(3, 2),
}
META = {"model": pathlib.PurePosixPath("a/b"), "sizes": (1, np.int64(2)), "x": None}


def result(metrics=METRICS, rows=ROWS):
    return EvalResult(metrics, next(iter(metrics)), "3 images", 2, rows=rows)


def one(found=None, **meta):
    return {"": ({"a/b": found or result(), "plain": result(rows={})}, META | meta)}


def names(folder):
    return sorted(str(at.relative_to(folder)) for at in folder.rglob("*"))


def test_what_is_written_comes_back(tmp_path):
    place, new = results.save(tmp_path / "run" / "evaluations" / "4", one())
    assert new and place == tmp_path / "run" / "evaluations" / "4"
    assert names(place) == ["a%2Fb.parquet", "results.json"]
    found = results.read(place)
    assert found.meta == {"model": "a/b", "sizes": [1, 2], "x": None}
    assert list(found.results) == ["a/b", "plain"]
    assert repr(found.results["plain"]) == repr(result(rows={}))
    rows = found.rows("a/b")
    assert list(rows) == list(ROWS)
    for name, column in ROWS.items():
        if isinstance(column, np.ndarray):
            assert rows[name].dtype == column.dtype
            np.testing.assert_array_equal(rows[name], column)
        elif name != "key":
            assert rows[name] == column
    assert rows["key"] == ["a", "ü\\udcff", ""]
    assert found.rows("plain") == {}
    # Without clipjax, too.
    table = pyarrow.parquet.read_table(place / "a%2Fb.parquet")
    assert table["neighbours"].to_pylist() == [[0, 1], [2, 3], [4, 5]]


def test_the_json_is_strict(tmp_path):
    place, _ = results.save(tmp_path / "x", one())
    content = json.loads(
        (place / "results.json").read_text(), parse_constant=pytest.fail
    )
    fields = content["results"]["a/b"]
    assert fields["metrics"]["top1"] == {
        "value": 0.3,
        "chance": 0.0002,
        "unit": "fraction",
        "higher_is_better": True,
        "low": 0.2724,
        "high": 0.3291,
        "n": 1000,
    }
    assert fields["metrics"]["rank"]["value"] is None
    assert (fields["rows"], fields["broken"], fields["primary"]) == (3, 2, "top1")
    with pytest.raises(TypeError, match="set has no JSON form"):
        results.save(tmp_path / "y", one(odd={1}))
    assert not (tmp_path / "y").exists()


@hypothesis.settings(max_examples=30)
@hypothesis.given(
    arrays.arrays(
        strategies.sampled_from([np.float32, np.float64, np.int32, np.int64, np.bool_]),
        strategies.tuples(strategies.integers(1, 4), strategies.integers(1, 3)),
    ),
    strategies.booleans(),
)
def test_any_array_comes_back(tmp_path_factory, array, flat):
    array = array[:, 0] if flat else array
    rows = {"key": ["k"] * len(array), "x": array}
    place = tmp_path_factory.mktemp("any") / "x"
    results.save(place, one(result(rows=rows)))
    found = results.read(place).rows("a/b")["x"]
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


def written(place):
    """Which file it is, and when it was written."""
    return place.stat().st_ino, place.stat().st_mtime_ns


def test_no_results_are_replaced(tmp_path):
    """The same ones are not written again; others get a number."""
    top = tmp_path / "evaluations"
    assert results.save(top / "4", one(workdir="here")) == (top / "4", True)
    before = written(top / "4" / "results.json")
    assert results.save(top / "4", one(workdir="moved")) == (top / "4", False)
    other = result({"top1": Metric(0.4), "rank": METRICS["rank"]})
    assert results.save(top / "4", one(other)) == (top / "4-2", True)
    assert results.save(top / "4", one(other)) == (top / "4-2", False)
    assert results.save(top / "4", one(step=5)) == (top / "4-3", True)
    assert written(top / "4" / "results.json") == before
    # Rows that are gone are no results that are there.
    (top / "4" / "a%2Fb.parquet").unlink()
    assert results.save(top / "4", one()) == (top / "4-4", True)
    # Nor are other ones, and those of a later version that has more columns.
    more = result(rows=ROWS | {"size": [1, 2, 3]})
    assert results.save(top / "6", one()) == (top / "6", True)
    assert results.save(top / "6", one(more)) == (top / "6-2", True)
    found = results.read(top / "6-2").rows("a/b")
    assert found["size"].tolist() == [1, 2, 3]
    assert results.save(top / "6", one()) == (top / "6", False)
    (top / "5").mkdir()
    (top / "5" / "mine.txt").touch()
    assert results.save(top / "5", one()) == (top / "5-2", True)


@pytest.mark.parametrize(("theirs", "at"), [(0.3, "4"), (0.4, "4-2")])
def test_another_process_is_faster(theirs, at, tmp_path, monkeypatch):
    """Its folder appears while ours is being filled."""
    other = result(METRICS | {"top1": Metric(theirs)})
    ours = result(METRICS | {"top1": Metric(0.3)})
    fill = results._fill

    def late(folder, parts):
        monkeypatch.setattr(results, "_fill", fill)
        results.save(tmp_path / "4.first", one(other))
        (tmp_path / "4.first").rename(tmp_path / "4")
        fill(folder, parts)

    monkeypatch.setattr(results, "_fill", late)
    assert results.save(tmp_path / "4", one(ours)) == (tmp_path / at, at != "4")
    assert results.read(tmp_path / at).results["a/b"].metrics["top1"].value == 0.3
    assert {place.name for place in tmp_path.iterdir()} == {"4", at}


def test_a_killed_process_leaves_nothing_for_ever(tmp_path):
    left = atomic_files._scratch(tmp_path / "4[1]", ".")
    left.mkdir()
    (left / "results.json").touch()
    assert results.save(tmp_path / "4[1]", one())[1]
    assert [place.name for place in tmp_path.iterdir()] == ["4[1]"]


@pytest.mark.parametrize(
    "ends", [(1, math.inf), (-math.inf, 5), (-math.inf, math.inf), (2, 9)]
)
def test_infinite_numbers_come_back(ends, tmp_path):
    metrics = {
        "open": Metric(5, low=ends[0], high=ends[1]),
        "most": Metric(math.inf, chance=-math.inf, low=4, high=math.inf),
    }
    place, _ = results.save(tmp_path / "x", one(result(metrics)))
    assert results.read(place).results["a/b"].metrics == metrics
    json.loads((place / "results.json").read_text(), parse_constant=pytest.fail)


def test_several_in_one_folder(tmp_path):
    parts = {f"share-{share}": one(share=share)[""] for share in (0, 0.5)}
    place, _ = results.save(tmp_path / "evaluations" / "8-mixed", parts)
    assert results.read(place / "share-0.5").meta["share"] == 0.5
    with pytest.raises(
        UserError, match="no results.json; in it are share-0, share-0.5"
    ):
        results.read(place)
    results.save(tmp_path / "evaluations" / "12", one())
    results.save(tmp_path / "evaluations" / "8", one())
    results.save(tmp_path / "evaluations" / "clip", one())
    (tmp_path / "evaluations" / ".8.1.tmp").mkdir()
    (tmp_path / "evaluations" / ".8.1.tmp" / "results.json").touch()
    found = [place.relative_to(tmp_path) for place in results.folders(tmp_path)]
    assert [str(place.relative_to("evaluations")) for place in found] == [
        "clip",
        "8",
        "8-mixed/share-0",
        "8-mixed/share-0.5",
        "12",
    ]
    assert results.folders(tmp_path / "gone") == []
    for name in ("8-2", "8-10", "8-mixed-2", "12-zeroshot-scenes"):
        results.save(tmp_path / "evaluations" / name, one())
    # By number, so that the last one is the newest.
    found = [place.name for place in results.folders(tmp_path)]
    assert found[1:] == [
        *("8", "8-2", "8-10", "share-0", "share-0.5", "8-mixed-2"),
        *("12", "12-zeroshot-scenes"),
    ]
    own = [place.name for place in results.own_folders(tmp_path)]
    assert own == ["8", "8-2", "8-10", "12"]


def test_a_full_disk_leaves_nothing(tmp_path):
    with small_files(3000), pytest.raises(OSError) as found:
        results.save(tmp_path / "x", one(meta="y" * 4000))
    assert not [*tmp_path.iterdir()]
    assert "tmp" not in pathlib.Path(found.value.filename).suffix


def test_damage(tmp_path):
    place, _ = results.save(tmp_path / "x", one())
    with pytest.raises(
        UserError, match="gone is no evaluation's folder: it has no res"
    ):
        results.read(tmp_path / "gone")
    found = results.read(place)
    with pytest.raises(UserError, match="no evaluator 'b': it has a/b, plain"):
        found.rows("b")
    table = pyarrow.parquet.read_table(place / "a%2Fb.parquet")
    pyarrow.parquet.write_table(table.slice(0, 2), place / "a%2Fb.parquet")
    with pytest.raises(
        UserError, match=r"a%2Fb.parquet has 2 rows of 3: evaluate again"
    ):
        found.rows("a/b")
    (place / "a%2Fb.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"a%2Fb.parquet cannot be read \("):
        found.rows("a/b")
    (place / "a%2Fb.parquet").unlink()
    with pytest.raises(UserError, match=r"a%2Fb.parquet cannot be read \("):
        found.rows("a/b")
    text = (place / "results.json").read_text()
    no_meta = json.dumps({**json.loads(text), "meta": [1]})
    units = text.replace('"unit"', '"units"')
    for damaged in (text[:100], "[]", units, no_meta, "{}"):
        (place / "results.json").write_text(damaged)
        with pytest.raises(
            UserError, match="results.json cannot be read .*damaged, or"
        ):
            results.read(place)


def test_names_of_folders():
    assert results.folder_name(4, "", "zeroshot+retrieval", "a/b c") == (
        "4-zeroshot+retrieval-a_b_c"
    )
    assert len(results.folder_name("x" * 300)) == 120
    assert results.folder_name("東" * 300) == "東" * 40  # 3 bytes each
    assert results.folder_name(".hidden", ".x") == "_hidden-.x"
