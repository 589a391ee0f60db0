"""The step: the same on any number of devices, safe against non-finite values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import run_tools
import tiny
from clipjax import config, param_paths
from clipjax.engine import run, sharding
from clipjax.engine import state as states
from clipjax.engine.step import check_start, make_loss_step, make_train_step
from clipjax.engine.watch import Watch
from clipjax.types import UserError


def mesh(data, fsdp=1):
    devices = np.array(jax.devices()[: data * fsdp]).reshape(data, fsdp)
    return jax.sharding.Mesh(devices, ("data", "fsdp"))


def section(arg="schedule=constant"):
    return config.base(arg).optim


def fresh(model, ema=False, arg="schedule=constant"):
    loss = tiny.loss()
    optim = tiny.optim(model, section(arg))
    state = jax.jit(lambda: states.create(model, loss, optim.tx, ema, seed=0))()
    return state, make_train_step(
        model, loss, optim, ema=0.5 if ema else 0.0, max_logit_scale=100.0
    )


def loss_and_gradient(model, variables, layout):
    """Loss and flat gradient, dropout on, of a batch spread over a mesh."""
    loss = tiny.loss()
    key = jax.random.key(3)

    def objective(params, batch):
        outputs, _ = model.apply({"params": params}, batch, True, key)
        return loss(outputs, batch, {}, 0)[0]

    where = sharding.tree_shardings(layout, variables["params"])
    params = jax.device_put(variables["params"], where)
    batch = sharding.put_batch(layout, tiny.batch())
    value, grads = jax.jit(jax.value_and_grad(objective))(params, batch)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)])
    return float(value), flat


@pytest.mark.thorough
@pytest.mark.parametrize("x64", [pytest.param(False, marks=pytest.mark.slow), True])
def test_same_loss_and_gradient_on_1_2_and_8_devices(x64):
    with jax.enable_x64(x64):
        model = tiny.model(dropout=0.3)
        variables = jax.jit(model.init)(jax.random.key(0))
        if x64:
            variables = tiny.to_float64(variables)
        one, gradient = loss_and_gradient(model, variables, mesh(1))
        assert gradient.dtype == (np.float64 if x64 else np.float32)
        for layout in (mesh(2), mesh(2, 4)):
            value, other = loss_and_gradient(model, variables, layout)
            assert value == pytest.approx(one, rel=1e-12 if x64 else 1e-6)
            distance = np.linalg.norm(other - gradient) / np.linalg.norm(gradient)
            assert distance < (1e-10 if x64 else 1e-5)


@pytest.mark.thorough
def test_dropout_follows_the_step():
    state, step = fresh(tiny.model(dropout=0.5))
    batch = tiny.batch()
    step = jax.jit(step)
    _, at_0 = step(state, batch)
    _, again = step(state, batch)
    _, at_1 = step(state.replace(step=jnp.int32(1)), batch)
    assert at_0["loss"] == again["loss"]
    assert at_0["loss"] != at_1["loss"]


@pytest.mark.thorough
def test_training_lowers_the_loss_to_what_memorising_gives():
    state, step = fresh(tiny.model(), arg="schedule=constant,optim=adam")
    step = jax.jit(step, donate_argnums=0)
    batch = tiny.batch()
    state, first = step(state, batch)
    for _ in range(150):
        state, last = step(state, batch)
    assert float(first["loss"]) > np.log(16) - 0.5
    assert float(last["loss"]) < 0.5
    assert float(last["image_to_text_accuracy"]) > 0.9
    assert int(state.step) == 151


@pytest.mark.thorough
def test_a_non_finite_step_changes_only_step_and_counts():
    model = tiny.model()
    state, step = fresh(model, ema=True)
    step = jax.jit(step)
    batch = tiny.batch()
    state, _ = step(state, batch)
    poisoned = state.replace(
        params={**state.params, "logit_scale": jnp.float32(np.nan)}
    )
    after, metrics = step(poisoned, batch)
    assert (int(after.step), int(after.bad_total), int(after.bad_in_row)) == (2, 1, 1)
    assert not np.isfinite(metrics["loss"])
    for name in ("params", "opt_state", "ema"):
        before = jax.tree.leaves(getattr(poisoned, name))
        for old, new in zip(before, jax.tree.leaves(getattr(after, name)), strict=True):
            np.testing.assert_array_equal(old, new)
    good, _ = step(after.replace(params=state.params), batch)
    assert (int(good.bad_total), int(good.bad_in_row)) == (1, 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(good.params))


def overflowed(state):
    """The moments of one parameter are infinite."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(state.opt_state)
    found = [
        jnp.full_like(leaf, np.inf)
        if "mu" in str(path) and "fc1" in str(path)
        else leaf
        for path, leaf in leaves
    ]
    return state.replace(opt_state=jax.tree.unflatten(tree, found))


@pytest.mark.thorough
def test_what_was_not_finite_is_said():
    """In the order of computing: outputs, loss, gradient, update."""
    model, said = tiny.model(), []
    state, step = fresh(model)
    names = jax.tree.leaves(param_paths.paths(state.params))
    step, batch = jax.jit(step), tiny.batch()
    text = state.params["text"]
    embedding = {**state.params["text_projection"]}
    embedding = jax.tree.map(lambda x: x * np.inf, embedding)
    broken = {
        "the model's text_embed, text_features overflowed (loss nan": state.replace(
            params={**state.params, "text_projection": embedding}
        ),
        "the model's logit_scale overflowed": state.replace(
            params={**state.params, "logit_scale": jnp.float32(200.0)}
        ),
        "the update of ": overflowed(state),
    }
    assert text
    for expected, given in broken.items():
        watch = Watch(names, 40, said.append)
        for number in (7, 8):
            given, metrics = step(given, batch)
            watch.look(number, jax.device_get(metrics))
        fault = watch.fault(8, 2)
        assert "in 2 steps in a row, from step 7 up to step 8: at step 7 " in fault
        assert expected in fault
    # There all numbers but the update's were finite.
    assert "mlp/fc1/kernel" in fault and "loss nan" not in fault and "inf" not in fault
    assert not said


@pytest.mark.thorough
def test_the_logit_scale_is_clamped():
    state, step = fresh(tiny.model(logit_scale_init=99.9), arg="optim=sgd")
    state = state.replace(params={**state.params, "logit_scale": jnp.float32(7.0)})
    after, _ = jax.jit(step)(state, tiny.batch())
    assert float(after.params["logit_scale"]) == pytest.approx(np.log(100))


@pytest.mark.thorough
def test_without_limits_the_logit_scale_is_only_trained():
    model, loss = tiny.model(logit_scale_init=112.33), tiny.loss()
    optim = tiny.optim(model, config.base("optim=sgd").optim)
    state = jax.jit(lambda: states.create(model, loss, optim.tx, False, seed=0))()
    step = make_train_step(model, loss, optim, ema=0.0, max_logit_scale=0.0)
    after, _ = jax.jit(step)(state, tiny.batch())
    start, end = (float(one.params["logit_scale"]) for one in (state, after))
    assert 0 < abs(end - start) < 0.1 and end > np.log(105)


@pytest.mark.parametrize("start", [1.0, 100.0, np.exp(np.float16(4.6052)), 14.3])
def test_a_start_within_the_limits(start):
    check_start("x", {"logit_scale": np.log(start)}, (), 100.0)


@pytest.mark.parametrize("start", [112.33, 0.5, 101.0])
def test_a_start_beyond_the_limits_is_an_error(start):
    params = {"logit_scale": np.float32(np.log(start))}
    with pytest.raises(UserError, match=f"^x: its inverse temperature of {start:g}"):
        check_start("x", params, (), 100.0)
    check_start("x", params, (), 0.0)
    check_start("x", params, {"logit_scale"}, 100.0)
    check_start("x", {}, (), 100.0)


def test_a_run_says_so_before_it_is_compiled(tmp_path, monkeypatch):
    changes = {"model__logit_scale_init": 112.33}
    monkeypatch.setattr(sharding, "make_mesh", lambda config: mesh(1))
    with pytest.raises(UserError, match="^model.logit_scale_init=112.33: its inverse"):
        run.prepare(run_tools.tiny(**changes), tmp_path, True)
    run.prepare(run_tools.tiny("loss=siglip", **changes), tmp_path, True)
    fixed = changes | {"train__max_logit_scale": 200.0}
    run.prepare(run_tools.tiny(**fixed), tmp_path, True)


@pytest.mark.thorough
def test_a_frozen_logit_scale_is_left_as_it_is():
    frozen = config.base("optim=sgd").optim
    frozen.groups = (("^logit_scale$", 0.0, 0.0),)
    model, loss = tiny.model(), tiny.loss()
    optim = tiny.optim(model, frozen)
    state = jax.jit(lambda: states.create(model, loss, optim.tx, False, seed=0))()
    state = state.replace(params={**state.params, "logit_scale": jnp.float32(4.75)})
    step = make_train_step(model, loss, optim, ema=0.0, max_logit_scale=100.0)
    after, _ = jax.jit(step)(state, tiny.batch())
    assert float(after.params["logit_scale"]) == 4.75


@pytest.mark.thorough
def test_the_moving_average_by_hand():
    state, step = fresh(tiny.model(), ema=True)
    after, _ = jax.jit(step)(state, tiny.batch())
    rate = min(0.5, 1 / 10)
    for old, new, mean in zip(
        jax.tree.leaves(state.params),
        jax.tree.leaves(after.params),
        jax.tree.leaves(after.ema["params"]),
        strict=True,
    ):
        np.testing.assert_allclose(mean, rate * old + (1 - rate) * new, rtol=1e-5)


@pytest.mark.thorough
def test_evaluation_loss_has_no_dropout_and_is_the_softmax_loss():
    model = tiny.model(dropout=0.5)
    state, _ = fresh(model)
    batch = tiny.batch()
    value = jax.jit(make_loss_step(model, tiny.loss()))(state, batch)
    variables = {"params": state.params}
    image = jax.jit(model.encode_image)(variables, batch["image"])
    words = (batch["text"], batch["text_mask"])
    text = jax.jit(model.encode_text)(variables, *words)
    logits = image["image_embed"] @ text["text_embed"].T / 0.07
    labels = jnp.arange(16)
    expected = (
        optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        + optax.softmax_cross_entropy_with_integer_labels(logits.T, labels).mean()
    ) / 2
    assert float(value) == pytest.approx(float(expected), rel=1e-5)


def test_moments_are_sharded_as_their_parameters():
    model = tiny.model()
    optim = tiny.optim(model, section())
    layout = mesh(2, 4)
    template = states.shapes(model, tiny.loss(), optim, False, 0, layout)
    state = states.initialise(model, tiny.loss(), optim, False, 0, template)
    kernel = state.params["text"]["transformer"]["block_0"]["mlp"]["fc1"]["kernel"]
    moments = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if "text" in str(path) and "fc1" in str(path) and "kernel" in str(path)
    ]
    assert len(moments) == 2
    for array in (kernel, *moments):
        assert "fsdp" in jax.tree.leaves(tuple(array.sharding.spec))
