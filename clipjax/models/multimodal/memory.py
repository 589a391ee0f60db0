"""A memory of learned slots that can also be written to at test time.

Reading is attention from a vector to the slots, as in Perceiver (arXiv 2103.03206) or a
key-value memory (arXiv 1606.03126). Writing moves the slots nearest to what is written
by a learned gate; it happens in evaluation only, has no gradient, and keeps the new
slots in the collection "ttt", never among the parameters. After
github.com/intrinsicD/DeepLearning2.

Dimensions in shape comments: b batch, s slots, k slots written, d width; g is 1 if
all examples share the slots, else b.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from clipjax.models.common import layers

WRITES = ("off", "example", "batch")


class Hidden(nn.Module):
    """A dense layer, layer normalisation, ReLU and dropout."""

    features: int
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "*b d"], train: bool
    ) -> Float[Array, "*b {self.features}"]:
        x = layers.Dense(self.features, None, name="dense")(x)
        x = nn.relu(layers.LayerNorm(name="norm")(x))
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class Proposal(nn.Module):
    """An MLP over a slot and the content."""

    @nn.compact
    def __call__(self, both: Float[Array, "g k d2"]) -> Float[Array, "g k d2//2"]:
        features = both.shape[-1] // 2
        x = Hidden(features, name="hidden")(both, False)
        return layers.Dense(features, None, name="out")(x)


class TestTimeMemory(nn.Module):
    """See the module.

    top_k: slots that a write moves, those of the largest product with the content.
    step_size: r in slot <- slot (1 - r gate) + r gate proposal.
    """

    slots: int
    width: int
    heads: int
    top_k: int
    step_size: float
    dropout: float = 0.0  # of attention weights

    def setup(self):
        d = self.width
        normal = nn.initializers.normal
        self.memory = self.param("memory", normal(0.02), (self.slots, d))
        self.query = layers.Dense(d, None)
        self.key_value = layers.Dense(2 * d, None)
        self.out = layers.Dense(d, None)
        self.norm = layers.LayerNorm()
        self.drop = nn.Dropout(self.dropout)
        self.gate = Proposal()
        self.proposal = Proposal()

    def read(self, x: Float[Array, "b d"], train: bool) -> Float[Array, "b d"]:
        """norm(x + attention from x to the slots)."""
        slots = self._slots()
        queries = self.query(x)[None] if slots.shape[0] == 1 else self.query(x)[:, None]
        key, value = jnp.split(self.key_value(slots), 2, axis=-1)
        query, key, value = (
            part.reshape(*part.shape[:2], self.heads, -1)
            for part in (queries, key, value)
        )
        weights, sums = layers.attention_weights(query, key, False, None)
        weights = self.drop(weights / sums, deterministic=not train)
        mixed = jnp.einsum("ghns,gshe->gnhe", weights.astype(value.dtype), value)
        return self.norm(x + self.out(mixed.reshape(x.shape)))

    def write(
        self,
        x: Float[Array, "b d"],
        present: Bool[Array, " b"],
        train: bool,
        mode: str,
    ) -> Float[Array, "b d"]:
        """Reads; then writes x, but for rows that are not present.

        mode: "off" writes nothing, "example" gives each example slots of its own, and
        "batch" writes the mean over the batch into slots that all examples share. With
        any but "off" the collection "ttt" has to be mutable.
        """
        result = self.read(x, train)
        # A fresh model, though it writes nothing, needs the parameters of writing.
        if mode == "off" and not self.is_initializing():
            return result
        slots = self._slots()
        if mode == "example":
            slots = jnp.broadcast_to(slots, (x.shape[0], *slots.shape[1:]))
            content, some = x, present
        else:
            weights = present.astype(x.dtype)
            content = (x * weights[:, None]).sum(axis=0, keepdims=True)
            content = content / jnp.maximum(weights.sum(), 1)
            some = present.any(keepdims=True)
        new = jnp.where(some[:, None, None], self._written(slots, content), slots)
        if mode != "off":
            new = new if mode == "example" else new[0]
            self.put_variable("ttt", "memory", jax.lax.stop_gradient(new))
        return result

    def _slots(self) -> Float[Array, "g {self.slots} {self.width}"]:
        """As last written, else as learned."""
        slots = self.memory
        if self.has_variable("ttt", "memory"):
            slots = self.get_variable("ttt", "memory")
        slots = jnp.asarray(slots)  # variables may be NumPy arrays
        return slots if slots.ndim == 3 else slots[None]

    def _written(
        self, slots: Float[Array, "g s d"], content: Float[Array, "g d"]
    ) -> Float[Array, "g s d"]:
        """The slots after writing the content."""
        similarity = jnp.einsum("gsd,gd->gs", slots, content)
        _, nearest = jax.lax.top_k(similarity, self.top_k)
        old = jnp.take_along_axis(slots, nearest[:, :, None], axis=1)
        content = jnp.broadcast_to(content[:, None], old.shape)
        both = jnp.concatenate([old, content], axis=-1)
        step = self.step_size * jax.nn.sigmoid(self.gate(both))
        new = old * (1 - step) + step * self.proposal(both)
        rows = jnp.arange(slots.shape[0])[:, None]
        return slots.at[rows, nearest].set(new.astype(slots.dtype))
