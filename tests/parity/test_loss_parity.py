"""Values and gradients of every loss against PyTorch: several steps, float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax import registry
from clipjax.types import LossSpec

torch = pytest.importorskip("torch")
import hf_clip  # noqa: E402
import torch_losses  # noqa: E402

pytestmark = pytest.mark.parity

COUNT, SIZE, WIDTH = 24, 8, 5

# name -> (their class and arguments, our options)
CASES = {
    "cyclip": (torch_losses.Cyclip, {}, {}),
    "vicreg": (torch_losses.Vicreg, {}, {}),
    "sogclr": (torch_losses.Sogclr, {"tau": 0.1}, {"temperature": 0.1}),
    "sogclr hinge": (
        torch_losses.Sogclr,
        {"tau": 0.1, "hinge": 1.0},
        {"temperature": 0.1, "surrogate": "squared_hinge"},
    ),
    "isogclr": (torch_losses.Isogclr, {"tau": float(np.float32(0.07))}, {}),
    "isogclr as published": (
        torch_losses.IsogclrAsPublished,
        {"tau": float(np.float32(0.07))},
        {"cold_start": "gamma", "include_own": True, "eps": 1e-14},
    ),
    "fastclip v0": (
        torch_losses.Fastclip,
        {"variant": "v0", "gamma": 0.7},
        {"variant": "v0", "gamma": 0.7, "schedules": ()},
    ),
    "fastclip v1": (
        torch_losses.Fastclip,
        {"variant": "v1", "gamma": 0.7},
        {"variant": "v1", "gamma": 0.7, "schedules": ()},
    ),
    "fastclip v2": (
        torch_losses.FastclipV2,
        {"epoch": 3, "tau": float(np.float32(0.07))},
        {"variant": "v2", "gamma": 0.7, "schedules": ()}
        | {"temperature": 0.07, "rho": 6.5},
    ),
    "fastclip v3": (
        torch_losses.Fastclip,
        {"gamma": 0.7},
        {"gamma": 0.7, "schedules": ()},
    ),
    "onlineclr": (torch_losses.Onlineclr, {}, {}),
    "hn_nce": (torch_losses.HnNce, {}, {}),
    "dcl": (torch_losses.Dcl, {}, {"sigma": 0.5}),
    "hcl": (torch_losses.Hcl, {}, {}),
    "xbm": (torch_losses.Xbm, {}, {"size": 16, "start_step": 0}),
}


def make(name, **options):
    spec = LossSpec(COUNT, COUNT, WIDTH, SIZE, 3, 30)
    return registry.load("loss", name.split()[0])(spec, **options)


def steps(count=5):
    draw = np.random.default_rng(0)
    for _ in range(count):
        x, t = draw.normal(size=(2, SIZE, WIDTH))
        x += 0.5 * t
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        t /= np.linalg.norm(t, axis=1, keepdims=True)
        yield x, t, draw.permutation(COUNT)[:SIZE], np.asarray(draw.uniform(5, 20))


def ours(loss, step, state, x, t, ids, scale, bias=None):
    batch = {key: jnp.asarray(ids, jnp.int32) for key in ("image_id", "text_id")}

    def value(x, t, scale):
        outputs = {"image_embed": x, "text_embed": t, "logit_scale": scale}
        outputs |= {"image_features": x, "text_features": t}
        if bias is not None:
            outputs["logit_bias"] = jnp.asarray(bias)
        found, new_state, _ = loss(outputs, batch, state, step)
        return found, new_state

    return jax.value_and_grad(value, (0, 1, 2), has_aux=True)(
        jnp.asarray(x), jnp.asarray(t), jnp.asarray(scale)
    )


def theirs(loss, x, t, ids, scale):
    x, t, scale = (torch.tensor(v, requires_grad=True) for v in (x, t, scale))
    value = loss(x, t, torch.tensor(ids), scale)
    value.backward()
    zero = np.zeros(())
    return value.item(), [
        zero if v.grad is None else v.grad.numpy() for v in (x, t, scale)
    ]


@pytest.mark.parametrize("name", CASES)
def test_against_torch(name):
    their_class, arguments, options = CASES[name]
    stateful = hasattr(their_class, "__init__") and "__init__" in vars(their_class)
    their_loss = their_class(COUNT, **arguments) if stateful else their_class()
    with jax.enable_x64(True):
        loss = make(name, **options)
        state = jax.tree.map(  # tables in double, as theirs
            lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x,
            loss.init(),
        )
        for step, given in enumerate(steps()):
            (value, state), gradient = ours(loss, step, state, *given)
            expected, their_gradient = theirs(their_loss, *given)
            assert float(value) == pytest.approx(expected, rel=1e-9, abs=1e-10)
            for one, other in zip(gradient, their_gradient, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


def open_clip_loss():
    hf_clip.import_torch()
    return pytest.importorskip("open_clip").loss


def test_clip_against_open_clip():
    their_loss = open_clip_loss().ClipLoss()
    with jax.enable_x64(True):
        for step, given in enumerate(steps(2)):
            (value, _), gradient = ours(make("clip"), step, {}, *given)
            expected, other = theirs(
                lambda x, t, ids, scale: their_loss(x, t, scale), *given
            )
            assert float(value) == pytest.approx(expected, rel=1e-9)
            for a, b in zip(gradient, other, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


def test_siglip_against_open_clip():
    their_loss = open_clip_loss().SigLipLoss(rank=0, world_size=1)
    with jax.enable_x64(True):
        for step, given in enumerate(steps(2)):
            (value, _), gradient = ours(make("siglip"), step, {}, *given, bias=-3.0)
            bias = torch.tensor(-3.0, dtype=torch.float64)
            expected, other = theirs(
                lambda x, t, ids, scale, bias=bias: their_loss(x, t, scale, bias),
                *given,
            )
            assert float(value) == pytest.approx(expected, rel=1e-9)
            for a, b in zip(gradient, other, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
