"""LoRA: low-rank additions to frozen kernels (arXiv 2106.09685).

A kernel W [d f] becomes W + alpha / rank * down @ up, down [d rank] normal with std
d^-0.5 and up [rank f] zero at the start. The additions are parameters of their own,
"lora/<path of the kernel>/down" and ".../up"; the model itself is unchanged, so any
model of any towers takes them, and `merge` returns its plain variables.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from clipjax import option_checks, param_paths
from clipjax.types import Batch, Model, Outputs, Tree, UserError, Variables

# Besides the additions, everything outside the towers trains: projections, temperature.
FROZEN = ((r"^(image|text)/", 0.0, 0.0),)


def add(model: Model, *, rank: int, alpha: float, on: str) -> Model:
    """The model with additions; unchanged if rank is 0.

    Args:
      on: regular expression over '/'-joined paths of two-dimensional kernels.

    Raises:
      UserError: for a value out of range, or if nothing matches.
    """
    if rank == 0:
        return model
    option_checks.at_least_one("lora.rank", rank)
    option_checks.above_zero("lora.alpha", alpha)
    try:
        re.compile(on)
    except re.error as error:
        raise UserError(f"lora.on={on!r}: no regular expression ({error})") from error
    lora_model = LoraModel(model, rank, alpha / rank, on)
    shapes = jax.eval_shape(model.init, jax.random.key(0))["params"]
    if not lora_model.kernels(shapes):
        raise UserError(f"lora.on={on!r}: matches no kernel (--dry_run lists all)")
    return lora_model


def merged(model: Model, variables: Variables) -> tuple[Model, Variables]:
    """A model and its variables, with additions in its kernels if it has any."""
    if isinstance(model, LoraModel):
        return model.model, model.merge(variables)
    return model, variables


@dataclasses.dataclass(frozen=True)
class LoraModel:
    """See `add`. scale: alpha / rank."""

    FREE = frozenset({"on"})  # the names of additions say which kernels have one
    OPTIONS = {"scale": "alpha / lora.rank"}

    model: Model
    rank: int
    scale: float
    on: str

    @property
    def image_output(self) -> str:
        return self.model.image_output

    @property
    def pooled_outputs(self) -> Mapping[str, str]:
        return self.model.pooled_outputs

    def kernels(
        self, params: Tree
    ) -> dict[str, Float[Array, "d f"] | jax.ShapeDtypeStruct]:
        """'/'-joined path -> kernel of those that have an addition."""
        return {
            name: leaf
            for name, leaf in param_paths.flatten(params).items()
            if leaf.ndim == 2 and name.endswith("/kernel") and re.search(self.on, name)
        }

    def init(self, key: PRNGKeyArray) -> Variables:
        """The model's fresh variables and the additions, which change nothing yet."""
        variables = self.model.init(key)
        additions = {}
        kernels = self.kernels(variables["params"])
        for number, (name, kernel) in enumerate(sorted(kernels.items())):
            d, f = kernel.shape
            shape = (d, self.rank)
            draw = jax.random.normal(jax.random.fold_in(key, number), shape)
            additions[f"{name}/down"] = draw * d**-0.5
            additions[f"{name}/up"] = jnp.zeros((self.rank, f))
        params = {**variables["params"], "lora": param_paths.unflatten(additions)}
        return {**variables, "params": params}

    def merge(self, variables: Variables) -> Variables:
        """The model's own variables, with the additions in its kernels."""

        def one(node: PyTree, addition: Tree) -> PyTree:
            if "down" in addition:
                product = addition["down"] @ addition["up"]
                return node + (self.scale * product).astype(node.dtype)
            return {
                name: one(node[name], addition[name])
                if name in addition
                else node[name]
                for name in node
            }

        params = dict(variables["params"])
        additions = params.pop("lora")
        return {**variables, "params": one(params, additions)}

    def apply(
        self, variables: Variables, batch: Batch, train: bool, key: PRNGKeyArray | None
    ) -> tuple[Outputs, Tree]:
        return self.model.apply(self.merge(variables), batch, train, key)

    def encode_image(
        self, variables: Variables, image: Shaped[Array, "b h w 3"]
    ) -> Outputs:
        return self.model.encode_image(self.merge(variables), image)

    def encode_text(
        self, variables: Variables, text: Int[Array, "b l"], mask: Bool[Array, "b l"]
    ) -> Outputs:
        return self.model.encode_text(self.merge(variables), text, mask)
