"""A model's contract: towers by name, unit embeddings, equal results per side."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax import config, param_paths, registry
from clipjax.models.common import meaning
from clipjax.optim import layer_decay
from clipjax.testing import contract
from clipjax.testing.contract import Check, Component, must
from clipjax.types import GLOBAL_OUTPUTS, UserError

VOCAB, LENGTH, SIZE, BATCH = 31, 9, 16, 8
OUTPUTS = {
    "image_embed": ("image_embed", "text_embed", "image_features", "text_features"),
    "logits": ("logits",),
}


def checks(component: Component) -> Iterator[Check]:
    """The checks of types.Model, over small towers with the component's options."""
    documented = functools.partial(contract.options_are_documented, component)
    yield Check("options are typed and documented", documented)
    subject = ModelUnderTest(component)
    for name, check in {
        "declares its towers and what goes with it": declares_what_is_known,
        "starts with float32 parameters by tower": starts_by_tower,
        "outputs are as declared": returns_as_declared,
        "rows do not depend on each other": rows_are_independent,
        "one side alone is encoded as with the other": sides_agree,
        "pooled features are as declared": pooled_as_declared,
        "training is finite and depends on its key alone": trains,
        "one device and many agree": devices_change_nothing,
    }.items():
        yield Check(name, functools.partial(check, subject))


class ModelUnderTest:
    """A model over a small vision transformer and a small text transformer."""

    def __init__(self, component: Component):
        self.component = component
        self.towers = component.constant("TOWERS") or ("image", "text")

    def make(self) -> Any:
        small = {"width": 16, "depth": 1, "heads": 2}
        makers = {
            "image": lambda: registry.load("image", "vit")(
                SIZE, variant="Ti/8", **small
            ),
            "text": lambda: registry.load("text", "transformer")(
                VOCAB, LENGTH, **small
            ),
        }
        return self.component.make(*(makers[tower]() for tower in self.towers))

    @functools.cached_property
    def model(self) -> Any:
        return self.make()

    @functools.cached_property
    def variables(self) -> Any:
        return contract.jit(self.model.init)(jax.random.key(0))

    def batch(self, seed: int = 0) -> dict[str, Any]:
        draw = np.random.default_rng(seed)
        mask = np.arange(LENGTH)[None] < draw.integers(2, LENGTH + 1, (BATCH, 1))
        text = np.where(mask, draw.integers(1, VOCAB, (BATCH, LENGTH)), 0)
        batch = {"image": draw.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)}
        if "text" in self.towers:
            batch |= {"text": text.astype("i4"), "text_mask": mask}
        return batch

    @functools.cached_property
    def run(self) -> Any:
        """(variables, batch) -> outputs in evaluation mode."""
        key = jax.random.key(0)
        return contract.jit(lambda v, batch: self.model.apply(v, batch, False, key)[0])


def declares_what_is_known(subject: ModelUnderTest) -> None:
    """Checks TOWERS, WORDS and image_output; equal settings make equal models."""
    unknown = set(subject.towers) - {"image", "text"}
    must(not unknown, f"TOWERS names {unknown}: image and text are known")
    words = (subject.component.constant("WORDS") or {}).keys() - set(config.WORDS)
    must(not words, f"WORDS: a config has no word {', '.join(words)}")
    output = subject.model.image_output
    must(output in OUTPUTS, f"image_output={output!r}: must be {' or '.join(OUTPUTS)}")
    again = subject.make()
    must(
        subject.model == again and hash(subject.model) == hash(again),
        "two models of equal settings must be equal and hashable",
    )
    differ = list(meaning.differences(subject.model, again))
    must(not differ, f"two models of equal settings differ in {differ}")


def starts_by_tower(subject: ModelUnderTest) -> None:
    """A tower's parameters lie under its name, which groups and layer decay use."""
    shapes = jax.eval_shape(subject.model.init, jax.random.key(0))
    for tower in subject.towers:
        must(tower in shapes["params"], f"parameters lack {tower!r}, the tower's name")
    for path, leaf in param_paths.flatten(dict(shapes)).items():
        must(leaf.dtype == jnp.float32, f"{path} starts as {leaf.dtype}: use float32")
    try:
        layer_decay.factors(param_paths.flatten(shapes["params"]), 0.5)
    except UserError as error:
        raise AssertionError(str(error)) from error
    actual = contract.shapes(jax.tree.map(np.asarray, subject.variables))
    expected = jax.tree.map(lambda x: (x.shape, str(x.dtype)), shapes)
    must(actual == expected, "init under jit makes other shapes than under eval_shape")


def returns_as_declared(subject: ModelUnderTest) -> None:
    """Outputs are float32, embeddings have unit norm, GLOBAL_OUTPUTS are scalars."""
    outputs = subject.run(subject.variables, subject.batch())
    for name in OUTPUTS[subject.model.image_output]:
        must(name in outputs, f"outputs lack {name!r}")
        output = outputs[name]
        must(
            output.dtype == jnp.float32 and output.ndim == 2 and len(output) == BATCH,
            f"{name} is {output.dtype}{list(output.shape)}: must be float32 [b d]",
        )
        if name.endswith("_embed"):
            norms = np.linalg.norm(output, axis=1)
            must(np.abs(norms - 1).max() < 1e-4, f"{name} must have unit norm")
    for name in GLOBAL_OUTPUTS:
        if name in outputs:
            must(np.shape(outputs[name]) == (), f"{name} must be a scalar")
    contract.finite(outputs, "the outputs")


def rows_are_independent(subject: ModelUnderTest) -> None:
    """In evaluation an example's outputs do not depend on its batch's other rows."""
    batch = subject.batch()
    order = np.random.default_rng(2).permutation(BATCH)
    order[BATCH // 2 :] = order[: BATCH // 2]
    in_order = subject.run(subject.variables, batch)
    other = subject.run(subject.variables, {k: x[order] for k, x in batch.items()})
    for name in OUTPUTS[subject.model.image_output]:
        message = f"{name} of an example depends on the others of its batch"
        contract.same(in_order[name][order], other[name], 1e-4, message)


def sides_agree(subject: ModelUnderTest) -> None:
    """encode_image and encode_text return the same as apply."""
    batch, model = subject.batch(), subject.model
    both = subject.run(subject.variables, batch)
    encode = contract.jit(model.encode_image)
    name = model.image_output
    alone = encode(subject.variables, batch["image"])[name]
    contract.same(both[name], alone, 1e-4, f"encode_image returns another {name}")
    text = jnp.zeros((1, LENGTH), "i4"), jnp.ones((1, LENGTH), bool)
    if "text" not in subject.towers:
        try:
            model.encode_text(subject.variables, *text)
        except UserError:
            return
        raise AssertionError("encode_text without a text tower: raise UserError")
    encode = contract.jit(model.encode_text)
    alone = encode(subject.variables, batch["text"], batch["text_mask"])
    message = "encode_text returns another text_embed"
    contract.same(both["text_embed"], alone["text_embed"], 1e-4, message)


def pooled_as_declared(subject: ModelUnderTest) -> None:
    """pooled_outputs names float32 [b d] outputs of sides that have a tower."""
    batch = subject.batch()
    inputs: dict[str, Any] = {"image": (batch["image"],)}
    if "text" in subject.towers:
        inputs["text"] = batch["text"], batch["text_mask"]
    for side, name in getattr(subject.model, "pooled_outputs", {}).items():
        must(side in inputs, f"pooled_outputs names {side!r}, and there is no tower")
        encode = contract.jit(getattr(subject.model, f"encode_{side}"))
        outputs = encode(subject.variables, *inputs[side])
        must(name in outputs, f"encode_{side} returns no {name!r}, which it declares")
        pooled = outputs[name]
        must(
            pooled.dtype == jnp.float32 and pooled.ndim == 2 and len(pooled) == BATCH,
            f"{name} is {pooled.dtype}{list(pooled.shape)}: must be float32 [b d]",
        )


def trains(subject: ModelUnderTest) -> None:
    """Gradients are finite; equal keys give equal outputs in training."""

    def value(params: Any, rest: Any, batch: Any, key: Any) -> Any:
        variables = {**rest, "params": params}
        outputs, _ = subject.model.apply(variables, batch, True, key)
        wanted = OUTPUTS[subject.model.image_output]
        return sum(jnp.sin(outputs[name]).sum() for name in wanted)

    step = contract.jit(jax.value_and_grad(value))
    rest = dict(subject.variables)
    params = rest.pop("params")
    one, other = (
        step(params, rest, subject.batch(), jax.random.key(1)) for _ in range(2)
    )
    contract.finite(one, "the gradient")
    contract.same_bits(one, other, "equal keys give different outputs in training")


def devices_change_nothing(subject: ModelUnderTest) -> None:
    """Many devices, rows and parameters split as in training, give the same outputs."""
    mesh, batch = contract.mesh(), subject.batch()
    one_device = subject.run(subject.variables, batch)
    placed = contract.split_state(mesh, subject.variables)
    many = subject.run(placed, contract.split_rows(mesh, batch))
    for name in OUTPUTS[subject.model.image_output]:
        message = f"{mesh.size} devices change {name}"
        contract.same(one_device[name], many[name], 1e-4, message)
