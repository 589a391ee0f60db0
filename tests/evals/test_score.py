"""The mean of other evaluators' metrics: by hand, in a run, and what is refused."""

import numpy as np
import pytest

from clipjax import evaluate, results
from clipjax.engine import run
from clipjax.engine.checkpoint.saves import Checkpoints
from clipjax.engine.checkpoint.step_folder import Store
from clipjax.evals import score
from clipjax.types import Announced, EvalResult, Metric, UserError
from run_tools import rows, tiny, train

OTHERS = {
    "retrieval": Announced(
        {"text_recall@1": "fraction", "image_recall@1": "fraction", "rank": "rank"}, 0
    ),
    "zeroshot": Announced({"top1": "fraction", "top5": "fraction"}, 1),
    "mine": Announced(None, 1),
}
REPORT = ("retrieval/text_recall@1", "retrieval/image_recall@1", "zeroshot/top1")


def found(**changes):
    def metric(value, low, high, n, chance=0.001):
        return Metric(value, chance, "fraction", low=low, high=high, n=n)

    retrieval = {
        "text_recall@1": metric(0.1318, 0.12, 0.14, 5000),
        "image_recall@1": metric(0.103, 0.1, 0.11, 25_000, 0.0002),
        "rank": Metric(3.0, 100.0, "rank", False),
    }
    zeroshot = {"top1": metric(0.2455, 0.24, 0.25, 50_000), "top5": metric(0, 0, 1, 5)}
    mine = {"gap": Metric(0.5), "worse": Metric(0.5, higher_is_better=False)}
    made = {
        "retrieval": EvalResult(
            retrieval, "text_recall@1", "5000", protocol="coco_5k, first 5 captions"
        ),
        "zeroshot": EvalResult(zeroshot, "top1", "50000", protocol="class: 1000"),
        "mine": EvalResult(mine, "gap", "1"),
    }
    return made | changes


def test_the_mean_of_a_report_by_hand():
    """Of 13.18, 10.30 and 24.55 the mean is 16.01, not 16.68 as the report has it."""
    result = score.make(OTHERS, of=REPORT).summarise(found())
    mean = result.metrics["mean"]
    assert result.primary == "mean" and mean.unit == "fraction" and mean.mode == "max"
    assert mean.value == pytest.approx(0.1601, abs=1e-5)
    assert mean.chance == pytest.approx((0.001 + 0.0002 + 0.001) / 3)
    assert mean.n == 80_000
    # Both recalls are of the same images; zero-shot is of others.
    below = np.hypot(0.0118 + 0.003, 0.0055) / 3
    above = np.hypot(0.0082 + 0.007, 0.0045) / 3
    assert (mean.low, mean.high) == pytest.approx(
        (mean.value - below, mean.value + above)
    )
    assert result.size == f"mean of {', '.join(REPORT)}"
    assert result.protocol == (
        f"mean of {', '.join(REPORT)}; retrieval: coco_5k, first 5 captions; "
        "zeroshot: class: 1000"
    )


def test_without_names_it_takes_the_primary_metrics():
    others = {label: OTHERS[label] for label in ("retrieval", "zeroshot")}
    parts = found()
    del parts["mine"]
    made = score.make(others)
    assert made.metric_units() is None
    assert made.summarise(parts).metrics["mean"].value == (0.1318 + 0.2455) / 2
    named = score.make(others, of=("zeroshot/top1",))
    assert named.metric_units() == {"mean": "fraction"}


def test_what_a_part_does_not_have_the_mean_does_not_either():
    top1 = Metric(0.5, unit="fraction")
    plain = EvalResult({"top1": top1}, "top1", "few")
    mean = score.make(OTHERS, of=REPORT).summarise(found(zeroshot=plain))
    mean = mean.metrics["mean"]
    assert (mean.chance, mean.low, mean.high, mean.n) == (None,) * 4
    nothing = EvalResult({"top1": Metric(float("nan"), unit="fraction")}, "top1", "few")
    mean = score.make(OTHERS, of=REPORT).summarise(found(zeroshot=nothing))
    assert np.isnan(mean.metrics["mean"].value) and mean.metrics["mean"].low is None


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (("zeroshot/top2",), "no metric 'zeroshot/top2'. Did you mean 'zeroshot/top"),
        (("zeroshott/top1",), "Did you mean 'zeroshot/top1'"),
        (("retrieval/text_recal@1",), "Did you mean 'retrieval/text_recall@1'"),
        (("top1",), "no metric 'top1'.* Known: retrieval/text_recall@1, "),
        ((REPORT[0], REPORT[0]), "names 'retrieval/text_recall@1' twice"),
        (("retrieval/rank", REPORT[0]), r"\(rank\) and .* \(fraction\) have different"),
    ],
)
def test_names_are_refused(of, message):
    with pytest.raises(UserError, match=message):
        score.make(OTHERS, of=of)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (("mine/gapp",), "mine gave no metric 'gapp': it gave gap, worse"),
        (("mine/gap", "mine/worse"), "more is better, of others less"),
        (("mine/gap", REPORT[0]), r"\(a plain number\) and .* \(fraction\) have diff"),
    ],
)
def test_what_shows_only_in_the_results_is_refused(of, message):
    with pytest.raises(UserError, match=message):
        score.make(OTHERS, of=of).summarise(found())


def test_primary_metrics_without_a_unit_in_common_are_refused_at_once():
    geometry = Announced({"modality_gap": "", "alignment": ""}, 0)
    with pytest.raises(UserError) as error:
        score.make({**OTHERS, "geometry": geometry})
    assert "(retrieval: fraction, rank; zeroshot: fraction; geometry: plain " in str(
        error.value
    )
    score.make({**OTHERS, "geometry": geometry}, of=REPORT)
    # What may have one in common, or does not say, is left to the results.
    score.make({"a": OTHERS["retrieval"], "b": Announced({"mean": "rank"}, 0)})
    score.make({"mine": OTHERS["mine"], "geometry": geometry})


def test_alone_it_has_nothing_to_average():
    with pytest.raises(UserError, match="choose evals=retrieval\\+zeroshot\\+score"):
        score.make({})


PARTS = (
    "retrieval/image_to_text_recall@1",
    "retrieval/text_to_image_recall@1",
    "zeroshot/mean_top1",
)
EVALS = "evals=score+retrieval+zeroshot@scenes"


def config(of=PARTS, **changes):
    changes = {"evals__score__of": of, "checkpoint__best": "score/mean", **changes}
    return tiny(EVALS, evals=True, train__steps=4, train__eval_every=2, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("score")
    train(config(checkpoint__every=2, checkpoint__keep=1), workdir)
    return workdir


@pytest.mark.thorough
@pytest.mark.usefixtures("on_one_device")
def test_a_run_keeps_the_best_checkpoint_by_it(trained):
    means = dict(rows(trained, "eval/score/mean"))
    parts = [dict(rows(trained, f"eval/{name}")) for name in PARTS]
    assert means == pytest.approx(
        {step: np.mean([part[step] for part in parts]) for step in means}
    )
    assert len(means) == 2
    best = max(means, key=lambda step: (means[step], step))
    saves = Checkpoints(trained, read_only=True)
    assert saves.best_step() == best and saves.steps() == sorted({best, 4})
    assert Store(trained, print).best_metric() == ("score/mean", "max")


@pytest.mark.thorough
@pytest.mark.usefixtures("on_one_device")
def test_evaluate_gives_it_beside_its_parts(trained, tmp_path, capsys):
    place = tmp_path / "found"
    argv = ["evaluate", f"--workdir={trained}", "--checkpoint=4", f"--out={place}"]
    assert evaluate.main(argv) == 0
    kept = results.read(place)
    assert list(kept.results) == ["score", "retrieval", "zeroshot"]
    mean = kept.results["score"].metrics["mean"]
    last = dict(rows(trained, "eval/score/mean"))[4]
    assert mean.value == pytest.approx(last) and mean.low < mean.value < mean.high
    assert kept.rows("score") == {} and kept.counts["score"] == 0
    assert "score: mean of retrieval/image_to_text_recall@1," in capsys.readouterr().out


@pytest.mark.usefixtures("on_one_device")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"evals__score__of": ("retrieval/mean_recal@1",)},
            "Did you mean 'retrieval/mean_recall@1'",
        ),
        (
            {"evals__score__of": ("zeroshot/top1",)},
            "no metric 'zeroshot/top1'.* Known: zeroshot/shape/top1",
        ),
        (
            {"checkpoint__best": "score/meen"},
            "score gives no metric 'meen'. Did you mean 'mean'",
        ),
        (
            {"checkpoint__best": "retrieval/recall@1"},
            "checkpoint.best='retrieval/recall@1': retrieval gives no metric",
        ),
    ],
)
def test_unknown_names_are_refused_before_training(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run.prepare(config(**changes), tmp_path, True)


@pytest.mark.usefixtures("on_one_device")
def test_it_reads_no_data(tmp_path):
    made = tiny("evals=zeroshot@scenes+score", evals=True, train__val_batches=0)
    prepared = run.prepare(made, tmp_path, True)
    assert prepared.eval_source is None
    assert list(prepared.evaluators) == ["zeroshot"]
    with pytest.raises(UserError, match="score reads no data: leave @scenes out"):
        tiny("evals=zeroshot@scenes+score@scenes", evals=True)
