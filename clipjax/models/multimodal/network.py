"""The Linen module of models/memory_network.py: towers, memories and their fusion."""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from clipjax import option_checks
from clipjax.models.common import layers
from clipjax.models.common.heads import unit_norm
from clipjax.models.multimodal.audio import AudioEncoder
from clipjax.models.multimodal.fusion import (
    MODALITIES,
    Decoder,
    Fusion,
    drop_one,
    rows_with,
)
from clipjax.models.multimodal.memory import Hidden, TestTimeMemory
from clipjax.models.multimodal.ttt import TttLinear
from clipjax.types import Batch, Outputs


class MemoryNetwork(nn.Module):
    """See `make`."""

    FREE = frozenset({"dropout", "modality_dropout", "logit_scale_init"})
    OPTIONS = {"with_audio": "audio"}

    image: nn.Module
    text: nn.Module
    latent_dim: int
    memory_size: int
    heads: int
    feedback_steps: int
    top_k: int
    step_size: float
    dropout: float
    modality_dropout: float
    with_audio: bool
    decoders: tuple[str, ...]
    ttt_layers: tuple[str, ...]
    logit_scale_init: float
    learnable_scale: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self,
        batch: Batch,
        sets: tuple[tuple[str, ...], ...],
        train: bool,
        decode: bool,
        writes: str = "off",
    ) -> Outputs:
        """Encodes each set of modalities; see MemoryNetworkModel for the outputs.

        decode: the latent vector of the last set. writes: how to write to the memories;
        with any but "off" there is one set, and the collection "ttt" is mutable.
        """
        given = [name for name in MODALITIES if any(name in one for one in sets)]
        present = {name: rows_with(batch, name, len(batch[name])) for name in given}
        outputs: Outputs = {}
        encoded, read = {}, {}
        for name in given:
            encoded[name] = self._encode(name, batch, train, outputs)
            memory = self._memory(name, self.memory_size // 2, self.top_k // 2)
            read[name] = memory.write(encoded[name], present[name], train, writes)
        here = [{name: present[name] for name in one} for one in sets]
        if train and self.modality_dropout:
            here = [
                drop_one(one, self.modality_dropout, self.make_rng("dropout"))
                if len(one) > 1
                else one
                for one in here
            ]
        # The sets of an example lie side by side, as more rows of one batch.
        x = Fusion(self.latent_dim, self.dropout, name="fusion")(read, here, train)
        any_here = [jnp.stack(list(one.values())).any(axis=0) for one in here]
        feedback = Hidden(self.latent_dim, self.dropout, name="feedback")
        central = self._memory("central", self.memory_size, self.top_k)
        x = central.write(x, jnp.stack(any_here, axis=1).reshape(-1), train, writes)
        for _ in range(self.feedback_steps):
            x = central.read(x + feedback(x, train), train)
        x = x.reshape(-1, len(sets), self.latent_dim)
        units = unit_norm(x)
        for i, one in enumerate(sets):
            name = one[0] if len(one) == 1 else "joint"
            outputs[f"{name}_features"] = x[:, i]
            outputs[f"{name}_embed"] = units[:, i]
        for name in self.decoders:
            if name in given:
                outputs[f"{name}_encoded"] = encoded[name]
            if decode:
                decoder = Decoder(self.dropout, name=f"{name}_decoder")
                outputs[f"decoded_{name}"] = decoder(x[:, -1], train)
        outputs["logit_scale"] = self._logit_scale()
        return outputs

    def _encode(
        self, name: str, batch: Batch, train: bool, outputs: Outputs
    ) -> Float[Array, "b {self.latent_dim}"]:
        """A modality's tower; its tokens go among the outputs."""
        if name == "audio":
            sizes = self.latent_dim, self.dropout, self.dtype
            return AudioEncoder(*sizes, name="audio")(batch["audio"], train)
        mask = None
        if name == "image":
            image = layers.normalise_image(batch["image"], self.mean, self.std)
            encoded = self.image(image, train)
        else:
            mask = batch["text_mask"]
            encoded = self.text(batch["text"], mask, train)
        pooled, tokens = encoded["pooled"], encoded["tokens"]
        outputs[f"{name}_tokens"] = tokens
        x = pooled.astype(jnp.promote_types(pooled.dtype, jnp.float32))
        if name in self.ttt_layers:
            option_checks.check_sizes(
                f"model (ttt_layers: {name})", x.shape[-1], 1, self.heads
            )
            learn = TttLinear(self.heads, dtype=self.dtype, name=f"{name}_ttt")
            learned = learn(tokens, mask).astype(x.dtype)
            seen = jnp.ones(tokens.shape[:2], bool) if mask is None else mask
            x = x + layers.masked_mean(learned, seen)
        if not train:  # no loss takes them
            outputs[f"{name}_pooled"] = x
        if name == "text" or x.shape[-1] != self.latent_dim:
            x = layers.Dense(self.latent_dim, None, name=f"{name}_projection")(x)
        return x

    def _memory(self, name: str, slots: int, top_k: int) -> TestTimeMemory:
        return TestTimeMemory(
            slots,
            self.latent_dim,
            self.heads,
            top_k,
            self.step_size,
            self.dropout,
            name=f"{name}_memory",
        )

    def _logit_scale(self) -> Float[Array, ""]:
        if not self.learnable_scale:
            return jnp.asarray(self.logit_scale_init, jnp.float32)
        start = nn.initializers.constant(math.log(self.logit_scale_init))
        return jnp.exp(self.param("logit_scale", start, ()))
