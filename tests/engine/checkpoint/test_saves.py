"""Checkpoints: exact round trips, layouts, retention."""

from __future__ import annotations

import random
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checkpoint_helpers import assert_same, fill, small
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from clipjax.engine.checkpoint import layout, manifest
from clipjax.engine.state import TrainState
from clipjax.types import UserError


class Pair(NamedTuple):
    first: Any
    second: Any


def train_state(device=None) -> TrainState:
    params = {
        "image": {"kernel": jnp.linspace(-1, 1, 256).reshape(16, 16)},
        "bias": jnp.arange(3, dtype=jnp.bfloat16) / 3,
    }
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 1e-3, 2, 9)),
    )
    # No value is 0: zeros would hide what is not restored.
    opt_state = jax.tree.map(
        lambda x: jnp.asarray(np.arange(1, x.size + 1).reshape(x.shape), x.dtype),
        tx.init(params),
    )
    state = TrainState(
        step=jnp.asarray(7, jnp.int32),
        params=params,
        model_state={},
        opt_state=opt_state,
        loss_state={},
        ema=None,
        bad_total=jnp.asarray(2, jnp.int32),
        bad_in_row=jnp.asarray(0, jnp.int32),
        key=jax.random.fold_in(jax.random.key(3), 5),
    )
    return jax.device_put(state, device) if device else state


# Round trips


def test_train_state_round_trip(opened):
    state, saves = train_state(), opened()
    meta = {"replaced": 3, "names": ["a", "b"], "nested": {"x": None}}
    saves.save(7, state, meta, {"recall": 0.5})
    found, found_meta, step = saves.restore_latest(state)
    assert_same(found, state)
    assert (found_meta, step, saves.metrics(7)) == (meta, 7, {"recall": 0.5})
    assert opened.said == []


def test_train_state_from_shapes(opened):
    """As the trainer restores: ShapeDtypeStructs with shardings, a new object."""
    state, saves = train_state(jax.devices()[0]), opened()
    saves.save(7, state, {})
    saves.close()
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    found, _, _ = opened().restore_latest(shapes)
    assert_same(found, state)


def test_odd_leaves_round_trip(opened):
    patterns = np.array([0x7FC12345, 0x80000000, 0xFFC00001, 1], np.uint32)
    state = {
        "python": (3, -(2**62), 0.1, True, float("-inf")),
        "scalars": Pair(np.float32(0.1), np.int8(-3)),
        "nothing": [None, {}, (), {"inner": {}}, optax.EmptyState()],
        "float bits": patterns.view(np.float32),
        "float bits on device": jnp.asarray(patterns.view(np.float32)),
        "bfloat16": jnp.asarray([1.0, -0.0, 3e38], jnp.bfloat16),
        "host bfloat16": np.ones(2, jnp.bfloat16),
        "float8": jnp.ones(3, jnp.float8_e4m3fn),
        "bool": jnp.asarray([True, False]),
        "empty": jnp.zeros((0, 4)),
        "host empty": np.zeros((3, 0), np.int16),
        "int64": np.arange(5),
        "key": jax.random.key(1),
        "keys": jax.random.split(jax.random.key(2, impl="rbg"), 3),
        "slash/and.dot": {1: jnp.ones(())},
    }
    saves = opened()
    saves.save(1, state, {})
    found, _, _ = saves.restore_latest(state)
    assert_same(found, state)


def test_restore_without_template(opened):
    state, saves = train_state(), opened()
    saves.save(7, state, {"a": 1})
    raw, meta, step = saves.restore()
    assert (meta, step) == ({"a": 1}, 7)
    kernel = raw["params"]["image"]["kernel"]
    assert type(kernel) is np.ndarray
    np.testing.assert_array_equal(kernel, state.params["image"]["kernel"])
    assert raw["params"]["bias"].dtype == jnp.bfloat16
    assert raw["model_state"] == {} and raw["ema"] is None
    np.testing.assert_array_equal(raw["key"], jax.random.key_data(state.key))
    np.testing.assert_array_equal(
        raw["opt_state"]["1"]["0"]["mu"]["bias"], state.opt_state[1][0].mu["bias"]
    )


@pytest.mark.parametrize("leaf", ["text", object(), np.array(["a"]), 2**70])
def test_refuses_what_it_cannot_store(opened, leaf):
    saves = opened()
    with pytest.raises((ValueError, OverflowError)):
        saves.save(1, {"w": jnp.ones(2), "bad": [leaf]}, {})
    assert saves.steps() == []
    fill(saves, 1)


def test_refusal_names_the_leaf(opened):
    with pytest.raises(ValueError, match="opt/0 is a str"):
        opened().save(1, {"opt": ["text"]}, {})
    with pytest.raises(ValueError, match="two leaves of one name: 'a.b'"):
        opened().save(1, {"a.b": 1, "a": {"b": 2}}, {})
    with pytest.raises(TypeError):
        opened().save(1, {"a": 1}, {"meta": np.float32(1)})


def test_state_may_be_donated_or_overwritten_at_once(opened):
    saves = opened()
    add = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)
    for step, spec in ((1, PartitionSpec("d")), (2, PartitionSpec())):
        first = np.arange(800_000, dtype=np.float32).reshape(8, -1)
        host = first.copy()
        state = {"device": jax.device_put(first, NamedSharding(mesh(8), spec))}
        saves.save(step, {**state, "host": host}, {})
        host[:] = -1
        for _ in range(20):
            state = add(state)
        raw, _, _ = saves.restore(step)
        np.testing.assert_array_equal(raw["device"], first)
        np.testing.assert_array_equal(raw["host"], first)


def mesh(count: int) -> jax.sharding.Mesh:
    return jax.make_mesh(
        (count,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count]
    )


@pytest.mark.parametrize(("save_on", "restore_on"), [(1, 8), (8, 1), (8, 4)])
def test_resharding(opened, save_on, restore_on):
    def place(tree, count):
        def put(leaf):
            split = leaf.ndim == 2 and leaf.shape[0] % count == 0
            spec = PartitionSpec("d") if split else PartitionSpec()
            return jax.device_put(leaf, NamedSharding(mesh(count), spec))

        return jax.tree.map(put, tree)

    state, saves = place(train_state(), save_on), opened()
    saves.save(1, state, {})
    wanted = place(train_state(), restore_on)
    template = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), wanted
    )
    found, _, _ = saves.restore_latest(template)
    assert_same(found, wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim)
    kernel = found.params["image"]["kernel"]
    assert len(kernel.addressable_shards) == restore_on
    assert kernel.addressable_shards[0].data.shape == (16 // restore_on, 16)


def test_layout_says_what_is_there():
    rows = layout.layout({"a": (1, None), "k": jax.random.key(0), "e": {}})
    assert rows == [
        (("a", "0"), "int64[]"),
        (("a", "1"), "None"),
        (("e",), "{}"),
        (("k",), "key<threefry2x32>[]"),
    ]


# Fit


def test_other_dtype_shape_or_tree_is_named(opened):
    saves = opened()
    saved = {"a": jnp.ones((2, 3)), "b": jnp.ones(4), "k": jax.random.key(0)}
    saves.save(1, saved, {})
    for change, text in [
        ({"a": jnp.ones((2, 3), jnp.bfloat16)}, r"a is float32\[2,3\] in the check"),
        ({"a": jnp.ones((3, 2))}, r"and float32\[3,2\] here"),
        ({"c": jnp.ones(1)}, r"c is absent in the checkpoint and float32\[1\] here"),
        ({"k": jax.random.key(0, impl="rbg")}, r"k is key<threefry2x32>\[\] .*key<rbg"),
        ({"a": {"x": jnp.ones(1)}}, "a is float32.*absent here"),
        ({"a": None}, "and None here"),
        ({"b": 1}, r"and int64\[\] here"),
    ]:
        with pytest.raises(UserError, match=text) as caught:
            saves.restore_latest({**saved, **change})
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="; and 3 more. Use the config"):
        saves.restore_latest({name: jnp.ones(9) for name in "abxyz"})
    # A step that does not fit is no damage: nothing is moved, nothing older taken.
    assert saves.restore_latest(saved)[2] == 1


# Retention


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize(("keep", "every"), [(1, 0), (2, 4), (3, 0)])
def test_retention(opened, tmp_path, mode, keep, every):
    saves = opened(keep=keep, every_keep=every, best_metric="r", best_mode=mode)
    draw = random.Random(keep)
    values = {step: draw.choice([0.1, 0.2, 0.3]) for step in range(1, 10) if step % 3}
    values[5] = float("nan")
    for step in range(1, 10):
        saves.save(step, {"n": step}, {}, {"r": values[step]} if step % 3 else None)
        saves.wait()
        sign = 1 if mode == "max" else -1
        scored = [(sign * v, s) for s, v in values.items() if s <= step and v == v]
        best = max(scored)[1]
        # What was best at the time stays until something better comes.
        wanted = {best, *range(max(1, step - keep + 1), step + 1)}
        wanted |= {s for s in range(1, step + 1) if every and s % every == 0}
        assert saves.steps() == sorted(wanted)
        assert saves.best_step() == best
        manifests = tmp_path / "run/checkpoints/manifests"
        assert {int(p.stem) for p in manifests.iterdir()} == wanted
    assert saves.restore("best")[2] == best
    # A reader takes the run's own metric.
    assert opened(read_only=True).best_step() == best
    assert opened.said == []


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize(("keep", "count"), [(1, 3), (2, 2)])
def test_the_best_ones_are_kept(opened, tmp_path, mode, keep, count):
    saves = opened(keep=keep, keep_best=count, best_metric="r/a", best_mode=mode)
    draw, sign = random.Random(count), 1 if mode == "max" else -1
    values: dict[int, float] = {}
    for step in range(1, 13):
        values[step] = draw.choice([0.1, 0.2, 0.3, float("nan")])
        saves.save(step, {"n": step}, {}, {"r/a": values[step]})
        saves.wait()
        finite = sorted((sign * v, s) for s, v in values.items() if v == v)
        best = {s for _, s in finite[-count:]}
        assert {*saves.steps()} == best | {*range(max(1, step - keep + 1), step + 1)}
        links = (tmp_path / "run/checkpoints/best").iterdir() if best else ()
        assert {link.name: link.resolve().name for link in links} == {
            f"{s}-r.a={values[s]:.4f}": str(s) for s in best
        }
        values = {s: v for s, v in values.items() if s in saves.steps()}
    top = saves.best_step()
    assert top == finite[-1][1]
    name = f"{top}-r.a={values[top]:.4f}"
    assert saves.restore(name)[2] == saves.restore("best")[2] == top
    with pytest.raises(UserError, match="holds no checkpoint '1-r.a=9.0000'; its"):
        saves.restore("1-r.a=9.0000")
    assert opened.said == []
    # One that is moved away has no name; fewer are wanted now.
    saves.close()
    saves = opened(keep=1, keep_best=1, best_metric="r/a", best_mode=mode)
    fill(saves, 1)
    assert [*(tmp_path / "run/checkpoints/best").iterdir()] == []


VALUES = {1: 0.3, 2: 0.1, 3: 0.4, 4: 0.2, 5: 0.25}


def test_both_ends_are_kept_until_the_better_side_is_known(opened):
    """As in a run whose config names a metric that no save has told of."""
    saves = opened(keep=1, best_metric="r", best_mode="")
    for step, value in VALUES.items():
        saves.save(step, {"n": step}, {}, {"r": value})
    saves.wait()
    assert saves.steps() == [2, 3, 5] and saves.best_step() is None
    saves.follow("r", "min")
    saves.save(6, {"n": 6}, {}, {"r": 0.3})
    saves.wait()
    assert saves.steps() == [2, 6] and saves.best_step() == 2


@pytest.mark.parametrize(("mode", "best"), [("max", 3), ("min", 2)])
def test_a_save_says_which_side_is_better(opened, mode, best):
    """Of every metric; so a run that goes on knows it before it evaluates again."""
    saves = opened(keep=5, best_metric="other", best_mode="max")
    for step, value in VALUES.items():
        metrics = {"r": value, "other": -float(step)}
        saves.save(step, {"n": step}, {}, metrics, {"r": mode, "other": "max"})
    saves.close()
    saves = opened(keep=1, best_metric="r", best_mode="")
    saves.save(6, {"n": 6}, {})
    saves.wait()
    assert saves.steps() == [best, 6] and saves.best_step() == best
    assert opened(read_only=True).best_step() == best


def test_a_run_goes_on_with_the_metric_that_it_followed(opened):
    saves = opened(keep=5, best_metric="r", best_mode="min")
    for step, value in VALUES.items():
        saves.save(step, {"n": step}, {}, {"r": value})
    saves.close()
    saves = opened(keep=1)
    saves.save(6, {"n": 6}, {})
    saves.wait()
    assert saves.steps() == [2, 6]
    assert opened(read_only=True).best_step() == 2


def test_unknown_best_metric_is_said(opened):
    saves = opened(best_metric="recal")
    saves.save(1, {"n": 1}, {}, {"recall": 1.0})
    assert "no metric 'recal' among recall" in opened.said[0]
    with pytest.raises(UserError, match="no checkpoint 'best'; its steps: 1"):
        saves.restore("best")


def test_steps_without_manifest_do_not_push_out_verified_ones(opened, tmp_path):
    saves = opened(keep=2)
    fill(saves, 1, 2)
    for step in (3, 4):
        fill(saves, step)
        (tmp_path / f"run/checkpoints/manifests/{step}.json").unlink()
    assert saves.steps() == [2, 3, 4]  # 1 went when 3 was sealed
    fill(saves, 5)
    assert saves.steps() == [2, 3, 4, 5]
    fill(saves, 6)
    assert saves.steps() == [5, 6]


def test_nothing_is_pruned_before_the_manifest(opened, monkeypatch):
    saves = opened(keep=1)
    fill(saves, 1)
    seen, gate, write = [], threading.Event(), manifest.write

    def held(directory, path):
        assert gate.wait(20)
        seen.append((saves.steps(), path.exists()))
        write(directory, path)
        seen.append((saves.steps(), path.exists()))

    monkeypatch.setattr(manifest, "write", held)
    saves.save(2, small(2), {})  # returns although the manifest is held up
    gate.set()
    saves.wait()
    assert seen == [([1, 2], False), ([1, 2], True)]
    assert saves.steps() == [2]


# Failures
