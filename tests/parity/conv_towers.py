"""Convolutional towers of torchvision, open_clip and timm as ours, in small cases.

Weights are made from their names, so that goldens need to hold results only.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import flax.traverse_util
import hf_clip
import jax
import jax.numpy as jnp
import numpy as np

from clipjax.models.image import convnext, modified_resnet, resnet

# (name in PyTorch, path in ours); a {} is the same number in both.
Table = tuple[tuple[str, str], ...]
STAGES: Table = tuple(
    (f"layer{index + 1}.{{}}.{theirs}", f"stage_{index}/block_{{}}/{ours}")
    for index in range(4)
    for theirs, ours in (
        ("conv{}", "conv_{}"),
        ("bn{}", "norm_{}"),
        ("downsample.0", "shortcut_conv"),
        ("downsample.1", "shortcut_norm"),
    )
)
RESNET: Table = (("conv1", "stem/conv_1"), ("bn1", "stem/norm_1"), *STAGES)
MODIFIED_RESNET: Table = (
    ("conv{}", "stem/conv_{}"),
    ("bn{}", "stem/norm_{}"),
    *STAGES,
    ("attnpool.positional_embedding", "pool/positions"),
    ("attnpool.q_proj", "pool/query"),
    ("attnpool.k_proj", "pool/key"),
    ("attnpool.v_proj", "pool/value"),
    ("attnpool.c_proj", "pool/out"),
)
CONVNEXT: Table = (
    ("stem.0", "stem/conv_1"),
    ("stem.1", "stem/norm_1"),
    ("stages.{}.downsample.0", "stage_{}/downsample_norm"),
    ("stages.{}.downsample.1", "stage_{}/downsample_conv"),
    ("stages.{}.blocks.{}.conv_dw", "stage_{}/block_{}/conv_1"),
    ("stages.{}.blocks.{}.norm", "stage_{}/block_{}/norm_1"),
    ("stages.{}.blocks.{}.mlp.fc{}", "stage_{}/block_{}/fc{}"),
    ("stages.{}.blocks.{}.gamma", "stage_{}/block_{}/layer_scale"),
    ("head.norm", "post_norm"),
)
# The last part of a name in PyTorch and of a path in ours.
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def rename(rows: Iterable[tuple[str, str]], name: str) -> str:
    """The second template of the one row whose first one fits the name."""
    found = [
        second.format(*match.groups())
        for first, second in rows
        if (match := re.fullmatch(re.escape(first).replace(r"\{\}", r"(\d+)"), name))
    ]
    assert len(found) == 1, f"{name}: {found}"
    return found[0]


def from_torch(table: Table, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A state dict as our variables: {"params": tree, "batch_stats": tree}."""
    flat: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    for name, array in arrays.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        if leaf.startswith("running"):
            path = f"{rename(table, module)}/{leaf.removeprefix('running_')}"
            flat["batch_stats"][path] = array
        elif leaf in ("weight", "bias"):
            ours = "scale" if leaf == "weight" and array.ndim == 1 else leaf
            ours = ours.replace("weight", "kernel")
            flat["params"][f"{rename(table, module)}/{ours}"] = (
                array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
            )
        else:
            flat["params"][rename(table, name)] = array
    return {
        kind: flax.traverse_util.unflatten_dict(tree, "/")
        for kind, tree in flat.items()
        if tree
    }


def to_torch(table: Table, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `from_torch`."""
    rows = [(ours, theirs) for theirs, ours in table]
    arrays = {}
    for tree in variables.values():
        for path, array in flax.traverse_util.flatten_dict(tree, sep="/").items():
            module, _, leaf = path.rpartition("/")
            if leaf in LEAVES:
                if leaf == "kernel":
                    array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
                arrays[f"{rename(rows, module)}.{LEAVES[leaf]}"] = array
            else:
                arrays[rename(rows, path)] = array
    return arrays


@dataclasses.dataclass(frozen=True)
class Case:
    """One tower of ours and theirs.

    options: of our factory. theirs: what their class or factory takes.
    """

    kind: str
    image_size: int
    options: dict[str, Any]
    theirs: dict[str, Any]
    dtype: str = "float32"


CASES = {
    "basic": Case(
        "resnet",
        61,  # odd on the way down: 31, 16, 8, 4, 2
        {"variant": "18", "depths": (1, 2, 1, 1)},
        {"block": "BasicBlock", "layers": [1, 2, 1, 1]},
    ),
    "bottleneck": Case(
        "resnet",
        50,  # 25, 13, 7, 4, 2
        {"variant": "50", "depths": (2, 1, 1, 1)},
        {"block": "Bottleneck", "layers": [2, 1, 1, 1]},
    ),
    "modified": Case(
        "modified_resnet",
        64,
        {"width": 8, "depths": (1, 2, 1, 1), "heads": 4, "output_dim": 24},
        {"width": 8, "layers": [1, 2, 1, 1], "heads": 4, "output_dim": 24},
    ),
    "convnext": Case(
        "convnext",
        77,  # 19, 9, 4, 2
        {"variant": "base", "width": 8, "depths": (1, 2, 1, 1)},
        {"name": "base", "dims": (8, 16, 32, 64), "depths": (1, 2, 1, 1)},
    ),
    "convnext_xx": Case(
        "convnext",
        32,
        {"variant": "xxlarge", "width": 6, "depths": (1, 1, 1, 1)},
        {"name": "xxlarge", "dims": (6, 12, 24, 48), "depths": (1, 1, 1, 1)},
    ),
}
# As published; compared in slow tests only.
WHOLE = {
    "resnet18": Case(
        "resnet", 64, {"variant": "18"}, {"block": "BasicBlock", "layers": [2] * 4}
    ),
    "resnet50": Case(
        "resnet",
        64,
        {"variant": "50"},
        {"block": "Bottleneck", "layers": [3, 4, 6, 3]},
    ),
    "RN50": Case(
        "modified_resnet",
        64,
        {"variant": "RN50"},
        {"width": 64, "layers": [3, 4, 6, 3], "heads": 32, "output_dim": 1024},
    ),
    "convnext_tiny": Case("convnext", 64, {"variant": "tiny"}, {"name": "tiny"}),
}
TABLES = {
    "resnet": RESNET,
    "modified_resnet": MODIFIED_RESNET,
    "convnext": CONVNEXT,
}
FACTORIES = {
    "resnet": resnet.make,
    "modified_resnet": modified_resnet.make,
    "convnext": convnext.make,
}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One array of a state dict, by its name there.

    The first convolution gives a variance near the epsilon of the normalisation after
    it, so that a wrong epsilon shows.
    """
    values = hf_clip.uniform(name, shape)
    if len(shape) == 1 or "embedding" in name:
        one = name.endswith(("weight", "gamma", "running_var"))
        values = one + np.float32(0.3) * values
    else:
        values = values * np.float32(math.sqrt(2 / math.prod(shape[1:])))
    if name == "bn1.running_var":
        return values * np.float32(1e-5)
    first = name.startswith(("conv1.", "stem.0.", "bn1.running_mean"))
    return values * np.float32(0.003) if first else values


def images(case: Case, seed: int) -> np.ndarray:
    """Normalised images [4 h w 3]: 5 x 5 patches of colour under noise."""
    at = np.arange(case.image_size) * 5 // case.image_size
    colours = hf_clip.uniform(f"colours {seed}", (4, 5, 5, 3))[:, at][:, :, at]
    noise = hf_clip.uniform(f"noise {seed}", colours.shape)
    return (colours + np.float32(0.3) * noise).astype(case.dtype)


def tower(case: Case) -> Any:
    return FACTORIES[case.kind](case.image_size, **case.options)


def our_variables(case: Case) -> dict[str, Any]:
    """Variables of our tower, made from their names in PyTorch."""
    module, image = tower(case), jnp.zeros((1, case.image_size, case.image_size, 3))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), image, False))
    blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.int8), dict(shapes))
    named = to_torch(TABLES[case.kind], blank)
    arrays = {
        name: weight(name, array.shape).astype(case.dtype)
        for name, array in named.items()
    }
    return from_torch(TABLES[case.kind], arrays)


def our_results(case: Case) -> dict[str, np.ndarray]:
    """What evaluation gives (of the tokens the first image's), the last of three passes
    in training, and evaluation with the running statistics after those.
    """
    module, variables = tower(case), our_variables(case)

    @jax.jit
    def evaluate(variables, image):
        return module.apply(variables, image, False)

    @jax.jit
    def train(variables, image):
        return module.apply(variables, image, True, mutable=["batch_stats"])

    with jax.enable_x64(case.dtype == "float64"):
        first = evaluate(variables, images(case, 0))
        results = {"pooled": first["pooled"], "tokens": first["tokens"][:1]}
        if "batch_stats" in variables:
            for seed in (1, 2, 3):
                outputs, moved = train(variables, images(case, seed))
                variables = {**variables, **moved}
            results["train_pooled"] = outputs["pooled"]
            results["pooled_after"] = evaluate(variables, images(case, 0))["pooled"]
    return {name: np.asarray(value) for name, value in results.items()}


def our_training(case: Case) -> dict[str, np.ndarray]:
    """The gradient in training of a weighted sum of "pooled", and the running
    statistics after that pass, all by their names in PyTorch.
    """
    module, image = tower(case), images(case, 0)

    @jax.jit
    def gradient(params, rest):
        def value(params):
            variables = {"params": params, **rest}
            outputs, moved = module.apply(
                variables, image, True, mutable=["batch_stats"]
            )
            return (outputs["pooled"] * toward(case, outputs["pooled"])).sum(), moved

        return jax.grad(value, has_aux=True)(params)

    rest = our_variables(case)
    with jax.enable_x64(case.dtype == "float64"):
        found, moved = gradient(rest.pop("params"), rest)
    arrays = to_torch(TABLES[case.kind], {"params": found, **moved})
    return {name: np.asarray(array) for name, array in arrays.items()}


def toward(case: Case, pooled: Any) -> np.ndarray:
    return hf_clip.uniform("toward", tuple(pooled.shape)).astype(case.dtype)


def their_model(case: Case) -> Any:
    """Their module, in evaluation mode, with weights made from their names."""
    torch = hf_clip.import_torch()
    given = dict(case.theirs)
    if case.kind == "resnet":
        import torchvision

        block = getattr(torchvision.models.resnet, given.pop("block"))
        module = torchvision.models.ResNet(block, **given)
        module.fc = torch.nn.Identity()
    elif case.kind == "modified_resnet":
        from open_clip.modified_resnet import ModifiedResNet

        module = ModifiedResNet(image_size=case.image_size, **given)
    else:
        import timm

        name = f"convnext_{given.pop('name')}"
        module = timm.create_model(name, num_classes=0, global_pool="avg", **given)
    arrays = {
        name: torch.tensor(weight(name, tuple(tensor.shape)))
        for name, tensor in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    missing = module.load_state_dict(arrays, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return module.to(getattr(torch, case.dtype)).eval()


def their_results(case: Case) -> dict[str, np.ndarray]:
    """The same as `our_results` of theirs; needs the parity extra."""
    torch = hf_clip.import_torch()
    module = their_model(case)

    def given(seed):
        return torch.tensor(images(case, seed).transpose(0, 3, 1, 2))

    with torch.no_grad():
        results = {
            "pooled": module(given(0)),
            "tokens": their_map(case, module, given(0)[:1]).flatten(2).mT,
        }
        if case.kind != "convnext":
            for seed in (1, 2, 3):
                results["train_pooled"] = module.train()(given(seed))
            results["pooled_after"] = module.eval()(given(0))
    return {name: value.numpy() for name, value in results.items()}


def their_training(case: Case) -> dict[str, np.ndarray]:
    """The same as `our_training` of theirs; needs the parity extra."""
    torch = hf_clip.import_torch()
    module = their_model(case).train()
    pooled = module(torch.tensor(images(case, 0).transpose(0, 3, 1, 2)))
    (pooled * torch.tensor(toward(case, pooled))).sum().backward()
    found = {name: tensor.grad for name, tensor in module.named_parameters()}
    found |= {name: x for name, x in module.named_buffers() if "running" in name}
    return {name: tensor.numpy() for name, tensor in found.items()}


def their_map(case: Case, module: Any, image: Any) -> Any:
    """The last feature map, [b d h w]."""
    if case.kind == "convnext":
        return module.forward_features(image)
    found = []
    hook = module.layer4.register_forward_hook(lambda *seen: found.append(seen[2]))
    module(image)
    hook.remove()
    return found[0]
