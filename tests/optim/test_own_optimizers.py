"""Optimizers of our own code against re-statements of their papers in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import mostly
from ml_collections import ConfigDict

from clipjax import config, config_check
from clipjax.optim import factory, matrices, orthogonal, universal_muon
from clipjax.types import UserError

LR, WD = 0.01, 0.3
STEPS = 5


def made(arg, params, **values):
    section = config.base(f"optim={arg},schedule=constant").optim
    values = {"clip_norm": 0.0, "lr": LR, "weight_decay": WD, **values}
    with section.unlocked():
        section.update(ConfigDict(values))
    return factory.make(section, 1000, 100, params).tx


def kernel(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def gradient(step, shape):
    return np.random.default_rng(100 + step).normal(size=shape) * 0.9**step


def follow(tx, start, name="kernel", steps=STEPS):
    params = {name: jnp.asarray(start, jnp.float32)}
    state = tx.init(params)
    update = jax.jit(tx.update)
    for step in range(steps):
        given = {name: jnp.asarray(gradient(step, start.shape), jnp.float32)}
        updates, state = update(given, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params[name])


class Adam:
    """Means of gradients and of their squares, corrected for their bias."""

    def __init__(self, b1, b2):
        self.b1, self.b2, self.step = b1, b2, 0
        self.first = self.second = 0.0

    def means(self, gradient):
        self.step += 1
        self.first = self.b1 * self.first + (1 - self.b1) * gradient
        self.second = self.b2 * self.second + (1 - self.b2) * gradient**2
        corrected = self.first / (1 - self.b1**self.step)
        return corrected, self.second / (1 - self.b2**self.step)


def test_soap_is_adam_in_shampoos_basis():
    """The paper's algorithm 3, whose first step starts the bases alone."""
    x = kernel(4, 3)
    ours = follow(made("soap", x_tree(x), every=2, b1=0.9, b2=0.8, b3=0.7), x)
    rows, columns = np.zeros((4, 4)), np.zeros((3, 3))
    left, right = np.eye(4), np.eye(3)
    mean, square = np.zeros((4, 3)), np.zeros((4, 3))
    for step in range(STEPS):
        g = gradient(step, x.shape)
        if step:
            mean = 0.9 * mean + 0.1 * g
            square = 0.8 * square + 0.2 * (left.T @ g @ right) ** 2
            first = (left.T @ mean @ right) / (1 - 0.9**step)
            turned = first / (np.sqrt(square / (1 - 0.8**step)) + 1e-8)
            x = x - LR * (left @ turned @ right.T + WD * x)
        else:
            x = x - LR * WD * x
        rows = 0.7 * rows + 0.3 * g @ g.T
        columns = 0.7 * columns + 0.3 * g.T @ g
        if step == 0:
            left, right = np.linalg.eigh(rows)[1], np.linalg.eigh(columns)[1]
        elif step % 2 == 0:
            left, right = (
                np.linalg.qr(product @ basis)[0]
                for product, basis in ((rows, left), (columns, right))
            )
    np.testing.assert_allclose(ours, x, rtol=1e-3, atol=1e-4)


def x_tree(x, name="kernel"):
    return {name: jnp.asarray(x, jnp.float32)}


@pytest.mark.thorough
def test_soap_keeps_the_basis_of_large_sides():
    x = kernel(6, 3)
    state = made("soap", x_tree(x), max_dim=4).init(x_tree(x))
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert shapes.count((3, 3)) == 2 and (6, 6) not in shapes
    assert np.isfinite(follow(made("soap", x_tree(x), max_dim=4), x)).all()


def projected(x, g, step, delta=0.1):
    """(the step along the sphere, whether the size is free) of a kernel [inputs, o]."""
    for view in (lambda a: a.T, lambda a: a.reshape(1, -1)):
        rows, gradients = view(x), view(g)
        cosines = np.abs((rows * gradients).sum(1)) / (
            np.linalg.norm(rows, axis=1) * np.linalg.norm(gradients, axis=1)
        )
        if cosines.max() < delta / np.sqrt(rows.shape[1]):
            normal = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            along = (normal * view(step)).sum(1, keepdims=True)
            part = normal * along
            part = part.T if part.shape[0] == x.shape[1] else part
            return step - part.reshape(x.shape), True
    return step, False


@pytest.mark.parametrize(
    ("name", "delta"),
    mostly(
        [("adamp", 0.1), ("adamp", 3.0), ("sgdp", 0.1), ("sgdp", 3.0)], [("adamp", 3.0)]
    ),
)
def test_adamp_and_sgdp(name, delta):
    """With the usual delta no weights are free here, with the large one all are."""
    x = start = kernel(5, 3)
    options = {"nesterov": name == "sgdp", "delta": delta}
    ours = follow(made(name, x_tree(x), **options), x)
    adam, momentum, free_steps = Adam(0.9, 0.999), np.zeros_like(x), 0
    for step in range(STEPS):
        g = gradient(step, x.shape)
        strength = 1.0
        if name == "adamp":
            first, second = adam.means(g)
            move = first / (np.sqrt(second) + 1e-8)
        else:
            momentum = 0.9 * momentum + g
            move, strength = g + 0.9 * momentum, 10.0
        move, free = projected(x, g, move, delta)
        free_steps += free
        share = 0.1 if free else 1.0
        x = x * (1 - LR * WD * strength * share) - LR * move
    assert free_steps == (STEPS if delta > 1 else 0)
    np.testing.assert_allclose(ours, x, rtol=2e-4, atol=2e-5)
    assert np.abs(x - start).max() > 0.01


@pytest.mark.thorough
def test_a_projection_of_the_whole_array():
    """One output's gradient has a part along its weights, the others' cancel it."""
    x = np.asarray([[1.0, 1.0], [0.0, 0.0]])
    g = np.asarray([[0.5, -0.5], [1.0, 1.0]])
    ours = follow_once("adamp", x, g)
    first = g / (np.abs(g) + 1e-8)
    move, free = projected(x, g, first)
    assert free and np.abs(move - first).max() > -1
    np.testing.assert_allclose(ours, x * (1 - LR * WD * 0.1) - LR * move, atol=1e-5)


def follow_once(name, x, g):
    tx, params = made(name, x_tree(x)), x_tree(x)
    updates, _ = tx.update(x_tree(g), tx.init(params), params)
    return np.asarray(optax.apply_updates(params, updates)["kernel"])


@pytest.mark.parametrize("mode", mostly(["preserve", "auto"], ["preserve"]))
def test_universal_muon(mode):
    x = kernel(3, 5)
    ours = follow(made("universal_muon", x_tree(x), mode=mode, least=2), x)
    adam = Adam(0.9, 0.999)
    for step in range(STEPS):
        first, second = adam.means(gradient(step, x.shape))
        gram = first @ first.T + 1e-8 * np.eye(3)
        scale = 1 / np.sqrt(np.trace(gram) / 3)
        y, z = gram * scale**2, np.eye(3)
        for _ in range(3):
            zy = z @ y
            y, z = 1.5 * y - 0.5 * y @ zy, 1.5 * z - 0.5 * zy @ z
        turned = z @ first * scale
        if mode == "preserve":
            turned *= np.linalg.norm(first) / np.linalg.norm(turned)
        move = np.sqrt(3 / 256) * turned / (np.sqrt(second) + 1e-8)
        x = x * (1 - LR * WD) - LR * move
    np.testing.assert_allclose(ours, x, rtol=2e-4, atol=2e-5)


@pytest.mark.thorough
def test_universal_muon_nears_an_orthogonal_matrix():
    near = universal_muon.nearly_orthogonal(jnp.eye(4)[:3] * 2.0, 1e-8)
    np.testing.assert_allclose(near, np.eye(4)[:3], atol=1e-4)
    with pytest.raises(UserError, match="optim.mode='always': must be one of preserve"):
        made("universal_muon", x_tree(kernel(2, 2)), mode="always")


@pytest.mark.thorough
def test_anderson_gda():
    """The report's steps, per array, of a history of four."""
    x = kernel(4, 2)
    ours = follow(made("anderson_gda", x_tree(x), regular=1e-6), x)
    adam, steps, gradients, mixed_steps = Adam(0.9, 0.999), [], [], 0
    for step in range(STEPS):
        g = gradient(step, x.shape).ravel()
        first, second = adam.means(g)
        base = move = -LR * first / (np.sqrt(second) + 1e-8)
        if len(steps) > 1:
            columns = np.diff(np.stack(steps), axis=0).T
            changes = np.diff(np.stack(gradients), axis=0).T
            sizes = np.linalg.norm(columns, axis=0), np.linalg.norm(changes, axis=0)
            cosine = np.maximum((columns * changes).sum(0) / (sizes[0] * sizes[1]), 0)
            weights = np.maximum(cosine * np.clip(sizes[0] / sizes[1], 0.1, 10), 1e-8)
            weights = weights / (weights.mean() + 1e-8)
            gram = columns.T @ columns + 1e-6 * np.diag(1 / (weights + 1e-8))
            theta = np.linalg.solve(gram, columns.T @ (base - steps[-1]))
            correction = columns @ theta
            limit = 1.5 * np.linalg.norm(base)
            correction *= min(1, limit / max(np.linalg.norm(correction), 1e-30))
            if g @ (base - correction) < 0:
                move = base - correction
                mixed_steps += np.linalg.norm(correction) > 1e-3 * np.linalg.norm(base)
        steps, gradients = [*steps, move][-4:], [*gradients, g][-4:]
        x = x * (1 - LR * WD) + move.reshape(x.shape)
    assert mixed_steps
    np.testing.assert_allclose(ours, x, rtol=2e-4, atol=2e-5)


def test_gda2():
    """Over two arrays as one vector; each residual with the step between its ends."""
    start = {"kernel": kernel(3, 2), "bias": kernel(2, seed=1)}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start)
    tx = made("gda2", params, memory=2, regular=1e-6)
    state, update = tx.init(params), jax.jit(tx.update)
    x = np.concatenate([start["bias"], start["kernel"].ravel()])
    adam, bases, steps, gradients, mixed_steps = Adam(0.9, 0.999), [], [], [], 0
    for step in range(STEPS):
        given = {key: gradient(step, value.shape) for key, value in start.items()}
        updates, state = update(
            jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), given), state, params
        )
        params = optax.apply_updates(params, updates)

        g = np.concatenate([given["bias"], given["kernel"].ravel()])
        first, second = adam.means(g)
        base = move = -LR * first / (np.sqrt(second) + 1e-8)
        if steps:
            columns = np.diff(np.stack([*bases, base]), axis=0).T
            turns = np.diff(np.stack([*gradients, g]), axis=0).T
            taken = np.stack(steps).T
            sizes = np.linalg.norm(taken, axis=0), np.linalg.norm(turns, axis=0)
            cosine = (taken * turns).sum(0) / (sizes[0] * sizes[1]) + 0.1
            flat = np.clip(sizes[0] / sizes[1], 0.1, 10)
            weights = np.maximum(np.maximum(cosine, 0) * flat, 1e-8)
            weights /= weights.mean()
            strength = 1e-6 * (1 + 0.5 * (sizes[1] / sizes[0]).mean())
            gram = columns.T @ columns + strength * np.diag(1 / weights)
            correction = taken @ np.linalg.solve(gram, columns.T @ base)
            limit = 1.5 * np.linalg.norm(base)
            correction *= min(1, limit / max(np.linalg.norm(correction), 1e-30))
            if g @ (base - correction) < 0:
                move = base - correction
                mixed_steps += np.linalg.norm(correction) > 1e-3 * np.linalg.norm(base)
        bases, steps, gradients = (
            [*past, new][-2:]
            for past, new in ((bases, base), (steps, move), (gradients, g))
        )
        decayed = np.concatenate([np.zeros(2), np.full(6, LR * WD)])
        x = x * (1 - decayed) + move
    assert mixed_steps
    ours = np.concatenate([params["bias"], np.ravel(params["kernel"])])
    np.testing.assert_allclose(ours, x, rtol=2e-4, atol=2e-5)


# Kernels as what matrices they act: name, shape, pattern of stacks, form.
FORMS = [
    ("stem/kernel", (3, 3, 4, 8), "", (1, 36, 8)),
    ("attention/query/kernel", (16, 2, 8), "", (1, 16, 16)),
    ("attention/out/kernel", (2, 8, 16), "", (1, 16, 16)),
    ("layers/fc1/kernel", (5, 16, 64), "^layers/", (5, 16, 64)),
    ("layers/query/kernel", (5, 16, 2, 8), "^layers/", (5, 16, 16)),
    ("layers/conv/kernel", (5, 3, 3, 4, 8), "^layers/", (5, 36, 8)),
    ("layers/kernel", (6, 4), "^layers/", (1, 6, 4)),
]


@pytest.mark.parametrize(
    ("name", "shape", "stacked", "form"), mostly(FORMS, [FORMS[0], FORMS[4]])
)
def test_kernels_act_as_matrices(name, shape, stacked, form):
    assert matrices.form(name, shape, stacked) == form
    outer, _, last = name.rpartition("/")
    leaf = kernel(*shape)
    update, _ = orthogonal.orthogonalize(stacked).update(
        {outer: {last: jnp.asarray(leaf, jnp.float32)}}, optax.EmptyState()
    )
    count, rows, columns = form
    parts = np.asarray(update[outer][last]).reshape(form)
    values = np.linalg.svd(parts, compute_uv=False) / (0.2 * max(rows, columns) ** 0.5)
    assert values.shape == (count, min(rows, columns))
    assert values.min() > 0.6 and values.max() < 1.25


@pytest.mark.thorough
def test_muon_of_a_convolution_is_muon_of_its_matrix():
    x = kernel(3, 3, 2, 4)
    flat = follow(made("muon", x_tree(x)), x)
    options = {"lr": LR, "weight_decay": WD}
    by_adam = follow(made("muon", x_tree(x), flatten=False), x)
    adam = follow(made("adamw", x_tree(x), **options), x)
    np.testing.assert_allclose(by_adam, adam, rtol=1e-5)
    params = {"kernel": jnp.asarray(x.reshape(18, 4), jnp.float32)}
    tx = made("muon", params)
    state = tx.init(params)
    for step in range(STEPS):
        given = gradient(step, x.shape).reshape(18, 4)
        updates, state = tx.update(
            {"kernel": jnp.asarray(given, jnp.float32)}, state, params
        )
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(flat.reshape(18, 4), params["kernel"], rtol=1e-5)
    assert np.abs(flat - by_adam).max() > 1e-3


@pytest.mark.thorough
def test_a_depthwise_kernel_goes_to_adam():
    x = kernel(3, 3, 1, 4)
    muon = follow(made("muon", x_tree(x)), x)
    np.testing.assert_allclose(muon, follow(made("adamw", x_tree(x)), x), rtol=1e-5)


def test_runs_of_before_keep_muons_kernels_by_adam():
    """A saved config without the option goes on as it was."""
    saved = config_check.to_dict(config.base("optim=muon"))
    assert config_check.from_dict(saved).optim.flatten is True
    del saved["optim"]["flatten"], saved["optim"]["stacked"]
    assert config_check.from_dict(saved).optim.flatten is False
