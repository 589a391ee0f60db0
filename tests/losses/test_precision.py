"""Every product of embeddings is at the highest precision of the device.

On a CPU a lower one changes nothing, so that no number can tell; the program can.
"""

import jax
import jax.numpy as jnp
import pytest
from marks import mostly

import tiny
from clipjax.testing import contract, loss_contract

CASES = [
    *((case, {}) for case in tiny.LOSSES),
    ("clip", {"same_image": "positive", "label_smoothing": 0.1}),
    ("onlineclr", {"same_image": "positive", "block": 2}),
    ("sogclr hinge", {"same_image": "mask", "include_own": True}),
    ("tri_modal", {"joint": 0.0}),
]


@pytest.mark.parametrize(("case", "options"), mostly(CASES, [("clip", {})]))
def test_of_value_and_gradient(case, options):
    """Whole and in blocks."""
    options = tiny.LOSSES.get(case, ({},))[0] | options
    one = contract.component("loss", case.split()[0], options)
    loss_contract.products_are_precise(loss_contract.LossUnderTest(one))


def test_products_are_found_wherever_they_are():
    """The walk sees those of loops, branches and compiled parts."""

    def step(x):
        looped = jax.lax.scan(lambda a, _: (a @ x, None), x, None, 2)[0]
        return jax.jit(jnp.dot)(looped, x) + jax.lax.cond(True, jnp.dot, jnp.add, x, x)

    found = list(loss_contract.products(jax.make_jaxpr(step)(jnp.eye(2)).jaxpr))
    assert len(found) == 3
    assert all(precision != loss_contract.HIGHEST for precision, _, _ in found)
    assert all(factors == [jnp.float32] * 2 for _, factors, _ in found)
    assert all("test_precision.py" in place for _, _, place in found)


@pytest.mark.thorough
def test_every_loss_of_pairs_has_products():
    for case in tiny.LOSSES:
        one = contract.component("loss", case.split()[0], tiny.LOSSES[case][0])
        subject = loss_contract.LossUnderTest(one)
        step = loss_contract.stepping(subject.loss)
        state = jax.eval_shape(subject.loss.init)
        traced = jax.make_jaxpr(step)(*subject.inputs(16, 0), state, 1)
        assert list(loss_contract.products(traced.jaxpr)), case
