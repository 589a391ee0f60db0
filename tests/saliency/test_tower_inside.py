"""What is seen inside a tower, and that nothing changes for who does not look."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saliency_tools import directions, model, pixels, variables

from clipjax.models.common import layers, taps
from clipjax.saliency import tower_inside


@pytest.mark.thorough
def test_attentions_are_those_of_the_tower():
    made = model()
    own, images = variables(made), pixels()
    targets = np.broadcast_to(directions()[:, None], (3, 2, 8))

    @jax.jit
    def look(own, images):
        def encode():
            return made.encode_image(own, images)["image_embed"]

        return encode(), *tower_inside.attentions(encode, targets)

    embed, cosines, found = look(own, images)
    np.testing.assert_allclose(cosines, targets[:, 0] @ embed.T, atol=1e-5)
    assert [x.weights.shape for x in found] == [(2, 2, 5, 5)] * 2
    for attention in found:
        np.testing.assert_allclose(attention.weights.sum(axis=-1), 1, rtol=1e-5)
        assert attention.visible.all() and not attention.is_pool
    # The class token alone is read after the last block.
    assert (found[-1].gradient[:, :, 1:] == 0).all()
    assert (found[-1].gradient[:, :, 0] != 0).any()


@pytest.mark.thorough
def test_gradients_are_differences():
    """The gradient by what the last attention mixes, against finite differences."""
    made = model(pool="mean")
    own, image, target = variables(made), pixels(1), directions(1)
    with jax.enable_x64(True):
        own = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), own)

        def encode():
            return made.encode_image(own, image)["image_embed"]

        _, found = tower_inside.attentions(encode, target[:, None].astype("f8"))
        step = np.random.default_rng(0).standard_normal(found[-1].gradient[0].shape)

        def moved(by):
            number = iter(range(9))

            def mix(*parts):
                if next(number) == 1:
                    with taps.attention(lambda *_: None):
                        return layers.attention(*parts) + by * step

            with taps.attention(mix):
                return float((encode() @ target[0])[0])

        difference = (moved(1e-4) - moved(-1e-4)) / 2e-4
        expected = float((np.asarray(found[-1].gradient[0]) * step).sum())
    np.testing.assert_allclose(difference, expected, rtol=1e-3)


@pytest.mark.thorough
def test_nothing_changes_without_a_look():
    """A training step's program is the same before, after and beside a look."""
    made = model()
    own = variables(made)
    batch = {
        "image": jnp.asarray(pixels()),
        "text": jnp.ones((2, 6), jnp.int32),
        "text_mask": jnp.ones((2, 6), bool),
    }

    def program():
        def loss(params):
            outputs, _ = made.apply({"params": params}, batch, True, None)
            return (outputs["image_embed"] * outputs["text_embed"]).sum()

        return str(jax.make_jaxpr(jax.grad(loss))(own["params"]))

    before = program()
    with taps.attention(lambda *parts: None), taps.outputs(lambda path, x: x):
        assert program() == before
    with taps.attention(lambda *parts: jnp.zeros_like(parts[2])):
        assert program() != before
    assert program() == before
