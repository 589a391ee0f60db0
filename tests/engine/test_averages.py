"""Steps of optimizers with averages of their own, and with further gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checkpoint_helpers import bits
from flax import linen as nn

import tiny
from clipjax import config, results
from clipjax.engine import assemble, gradients
from clipjax.engine import run as runs
from clipjax.engine import state as states
from clipjax.engine.step import make_train_step
from clipjax.types import UserError
from run_tools import tiny as tiny_run
from run_tools import train

BATCH = jax.tree.map(jnp.asarray, tiny.batch())


class Layers(nn.Module):
    """Batch normalisation between dense layers: what compiles in a moment."""

    @nn.compact
    def __call__(self, batch, train):
        words = nn.Embed(tiny.VOCAB, 8)(batch["text"]).mean(axis=1)
        scale = self.param("logit_scale", nn.initializers.constant(2.0), ())
        outputs = {"logit_scale": jnp.exp(scale)}
        for side, x in (("image", batch["image"] / 255), ("text", words)):
            x = nn.Dense(16)(x.reshape(x.shape[0], -1))
            x = nn.BatchNorm(not train, momentum=0.5)(x)
            x = nn.Dense(16)(nn.relu(x))
            norm = jnp.linalg.norm(x, axis=1, keepdims=True)
            outputs |= {f"{side}_features": x, f"{side}_embed": x / norm}
        return outputs


@dataclasses.dataclass(frozen=True)
class Light:
    """Layers as a types.Model."""

    module: Layers = dataclasses.field(default_factory=Layers)

    def init(self, key):
        return self.module.init(key, tiny.batch(2), False)

    def apply(self, variables, batch, train, key):
        found = self.module.apply(
            variables, batch, train, mutable=["batch_stats"] if train else False
        )
        if not train:
            return found, {}
        return found[0], found[1]["batch_stats"]


def fresh(arg, micro_batches=1, **options):
    """(optimizer, state, step) of the light model."""
    section = config.base(f"optim={arg},schedule=constant").optim
    with section.unlocked():
        section.update({"clip_norm": 0.0, **options})
    model, loss = Light(), tiny.loss()
    optim = tiny.optim(model, section)
    own = optim.averaged is not None
    state = jax.jit(lambda: states.create(model, loss, optim.tx, own, 0))()
    step = make_train_step(
        model,
        loss,
        optim,
        ema=0.0,
        max_logit_scale=100.0,
        micro_batches=micro_batches,
    )
    return optim, state, jax.jit(step)


def near(one, other, rtol=1e-4):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, 1e-5), one, other)


def test_an_optimizers_average_is_kept_with_statistics_of_its_own():
    optim, state, step = fresh("schedule_free_adamw", lr=0.05)
    for _ in range(3):
        before = state
        state, metrics = step(state, BATCH)
    assert int(metrics["bad_total"]) == 0
    near(state.ema["params"], optim.averaged(state.opt_state, state.params))
    gap = optax.global_norm(
        jax.tree.map(jnp.subtract, state.ema["params"], state.params)
    )
    assert float(gap) > 1e-3
    # What batch normalisation sees with the averages, after what it saw with theirs.
    found = Light().apply(
        states.variables(state.ema["params"], before.ema["model_state"]),
        BATCH,
        True,
        None,
    )
    near(state.ema["model_state"], found[1])
    assert not np.allclose(
        state.ema["model_state"]["BatchNorm_0"]["mean"],
        state.model_state["BatchNorm_0"]["mean"],
        rtol=1e-3,
    )


@pytest.mark.thorough
def test_statistics_of_micro_batches_follow_one_another():
    _, state, _ = fresh("schedule_free_adamw")
    state = state.replace(ema={**state.ema, "params": state.params})
    seen = gradients.statistics(Light(), 2)(
        state.params, state.model_state, BATCH, jax.random.key(0)
    )
    expected = state.model_state
    for part in range(2):
        rows = {name: value[part::2] for name, value in BATCH.items()}
        variables = states.variables(state.params, expected)
        expected = Light().apply(variables, rows, True, None)[1]
    near(seen, expected)


@pytest.mark.thorough
def test_a_bad_step_leaves_the_average():
    _, state, step = fresh("schedule_free_sgd", lr=0.1)
    state, _ = step(state, BATCH)
    broken = state.replace(params={**state.params, "logit_scale": jnp.float32(jnp.nan)})
    after, metrics = step(broken, BATCH)
    assert int(metrics["bad_total"]) == 1
    assert bits(after.ema["params"]["Dense_0"]["kernel"]) == bits(
        state.ema["params"]["Dense_0"]["kernel"]
    )


@pytest.mark.thorough
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_step_takes_the_gradient_uphill(micro_batches):
    """Of the same batch, as two gradients by hand give it."""
    lr, radius = 0.1, 0.2
    plain = {"lr": lr, "momentum": 0.0, "nesterov": False, "radius": radius}
    _, state, step = fresh("sam+sgd", micro_batches, **plain)
    find = gradients.make(Light(), tiny.loss(), micro_batches)
    key = jax.random.fold_in(state.key, 0)
    _, first, model_state, *_ = find(state, BATCH, key)
    length = radius / optax.global_norm(first)
    uphill = jax.tree.map(lambda p, g: p + length * g, state.params, first)
    second = find(state.replace(params=uphill), BATCH, key)[1]
    after, metrics = step(state, BATCH)
    near(
        after.params, jax.tree.map(lambda p, g: p - lr * g, state.params, second), 1e-3
    )
    # Batch normalisation and the reported gradient are those of the parameters.
    near(after.model_state, model_state)
    assert float(metrics["grad_norm"]) == pytest.approx(
        float(optax.global_norm(first)), rel=1e-4
    )


@pytest.mark.thorough
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_step_differentiates_its_gradient(micro_batches):
    """Sophia's estimate is signs * Hessian @ signs: here by a difference quotient."""
    _, state, step = fresh("sophia", micro_batches, b2=0.0, every=1)
    find = gradients.make(Light(), tiny.loss(), micro_batches)
    key = jax.random.fold_in(state.key, 0)
    _, used = jax.random.split(jax.random.PRNGKey(0))
    signs = optax.tree.random_like(
        used, state.params, jax.random.rademacher, dtype=jnp.float32
    )
    # In float32 a smaller step would lose the difference among rounding errors.
    ends = [
        find(
            state.replace(
                params=jax.tree.map(
                    lambda p, s, way=way: p + way * s, state.params, signs
                )
            ),
            BATCH,
            key,
        )[1]["Dense_1"]["kernel"]
        for way in (3e-4, -3e-4)
    ]
    quotient = (ends[0] - ends[1]) / 6e-4 * signs["Dense_1"]["kernel"]
    after, metrics = step(state, BATCH)
    assert int(metrics["bad_total"]) == 0
    (found,) = (
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(after.opt_state)
        if jax.tree_util.keystr(path).endswith("nu['Dense_1']['kernel']")
    )
    close = np.abs(found - quotient) <= 0.05 * np.abs(quotient).max()
    assert close.mean() > 0.9


def test_an_average_of_its_own_excludes_a_moving_one(tmp_path):
    made = tiny_run("optim=schedule_free_adamw", train__ema=0.9)
    with pytest.raises(UserError, match=r"train.ema=0.9: optim=schedule_free_adamw"):
        runs.prepare(made, tmp_path, True)


@pytest.mark.thorough
@pytest.mark.usefixtures("on_one_device")
def test_a_run_evaluates_and_saves_its_average(tmp_path):
    made = tiny_run(
        "optim=schedule_free_adamw,schedule=constant",
        evals=True,
        train__val_batches=1,
        optim__lr=0.01,
    )
    train(made, tmp_path / "run")
    average, _ = assemble.load_variables(tmp_path / "run", "latest", ema=True)
    plain, _ = assemble.load_variables(tmp_path / "run", "latest", ema=False)
    gaps = jax.tree.map(
        lambda x, y: float(np.abs(x - y).max()), average["params"], plain["params"]
    )
    assert max(jax.tree.leaves(gaps)) > 1e-4
    (folder,) = (tmp_path / "run" / results.FOLDER).iterdir()
    assert results.read(folder).meta["ema"] is True


@pytest.mark.thorough
@pytest.mark.usefixtures("on_one_device")
@pytest.mark.parametrize("name", ["schedule_free_adamw", "lookahead+adamw"])
def test_a_run_starts_its_optimizer_from_the_weights_it_takes(name, tmp_path):
    """What an optimizer keeps of its first parameters is not of fresh ones."""
    train(tiny_run(f"optim={name}"), tmp_path / "first")
    again = tiny_run(f"optim={name}", init_from=str(tmp_path / "first"), optim__lr=0.0)
    train(again, tmp_path / "second")
    start, _ = assemble.load_variables(tmp_path / "first", "latest", ema=True)
    for averaged in (True, False):
        end, _ = assemble.load_variables(tmp_path / "second", "latest", ema=averaged)
        near(start["params"], end["params"])
