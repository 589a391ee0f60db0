"""The memory of past batches, over several steps, against lists in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import mostly

import tiny

SIZE, STEPS = 6, 5
SCALE = 9.0


def drawn(seed):
    """Unit vectors of images and texts, and ids of which some come twice."""
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(2, SIZE, 16))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return *vectors, draw.integers(0, 5, SIZE)


def by_hand(image, text, ids, past, mode):
    """past: what the earlier batches were, as (text or image vectors, ids)."""
    total = 0.0
    for ours, theirs, side in ((image, text, 1), (text, image, 0)):
        for i in range(SIZE):
            logits = SCALE * theirs @ ours[i]
            alike = ids == ids[i]
            own = logits[alike].mean() if mode == "positive" else logits[i]
            here = np.arange(SIZE) == i
            against = [logits[~alike | here] if mode == "mask" else logits]
            for batch in past:
                against.append(SCALE * batch[side][batch[2] != ids[i]] @ ours[i])
            total += np.log(np.exp(np.concatenate(against)).sum()) - own
    return total / 2 / SIZE


@pytest.mark.parametrize(
    "mode", mostly(["negative", "mask", "positive"], ["negative", "mask"])
)
@pytest.mark.parametrize(("start", "block"), mostly([(0, 0), (0, 4), (2, 0)], [(0, 4)]))
def test_steps_by_hand(mode, start, block):
    """The memory holds two batches, so that the oldest go from the third on."""
    options = {"size": 2 * SIZE, "start_step": start, "block": block}
    loss = tiny.loss(SIZE, "xbm", same_image=mode, **options)
    with jax.enable_x64(True):
        state, past, step = loss.init(), [], jax.jit(loss)
        for number in range(STEPS):
            image, text, ids = drawn(number)
            out = {"image_embed": image, "text_embed": text, "logit_scale": SCALE}
            batch = {"image_id": jnp.asarray(ids, jnp.int32)}
            out = jax.tree.map(jnp.asarray, out)
            value, state, metrics = step(out, batch, state, number)
            expected = by_hand(image, text, ids, past, mode)
            # The memory is in float32.
            assert float(value) == pytest.approx(expected, rel=1e-7)
            assert float(metrics["queue_filled"]) == len(past) / 2
            if number >= start:
                past = [*past, (image, text, ids)][-2:]


@pytest.mark.thorough
def test_a_smaller_batch():
    """As a validation set may bring; the memory is empty then."""
    loss = tiny.any_loss("xbm")
    image, text, ids = drawn(0)
    out = {"image_embed": image, "text_embed": text, "logit_scale": SCALE}
    batch = {"image_id": jnp.asarray(ids, jnp.int32)}
    value = jax.jit(loss)(out, batch, loss.init(), 0)[0]
    expected = by_hand(image, text, ids, [], "negative")
    assert float(value) == pytest.approx(expected, rel=1e-5)
