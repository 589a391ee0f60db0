"""Optimizers and schedules against PyTorch's numbers and hand-computed ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from ml_collections import ConfigDict

from clipjax import config, registry, testing
from clipjax.optim import factory, orthogonal, schedules
from clipjax.types import UserError


def section(arg=None, **values):
    made = config.base(arg).optim
    with made.unlocked():
        made.update(ConfigDict({"clip_norm": 0.0, **values}))
    return made


def parameters():
    return {
        "kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]),
        "bias": jnp.array([0.1, -0.2]),
        "positions": jnp.array([[0.3, 0.4]]),
    }


def gradients(step):
    values = np.array([[0.3, -0.1], [0.2, 0.7]]) * (1 + 0.5 * step)
    return {
        "kernel": jnp.asarray(values),
        "bias": jnp.asarray(values[0]),
        "positions": jnp.asarray(values[:1]),
    }


def run(made, steps, params):
    optim = factory.make(made, 1000, 100, params)
    state = optim.tx.init(params)
    for step in range(steps):
        updates, state = optim.tx.update(gradients(step), state, params, value=0.0)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
    return params


# torch 2.13, float64, on the kernel of `parameters` with `gradients`, 3 steps, constant
# lr 0.01: SGD(momentum=.9, nesterov=True, weight_decay=.1), Adam(weight_decay=.1),
# AdamW(betas=(.9, .98), eps=1e-6, weight_decay=.1). test_torch_optimizers_live, which
# needs the parity extra, computes them again.
TORCH = {
    "sgd": [[0.9581000196, -1.9726415084], [0.4734058629, 2.8968766464]],
    "adam": [[0.9700929392, -1.9699573318], [0.4701147542, 2.9700720369]],
    "adamw": [[0.9673096503, -1.9643128094], [0.4688081908, 2.9613156026]],
}


@pytest.mark.parametrize("name", TORCH)
def test_three_steps_equal_torch(name):
    made = section(f"optim={name},schedule=constant", lr=0.01, weight_decay=0.1)
    moved = run(made, 3, parameters())
    np.testing.assert_allclose(moved["kernel"], TORCH[name], rtol=2e-6)


@pytest.mark.parity
@pytest.mark.parametrize("name", TORCH)
def test_torch_optimizers_live(name):
    torch = pytest.importorskip("torch")
    make = {
        "sgd": lambda p: torch.optim.SGD(
            p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1
        ),
        "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
        "adamw": lambda p: torch.optim.AdamW(
            p, lr=0.01, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1
        ),
    }[name]
    kernel = torch.nn.Parameter(
        torch.tensor(np.asarray(parameters()["kernel"], np.float64))
    )
    optimizer = make([kernel])
    for step in range(3):
        values = np.array([[0.3, -0.1], [0.2, 0.7]]) * (1 + 0.5 * step)
        kernel.grad = torch.tensor(values)
        optimizer.step()
    np.testing.assert_allclose(kernel.detach().numpy(), TORCH[name], atol=1e-9)


@pytest.mark.parametrize("name", registry.names("optim"))
def test_contract(name):
    testing.check_optimizer(name)


def test_muon_equals_optax_and_adamw():
    """Matrices as optax's own Muon, of another code; the rest as AdamW."""
    params = {
        "kernel": jnp.asarray(np.random.default_rng(0).normal(size=(4, 6))),
        "token_embedding": jnp.ones((4, 6)),
        "bias": jnp.ones(4),
    }
    grads = jax.tree.map(lambda p: jnp.sin(7 * p) + 0.1, params)
    # Without Nesterov: optax corrects its bias, which the authors' code does not.
    made = section(
        "optim=muon,schedule=constant", lr=0.01, weight_decay=0.0, nesterov=False
    )
    muon = factory.make(made, 1000, 100, params).tx
    theirs = optax.contrib.muon(0.01, consistent_rms=0.2, nesterov=False)
    made = section("optim=adamw,schedule=constant", lr=0.01, weight_decay=0.0)
    adamw = factory.make(made, 1000, 100, params).tx
    states = [muon.init(params), theirs.init(params), adamw.init(params)]
    for _ in range(3):
        grads = jax.tree.map(lambda g: jnp.cos(3 * g), grads)
        ours, states[0] = muon.update(grads, states[0], params)
        other, states[1] = theirs.update(grads, states[1], params)
        adam, states[2] = adamw.update(grads, states[2], params)
        np.testing.assert_allclose(ours["kernel"], other["kernel"], rtol=2e-4)
        for name in ("token_embedding", "bias"):
            np.testing.assert_allclose(ours[name], adam[name], rtol=1e-6)


def test_muon_makes_matrices_orthogonal():
    # Singular values near 1 (0.7 to 1.2), then 0.2 * sqrt(6).
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
    update, _ = orthogonal.orthogonalize().update({"m": matrix}, optax.EmptyState())
    values = np.linalg.svd(update["m"], compute_uv=False) / (0.2 * 6**0.5)
    assert values.min() > 0.65 and values.max() < 1.25


def test_groups_scale_and_freeze_in_order():
    groups = (("bias", 0.0, 1.0), ("k", 0.5, 1.0), ("kernel", 9.0, 9.0))
    plain = section("optim=sgd,schedule=constant", lr=0.1)
    grouped = section("optim=sgd,schedule=constant", lr=0.1, groups=groups)
    start = parameters()
    full, part = run(plain, 2, start), run(grouped, 2, start)
    np.testing.assert_array_equal(part["bias"], start["bias"])
    np.testing.assert_allclose(
        part["kernel"] - start["kernel"], (full["kernel"] - start["kernel"]) / 2, 1e-5
    )
    state = factory.make(grouped, 10, 10, start).tx.init(start)
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert start["bias"].shape not in shapes  # frozen: no momentum is kept


def test_a_pattern_that_matches_nothing_is_an_error():
    made = section(groups=(("nothing", 1.0, 1.0),))
    with pytest.raises(UserError, match="matches no parameter"):
        factory.make(made, 10, 10, parameters())


def test_clipping_is_by_global_norm():
    made = section("optim=sgd,schedule=constant", lr=1.0, momentum=0.0, nesterov=False)
    made.clip_norm = 0.5
    start = parameters()
    moved = run(made, 1, start)
    steps = jax.tree.leaves(jax.tree.map(lambda a, b: a - b, moved, start))
    norm = np.sqrt(sum(float(jnp.sum(step**2)) for step in steps))
    assert norm == pytest.approx(0.5, rel=1e-5)


def test_cosine_per_epoch_is_a_published_row():
    # Of Siddharth-magesh/ai_research_learning: rates x 1e-4 in epochs 1, 5, 10, ... of
    # CosineAnnealingLR(T_max=50, eta_min=1e-6) stepped once an epoch.
    rate = schedules.cosine(1e-4, 50 * 16, 16, floor=1e-6, per_epoch=True)
    epochs = [1, 5, 10, 15, 20, 25, 30, 35, 40, 44, 50]
    row = [1.0, 0.984, 0.923, 0.821, 0.687, 0.536, 0.382, 0.240, 0.124, 0.057, 0.011]
    for offset in (0, 15):
        got = [float(rate((epoch - 1) * 16 + offset)) * 1e4 for epoch in epochs]
        np.testing.assert_allclose(got, row, atol=6e-4)


def test_cosine_per_epoch_is_another_published_row():
    # history_flickr8k.json of intrinsicD/DeepLearning2: lr .01, T=30, eta_min 1e-4,
    # after epochs 1-3.
    rate = schedules.cosine(0.01, 30 * 469, 469, floor=1e-4, per_epoch=True)
    got = [float(rate(epoch * 469)) for epoch in (1, 2, 3)]
    np.testing.assert_allclose(got, [0.00997288338, 0.00989183062, 0.00975772976], 1e-5)


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
def test_warmup_rises_to_the_peak(name):
    rate = getattr(schedules, name)(2.0, 100, 10, warmup=10.0)
    np.testing.assert_allclose(
        [float(rate(s)) for s in range(10)], np.arange(1, 11) / 5
    )
    assert float(rate(10)) == pytest.approx(2.0)
    share = getattr(schedules, name)(2.0, 100, 10, warmup=0.1)
    assert float(share(4)) == float(rate(4))


def test_floors_and_ends():
    assert float(schedules.linear(2.0, 100, 10, floor=0.5)(50)) == pytest.approx(1.25)
    assert float(schedules.linear(2.0, 100, 10, floor=0.5)(100)) == pytest.approx(0.5)
    assert float(schedules.cosine(2.0, 100, 10, floor=0.5)(100)) == pytest.approx(0.5)
    assert float(schedules.constant(2.0, 100, 10)(99)) == 2.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("b1", 2.0),
        ("b1", -1.0),
        ("b2", 1.0),
        ("b2", 0.99999999),  # 1 in float32
        ("eps", 0.0),
        ("eps", 1e-46),  # 0 in float32
        ("eps", -1e-8),
        ("lr", -0.1),
        ("lr", 1e39),
        ("weight_decay", -0.1),
        ("momentum", 1.0),
        ("momentum", -0.5),
        ("clip_norm", -1.0),
        ("lr", float("nan")),
    ],
)
def test_values_that_cannot_work_are_refused(name, value):
    found = 0
    for optim in registry.names("optim"):
        made = section(f"optim={optim}")
        if name in made:
            made[name] = value
            with pytest.raises(UserError, match=f"^optim.{name}=.*: must be "):
                factory.make(made, 10, 5, parameters())
            found += 1
    assert found


@pytest.mark.parametrize("option", ["floor", "warmup_start"])
def test_rates_below_zero_are_refused(option):
    for name in registry.names("schedule"):
        make = registry.load("schedule", name)
        if option in registry.options(make):
            with pytest.raises(UserError, match=f"^optim.schedule.{option}=-1.0: must"):
                make(1.0, 10, 5, **{option: -1.0})


def test_every_optimizer_checks_every_number():
    """A new option of one is refused at -1, or stands here with its reason."""
    for name in registry.names("optim"):
        for option, known in registry.options(registry.load("optim", name)).items():
            if known.annotation is float:
                made = section(f"optim={name}", **{option: -1.0})
                with pytest.raises(UserError, match=f"^optim.{option}=-1.0: must be"):
                    factory.make(made, 10, 5, parameters())


def test_warmup_longer_than_the_run_is_an_error():
    with pytest.raises(UserError, match="do not fit"):
        schedules.cosine(1.0, 10, 5, warmup=10.0)
