"""Comparisons of evaluations against brute force over their rows."""

import json
import shutil

import comparison_tools as tools
import numpy as np
import pyarrow.parquet
import pytest
import scipy.stats

import clipjax
from clipjax import results
from clipjax.comparison import compared
from clipjax.types import EvalResult, Metric, UserError


@pytest.fixture(scope="module")
def made():
    return tools.evaluators()


@pytest.fixture(scope="module")
def found(made):
    """By the model's seed, its results; the fourth misses five images."""
    results = {seed: tools.evaluate(made, seed) for seed in range(3)}
    fewer = tools.evaluators([i for i in range(tools.IMAGES) if i != 7])
    return results | {3: tools.evaluate(fewer, 1)}


@pytest.fixture
def top(found, tmp_path, monkeypatch):
    for name, seed in zip("abcd", found, strict=True):
        tools.write(tmp_path / name, found[seed])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def hits(rows, places, k):
    """The chance that a right answer is among the first k, by placing ties in turn."""
    chances = []
    for at in places:
        own = int(rows["own"][at]) if "own" in rows else 1
        ties = int(rows["ties"][at])
        places_left = k - round(rows["rank"][at] - 1 - ties / (own + 1))
        missed = 1.0
        for turn in range(max(0, min(places_left, own + ties))):
            missed *= max(ties - turn, 0) / (own + ties - turn)
        chances.append(1 - missed if places_left > 0 else 0.0)
    return np.array(chances)


def one(comparison, name, model="b"):
    (found,) = [
        d
        for d in comparison.differences
        if f"{d.label}/{d.metric}" == name and d.model.endswith(model)
    ]
    return found


def test_recall_equals_brute_force(top):
    sides = "image_to_text", "text_to_image"
    wanted = [f"{s}_{x}" for s in sides for x in ("recall@5", "mean_rank")]
    wanted += [f"{s}_median_rank" for s in sides] + ["find/mean_recall@5"]
    comparison = clipjax.compare_evaluations("a", top / "b", metrics=wanted)
    first, second = (results.read(name).rows("find") for name in "ab")
    for side, count in (("image_to_text", 24), ("text_to_image", len(tools.OWNER))):
        taken = np.flatnonzero(
            (np.array(first["protocol"]) == "standard")
            & (np.array(first["direction"]) == side)
        )
        assert len(taken) == count
        # The same evaluator wrote both, so their rows are in one order.
        for name in ("key", "protocol", "direction", "query"):
            assert list(first[name]) == list(second[name])
        before, after = (hits(rows, taken, 5) for rows in (first, second))
        got = one(comparison, f"find/{side}_recall@5")
        assert got.baseline == pytest.approx(before.mean(), abs=1e-12)
        assert got.value == pytest.approx(after.mean(), abs=1e-12)
        assert got.difference == pytest.approx((after - before).mean(), abs=1e-12)
        assert (got.n, got.images) == (count, 24)
        assert got.better == (after > before + 1e-9).sum() > 0
        assert got.worse == (after < before - 1e-9).sum() > 0
        images = np.array(first["key"])[taken]
        terms = [(after - before)[images == key].sum() for key in np.unique(images)]
        theirs = scipy.stats.permutation_test(
            (np.array(terms),),
            np.sum,
            permutation_type="samples",
            n_resamples=20_000,
            rng=0,
        ).pvalue
        assert got.p == pytest.approx(theirs, abs=0.015)
        assert got.low < got.difference < got.high
        rank = one(comparison, f"find/{side}_mean_rank")
        ranks = [np.array(rows["rank"])[taken] for rows in (first, second)]
        assert rank.difference == pytest.approx(ranks[1].mean() - ranks[0].mean())
        assert rank.better == (ranks[1] < ranks[0]).sum()
        middle = one(comparison, f"find/{side}_median_rank")
        assert middle.difference == np.median(ranks[1]) - np.median(ranks[0])
    both = one(comparison, "find/mean_recall@5")
    sides = [
        one(comparison, f"find/{s}_recall@5")
        for s in ("image_to_text", "text_to_image")
    ]
    assert both.difference == pytest.approx(np.mean([s.difference for s in sides]))


def test_classes_and_what_is_shown_together(top):
    comparison = clipjax.compare_evaluations("a", "b", "c", evals=["name"])
    first, second = (results.read(name).rows("name") for name in "ab")
    kinds = np.array(first["label_set"]) == "kind"
    places = np.flatnonzero(kinds)
    before, after = (hits(rows, places, 1) for rows in (first, second))
    got = one(comparison, "name/kind/top1")
    assert got.difference == pytest.approx((after - before).mean(), abs=1e-12)
    labels = first["label"][places]
    each = [(after - before)[labels == label].mean() for label in np.unique(labels)]
    by_class = one(comparison, "name/kind/mean_class_recall")
    assert by_class.difference == pytest.approx(np.mean(each), abs=1e-12)
    values = sorted(d.p for d in comparison.differences)
    assert len(values) == 2 * 7
    least = min(comparison.differences, key=lambda d: d.p)
    assert least.p_holm == pytest.approx(min(1, 14 * values[0]))
    (left,) = {(x.metric, x.reason) for x in comparison.left_out if "kind" in x.metric}
    assert left == ("kind/majority_share", "the rows have no value per query for it")
    # One metric alone is not adjusted.
    alone = clipjax.compare_evaluations("a", "b", metrics=["name/kind/top1"])
    (only,) = alone.differences
    assert only.p_holm == only.p == got.p


def test_the_report(top):
    names = ["image_to_text_recall@1", "kind/top1"]
    comparison = clipjax.compare_evaluations("a", "b", "c", metrics=names)
    compared.write(comparison, top / "out")
    names = sorted(path.name for path in (top / "out").iterdir())
    assert names == ["compare.json", "find.parquet", "name.parquet"]
    content = json.loads((top / "out" / "compare.json").read_text())
    assert content == json.loads(json.dumps(comparison.to_json()))
    assert content["differences"][0]["metric"] == "image_to_text_recall@1"
    table = pyarrow.parquet.read_table(top / "out" / "find.parquet").to_pydict()
    first, second = (results.read(name).rows("find") for name in "ac")
    count = len(first["key"])
    assert table["model"] == [str(top / "b")] * count + [str(top / "c")] * count
    assert table["key"][count:] == first["key"]
    assert table["query"][count:] == first["query"].tolist()
    assert table["baseline_rank"][count:] == first["rank"].tolist()
    assert table["rank"][count:] == second["rank"].tolist()
    places = np.arange(count)
    before, after = (hits(rows, places, 1) for rows in (first, second))
    np.testing.assert_allclose(table["hit"][count:], after)
    np.testing.assert_allclose(table["baseline_hit"][count:], before)
    gain = after - before
    assert table["flip"][count:] == (np.sign(gain) * (abs(gain) > 1e-9)).tolist()
    assert {-1, 0, 1} == set(table["flip"])


def test_the_largest_flips(top):
    comparison = clipjax.compare_evaluations("a", "b", metrics=["name/kind/top1"])
    (difference,) = comparison.differences
    better, worse = comparison.flips(difference, 2)
    first, second = (results.read(name).rows("name") for name in "ab")
    kinds = np.flatnonzero(np.array(first["label_set"]) == "kind")
    before, after = (hits(rows, kinds, 1) for rows in (first, second))
    gains = sorted(after - before)
    assert [x.value - x.baseline for x in better] == pytest.approx(gains[-2:][::-1])
    assert [x.value - x.baseline for x in worse] == pytest.approx(gains[:2])
    at = first["key"].index(better[0].key)
    assert better[0].ranks == (first["rank"][at], second["rank"][at])
    names = first["prediction_name"][at], second["prediction_name"][at]
    assert better[0].answers == names
    # All, and no more than there are.
    every = comparison.flips(difference, 1000)
    assert [len(x) for x in every] == [difference.better, difference.worse]


def test_an_evaluator_of_the_users_own(top):
    draw = np.random.default_rng(0)
    first = draw.normal(3, 1, 40)
    second = first - 0.3 + draw.normal(0, 0.4, 40)
    tools.write(top / "x", tools.own(first, unit="nats"))
    # In another order: the keys pair them.
    order = draw.permutation(40)
    keys = [f"image {i}" for i in order]
    tools.write(top / "y", tools.own(second[order], keys=keys, unit="nats"))
    comparison = clipjax.compare_evaluations("x", "y")
    (got,) = comparison.differences
    assert got.difference == pytest.approx((second - first).mean())
    assert (got.better, got.worse) == ((second < first).sum(), (second > first).sum())
    theirs = scipy.stats.bootstrap(
        (second - first,), np.mean, method="BCa", rng=0
    ).confidence_interval
    assert got.low == pytest.approx(theirs.low, abs=0.03)
    assert got.high == pytest.approx(theirs.high, abs=0.03)
    assert got.p < 0.02 and not got.higher_is_better
    assert comparison.rows["own"]["flip"].tolist() == np.sign(first - second).tolist()
    # Equal values differ by nothing, within an interval that has a width.
    shutil.copytree("x", "z")
    (same,) = clipjax.compare_evaluations("x", "z").differences
    assert (same.difference, same.p) == (0, 1) and same.low < 0 < same.high


def test_examples_that_one_side_lacks(top):
    """The source lacks an image: 23 of 24 are shared."""
    comparison = clipjax.compare_evaluations("a", "d", metrics=["name/kind/top1"])
    (shared,) = comparison.shared
    assert (shared.only_baseline, shared.only_model) == (2, 0)
    (got,) = comparison.differences
    first = results.read("a").rows("name")
    kinds = [
        at
        for at, (key, kind) in enumerate(
            zip(first["key"], first["label_set"], strict=True)
        )
        if kind == "kind" and key != "image 7"
    ]
    assert got.n == 23 and got.baseline == pytest.approx(hits(first, kinds, 1).mean())


def test_a_broken_image(top):
    """Its captions leave the gallery, and other images' copies of them lose a right
    answer, in one evaluation only."""
    same = tools.evaluators(same_caption=True)
    tools.write(top / "x", tools.evaluate(same, 0))
    fewer = tools.evaluators(broken=7, same_caption=True)
    tools.write(top / "y", tools.evaluate(fewer, 1))
    names = ["image_to_text_recall@1", "same_caption/text_to_image_recall@1"]
    comparison = clipjax.compare_evaluations("x", "y", metrics=names)
    (shared,) = comparison.shared
    count = tools.COUNTS[7]
    assert (shared.only_baseline, shared.only_model) == (2 * (1 + count) + 2 * count, 0)
    image, text = comparison.differences
    assert (image.n, text.n) == (23, len(tools.OWNER) - count)
    better, worse = comparison.flips(text, 100)
    owner = int(better[0].key.removeprefix("image "))
    text = better[0].query.split("'")[1]
    assert text in [tools.CAPTIONS[at] for at in np.flatnonzero(tools.OWNER == owner)]


def test_a_runs_newest_evaluation(top):
    run = top / "run" / "evaluations"
    for name in ("9", "10", "10-noema", "20-zeroshot"):
        shutil.copytree("b", run / name)
    comparison = clipjax.compare_evaluations("a", "run", evals=["name"])
    assert comparison.models == [str(run / "10")]
    # A later one of a step, as of other evaluators, has a number.
    for name in ("10-2", "10-10", "9-11"):
        shutil.copytree("b", run / name)
    comparison = clipjax.compare_evaluations("a", "run", evals=["name"])
    assert comparison.models == [str(run / "10-10")]
    for name in ("9", "10", "10-2", "10-10", "9-11"):
        shutil.rmtree(run / name)
    with pytest.raises(UserError, match=r"name one of its others \(.*10-noema.*\)"):
        clipjax.compare_evaluations("a", "run")
    (top / "bare").mkdir()
    (top / "bare" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="clipjax.evaluate --workdir bare"):
        clipjax.compare_evaluations("a", "bare")


def changed(found, label, **fields):
    """The same results, with one evaluator's fields changed."""
    old = found[label]
    new = {x: getattr(old, x) for x in EvalResult.__dataclass_fields__}
    return found | {label: EvalResult(**new | fields)}


def refusal(found, top, other, **options):
    meta = options.pop("meta", {})
    place = tools.write(top / "other", other, **meta)
    try:
        with pytest.raises(UserError) as error:
            clipjax.compare_evaluations("a", place, **options)
    finally:
        shutil.rmtree(place)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_what_is_refused(found, top):
    one = found[1]
    text = refusal(found, top, changed(one, "name", protocol="kind: 5 classes"))
    assert "the protocol is" in text and "'kind: 5 classes'" in text
    # Another evaluator's results stay comparable.
    other = tools.write(top / "e", changed(one, "name", protocol="kind: 5 classes"))
    assert clipjax.compare_evaluations("a", other, evals=["find"]).differences
    evals = {"find": {"name": "retrieval"}, "name": {"name": "classification"}}
    text = refusal(found, top, one, meta={"evals": evals}, evals=["name"])
    assert "the evaluator is 'zeroshot'" in text and "'classification'" in text
    rows = dict(one["name"].rows)
    names = ["class 2" if x == "class 1" else x for x in rows["label_name"]]
    text = refusal(found, top, changed(one, "name", rows=rows | {"label_name": names}))
    assert "label_name of 'image 1' is 'class 1' in" in text and "'class 2'" in text
    rows = dict(one["find"].rows)
    captions = [["a new one"], *rows["captions"][1:]]
    text = refusal(found, top, changed(one, "find", rows=rows | {"captions": captions}))
    assert "captions of 'image 0' is ['caption 0'] in" in text
    right = [[5], *rows["right"][1:]]
    text = refusal(found, top, changed(one, "find", rows=rows | {"right": right}))
    assert "right of 'image 0' is [0] in" in text
    rows = dict(one["name"].rows)
    keys = [f"photo {key}" for key in rows["key"]]
    text = refusal(found, top, changed(one, "name", rows=rows | {"key": keys}))
    assert "share 0 of 36 and 36 rows, such as 'photo image 0'" in text
    keys = ["" for _ in keys]
    text = refusal(found, top, changed(one, "name", rows=rows | {"key": keys}))
    assert "have no key" in text
    text = refusal(found, top, tools.own([1.0, 2.0]))
    assert "share no evaluator" in text
    text = refusal(found, top, one, metrics=["kind/topp1"])
    assert text == "no evaluator gives 'kind/topp1'. Did you mean 'kind/top1'?"
    text = refusal(found, top, one, evals=["nam"])
    assert "has no evaluator 'nam'. Did you mean 'name'?" in text
    text = refusal(found, top, one, metrics=["kind/majority_share"])
    assert "cannot be paired: the rows have no value per query" in text
    with pytest.raises(UserError, match="alone cannot be compared"):
        clipjax.compare_evaluations("a")
    with pytest.raises(UserError, match="is named twice"):
        clipjax.compare_evaluations("a", "b", top / "a")


def test_what_one_side_lacks_is_said(found, top):
    tools.write(top / "few", {"name": found[1]["name"]})
    names = ["mean_recall@1", "kind/top1"]
    comparison = clipjax.compare_evaluations("a", "few", "b", metrics=names)
    lacking = [x for x in comparison.left_out if x.label == "find"]
    assert {x.reason for x in lacking} == {f"{top / 'few'} lacks it"}
    assert [x.metric for x in lacking] == ["mean_recall@1"]
    found_in = {(d.label, d.model) for d in comparison.differences}
    models = str(top / "few"), str(top / "b")
    assert found_in == {("find", models[1]), *(("name", x) for x in models)}


def test_rows_that_are_not_of_their_metrics(found, top):
    """A changed file, or an evaluator that means something else by the name."""
    metrics = dict(found[1]["name"].metrics)
    old = metrics["kind/top1"]
    metrics["kind/top1"] = Metric(old.value + 0.01, unit="fraction")
    tools.write(top / "odd", changed(found[1], "name", metrics=metrics))
    comparison = clipjax.compare_evaluations("a", "odd", evals=["name"])
    reasons = {x.metric: x.reason for x in comparison.left_out}
    assert reasons["kind/top1"].startswith("the rows give 0.27")
    assert "kind/top1" not in [d.metric for d in comparison.differences]
