"""The Multimodal Memory Network: any of text, image and audio to one latent vector.

    image = load("image", "vit")(224, variant="B/16")
    text = load("text", "transformer")(6000, 40, causal=False, pool="mean")
    model = load("model", "memory_network")(image, text)

Each modality is encoded by its tower and reads from its own memory. The modalities that
an example has are fused, with bits that tell which they are; the result reads from the
central memory, several times with feedback. So text alone, an image alone, or any
combination gives a vector of the same space. After github.com/intrinsicD/DeepLearning2.

Towers are those of models/two_tower.py. Dimensions in shape comments: b batch, l text
length, f frequencies and t times of a spectrogram, d latent width.
"""

from __future__ import annotations

import dataclasses
import math
from types import MappingProxyType
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from clipjax import option_checks
from clipjax.models.common import layers
from clipjax.models.multimodal.audio import SHAPE, AudioEncoder
from clipjax.models.multimodal.fusion import (
    MODALITIES,
    Decoder,
    Fusion,
    drop_one,
    rows_with,
)
from clipjax.models.multimodal.memory import WRITES, Hidden, TestTimeMemory
from clipjax.models.multimodal.ttt import TttLinear
from clipjax.types import Batch, Outputs, Tree, UserError, Variables

TOWERS = ("image", "text")
Arrays = Array | np.ndarray  # the device's or the host's


def make(
    image_tower: nn.Module,
    text_tower: nn.Module,
    *,
    latent_dim: int = 512,
    memory_size: int = 128,
    heads: int = 8,
    feedback_steps: int = 2,
    top_k: int = 8,
    step_size: float = 0.1,
    test_time: str = "example",
    dropout: float = 0.1,
    modality_dropout: float = 0.15,
    audio: bool = False,
    decoders: tuple[str, ...] = (),
    joint: bool = False,
    ttt_layers: tuple[str, ...] = (),
    parity: bool = False,
    logit_scale_init: float = 1 / 0.07,
    learnable_scale: bool = True,
    mean: tuple[float, float, float] = layers.MEAN,
    std: tuple[float, float, float] = layers.STD,
    precision: str = "float32",
) -> MemoryNetworkModel:
    """A memory network over any two towers.

    Args:
      image_tower, text_tower: Linen modules as in models/two_tower.py.
      latent_dim: width of the latent vector and of every memory.
      memory_size: slots of the central memory, twice those of each modality's.
      heads: of the memories' attention, and of the TTT layers.
      feedback_steps: times that the latent vector is fed back to the central memory.
      top_k, step_size: of the central memory's writes (see
        multimodal/memory.py); those of a modality's move half as many slots.
      test_time: writes to the memories in evaluation. "off"; "example": each example
        starts from the learned slots; "batch": the mean over the batch, after which
        the result of an example depends on what else is in its batch.
      dropout: rate in memories, fusion, feedback, decoders and audio tower.
      modality_dropout: rate at which, in training, one modality of a joint encoding
        counts as absent.
      audio: build the audio tower and its memory, for batch["audio"].
      decoders: modalities whose encodings are predicted from a latent vector.
      joint: in training encode text and image together too, for a loss that asks for
        joint_embed or decoded_audio.
      ttt_layers: sides, "text" and "image", whose tokens go through a TTT-Linear layer
        (multimodal/ttt.py); their mean is added to the tower's pooled features.
      parity: as in the network's first version, whatever the options say: padding is
        seen and averaged, the temperature fixed, modality dropout and TTT layers off.
      logit_scale_init, learnable_scale, mean, std, precision: as in
        models/two_tower.py; memories and fusion are float32 under "bfloat16" too.

    Raises:
      UserError: for a value that cannot be used.
    """
    option_checks.one_of("model.precision", precision, layers.PRECISIONS)
    option_checks.one_of("model.test_time", test_time, WRITES)
    for name, values, known in (
        ("decoders", decoders, MODALITIES),
        ("ttt_layers", ttt_layers, TOWERS),
    ):
        for value in values:
            option_checks.one_of(f"model.{name}", value, known)
    option_checks.in_range("model.dropout", dropout)
    option_checks.in_range("model.modality_dropout", modality_dropout)
    option_checks.check_pixels(mean, std)
    option_checks.check_sizes("model", latent_dim, 1, heads)
    if not 2 <= top_k <= memory_size:
        raise UserError(
            f"model.top_k={top_k}: must be from 2 to model.memory_size={memory_size}"
        )
    if not 0 <= step_size <= 1:
        raise UserError(f"model.step_size={step_size}: must be in [0, 1]")
    if feedback_steps < 0:
        raise UserError(f"model.feedback_steps={feedback_steps}: must be 0 or more")
    option_checks.above_zero("model.logit_scale_init", logit_scale_init)
    if parity:
        if not hasattr(text_tower, "masked"):
            raise UserError(
                "model.parity=True averages over padding, which this text tower cannot "
                "do: choose text=transformer"
            )
        text_tower = text_tower.clone(masked=False)
        learnable_scale, modality_dropout, ttt_layers = False, 0.0, ()
    dtype = layers.PRECISIONS[precision]
    module = MemoryNetwork(
        image=image_tower.clone(dtype=dtype),
        text=text_tower.clone(dtype=dtype),
        latent_dim=latent_dim,
        memory_size=memory_size,
        heads=heads,
        feedback_steps=feedback_steps,
        top_k=top_k,
        step_size=step_size,
        dropout=dropout,
        modality_dropout=modality_dropout,
        with_audio=audio,
        decoders=tuple(decoders),
        ttt_layers=tuple(ttt_layers),
        logit_scale_init=logit_scale_init,
        learnable_scale=learnable_scale,
        mean=mean,
        std=std,
        dtype=dtype,
    )
    return MemoryNetworkModel(module, test_time, joint)


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
        squares = jnp.square(x).sum(axis=-1, keepdims=True)
        units = x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
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


@dataclasses.dataclass(frozen=True)
class MemoryNetworkModel:
    """The network as a types.Model. Equal settings give equal, hashable models.

    Outputs of an encoding NAME, "text", "image", "audio", or "joint" for several at
    once: NAME_embed float32 [b d] of unit norm, NAME_features [b d] the latent vector
    before normalisation, NAME_tokens [b n e] of an image's or text's tower, in
    evaluation NAME_pooled float32 [b e] of it, before projection and memories. If the
    model has decoders: decoded_NAME [b d], and what that should be, NAME_encoded [b d]
    before the memories, of modalities in the batch.

    test_time, joint: see `make`.
    """

    FREE = frozenset({"joint"})

    module: MemoryNetwork
    test_time: str
    joint: bool
    image_output = "image_embed"
    pooled_outputs = MappingProxyType({"image": "image_pooled", "text": "text_pooled"})

    def init(self, key: PRNGKeyArray) -> Variables:
        """Fresh float32 variables; pure: run it under jit, or eval_shape."""
        size, length = self.module.image.image_size, self.module.text.context_length
        batch = {
            "image": jnp.zeros((1, size, size, 3), jnp.uint8),
            "text": jnp.zeros((1, length), jnp.int32),
            "text_mask": jnp.ones((1, length), bool),
            "audio": jnp.zeros((1, *SHAPE), jnp.float32),
        }
        names = [n for n in MODALITIES if n != "audio" or self.module.with_audio]
        return self.module.init({"params": key}, batch, (tuple(names),), False, True)

    def apply(
        self, variables: Variables, batch: Batch, train: bool, key: PRNGKeyArray | None
    ) -> tuple[Outputs, Tree]:
        """Encodes each modality of the batch alone, and with `joint` text and image.

        batch: "image" uint8 [b h w 3], "text" and "text_mask" [b l], "audio" float
        [b f t]; rows whose NAME_present, bool [b], is false count as absent.

        In training `key` draws the dropout masks, over the whole batch, so that they do
        not depend on the number of devices; nothing is written to the memories.

        Returns the outputs and the new batch_stats ({} without).
        """
        sets: list[tuple[str, ...]] = [(name,) for name in self._given(batch)]
        if self.joint and ("text",) in sets and ("image",) in sets:
            sets.append(("text", "image"))
        inputs, joint = (dict(batch), tuple(sets)), len(sets[-1]) > 1
        stats = variables.get("batch_stats", {})
        if train:
            rngs = {} if key is None else {"dropout": key}
            applied = self.module.apply(
                variables, *inputs, True, joint, rngs=rngs, mutable=["batch_stats"]
            )
            outputs, updated = cast(tuple[Outputs, Tree], applied)
            return outputs, updated.get("batch_stats", stats)
        if self.test_time == "off":
            outputs = cast(Outputs, self.module.apply(variables, *inputs, False, joint))
            return outputs, stats
        outputs = {}
        for one in sets:  # each from the learned slots
            outputs |= self._encode(variables, batch, one, decode=len(one) > 1)[0]
        return outputs, stats

    def encode_image(
        self, variables: Variables, image: Shaped[Arrays, "b h w 3"]
    ) -> Outputs:
        """The outputs of images alone, in evaluation mode."""
        return self.encode(variables, {"image": jnp.asarray(image)})[0]

    def encode_text(
        self, variables: Variables, text: Int[Arrays, "b l"], mask: Bool[Arrays, "b l"]
    ) -> Outputs:
        """The outputs of ids and their mask, true on tokens, alone."""
        given = {"text": jnp.asarray(text), "text_mask": jnp.asarray(mask)}
        return self.encode(variables, given)[0]

    def encode_audio(
        self, variables: Variables, audio: Float[Arrays, "b f t"]
    ) -> Outputs:
        """The outputs of spectrograms alone."""
        return self.encode(variables, {"audio": jnp.asarray(audio)})[0]

    def encode(
        self, variables: Variables, given: Batch, state: Tree | None = None
    ) -> tuple[Outputs, Tree]:
        """One encoding of all modalities given, in evaluation mode.

        given: as a batch, any of "text" (with "text_mask"), "image" and "audio".
        state: of the memories, as an earlier call returned it; None: what was learned.

        Returns the outputs and the new state, {} if `test_time` is "off".

        Raises UserError if no modality is known, or counts of examples differ.
        """
        if not (names := self._given(given)):
            known = ", ".join(self._known())
            raise UserError(f"nothing to encode: give at least one of {known}")
        if "text" in names and "text_mask" not in given:
            raise UserError("text is given without text_mask: give both")
        held = state if self.test_time == "example" else None
        counts = {len(x) for x in jax.tree.leaves((held, [given[n] for n in names]))}
        if len(counts) > 1:
            raise UserError(f"{names}, state: {sorted(counts)} rows; must be equal")
        return self._encode(variables, given, names, state)

    def _given(self, batch: Batch) -> tuple[str, ...]:
        return tuple(name for name in self._known() if name in batch)

    def _known(self) -> list[str]:
        return [n for n in MODALITIES if n != "audio" or self.module.with_audio]

    def _encode(
        self,
        variables: Variables,
        batch: Batch,
        names: tuple[str, ...],
        state: Tree | None = None,
        decode: bool = True,
    ) -> tuple[Outputs, Tree]:
        slots = {"ttt": state} if state else {}
        inputs = dict(batch), (names,), False, decode, self.test_time
        applied = self.module.apply({**variables, **slots}, *inputs, mutable=["ttt"])
        outputs, updated = cast(tuple[Outputs, Tree], applied)
        return outputs, updated.get("ttt", {})
