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
from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from clipjax import option_checks
from clipjax.models.common import layers
from clipjax.models.multimodal.audio import SHAPE
from clipjax.models.multimodal.fusion import MODALITIES
from clipjax.models.multimodal.memory import WRITES
from clipjax.models.multimodal.network import MemoryNetwork
from clipjax.types import Batch, Outputs, Tree, UserError, Variables

TOWERS = ("image", "text")
Arrays = Array | np.ndarray  # the device's or the host's
Given = Mapping[str, Arrays]


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
        names = tuple(self._known())
        return self.module.init({"params": key}, batch, (names,), False, True)

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
        return self.encode(variables, {"image": image})[0]

    def encode_text(
        self, variables: Variables, text: Int[Arrays, "b l"], mask: Bool[Arrays, "b l"]
    ) -> Outputs:
        """The outputs of ids and their mask, true on tokens, alone."""
        return self.encode(variables, {"text": text, "text_mask": mask})[0]

    def encode_audio(
        self, variables: Variables, audio: Float[Arrays, "b f t"]
    ) -> Outputs:
        """The outputs of spectrograms alone."""
        return self.encode(variables, {"audio": audio})[0]

    def encode(
        self, variables: Variables, given: Given, state: Tree | None = None
    ) -> tuple[Outputs, Tree]:
        """One encoding of all modalities given, in evaluation mode.

        given: as a batch, any of "text" (with "text_mask"), "image" and "audio".
        state: of the memories, as an earlier call returned it; None: what was learned.

        Returns the outputs and the new state, {} if `test_time` is "off".

        Raises UserError if no modality is known, or counts of examples differ.
        """
        if not (names := self._given(given)):
            raise UserError(
                f"nothing to encode: give at least one of {', '.join(self._known())}"
            )
        if "text" in names and "text_mask" not in given:
            raise UserError("text is given without text_mask: give both")
        held = state if self.test_time == "example" else None
        counts = {len(x) for x in jax.tree.leaves((held, [given[n] for n in names]))}
        if len(counts) > 1:
            raise UserError(f"{names}, state: {sorted(counts)} rows; must be equal")
        return self._encode(variables, given, names, state)

    def _given(self, batch: Given) -> tuple[str, ...]:
        return tuple(name for name in self._known() if name in batch)

    def _known(self) -> list[str]:
        return [n for n in MODALITIES if n != "audio" or self.module.with_audio]

    def _encode(
        self,
        variables: Variables,
        batch: Given,
        names: tuple[str, ...],
        state: Tree | None = None,
        decode: bool = True,
    ) -> tuple[Outputs, Tree]:
        slots = {"ttt": state} if state else {}
        arrays = {name: jnp.asarray(x) for name, x in batch.items()}
        inputs = arrays, (names,), False, decode, self.test_time
        applied = self.module.apply({**variables, **slots}, *inputs, mutable=["ttt"])
        outputs, updated = cast(tuple[Outputs, Tree], applied)
        return outputs, updated.get("ttt", {})
