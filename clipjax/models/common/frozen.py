"""Freezing: parts of a model that training leaves bit for bit as they are.

A module whose parameters are all frozen also runs in evaluation mode while the rest
trains: no dropout, and batch normalisation by its running statistics, as LiT locks a
tower (arXiv 2111.07991).
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping

import jax
from flax import linen as nn
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree, Shaped

from clipjax import param_paths
from clipjax.types import Batch, Model, Outputs, Tree, Variables


def freeze(model: Model, names: frozenset[str]) -> Model:
    """The model with the parameters of these '/'-joined paths frozen in training."""
    return FrozenParts(model, names) if names else model


@dataclasses.dataclass(frozen=True)
class FrozenParts:
    """See `freeze`."""

    model: Model
    names: frozenset[str]

    @property
    def image_output(self) -> str:
        return self.model.image_output

    @property
    def pooled_outputs(self) -> Mapping[str, str]:
        return self.model.pooled_outputs

    def init(self, key: PRNGKeyArray) -> Variables:
        return self.model.init(key)

    def apply(
        self, variables: Variables, batch: Batch, train: bool, key: PRNGKeyArray | None
    ) -> tuple[Outputs, Tree]:
        """As the model's own; frozen parameters get no gradient."""
        if not train:
            return self.model.apply(variables, batch, train, key)
        still = set(self.names)  # paths of modules and parameters that are frozen
        params = _stop(variables["params"], "", still)
        for path in param_paths.named(params.get("lora", {})):
            # What holds a kernel with an addition trains, all the way up.
            parts = path.split("/")[:-1]
            still -= {"/".join(parts[:end]) for end in range(len(parts))}

        def evaluate(call, args, kwargs, context):
            if "/".join(context.module.path) not in still:
                return call(*args, **kwargs)
            method = getattr(type(context.module), context.method_name)
            signature = inspect.signature(method)
            if "train" not in signature.parameters:
                return call(*args, **kwargs)
            bound = signature.bind(context.module, *args, **kwargs)
            bound.arguments["train"] = False
            return call(*bound.args[1:], **bound.kwargs)

        with nn.intercept_methods(evaluate):
            return self.model.apply({**variables, "params": params}, batch, train, key)

    def encode_image(
        self, variables: Variables, image: Shaped[Array, "b h w 3"]
    ) -> Outputs:
        return self.model.encode_image(variables, image)

    def encode_text(
        self, variables: Variables, text: Int[Array, "b l"], mask: Bool[Array, "b l"]
    ) -> Outputs:
        return self.model.encode_text(variables, text, mask)


def _stop(node: PyTree, path: str, still: set[str]) -> PyTree:
    """The tree without gradients where it is frozen; adds modules that wholly are."""
    if not isinstance(node, dict):
        return jax.lax.stop_gradient(node) if path in still else node
    below = {name: f"{path}/{name}" if path else name for name in node}
    tree = {name: _stop(node[name], below[name], still) for name in node}
    if all(place in still for place in below.values()):
        still.add(path)
    return tree
