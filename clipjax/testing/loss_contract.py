"""The contract of a loss: any order, any number of devices, any size of block."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from clipjax import config, param_paths, registry
from clipjax.testing import contract
from clipjax.testing.contract import Check, Component, must
from clipjax.types import LossSpec, UserError

BATCH, WIDTH, CLASSES, EXAMPLES = 16, 16, 8, 64
OUTPUTS = ("image_embed", "logits")
HIGHEST = (jax.lax.Precision.HIGHEST,) * 2


def checks(component: Component) -> Iterator[Check]:
    """What types.Loss promises, of a loss with its options."""
    documented = functools.partial(contract.options_are_documented, component)
    yield Check("options are typed and documented", documented)
    subject = LossUnderTest(component)
    for name, check in {
        "declares what a config can set": declares_what_is_known,
        "returns a value, its state and metrics": returns_as_declared,
        "values and gradients stay finite": stays_finite,
        "pairs may come in any order": order_changes_nothing,
        "one device and many, whole and in blocks agree": splitting_changes_nothing,
        "products are at the highest precision": products_are_precise,
        "a saved state goes on to the last bit": state_comes_back,
        "a batch of one is finite or refused": one_example,
    }.items():
        yield Check(name, functools.partial(check, subject))


class LossUnderTest:
    """A loss for batches of BATCH, and its step, which is compiled once.

    A step takes (outputs, batch, state, step) and gives the value, the gradient of the
    outputs and the new state.
    """

    def __init__(self, component: Component):
        self.component = component

    def make(self, batch: int = BATCH, mesh: Any = None, **more: Any) -> Any:
        spec = LossSpec(EXAMPLES, EXAMPLES, WIDTH, batch, 4, 40, mesh)
        return self.component.make(spec, **more)

    @functools.cached_property
    def loss(self) -> Any:
        return self.make()

    @functools.cached_property
    def step(self) -> Any:
        return contract.jit(stepping(self.loss))

    @property
    def classifies(self) -> bool:
        return self.component.constant("OUTPUT") == "logits"

    def inputs(self, size: int, seed: int, dtype: Any = jnp.float32) -> Any:
        """Outputs of the kind of model that the loss takes, and a batch."""
        return (classified if self.classifies else example)(size, seed, dtype)


def example(
    size: int,
    seed: int,
    dtype: Any = jnp.float32,
    alike: float = 0.0,
    images: int | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs of a model and a batch.

    alike: how near all embeddings are to one vector. images: how many different ones
    there are, None for all different.
    """
    draw = np.random.default_rng(seed)
    outputs = {
        "logit_scale": jnp.asarray(8.0, dtype),
        "logit_bias": jnp.asarray(-2.0, dtype),
    }
    common = draw.normal(size=WIDTH)
    for side in ("image", "text"):
        x = draw.normal(size=(size, WIDTH)) * (1 - alike) + common * alike
        outputs[f"{side}_features"] = jnp.asarray(x, dtype)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        outputs[f"{side}_embed"] = jnp.asarray(x, dtype)
    if images is None:
        ids, texts = (draw.permutation(EXAMPLES)[:size] for _ in range(2))
    else:
        ids = texts = draw.integers(0, images, size)
    batch = {"image_id": ids, "text_id": texts}
    return outputs, {name: jnp.asarray(x, jnp.int32) for name, x in batch.items()}


def classified(
    size: int, seed: int, dtype: Any = jnp.float32, scale: float = 1.0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs of a classifier and a batch, of which one row has no label."""
    draw = np.random.default_rng(seed)
    outputs = {
        "logits": jnp.asarray(scale * draw.normal(size=(size, CLASSES)), dtype),
        "image_features": jnp.asarray(draw.normal(size=(size, WIDTH)), dtype),
    }
    label = draw.integers(0, CLASSES, size)
    label[size // 2 :][:1] = -1 if size > 1 else label[0]
    ids = draw.permutation(EXAMPLES)[:size]
    batch = {"label": label, "image_id": ids, "text_id": ids}
    return outputs, {name: jnp.asarray(x, jnp.int32) for name, x in batch.items()}


def stepping(loss: Any) -> Callable[..., tuple[Any, Any, Any]]:
    """(outputs, batch, state, step) -> (value, gradient, new state)."""

    def value(outputs, batch, state, step):
        found, after, _ = loss(outputs, batch, state, step)
        return found, after

    def step(outputs, batch, state, step):
        (found, after), gradient = jax.value_and_grad(value, has_aux=True)(
            outputs, batch, state, step
        )
        return found, gradient, after

    return step


def declares_what_is_known(subject: LossUnderTest) -> None:
    """OUTPUT, MODEL_OPTIONS and TRAIN_OPTIONS name what there is."""
    output = subject.component.constant("OUTPUT")
    must(
        output in (None, *OUTPUTS),
        f"OUTPUT={output!r} in the loss's module: must be one of {', '.join(OUTPUTS)}",
    )
    models = [registry.load("model", name) for name in registry.names("model")]
    known = {name for model in models for name in registry.options(model)}
    for constant, names in (
        ("MODEL_OPTIONS", known),
        ("TRAIN_OPTIONS", config.SHARED["train"]),
    ):
        wrong = (subject.component.constant(constant) or {}).keys() - set(names)
        must(not wrong, f"{constant} names what no config has: {', '.join(wrong)}")


def returns_as_declared(subject: LossUnderTest) -> None:
    """A float32 scalar, a state of the same shapes, scalars by name."""
    loss = subject.loss
    before = jax.eval_shape(loss.init)
    outputs, batch = subject.inputs(BATCH, 0)
    found = jax.eval_shape(loss, outputs, batch, before, 1)
    must(isinstance(found, tuple) and len(found) == 3, "return value, state, metrics")
    value, after, metrics = found
    must(
        value.shape == () and value.dtype == jnp.float32,
        f"the value is {value.dtype}{list(value.shape)}: must be a float32 scalar",
    )
    must(
        jax.tree.structure(before) == jax.tree.structure(after)
        and jax.tree.leaves(before) == jax.tree.leaves(after),
        f"the state changes its form, from {before} to {after}",
    )
    for name, metric in metrics.items():
        must(isinstance(name, str), f"metric {name!r}: its name must be a text")
        must(metric.shape == (), f"metric {name} is no scalar: {metric.shape}")


def stays_finite(subject: LossUnderTest) -> None:
    """Sharp temperatures, embeddings all alike, the same image again and again."""
    loss, step = subject.loss, subject.step
    if subject.classifies:
        cases = {f"logits of {s:g}": classified(BATCH, 5, scale=s) for s in (0, 1e4)}
    else:
        cases = {}
        for temperature in (0.01, 0.005):
            for alike, images in ((0.0, None), (1.0, None), (0.0, 1)):
                outputs, batch = example(BATCH, 5, alike=alike, images=images)
                outputs["logit_scale"] = jnp.asarray(1 / temperature, jnp.float32)
                of = "one image" if images else "equal rows" if alike else "any rows"
                cases[f"temperature {temperature} and {of}"] = outputs, batch
    for name, (outputs, batch) in cases.items():
        state = loss.init()
        for number in range(3):
            value, gradient, state = step(outputs, batch, state, number)
            contract.finite(value, f"the value at {name}")
            contract.finite(gradient, f"the gradient at {name}")


def order_changes_nothing(subject: LossUnderTest) -> None:
    """The value, the gradient of each row, and by its effect the state."""
    loss, step = subject.loss, subject.step
    outputs, batch = subject.inputs(BATCH, 1)
    state = step(outputs, batch, loss.init(), 0)[2]
    outputs, batch = subject.inputs(BATCH, 2)
    order = np.random.default_rng(3).permutation(BATCH)

    def turned(tree: Any) -> Any:
        return jax.tree.map(lambda x: x[order] if x.ndim else x, tree)

    value, gradient, after = step(outputs, batch, state, 1)
    again, other, after_again = step(*turned((outputs, batch)), state, 1)
    contract.same(value, again, 2e-5, "the value depends on the order of pairs")
    message = "the gradient depends on the order of pairs"
    contract.same(turned(gradient), other, 2e-4, message)
    further = subject.inputs(BATCH, 4)
    one, other = (step(*further, kept, 2)[0] for kept in (after, after_again))
    contract.same(one, other, 2e-5, "the state depends on the order of pairs")


def splitting_changes_nothing(subject: LossUnderTest) -> None:
    """Blocks, if the loss has the option `block`, and devices, in float64."""
    with jax.enable_x64(True):
        loss, step = subject.loss, contract.jit(stepping(subject.loss))
        state = _float64(loss.init())
        visited = step(*subject.inputs(BATCH, 9, jnp.float64), state, 0)
        state = _float64(visited[2])
        outputs, batch = subject.inputs(BATCH, 0, jnp.float64)
        if not subject.classifies:  # several pairs are of one image
            outputs, batch = example(BATCH, 0, jnp.float64, images=12)
        whole = step(outputs, batch, state, 1)
        # A loss that computes in float32 throughout is held to that.
        tolerance = 1e-10 if whole[0].dtype == jnp.float64 else 1e-5
        has = subject.component.has("block")
        if has:
            step = contract.jit(stepping(subject.make(block=5)))
            found = step(outputs, batch, state, 1)
            contract.same(whole, found, tolerance, "blocks of 5 rows change the loss")
        mesh = contract.mesh()
        loss = subject.make(mesh=mesh, **({"block": 3} if has else {}))
        rows = contract.split_rows(mesh, (outputs, batch))
        place = contract.split_state(mesh, {"loss_state": state})["loss_state"]
        found = contract.jit(stepping(loss))(*rows, place, 1)
        message = f"{mesh.size} devices change the loss: see LossSpec.mesh"
        contract.same(whole, found, tolerance, message)


def products_are_precise(subject: LossUnderTest) -> None:
    """On a CPU a lower precision changes nothing, so that no number can tell; the
    program can."""
    blocks = [{}, {"block": 5}] if subject.component.has("block") else [{}]
    outputs, batch = subject.inputs(BATCH, 0)
    for more in blocks:
        loss = subject.make(**more)
        state = jax.eval_shape(loss.init)
        step = jax.make_jaxpr(stepping(loss))(outputs, batch, state, 1)
        for precision, place in products(step.jaxpr):
            must(
                precision == HIGHEST,
                f"a product at precision {precision}: pass precision=jax.lax.Precision."
                f"HIGHEST, or use losses/common/pairs.products ({place})",
            )


def products(jaxpr: Any, outer: str = "unknown") -> Iterator[tuple[Any, str]]:
    """(precision, place in the code) of each product, of inner programs too.

    outer: the place that called this program.
    """
    for equation in jaxpr.eqns:
        place = _place(equation.source_info.traceback) or outer
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation.params["precision"], place
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr),
        ):
            if isinstance(inner, ClosedJaxpr):
                yield from products(inner.jaxpr, place)
            elif isinstance(inner, Jaxpr):
                yield from products(inner, place)


def _place(traceback: Any) -> str:
    """The innermost line of a traceback that is not jax's, "" without one."""
    own = pathlib.Path(str(jax.__file__)).parent
    for frame in traceback.frames if traceback else ():
        if own not in pathlib.Path(frame.file_name).parents:
            return f"{frame.file_name}, line {frame.line_num}"
    return ""


def state_comes_back(subject: LossUnderTest) -> None:
    """Nested dicts of arrays, which a checkpoint keeps by their paths."""
    loss, step = subject.loss, subject.step
    state = loss.init()
    must(isinstance(state, dict), "the state is no dict of arrays ({} without any)")
    state = step(*subject.inputs(BATCH, 1), state, 0)[2]
    leaves = {path: np.asarray(x) for path, x in param_paths.named(state).items()}
    restored = jax.tree.map(jnp.asarray, param_paths.nested(leaves))
    must(
        jax.tree.structure(restored) == jax.tree.structure(state),
        "the state must be nested dicts of arrays: a checkpoint keeps them by paths",
    )
    further = subject.inputs(BATCH, 2)
    one, other = (step(*further, kept, 1) for kept in (state, restored))
    contract.same_bits(one, other, "a saved and restored state goes on otherwise")


def one_example(subject: LossUnderTest) -> None:
    """A loss that compares examples says so; others give a number."""
    try:
        loss = subject.make(1)
        step = contract.jit(stepping(loss))
        value, gradient, _ = step(*subject.inputs(1, 0), loss.init(), 0)
    except UserError:
        return
    contract.finite((value, gradient), "a batch of one (or raise UserError)")


def _float64(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree
    )
