"""A loss's contract: the same at any order, number of devices and block size."""

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
    """The checks of types.Loss, with the component's options."""
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
        "a saved state restores bit for bit": state_restores,
        "a batch of one is finite or refused": one_example,
    }.items():
        yield Check(name, functools.partial(check, subject))


class LossUnderTest:
    """A loss for batches of BATCH, and its step, compiled once; see `stepping`."""

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
        """Model outputs of the kind that the loss takes, and a batch."""
        return (classified_batch if self.classifies else example)(size, seed, dtype)


def example(
    size: int,
    seed: int,
    dtype: Any = jnp.float32,
    alike: float = 0.0,
    images: int | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model's outputs and a batch.

    alike: the share of a common vector in all embeddings. images: the number of
    different images, None if all differ.
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


def classified_batch(
    size: int, seed: int, dtype: Any = jnp.float32, scale: float = 1.0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A classifier's outputs and a batch in which one row has no label."""
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
    """A step: (outputs, batch, state, step) -> (value, gradient, new state)."""

    def value(outputs, batch, state, step):
        result, after, _ = loss(outputs, batch, state, step)
        return result, after

    def step(outputs, batch, state, step):
        (result, after), gradient = jax.value_and_grad(value, has_aux=True)(
            outputs, batch, state, step
        )
        return result, gradient, after

    return step


def declares_what_is_known(subject: LossUnderTest) -> None:
    """OUTPUT, MODEL_OPTIONS and TRAIN_OPTIONS name existing outputs and options."""
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
        must(not wrong, f"{constant}: no config has {', '.join(wrong)}")


def returns_as_declared(subject: LossUnderTest) -> None:
    """The loss returns a float32 scalar, a state of the same shapes, named scalars."""
    loss = subject.loss
    before = jax.eval_shape(loss.init)
    outputs, batch = subject.inputs(BATCH, 0)
    returned = jax.eval_shape(loss, outputs, batch, before, 1)
    is_triple = isinstance(returned, tuple) and len(returned) == 3
    must(is_triple, "return value, state, metrics")
    value, after, metrics = returned
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
    """Low temperatures, equal embeddings and repeated images give finite numbers."""
    loss, step = subject.loss, subject.step
    if subject.classifies:
        cases = {
            f"logits of {s:g}": classified_batch(BATCH, 5, scale=s) for s in (0, 1e4)
        }
    else:
        cases = {}
        for temperature in (0.01, 0.005):
            for alike, images in ((0.0, None), (1.0, None), (0.0, 1)):
                outputs, batch = example(BATCH, 5, alike=alike, images=images)
                outputs["logit_scale"] = jnp.asarray(1 / temperature, jnp.float32)
                rows = "one image" if images else "equal rows" if alike else "any rows"
                cases[f"temperature {temperature} and {rows}"] = outputs, batch
    moves = False
    for name, (outputs, batch) in cases.items():
        state = loss.init()
        for number in range(3):
            value, gradient, state = step(outputs, batch, state, number)
            contract.finite(value, f"the value at {name}")
            contract.finite(gradient, f"the gradient at {name}")
            moves = moves or any(np.any(x) for x in jax.tree.leaves(gradient))
    must(moves, "every gradient is zero: nothing would train")


def order_changes_nothing(subject: LossUnderTest) -> None:
    """The order of rows changes neither the value, a row's gradient, nor the state."""
    loss, step = subject.loss, subject.step
    outputs, batch = subject.inputs(BATCH, 1)
    state = step(outputs, batch, loss.init(), 0)[2]
    outputs, batch = subject.inputs(BATCH, 2)
    order = np.random.default_rng(3).permutation(BATCH)

    def reordered(tree: Any) -> Any:
        return jax.tree.map(lambda x: x[order] if x.ndim else x, tree)

    value, gradient, after = step(outputs, batch, state, 1)
    again, other, after_again = step(*reordered((outputs, batch)), state, 1)
    contract.same(value, again, 2e-5, "the value depends on the order of pairs")
    message = "the gradient depends on the order of pairs"
    contract.same(reordered(gradient), other, 2e-4, message)
    further = subject.inputs(BATCH, 4)
    one, other = (step(*further, state, 2)[0] for state in (after, after_again))
    contract.same(one, other, 2e-5, "the state depends on the order of pairs")


def splitting_changes_nothing(subject: LossUnderTest) -> None:
    """Blocks (if the loss has the option `block`) and devices agree in float64."""
    with jax.enable_x64(True):
        loss, step = subject.loss, contract.jit(stepping(subject.loss))
        state = _float64(loss.init())
        trained = step(*subject.inputs(BATCH, 9, jnp.float64), state, 0)
        state = _float64(trained[2])
        outputs, batch = subject.inputs(BATCH, 0, jnp.float64)
        if not subject.classifies:  # some pairs share an image
            outputs, batch = example(BATCH, 0, jnp.float64, images=12)
        whole = step(outputs, batch, state, 1)
        # The tolerance is float32's if the loss always computes in float32.
        tolerance = 1e-10 if whole[0].dtype == jnp.float64 else 1e-5
        has_block = subject.component.has("block")
        if has_block:
            step = contract.jit(stepping(subject.make(block=5)))
            blocks = step(outputs, batch, state, 1)
            contract.same(whole, blocks, tolerance, "blocks of 5 rows change the loss")
        mesh = contract.mesh()
        loss = subject.make(mesh=mesh, **({"block": 3} if has_block else {}))
        rows = contract.split_rows(mesh, (outputs, batch))
        placed = contract.split_state(mesh, {"loss_state": state})["loss_state"]
        split = contract.jit(stepping(loss))(*rows, placed, 1)
        message = f"{mesh.size} devices change the loss: see LossSpec.mesh"
        contract.same(whole, split, tolerance, message)


def products_are_precise(subject: LossUnderTest) -> None:
    """Every product has the precision HIGHEST and float32 factors, on a mesh too. The
    jaxpr is checked, because a lower precision changes no number on a CPU."""
    mesh = contract.mesh()
    ways: list[dict[str, Any]] = [{}, {"mesh": mesh}]
    if subject.component.has("block"):
        ways = [{}, {"block": 5}, {"mesh": mesh, "block": 3}]
    outputs, batch = subject.inputs(BATCH, 0)
    for way in ways:
        loss = subject.make(**way)
        state = jax.eval_shape(loss.init)
        step = jax.make_jaxpr(stepping(loss))(outputs, batch, state, 1)
        for precision, factors, line in products(step.jaxpr):
            floats = [x for x in factors if jnp.issubdtype(x, jnp.floating)]
            must(
                not floats or precision == HIGHEST,
                f"a product at precision {precision}: pass precision=jax.lax.Precision."
                f"HIGHEST, or use losses/common/pairs.products ({line})",
            )
            narrow = [x for x in floats if jnp.finfo(x).bits < 32]
            must(
                not narrow,
                f"a product of {', '.join(map(str, narrow))}: leave its factors float32"
                f" ({line})",
            )


def products(
    jaxpr: Any, outer: str = "unknown"
) -> Iterator[tuple[Any, list[np.dtype], str]]:
    """(precision, types of its factors, file and line) per product, inner jaxprs
    included.

    outer: the file and line that called this jaxpr.
    """
    for equation in jaxpr.eqns:
        line = _line(equation.source_info.traceback) or outer
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            factors = [variable.aval.dtype for variable in equation.invars]
            yield equation.params["precision"], factors, line
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr),
        ):
            if isinstance(inner, ClosedJaxpr):
                yield from products(inner.jaxpr, line)
            elif isinstance(inner, Jaxpr):
                yield from products(inner, line)


def _line(traceback: Any) -> str:
    """The innermost file and line outside jax in a traceback; "" if there is none."""
    jax_folder = pathlib.Path(str(jax.__file__)).parent
    for frame in traceback.frames if traceback else ():
        if jax_folder not in pathlib.Path(frame.file_name).parents:
            return f"{frame.file_name}, line {frame.line_num}"
    return ""


def state_restores(subject: LossUnderTest) -> None:
    """The state is nested dicts of arrays, as a checkpoint keeps it by paths."""
    loss, step = subject.loss, subject.step
    state = loss.init()
    must(
        isinstance(state, dict), "the state is no dict of arrays ({} if there are none)"
    )
    state = step(*subject.inputs(BATCH, 1), state, 0)[2]
    leaves = {path: np.asarray(x) for path, x in param_paths.flatten(state).items()}
    restored = jax.tree.map(jnp.asarray, param_paths.unflatten(leaves))
    must(
        jax.tree.structure(restored) == jax.tree.structure(state),
        "the state must be nested dicts of arrays: a checkpoint keeps them by paths",
    )
    further = subject.inputs(BATCH, 2)
    one, other = (step(*further, start, 1) for start in (state, restored))
    contract.same_bits(one, other, "a restored state gives other numbers")


def one_example(subject: LossUnderTest) -> None:
    """A batch of one gives a finite number, or the loss raises UserError."""
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
