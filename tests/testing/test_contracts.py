"""Each check of clipjax.testing fails for a component that breaks it, and says why.

That ours pass is tested beside them: losses/, models/, data/, optim/.
"""

import dataclasses
import importlib
import os
import pathlib
import re
import subprocess
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from clipjax import registry, testing
from clipjax.data.sources import scenes
from clipjax.data.tokenizers import words
from clipjax.models.common import layers
from clipjax.testing import __main__ as command
from clipjax.testing import (
    contract,
    loss_contract,
    model_contract,
    optimizer_contract,
    source_contract,
    tower_contract,
)
from clipjax.types import BadExample, UserError


def untyped(spec, *, one=1):
    """A component.

    Args:
      one: of something.
    """


def mistyped(spec, *, one: int = "1"):  # type: ignore
    """A component.

    Args:
      one: of something.
    """


def silent(spec, *, one: int = 1):
    """A component."""


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (untyped, "'one' needs a type and a default"),
        (mistyped, "one='1': must be int"),
        (silent, "options without a line in the docstring: one"),
    ],
)
def test_options_that_are_not(factory, message):
    with pytest.raises(AssertionError, match=message):
        contract.options_are_documented(contract.Component("loss", factory, {}))


# Losses


@dataclasses.dataclass(frozen=True)
class Loss:
    """CLIP's loss over a sixteenth of its own code, with one fault."""

    fault: str
    block: int = 0
    devices: int = 1

    def init(self):
        if self.fault == "a list":
            return [jnp.zeros(2)]
        return {"seen": jnp.zeros((), jnp.float32)}

    def __call__(self, outputs, batch, state, step):
        low = self.fault == "precision" or (
            self.fault == "on a mesh" and self.devices > 1
        )
        precision = None if low else "highest"
        a, b = outputs["image_embed"], outputs["text_embed"]
        if self.fault == "narrow":
            a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
        s = outputs["logit_scale"] * jnp.matmul(a, b.T, precision=precision)
        own = jnp.diagonal(s)
        if self.fault == "overflow":
            rows = jnp.log(jnp.exp(s * 4).sum(axis=1)) / 4
        else:
            rows = jax.nn.logsumexp(s, axis=1)
        cost = rows - own
        if self.fault == "order":
            cost = cost * jnp.arange(len(cost))
        if self.fault == "blocks" and self.block:
            cost = cost * 1.001
        if self.fault == "devices":
            cost = cost * self.devices
        value = cost.mean().astype(jnp.float32)
        if self.fault == "zero":
            value = jnp.zeros(())
        if self.fault == "vector":
            value = cost
        if self.fault == "grows":
            state = {**state, "more": value}
        if isinstance(state, dict):
            state = {**state, "seen": state["seen"] + 1}
        return value, state, {"cost": cost if self.fault == "metric" else cost.mean()}


def broken_loss(fault):
    def make(spec, *, block: int = 0):
        """A loss.

        Args:
          block: rows at a time.
        """
        return Loss(fault, block, spec.mesh.size if spec.mesh else 1)

    return loss_contract.LossUnderTest(contract.component("loss", make, {}))


LOSSES = [
    ("vector", "returns_as_declared", r"float32\[16\]: must be a float32 scalar"),
    ("grows", "returns_as_declared", "the state changes its form"),
    ("metric", "returns_as_declared", "metric cost is no scalar"),
    ("overflow", "stays_finite", "the value at temperature 0.01 .* is not finite"),
    ("order", "order_changes_nothing", "the value depends on the order"),
    ("blocks", "splitting_changes_nothing", "blocks of 5 rows change the loss"),
    ("devices", "splitting_changes_nothing", "8 devices change the loss"),
    ("zero", "stays_finite", "every gradient is zero"),
    ("precision", "products_are_precise", "HIGHEST.*test_contracts.py, line"),
    ("on a mesh", "products_are_precise", "HIGHEST.*test_contracts.py, line"),
    ("narrow", "products_are_precise", "a product of bfloat16.*test_contracts.py"),
    ("a list", "state_restores", "the state is no dict"),
]


@pytest.mark.parametrize(("fault", "check", "message"), LOSSES)
def test_a_broken_loss(fault, check, message):
    with pytest.raises(AssertionError, match=message):
        getattr(loss_contract, check)(broken_loss(fault))


def test_a_loss_without_a_fault():
    """So that each of the above fails for its fault alone."""
    for _, check, _ in LOSSES:
        getattr(loss_contract, check)(broken_loss(""))


def test_constants_of_a_loss(monkeypatch):
    module = importlib.import_module("clipjax.losses.siglip")
    subject = loss_contract.LossUnderTest(contract.component("loss", "siglip", {}))
    for name, value in (
        ("OUTPUT", "embeddings"),
        ("MODEL_OPTIONS", {"logit_scales": 1.0}),
        ("TRAIN_OPTIONS", {"max_logit": 0.0}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value, raising=False)
            with pytest.raises(AssertionError, match=name):
                loss_contract.declares_what_is_known(subject)


# Towers


class Tower(nn.Module):
    """A mean of patches or tokens through a block, with one fault."""

    fault: str
    image_size: int = 16
    context_length: int = tower_contract.LENGTH
    padding_invariant: bool = True
    dtype: Any = None

    def encode(self, x, mask, train):
        dtype = None if self.fault == "dtype" else self.dtype
        first = "mix" if self.fault == "blocks" else "block_0"
        x = layers.Dense(8, 0.3, dtype=dtype, name=f"{first}_fc1")(x)
        block = "key" if self.fault == "reserved" else "kernel"
        x = x @ self.param(block, nn.initializers.normal(), (8, 8)).astype(x.dtype)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        if self.fault == "batch":
            x = x - x.mean(axis=0, keepdims=True)
        weights = jnp.ones_like(mask) if self.fault == "padding" else mask
        count = weights.sum(axis=1, keepdims=True)
        if self.fault != "empty":
            count = jnp.maximum(count, 1)
        if self.fault == "same":
            x = x * 0 + 1
        weighted = (x * weights[:, :, None].astype(x.dtype)).sum(axis=1)
        pooled = weighted / count.astype(x.dtype)
        if self.fault == "tokens":
            return {"pooled": pooled}
        if self.fault == "few tokens":
            return {"pooled": pooled, "tokens": x[:, :2]}
        return {"pooled": pooled, "tokens": x}


class ImageTower(Tower):
    @nn.compact
    def __call__(self, image, train):
        x = layers.patches(image, 8)
        return self.encode(x, jnp.ones(x.shape[:2], bool), train)


class TextTower(Tower):
    @nn.compact
    def __call__(self, text, mask, train):
        ids = 25 if self.fault == "table" else 31
        table = self.param("token_embedding", nn.initializers.normal(1.0), (ids, 8))
        return self.encode(table[text], mask, train)


class Unnamed(Tower):
    @nn.compact
    def __call__(self, image, training):
        return self.encode(layers.patches(image, 8), jnp.ones((8, 4), bool), training)


def broken_tower(family, fault):
    kind = {"image": ImageTower, "text": TextTower}[family]
    if fault == "unnamed":
        kind = Unnamed
    if fault == "no module":
        kind = types.SimpleNamespace

    def make(*sizes):
        """A tower."""
        name = "image_size" if family == "image" else "context_length"
        size = sizes[-1] + 16 * (fault == "size")
        return kind(fault=fault, **{name: size})

    return tower_contract.TowerUnderTest(contract.component(family, make, {}))


@pytest.mark.parametrize(
    ("family", "fault", "check", "message"),
    [
        ("image", "no module", "has_its_fields", "must return a Linen module"),
        ("image", "unnamed", "has_its_fields", "name them image, train"),
        ("image", "size", "has_its_fields", "made for image_size=16, it has 32"),
        ("text", "size", "has_its_fields", "made for context_length=9, it has 25"),
        ("image", "tokens", "returns_as_declared", "dict lacks 'tokens'"),
        ("text", "few tokens", "returns_as_declared", "2 vectors for 9 ids"),
        ("image", "same", "rows_are_independent", "the same for different examples"),
        ("text", "table", "ids_differ", "24 and 25 give the same pooled"),
        ("image", "batch", "rows_are_independent", "pooled of an example depends"),
        ("text", "empty", "stays_finite", "a text without a token: .*not finite"),
        ("image", "dtype", "computes_in_its_dtype", "pooled is float32"),
        ("image", "reserved", "devices_change_nothing", "image/key"),
        ("image", "blocks", "layer_decay_finds_blocks", "name its blocks so"),
        ("text", "padding", "padding_is_as_declared", "padding_invariant is True and"),
    ],
)
def test_a_broken_tower(family, fault, check, message):
    with pytest.raises(AssertionError, match=message):
        getattr(tower_contract, check)(broken_tower(family, fault))
    if fault not in ("blocks", "reserved"):
        getattr(tower_contract, check)(broken_tower(family, ""))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="wide")(x)
        return nn.Dropout(0.5, deterministic=not self.has_rng("dropout"))(x)


class Deep(nn.Module):
    """Its kernel has a name that nothing knows, and `train` does nothing."""

    image_size: int = 16
    dtype: Any = None

    @nn.compact
    def __call__(self, image, train):
        x = Block(name="block_0")(layers.patches(image, 8))
        return {"pooled": x.mean(axis=1), "tokens": x}


def test_names_that_lora_and_freezing_do_not_find():
    def make(image_size):
        """A tower."""
        return Deep(image_size)

    subject = tower_contract.TowerUnderTest(contract.component("image", make, {}))
    with pytest.raises(AssertionError, match="matches none of image/block_0"):
        tower_contract.lora_finds_kernels(subject)
    with pytest.raises(AssertionError, match="argument named `train`"):
        tower_contract.freezes(subject)


class Heads(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.MultiHeadDotProductAttention(2, name="attention")(x)
        return nn.Dense(8, name="fc1")(x)


class Attending(Deep):
    @nn.compact
    def __call__(self, image, train):
        x = Heads(name="block_0")(layers.patches(image, 8))
        return {"pooled": x.mean(axis=1), "tokens": x}


def test_kernels_of_three_dimensions_get_no_addition():
    def make(image_size):
        """A tower."""
        return Attending(image_size)

    subject = tower_contract.TowerUnderTest(contract.component("image", make, {}))
    with pytest.raises(AssertionError, match="out/kernel has 3 dimensions: LoRA"):
        tower_contract.lora_finds_kernels(subject)


def test_an_image_tower_that_takes_no_size():
    def make(image_size):
        """A tower."""
        raise UserError("image_size: nothing is right")

    subject = tower_contract.TowerUnderTest(contract.component("image", make, {}))
    with pytest.raises(UserError, match="nothing is right"):
        tower_contract.has_its_fields(subject)


# Sources


class Altered:
    """A drawn source with one fault."""

    def __init__(self, fault):
        self.inner = scenes.make("train", size=32, resolution=16)
        self.fault = fault
        self.max_captions = self.inner.max_captions + (fault == "most")
        self.caption_counts = self.inner.caption_counts + (fault == "counts")
        if fault == "int64":
            self.caption_counts = self.caption_counts.astype(np.int64)
        if fault == "counts":
            self.max_captions += 1
        self.class_names = self.inner.class_names
        self.templates = self.inner.templates
        self.reads = 0
        if fault == "template":
            self.class_names = {"class": ["a"]}
            self.templates = {"class": ["no place"]}
        self.problems = "text" if fault == "problems" else []

    def __len__(self):
        return 0 if self.fault == "none" else len(self.inner)

    def __getitem__(self, index):
        self.reads += 1
        if self.fault == "ends":
            index %= len(self)
        found = self.inner[index]
        if self.fault == "label":
            return dataclasses.replace(found, labels={"class": 5})
        if self.fault == "broken":
            raise BadExample("it is gone", found.key)
        if self.fault == "floats":
            return dataclasses.replace(found, image=np.ones((4, 4, 3)))
        if self.fault == "bare":
            return dataclasses.replace(found, captions="a" * len(found.captions))
        if self.fault == "twice":
            return dataclasses.replace(found, key=f"{index // 2}")
        if self.fault == "threads":
            self.at = index
            label = f"{index}"
            return dataclasses.replace(found, key=label if self.at == index else "")
        if self.fault == "draws" and index == 0:
            return dataclasses.replace(found, key=f"{self.reads}")
        if self.fault == "key":
            return dataclasses.replace(found, key="")
        return found

    def __reduce__(self):
        if self.fault == "pickle":
            raise TypeError("an open file")
        return Altered, ("key" if self.fault == "copy" else self.fault,)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("most", "max_captions is"),
        ("counts", "captions; caption_counts"),
        ("int64", "caption_counts must be int32"),
        ("template", "needs one {}"),
        ("problems", "problems must be a list of texts"),
        ("none", "no examples"),
        ("ends", r"source\[32\] gives an example: raise IndexError"),
        ("label", "label 5 of 0 classes"),
        ("draws", r"\[0\] read again is another example"),
        ("key", "has no key"),
        ("broken", r"none of the 16 .* can be used: .*it is gone"),
        ("floats", r"none of the 16 .* can be used: .*must be uint8"),
        ("bare", "captions 'a.*: must be several texts"),
        ("twice", r"\[0\] and \[1\] have the key 0"),
        ("threads", "read by several threads at once is another example"),
        ("pickle", "cannot be pickled: an open file"),
        ("copy", "a pickled copy differs"),
    ],
)
def test_a_broken_source(fault, message):
    source_contract.check(Altered(""))
    with pytest.raises(AssertionError, match=message):
        source_contract.check(Altered(fault))


def test_a_source_made_again(monkeypatch):
    made = []

    def make(split):
        """A source."""
        made.append(scenes.make(split, size=32 + len(made), resolution=16))
        return made[-1]

    with pytest.raises(AssertionError, match="made again, the source differs"):
        testing.check_source(make)


# Tokenizers


class Words:
    """A tokenizer with one fault."""

    def __init__(self, fault, captions, state):
        self.inner = words.make(captions, state, context_length=8)
        self.fault = fault
        self.vocab_size = 4 if fault == "vocab" else self.inner.vocab_size
        self.context_length, self.pad_id = 8, 0

    def __call__(self, texts):
        if isinstance(texts, str) and self.fault == "letters":
            texts = [*texts]
        texts = (
            [
                str(text) if self.fault == "str" and not isinstance(text, str) else text
                for text in texts
            ]
            if not isinstance(texts, str)
            else texts
        )
        ids, mask = self.inner(texts)
        if self.fault == "int64":
            ids = ids.astype(np.int64)
        if self.fault == "empty" and len(mask):
            mask = mask.copy()
            mask[ids[:, 1] == 2] = False
        if self.fault == "end":
            ids = np.where(mask.all(axis=1, keepdims=True) & (ids == 2), 3, ids)
        if self.fault == "batch":
            ids = np.where(mask, np.minimum(ids + (len(ids) > 1), 5), ids)

        if self.fault == "mask":
            mask = np.ones_like(mask)
        if self.fault == "tail":  # keeps a long text's last words
            words = [text.split() for text in texts]
            texts = [" ".join(w[-(self.context_length - 2) :]) for w in words]
            ids, mask = self.inner(texts)
        return ids.astype(ids.dtype if self.fault == "int64" else np.int32), mask

    def unknown(self, text):
        return 1 if self.fault == "unknown" else ()

    def state(self):
        if self.fault == "state":
            return {"words": []}
        return '{"words": ["a"]}' if self.fault == "lost" else self.inner.state()

    def __reduce__(self):
        if self.fault == "pickle":
            raise TypeError("a lock")
        return Words, (self.fault, None, self.inner.state())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("vocab", "must be below vocab_size=4"),
        ("int64", "ids are int64"),
        ("empty", "a text has no token"),
        ("end", "a truncated text ends with 3, others with 2"),
        ("mask", "the mask is true everywhere"),
        ("tail", "does not begin with its first words"),
        ("unknown", "gives 1: must be a sequence of texts"),
        ("batch", "depend on its batch"),
        ("str", r"\[None\] gives ids: raise BadExample"),
        ("letters", "a text alone"),
        ("pickle", "cannot be pickled: a lock"),
        ("state", "state\\(\\) is a dict"),
        ("lost", "make\\(None, state\\) has another vocab_size"),
    ],
)
def test_a_broken_tokenizer(fault, message):
    def make(captions, state):
        """A tokenizer."""
        return Words(fault, captions, state)

    with pytest.raises(AssertionError, match=message):
        testing.check_tokenizer(make)


def test_a_tokenizer_without_a_fault():
    def make(captions, state):
        """A tokenizer."""
        return Words("", captions, state)

    testing.check_tokenizer(make)
    with pytest.raises(BadExample):
        make(lambda: iter(["a"]), None)([None])


# Optimizers


def broken_optimizer(fault):
    def make(rate, decay, *, lr: float = 0.01, weight_decay: float = 0.1):
        """An optimizer.

        Args:
          lr: learning rate.
          weight_decay: of every parameter.
        """

        def update(updates, state, params=None):
            del params
            moved = jax.tree.map(lambda m, g: 0.9 * m + g, state["m"], updates)
            kept = {"m": moved}
            if fault == "form":
                kept["n"] = jnp.zeros(())
            if fault == "root":
                moved = jax.tree.map(lambda m: m / jnp.sqrt(m * m), moved)
            return moved, kept

        inner = optax.GradientTransformation(
            lambda params: {"m": jax.tree.map(jnp.zeros_like, params)}, update
        )
        after = (
            optax.add_decayed_weights(weight_decay)
            if fault == "mask"
            else decay(weight_decay)
        )
        scale = lr if fault == "rate" else rate(lr)
        if fault == "up":
            return optax.chain(after, inner, optax.scale_by_schedule(rate(lr)))
        return optax.chain(after, inner, optax.scale_by_learning_rate(scale))

    return make


@pytest.mark.parametrize(
    ("fault", "check", "message"),
    [
        ("form", "state_keeps_its_form", "changes the form of the state"),
        ("up", "a_quadratic_falls", "it must fall"),
        ("rate", "follows_the_schedule", "at a rate of 0 the parameters move"),
        ("root", "stays_finite", "after gradients of 0"),
        ("mask", "decay_keeps_to_its_mask", "weight decay moves bias"),
    ],
)
def test_a_broken_optimizer(fault, check, message, monkeypatch):
    module = types.ModuleType("some.optimizer")
    monkeypatch.setitem(sys.modules, "some.optimizer", module)
    for name in (fault, ""):
        module.make = broken_optimizer(name)  # type: ignore
        module.make.__module__ = "some.optimizer"
        one = contract.component("optim", "some.optimizer", {})
        if name:
            with pytest.raises(AssertionError, match=message):
                getattr(optimizer_contract, check)(one)
        else:
            getattr(optimizer_contract, check)(one)


# Models


def test_a_model_whose_tower_has_another_name():
    made = registry.load("model", "two_tower")

    class Renamed:
        image_output = "image_embed"

        def __init__(self, image, text):
            self.inner = made(image, text, embed_dim=8)

        def init(self, key):
            found = dict(self.inner.init(key))
            params = dict(found["params"])
            params["picture"] = params.pop("image")
            return {**found, "params": params}

    def make(image, text):
        """A model."""
        return Renamed(image, text)

    subject = model_contract.ModelUnderTest(contract.component("model", make, {}))
    with pytest.raises(AssertionError, match="parameters lack 'image'"):
        model_contract.starts_by_tower(subject)
    with pytest.raises(AssertionError, match="must be equal and hashable"):
        model_contract.declares_what_is_known(subject)


# The command


@pytest.mark.thorough
def test_the_command(tmp_path):
    """On one device more are emulated; a line for each check, and an exit status."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "loss.py").write_text(
        '''"""A loss of no pairs."""

import types

import jax.numpy as jnp


def make(spec, *, weight: float = 1.0):
    """A loss.

    Args:
      weight: of the norm.
    """

    def loss(outputs, batch, state, step):
        value = weight * jnp.square(outputs["image_features"]).mean()
        return value, state, {}

    class Loss:
        init = staticmethod(dict)
        __call__ = staticmethod(loss)

    return Loss()
'''
    )
    words = ["loss=mine.loss", "--weight=0.5", "tokenizer=words", "--min_count=2"]
    run = [sys.executable, "-m", "clipjax.testing", *words]
    env = {**os.environ, "XLA_FLAGS": ""}
    env["PYTHONPATH"] = str(pathlib.Path(__file__).parents[2])
    done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "loss=mine.loss" and lines[-1] == "all ok"
    checks = [line for line in lines if line.startswith("  ok  ")]
    assert len(checks) == len(lines) - 3
    assert any("one device and many" in line for line in checks)


def test_the_command_says_what_fails(capsys, monkeypatch):
    monkeypatch.setattr(command, "emulate_devices", lambda: None)
    module = types.ModuleType("some.tokenizer")

    def make(captions, state, *, odd: int = 1):
        """A tokenizer."""
        return Words("lost", captions, state)

    monkeypatch.setitem(sys.modules, "some.tokenizer", module)
    module.make = make  # type: ignore
    assert command.main(["testing", "tokenizer=some.tokenizer"]) == 1
    printed = capsys.readouterr().out
    assert re.search("FAILED: options without a line in the docstring: odd", printed)
    assert re.search("FAILED: make.None, state. has another vocab_size", printed)
    assert printed.count("  ok  ") == 6 and printed.endswith("2 failed\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["los=clip"], "no such family. Did you mean 'loss'"),
        (["loss=clipp"], "unknown loss 'clipp'. Did you mean 'clip'"),
        (["loss"], "write FAMILY=COMPONENT"),
        (["--block=2"], "name a component before its options"),
        (["loss=clip", "--blok=2"], "no option --blok. Did you mean 'block'"),
        (["loss=clip", "--block=two"], "--block='two': must be int"),
    ],
)
def test_words_that_the_command_does_not_know(words, message, monkeypatch):
    monkeypatch.setattr(command, "emulate_devices", lambda: None)
    with pytest.raises(UserError, match=message):
        command.main(["testing", *words])
