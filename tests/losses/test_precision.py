"""Every product of embeddings is at the highest precision of the device.

On a CPU a lower one changes nothing, so that no number can tell; the program can.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

import tiny

B = 4
HIGHEST = (jax.lax.Precision.HIGHEST,) * 2


def products(jaxpr):
    """The precision of each dot_general, of inner programs too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"], str(equation.source_info.traceback)
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr),
        ):
            if isinstance(inner, ClosedJaxpr):
                yield from products(inner.jaxpr)
            elif isinstance(inner, Jaxpr):
                yield from products(inner)


def given():
    rows = jax.ShapeDtypeStruct((B, 16), jnp.float32)
    ids = jax.ShapeDtypeStruct((B,), jnp.int32)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    out = {f"{s}_{k}": rows for s in ("image", "text") for k in ("embed", "features")}
    return (
        {**out, "logit_scale": scalar, "logit_bias": scalar},
        {"image_id": ids, "text_id": ids},
    )


CASES = [(case, options) for case in tiny.LOSSES for options in ({}, {"block": 2})] + [
    ("clip", {"same_image": "positive", "label_smoothing": 0.1}),
    ("onlineclr", {"same_image": "positive", "block": 2}),
    ("sogclr hinge", {"same_image": "mask", "include_own": True}),
    ("tri_modal", {"joint": 0.0}),
]


@pytest.mark.parametrize(("case", "options"), CASES)
def test_of_value_and_gradient(case, options):
    if case == "vicreg":
        options = {}
    if case == "tri_modal":
        loss = tiny.loss(B, case, **options)
    else:
        loss = tiny.any_loss(case, B, **options)
    out, batch = given()

    def step(out, batch, state):
        return jax.value_and_grad(
            lambda out: loss(out, batch, state, 1)[0::2], has_aux=True
        )(out)

    made = jax.make_jaxpr(step)(out, batch, jax.eval_shape(loss.init))
    found = list(products(made.jaxpr))
    assert found
    for precision, where in found:
        assert precision == HIGHEST, where
