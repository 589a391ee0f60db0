"""A tower's contract: its call, outputs, and the names that other parts rely on."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from clipjax import config, param_paths
from clipjax.models.common import frozen
from clipjax.optim import layer_decay
from clipjax.testing import contract
from clipjax.testing.contract import Check, Component, must
from clipjax.types import BadExample, Outputs, UserError

VOCAB, LENGTH, BATCH = 31, 9, 8
# Image sizes to try in order: a tower refuses those that it does not support.
SIZES = (16, 32, 48, 64, 96, 112, 128, 224, 256, 336, 384)
CALL = {"image": ["image", "train"], "text": ["text", "mask", "train"]}


def checks(component: Component) -> Iterator[Check]:
    """The checks of types.Tower, with the component's options."""
    documented = functools.partial(contract.options_are_documented, component)
    yield Check("options are typed and documented", documented)
    subject = TowerUnderTest(component)
    for name, check in {
        "is a Linen module with the declared fields": has_its_fields,
        "returns pooled and tokens": returns_as_declared,
        "rows do not depend on each other": rows_are_independent,
        "outputs and gradients stay finite": stays_finite,
        "it computes in dtype": computes_in_its_dtype,
        "one device and many agree": devices_change_nothing,
        "layer-wise decay finds its blocks": layer_decay_finds_blocks,
        "LoRA finds its kernels": lora_finds_kernels,
        "a frozen tower runs as in evaluation": freezes,
    }.items():
        yield Check(name, functools.partial(check, subject))
    if component.family == "text":
        for name, check in {
            "padding changes nothing if padding_invariant": padding_is_as_declared,
            "shorter texts are taken, longer ones refused": takes_lengths,
            "ids up to vocab_size differ": ids_differ,
        }.items():
            yield Check(name, functools.partial(check, subject))


class TowerUnderTest:
    """A tower of a size that it supports, its parameters and inputs.

    Parameters are noise, because initial biases of zero would hide errors. size: the
    image size or context length that the tower is made for.
    """

    size: int

    def __init__(self, component: Component):
        self.component = component
        self.family = component.family

    @functools.cached_property
    def tower(self) -> Any:
        if self.family == "text":
            self.size = LENGTH
            return self.component.make(VOCAB, LENGTH)
        refusal: UserError | None = None
        for size in SIZES:
            self.size = size
            try:
                return self.component.make(size)
            except UserError as error:
                refusal = error
        raise refusal or UserError("no image size is taken")

    def inputs(self, seed: int = 0, length: int = LENGTH) -> tuple[Any, ...]:
        draw = np.random.default_rng(seed)
        if self.family == "image":
            size = self.tower.image_size
            return (draw.standard_normal((BATCH, size, size, 3), np.float32),)
        mask = np.arange(length)[None] < draw.integers(2, length + 1, (BATCH, 1))
        text = draw.integers(1, VOCAB, (BATCH, length))
        return np.where(mask, text, 0).astype("i4"), mask

    @functools.cached_property
    def shapes(self) -> Mapping[str, Any]:
        """The variables' shapes."""
        key = jax.random.key(0)
        init = lambda *inputs: self.tower.init(key, *inputs, False)  # noqa: E731
        return jax.eval_shape(init, *self.inputs())

    @functools.cached_property
    def variables(self) -> dict[str, Any]:
        draw = np.random.default_rng(1)

        def fill(path: Any, leaf: Any) -> np.ndarray:
            mean = path[-1].key in ("scale", "var", "layer_scale")
            values = 0.5 * draw.uniform(-1, 1, leaf.shape)
            if leaf.ndim > 1:
                values *= 3 * math.prod(leaf.shape[:-1]) ** -0.5
            return np.asarray(mean + values, leaf.dtype)

        return jax.tree_util.tree_map_with_path(fill, dict(self.shapes))

    @functools.cached_property
    def run(self) -> Any:
        """(variables, *inputs) -> outputs in evaluation mode, compiled once."""
        return contract.jit(lambda v, *inputs: self.tower.apply(v, *inputs, False))

    def names(self) -> dict[str, Any]:
        """Path in a model's parameters, such as "image/positions" -> shape."""
        return param_paths.flatten({self.family: self.shapes["params"]})


def has_its_fields(subject: TowerUnderTest) -> None:
    """The module has `dtype`, `image_size` or `context_length`, `padding_invariant`;
    equal settings make equal towers."""
    tower = subject.tower
    must(isinstance(tower, nn.Module), "the factory must return a Linen module")
    must(hasattr(tower, "dtype"), "the module needs a field `dtype: Any = None`")
    size = "image_size" if subject.family == "image" else "context_length"
    actual = getattr(tower, size, None)
    must(isinstance(actual, int), f"the module needs {size}")
    must(actual == subject.size, f"made for {size}={subject.size}, it has {actual}")
    if subject.family == "text":
        must(
            isinstance(getattr(tower, "padding_invariant", None), bool),
            "the module needs `padding_invariant`: whether padding after a text leaves "
            "its pooled features unchanged",
        )
    again = TowerUnderTest(subject.component).tower
    must(
        tower == again and hash(tower) == hash(again),
        "two towers of equal settings must be equal and hashable, so that jax "
        "compiles them once",
    )
    names = [name for name in inspect.signature(type(tower).__call__).parameters]
    wanted = CALL[subject.family]
    must(
        names[1:] == wanted,
        f"the module is called with {names[1:]}: name them {', '.join(wanted)}; "
        "freezing finds `train` by its name",
    )
    fields = {field for field in getattr(type(tower), "FREE", ())}
    missing = [name for name in fields if not hasattr(tower, name)]
    must(not missing, f"FREE names no field of the module: {', '.join(missing)}")


def returns_as_declared(subject: TowerUnderTest) -> None:
    """Parameters are float32; outputs are pooled [b d] and tokens [b n d]."""
    kinds = set(subject.shapes) - {"params", "batch_stats"}
    must(not kinds, f"variables other than params and batch_stats: {kinds}")
    for path, leaf in param_paths.flatten(dict(subject.shapes)).items():
        must(leaf.dtype == jnp.float32, f"{path} starts as {leaf.dtype}: use float32")
    outputs = subject.run(subject.variables, *subject.inputs())
    must(isinstance(outputs, dict), "the module must return a dict")
    for name, ndim in (("pooled", 2), ("tokens", 3)):
        must(name in outputs, f"the module's dict lacks {name!r}")
        shape = outputs[name].shape
        must(
            len(shape) == ndim and shape[0] == BATCH,
            f"{name} is {list(shape)} for a batch of {BATCH}: must have {ndim} "
            "dimensions, the batch first",
        )
    if subject.family == "text":
        count = outputs["tokens"].shape[1]
        must(count == LENGTH, f"tokens has {count} vectors for {LENGTH} ids: one each")


def rows_are_independent(subject: TowerUnderTest) -> None:
    """In evaluation an example's outputs do not depend on its batch's other rows."""
    inputs = subject.inputs()
    in_order = subject.run(subject.variables, *inputs)
    order = np.random.default_rng(2).permutation(BATCH)
    # Half of the rows come twice, half never.
    order[BATCH // 2 :] = order[: BATCH // 2]
    other = subject.run(subject.variables, *(x[order] for x in inputs))
    for name in ("pooled", "tokens"):
        message = f"{name} of an example depends on the others of its batch"
        contract.same(in_order[name][order], other[name], 1e-4, message)
    apart = contract.gap(in_order["pooled"][:1], in_order["pooled"][1:2])
    must(apart > 1e-6, "pooled is the same for different examples")


def stays_finite(subject: TowerUnderTest) -> None:
    """Black and overexposed images and empty texts give finite numbers in training."""

    def value(variables: Any, *inputs: Any) -> Any:
        outputs, _ = subject.tower.apply(
            variables,
            *inputs,
            True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats"],
        )
        return jnp.sin(outputs["pooled"].astype(jnp.float32)).sum(), outputs

    step = contract.jit(jax.value_and_grad(value, has_aux=True))
    inputs = subject.inputs()
    if subject.family == "image":
        cases = {f"images of {c:g}": (np.full_like(inputs[0], c),) for c in (0, 1e3)}
    else:
        empty = inputs[1].copy()
        empty[0] = False
        cases = {"a text without a token": (inputs[0], empty)}
    for name, arrays in {"any inputs": inputs, **cases}.items():
        (_, outputs), gradient = step(subject.variables, *arrays)
        contract.finite(outputs["pooled"], f"pooled of {name}")
        contract.finite(gradient["params"], f"the gradient at {name}")
    not_zero = [np.any(leaf) for leaf in jax.tree.leaves(gradient["params"])]
    must(any(not_zero), "no parameter has a gradient")


def computes_in_its_dtype(subject: TowerUnderTest) -> None:
    """With dtype=bfloat16 the outputs are bfloat16."""
    half = subject.tower.clone(dtype=jnp.bfloat16)
    pooled = jax.eval_shape(
        lambda v, *inputs: half.apply(v, *inputs, False)["pooled"],
        subject.shapes,
        *subject.inputs(),
    )
    must(
        pooled.dtype == jnp.bfloat16,
        f"under dtype=bfloat16 pooled is {pooled.dtype}: pass `dtype` on to the layers",
    )


def devices_change_nothing(subject: TowerUnderTest) -> None:
    """Many devices, rows and parameters split as in training, give the same pooled."""
    reserved = [
        name
        for name in subject.names()
        if name.rpartition("/")[2] in ("step", "key", "count")
    ]
    must(
        not reserved,
        f"reserved names of parameters, which are never split: {', '.join(reserved)}",
    )
    mesh = contract.mesh()
    inputs = subject.inputs()
    one_device = subject.run(subject.variables, *inputs)["pooled"]
    placed = contract.split_state(mesh, subject.variables)
    many = subject.run(placed, *contract.split_rows(mesh, inputs))["pooled"]
    contract.same(one_device, many, 1e-4, f"{mesh.size} devices change pooled")


def layer_decay_finds_blocks(subject: TowerUnderTest) -> None:
    """Blocks are numbered; names of other parameters place them before or after."""
    try:
        layer_decay.factors(subject.names(), 0.5)
    except UserError as error:
        raise AssertionError(str(error)) from error


def lora_finds_kernels(subject: TowerUnderTest) -> None:
    """The default pattern finds kernels in every block that has matrices."""
    pattern = config.SHARED["lora"]["on"]
    matrices: dict[str, list[str]] = {}
    for name, leaf in subject.names().items():
        block = layer_decay.block_of(name)
        must(
            leaf.ndim == 2
            or not name.endswith("/kernel")
            or not block
            or not re.search(pattern, name),
            f"{name} has {leaf.ndim} dimensions: LoRA adds only to kernels of two",
        )
        if leaf.ndim == 2 and block:
            matrices.setdefault(str(block), []).append(name)
    for names in matrices.values():
        must(
            any(re.search(pattern, name) for name in names),
            f"lora.on={pattern!r} matches none of {', '.join(names[:4])}: name the "
            "kernels of attention and MLP so, and their leaves `kernel`",
        )


class Holder(nn.Module):
    tower: nn.Module

    @nn.compact
    def __call__(self, inputs: tuple[Any, ...], train: bool) -> Outputs:
        return self.tower(*inputs, train)


class TowerModel:
    """A tower with the part of types.Model that freezing uses."""

    image_output = "image_embed"

    def __init__(self, tower: nn.Module):
        self.module = Holder(tower)

    def apply(self, variables: Any, batch: Any, train: bool, key: Any) -> Any:
        keys, inputs = {"dropout": key}, tuple(batch.values())
        return self.module.apply(
            variables, inputs, train, rngs=keys, mutable=["batch_stats"]
        )


def freezes(subject: TowerUnderTest) -> None:
    """With all parameters frozen, training gives the same outputs as evaluation."""
    variables = {kind: {"tower": tree} for kind, tree in subject.variables.items()}
    model: Any = TowerModel(subject.tower)
    model = frozen.freeze(model, frozenset(param_paths.flatten(variables["params"])))
    inputs, key = subject.inputs(), jax.random.key(3)
    batch = {str(i): x for i, x in enumerate(inputs)}
    apply = contract.jit(lambda v, batch, k: model.apply(v, batch, True, k)[0])
    actual = apply(variables, batch, key)["pooled"]
    expected = subject.run(subject.variables, *inputs)["pooled"]
    contract.same(
        expected,
        actual,
        1e-4,
        "all frozen, the tower still drops or normalises as in training: give its "
        "modules an argument named `train`",
    )


def padding_is_as_declared(subject: TowerUnderTest) -> None:
    """Ids under the padding, and its length, change nothing if padding_invariant."""
    if not subject.tower.padding_invariant:
        return
    text, mask = subject.inputs()
    short = int(mask.sum(axis=1).min())
    mask = mask & (np.arange(LENGTH) < max(short, 2))[None]
    expected = subject.run(subject.variables, text, mask)["pooled"]
    for name, other in {
        "another id under the padding": (np.where(mask, text, 5), mask),
        "another length of the padding": (text[:, : short + 1], mask[:, : short + 1]),
    }.items():
        actual = subject.run(subject.variables, *other)["pooled"]
        contract.same(
            expected,
            actual,
            1e-4,
            f"padding_invariant is True and {name} changes pooled",
        )
    changed = np.where(mask, 1 + text % (VOCAB - 1), text)
    actual = subject.run(subject.variables, changed, mask)["pooled"]
    must(contract.gap(expected, actual) > 1e-5, "the text itself changes nothing")


def ids_differ(subject: TowerUnderTest) -> None:
    """Texts of the highest ids differ; jax raises nothing beyond a table's end."""
    ids = np.arange(VOCAB - BATCH, VOCAB, dtype="i4")
    text = np.repeat(ids[:, None], LENGTH, axis=1)
    pooled = subject.run(subject.variables, text, np.ones_like(text, bool))["pooled"]
    for one, other in itertools.pairwise(range(BATCH)):
        must(
            contract.gap(pooled[one], pooled[other]) > 1e-6,
            f"the ids {ids[one]} and {ids[other]} give the same pooled: is the table "
            f"of embeddings smaller than vocab_size={VOCAB}?",
        )


def takes_lengths(subject: TowerUnderTest) -> None:
    """The tower takes batches padded to any length up to context_length."""
    pooled = subject.run(subject.variables, *subject.inputs(length=4))["pooled"]
    must(pooled.shape[0] == BATCH, "a batch of shorter texts is not taken")
    try:
        subject.run(subject.variables, *subject.inputs(length=LENGTH + 1))
    except (UserError, BadExample):
        return
    raise AssertionError("a text beyond context_length is taken: raise UserError")
