"""Weights between two runs, and the sweep that `evaluate` makes of them."""

import json

import jax
import model_tools
import numpy as np
import pytest

import run_tools
import tiny
from clipjax import evaluate, results
from clipjax.engine import assemble, interpolate
from clipjax.models.common import lora
from clipjax.types import UserError


def test_mix_by_hand():
    base = {"params": {"a": np.array([1.0, 2.0]), "b": np.array(4.0)}}
    tuned = {"params": {"a": np.array([3.0, 0.0]), "b": np.array(0.0)}}
    found = interpolate.mix(base, tuned, 0.25)["params"]
    np.testing.assert_allclose(found["a"], [1.5, 1.5])
    np.testing.assert_allclose(found["b"], 3.0)
    assert interpolate.mix(base, tuned, 0.0) is base
    assert interpolate.mix(base, tuned, 1.0) is tuned


def test_another_model_is_refused():
    model = tiny.model()
    base = model, {"params": {"a": np.zeros(2)}}

    def refused(tuned, message):
        with pytest.raises(UserError, match=message):
            interpolate.check_same_model("x", base, tuned)

    refused(
        (model, {"params": {"a": np.zeros(3)}}),
        r"params/a is \(2,\) there and \(3,\) in this",
    )
    refused(
        (model, {"params": {"b": np.zeros(2)}}), "params/a is .2,. there and absent"
    )
    # Of the same shapes, and no longer the same.
    for name, value in (("mean", (0.0,) * 3), ("std", (1.0,) * 3)):
        refused(
            (tiny.model(**{name: value}), base[1]), f"^model.{name}: .* fit x, whic"
        )
    interpolate.check_same_model("x", base, (tiny.model(dropout=0.5), base[1]))


@pytest.mark.thorough
def test_the_sweep(tmp_path, capsys):
    """Its ends are what each run gets alone."""
    with run_tools.one_device():
        config = run_tools.tiny("evals=retrieval", evals=True, train__steps=2)
        base = run_tools.train(config, tmp_path / "base").outcome.results
        config.init_from = str(tmp_path / "base")
        config.train.steps = 6
        tuned = run_tools.train(config, tmp_path / "tuned").outcome.results
        places = ["--workdir", str(tmp_path / "tuned"), "--out", str(tmp_path / "x")]
        sweep = ["--interpolate", str(tmp_path / "base"), "--alphas", "0,0.5,1"]
        assert evaluate.main(["evaluate", *places, *sweep]) == 0
        # Of the same shapes, and share 0 would not be the original.
        path = tmp_path / "base" / "config.json"
        saved = json.loads(path.read_text())
        saved["model"]["text"]["causal"] = False
        path.write_text(json.dumps(saved))
        with pytest.raises(UserError, match="^model.text.causal: True does not fit --"):
            evaluate.main(["evaluate", *places[:2], *sweep])
    points = [results.read(tmp_path / "x" / f"share-{at}") for at in ("0", "0.5", "1")]
    assert [point.meta["share"] for point in points] == [0, 0.5, 1]
    ranks = [
        point.results["retrieval"].metrics["text_to_image_mean_rank"].value
        for point in points
    ]
    for found, alone in ((ranks[0], base), (ranks[2], tuned)):
        metric = alone["retrieval"].metrics["text_to_image_mean_rank"]
        assert found == pytest.approx(metric.value)
    assert ranks[0] != ranks[2]
    assert "share  retrieval mean_recall@1" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_run_starts_from_the_moving_average(tmp_path):
    """What was evaluated of the base is what the tuned run begins with."""
    with run_tools.one_device():
        run_tools.train(run_tools.tiny(train__ema=0.9), tmp_path / "base")
        config = run_tools.tiny(init_from=str(tmp_path / "base"), optim__lr=0.0)
        said = run_tools.train(config, tmp_path / "tuned")
    base, _ = assemble.load_variables(tmp_path / "base", "best", True)
    tuned, _ = assemble.load_variables(tmp_path / "tuned", "latest", True)
    plain, _ = assemble.load_variables(tmp_path / "base", "best", False)
    assert "(moving average)" in said
    for name in ("image_projection", "text_projection"):
        given = tuned["params"][name]["kernel"]
        np.testing.assert_array_equal(given, base["params"][name]["kernel"])
        assert (given != plain["params"][name]["kernel"]).any()


@pytest.mark.parametrize("alphas", ["0,2", "x", "0,-1"])
def test_shares_out_of_range(tmp_path, alphas):
    flags = ["--interpolate", str(tmp_path), "--alphas", alphas]
    with pytest.raises(UserError, match="give numbers from 0 to 1"):
        evaluate.main(["evaluate", "--workdir", str(tmp_path), *flags])
    with pytest.raises(UserError, match="--alphas needs --interpolate"):
        evaluate.main(["evaluate", "--workdir", str(tmp_path), "--alphas", "0,1"])


def test_lora_is_merged_before_it_is_mixed():
    """Half-way between two kernels, not the product of half-way factors."""
    base = tiny.model()
    model = lora.add(base, rank=2, alpha=6.0, on="image/.*/fc1/kernel$")
    one = model_tools.init(model)
    other = jax.tree.map(lambda leaf: np.cos(3 * leaf), one)
    made, ours = lora.merged(model, one)
    assert made is base
    _, theirs = lora.merged(model, other)
    mixed = interpolate.mix(ours, theirs, 0.5)["params"]["image"]
    place = ("transformer", "block_0", "mlp", "fc1", "kernel")
    kernels = []
    for variables in (one, other):
        kernel = variables["params"]["image"]
        addition = variables["params"]["lora"]["image"]
        for name in place:
            mixed = mixed[name] if variables is one else mixed
            kernel, addition = kernel[name], addition[name]
        kernels.append(kernel + 3.0 * addition["down"] @ addition["up"])
    np.testing.assert_allclose(mixed, sum(kernels) / 2, rtol=1e-4, atol=1e-5)
    assert lora.merged(base, ours) == (base, ours)
