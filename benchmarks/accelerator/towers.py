"""The model and the training step of configs/vit_b16.py, on synthetic batches."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import train_step

from clipjax import commandline
from clipjax.config import create
from clipjax.engine import state as states
from clipjax.engine.step import make_train_step
from clipjax.models.common import layers
from clipjax.optim import factory
from clipjax.registry import load
from clipjax.types import LossSpec

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "vit_b16.py"
VOCABULARY, LENGTH = 49_408, 77  # the config's tokenizer's

# Values that replace the config's.
LARGE = {
    "model.image.variant": "L/14",
    "model.text.variant": "L",
    "model.embed_dim": 768,
}
TINY = {
    "data.image_size": 16,
    "model.image.variant": "Ti/8",
    "model.image.width": 32,
    "model.image.depth": 1,
    "model.image.heads": 2,
    "model.text.width": 32,
    "model.text.depth": 1,
    "model.text.heads": 2,
    "model.embed_dim": 16,
}


@dataclasses.dataclass(frozen=True)
class Clip:
    """case: the model's sizes, which give its FLOPs."""

    config: Any
    model: Any
    case: train_step.Case

    @property
    def pair_flops(self) -> float:
        """FLOPs per pair and training step, recomputation not counted."""
        return self.case.flops(self.case.length)


def clip(tiny: bool, *, large: bool = False, remat: bool = False) -> Clip:
    """Makes the config's model; tiny: in sizes for a CPU."""
    config = commandline.load_file(str(CONFIG))
    changes = TINY if tiny else LARGE if large else {}
    config.update_from_flattened_dict(
        {**changes, "model.image.remat": remat, "model.text.remat": remat}
    )
    vocabulary, length = (64, 8) if tiny else (VOCABULARY, LENGTH)
    image = create("image", config.model.image, config.data.image_size)
    text = create("text", config.model.text, vocabulary, length)
    case = train_step.Case(
        image_size=image.image_size,
        patch=image.patch,
        image=(image.width, image.depth, image.heads),
        length=length,
        text=(text.width, text.depth, text.heads),
        embed_dim=config.model.embed_dim,
        batch=config.data.batch_size,
        vocab_size=vocabulary,
    )
    return Clip(config, create("model", config.model, image, text), case)


def batch_of(clip: Clip, size: int) -> dict[str, jax.Array]:
    """Makes random pixels and full-length texts on the device."""
    draw = np.random.default_rng(0)
    side, length = clip.case.image_size, clip.case.length
    pixels = (size, side, side, 3)
    words = draw.integers(0, clip.case.vocab_size, (size, length), np.int32)
    ids = np.arange(size, dtype=np.int32)
    return jax.device_put(
        {
            "image": draw.integers(0, 256, pixels, np.uint8),
            "text": words,
            "text_mask": np.ones((size, length), bool),
            "image_id": ids,
            "text_id": ids,
        }
    )


class Training:
    """Training steps of a model, with one program per batch size.

    The state is donated from step to step, and programs share it.
    """

    def __init__(self, clip: Clip):
        self.clip = clip

        parameters = jax.eval_shape(lambda: clip.model.init(jax.random.key(0)))
        self._optim = factory.make(clip.config.optim, 1000, 100, parameters["params"])
        make = lambda: states.create(  # noqa: E731
            clip.model, self._loss(2), self._optim.tx, False, 0
        )
        self.state = jax.jit(make)()
        leaves = jax.tree.leaves(self.state.params)
        self.parameters = sum(leaf.size for leaf in leaves)
        self.metrics: dict[str, jax.Array] = {}

    def _loss(self, size: int):
        spec = LossSpec(size, size, self.clip.case.embed_dim, size, 100, 1000)
        return load("loss", "clip")(spec)

    def program(self, size: int, micro_batches: int = 1) -> tuple[Any, dict]:
        """Returns a function that starts a step, and its program's facts."""
        step = make_train_step(
            self.clip.model,
            self._loss(size),
            self._optim,
            ema=0.0,
            max_logit_scale=100.0,
            micro_batches=micro_batches,
        )
        batch = batch_of(self.clip, size)
        start = time.perf_counter()
        lowered = jax.jit(step, donate_argnums=0).lower(self.state, batch)
        traced = time.perf_counter()
        compiled = lowered.compile()
        known = {
            "batch": size,
            "trace_seconds": round(traced - start, 2),
            "compile_seconds": round(time.perf_counter() - traced, 2),
            **bytes_of(compiled),
        }

        def begin():
            self.state, self.metrics = compiled(self.state, batch)
            return self.metrics["loss"]

        return begin, known


def bytes_of(compiled: Any) -> dict[str, int]:
    """Returns the device memory that a program reports, over all its arrays."""
    memory = compiled.memory_analysis()
    inputs, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
    temporary = memory.temp_size_in_bytes
    total = inputs + outputs - memory.alias_size_in_bytes + temporary
    return {"program_bytes": total, "temporary_bytes": temporary}


def attention_used(clip: Clip) -> str:
    """Returns the attention kernel that the towers use here."""
    width = clip.case.image[0] // clip.case.image[2]
    heads = jax.ShapeDtypeStruct((1, 1, 1, width), jnp.bfloat16)
    return "cudnn" if layers._has_fused_kernel(heads) else "xla"


@contextlib.contextmanager
def attention_by_xla():
    """Towers traced in the block use XLA's attention instead of cuDNN's."""
    original = layers._has_fused_kernel
    layers._has_fused_kernel = lambda query: False
    try:
        yield
    finally:
        layers._has_fused_kernel = original
