"""EVA's towers by themselves; tests/parity has timm's results."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import mostly

from clipjax.models.image import eva
from clipjax.types import UserError
from clipjax.weights import read_tower

SMALL = {"width": 16, "depth": 1, "heads": 2, "mlp_dim": 12}


def noise(tower):
    draw = np.random.default_rng(0)

    def fill(path, leaf):
        one = "scale" in jax.tree_util.keystr(path)
        values = one + 0.3 * draw.standard_normal(leaf.shape)
        return values.astype("f4")

    return jax.tree_util.tree_map_with_path(fill, read_tower.tower_shapes(tower))


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply(tower, variables, image, train=False, key=None):
    return tower.apply(variables, image, train, rngs={"dropout": key} if train else {})


@pytest.mark.parametrize(
    ("tower", "count"),
    mostly(
        [
            (eva.make(224, variant="B/16"), 85_869_312),
            (eva.make(224, variant="L/14"), 303_317_952),
            (eva.make(336, variant="L/14"), 303_645_632),
            (eva.make(224, variant="g/14"), 1_011_146_112),
        ],
        [(eva.make(224, variant="B/16"), 85_869_312)],
    ),
)
def test_parameter_counts_of_timms(tower, count):
    leaves = jax.tree.leaves(read_tower.tower_shapes(tower))
    assert sum(leaf.size for leaf in leaves) == count


def test_rotary_positions_by_hand():
    """Pair 0 of a head of 8 turns by the row, pair 2 by the column, of 16 x 16."""
    angles = eva.rotary_angles(2, 8)
    assert angles.shape == (4, 4)
    np.testing.assert_allclose(angles[1], [0, 0, 8, 0.08])
    np.testing.assert_allclose(angles[2], [8, 0.08, 0, 0])
    x = np.zeros((1, 3, 1, 8), "f4")
    x[..., 0] = 1
    turned = np.asarray(eva.rotate(jnp.asarray(x), jnp.asarray(angles[None, 1:3])))
    np.testing.assert_array_equal(turned[0, 0], x[0, 0])  # the class token
    np.testing.assert_array_equal(turned[0, 1], x[0, 1])  # row 0
    expected = [np.cos(8), np.sin(8), 0, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(turned[0, 2, 0], expected, atol=1e-6)


def test_rotated_products_depend_on_distances_only():
    draw = np.random.default_rng(1)
    query, key = draw.standard_normal((2, 1, 1, 1, 8)).repeat(17, axis=2)
    angles = eva.rotary_angles(4, 8)[None]
    query, key = (
        np.asarray(eva.rotate(jnp.asarray(x), jnp.asarray(angles)))[0, 1:, 0]
        for x in (query, key)
    )
    products = query @ key.T
    # From patch (0, 0) to (1, 2), and from (2, 1) to (3, 3).
    np.testing.assert_allclose(products[6, 0], products[15, 9], rtol=1e-4)
    assert abs(products[6, 0] - products[9, 0]) > 1e-2


def test_places_of_patches_count_in_rotary_towers_only():
    """Without learned positions, plain blocks see a set of patches."""
    image = np.random.default_rng(2).standard_normal((1, 16, 16, 3), np.float32)
    moved = np.concatenate([image[:, 8:], image[:, :8]], axis=1)
    for size in ("B", "g", "E"):
        tower = eva.make(16, variant=f"{size}/8", **SMALL)
        variables = noise(tower)
        table = variables["params"]["positions"]
        variables["params"]["positions"] = np.zeros_like(table)
        first, second = (
            np.asarray(apply(tower, variables, x)["pooled"]) for x in (image, moved)
        )
        assert (np.abs(first - second).max() < 1e-5) == (size != "B")


def test_dropped_patches_keep_their_places():
    """The place goes with a patch: a tower that drops gives what it gives of all
    patches if the rest are those that it keeps."""
    tower = eva.make(16, variant="B/8", patch_dropout=0.5, **SMALL)
    variables, key = noise(tower), jax.random.key(4)
    image = np.random.default_rng(3).standard_normal((2, 16, 16, 3), np.float32)
    found = apply(tower, variables, image, True, key)
    assert found["tokens"].shape == (2, 2, 16)
    whole = apply(tower, variables, image)
    assert np.abs(found["pooled"] - whole["pooled"]).max() > 1e-3
    # With one patch everywhere and no learned positions, only places tell drops apart.
    variables["params"]["positions"] = np.zeros((5, 16), "f4")
    same = np.tile(image[:1, :8, :8], (8, 2, 2, 1))
    pooled = np.asarray(apply(tower, variables, same, True, key)["pooled"])
    assert len(np.unique(pooled.round(4), axis=0)) > 2


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (224, {"variant": "H/14"}, "variant='H/14': must be a size"),
        (224, {"variant": "b/16"}, "Did you mean 'B/16'"),
        (225, {}, "image_size=225: must be a multiple .* such as 224"),
        (224, {"width": 36, "heads": 6}, "heads=6: .* each has 6 numbers"),
        (224, {"heads": 5}, "heads=5: must divide"),
        (224, {"patch_dropout": 1.0}, "patch_dropout=1.0"),
        (224, {"norm_epsilon": 0.0}, "norm_epsilon=0.0"),
    ],
)
def test_options_that_cannot_be(size, options, message):
    with pytest.raises(UserError, match=message):
        eva.make(size, **options)
