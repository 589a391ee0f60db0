"""Freezing: training leaves parts of a model unchanged, bit for bit.

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
        frozen = set(self.names)  # paths of parameters and, once found, of modules
        params = _stop(variables["params"], "", frozen)
        for path in param_paths.flatten(params.get("lora", {})):
            # All modules around a kernel with an addition train.
            parts = path.split("/")[:-1]
            frozen -= {"/".join(parts[:end]) for end in range(len(parts))}

        def evaluate(call, args, kwargs, context):
            if "/".join(context.module.path) not in frozen:
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


def _stop(node: PyTree, path: str, frozen: set[str]) -> PyTree:
    """Stops the gradients of frozen leaves; adds fully frozen modules to `frozen`."""
    if not isinstance(node, dict):
        return jax.lax.stop_gradient(node) if path in frozen else node
    paths = {name: f"{path}/{name}" if path else name for name in node}
    tree = {name: _stop(node[name], paths[name], frozen) for name in node}
    if all(inner in frozen for inner in paths.values()):
        frozen.add(path)
    return tree
