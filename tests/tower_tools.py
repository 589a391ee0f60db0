"""Released towers for tests: their files, and our towers' outputs beside theirs."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from clipjax.weights import read_tower
from clipjax.weights.formats import vits
from clipjax.weights.tensors import tensor_files

GOLDENS = pathlib.Path(__file__).parent / "parity" / "goldens" / "single_towers.npz"
TEXT_POOLS = ("cls", "mean", "last", "pooler")


@dataclasses.dataclass
class Case:
    """A released tower.

    config: of its config.json, None where it has none. tensors: as its library saves
    them, float16 numbers. inputs: "image" float32 [b h w 3], or "text" and "mask".
    outputs: "tokens"; of an image "pooled" and "logits", of a text those of TEXT_POOLS.
    module: theirs, and call(module) its pooled output for the inputs, for gradients.
    """

    side: str
    config: dict[str, Any] | None
    tensors: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    module: Any = None
    call: Callable[[Any], Any] | None = None

    def packed(self) -> dict[str, np.ndarray]:
        """What a golden file keeps of it, in two arrays; `goldens` unpacks it."""
        parts = {
            "tensors": self.tensors,
            "inputs": self.inputs,
            "outputs": self.outputs,
        }
        arrays = [
            (part, name, array)
            for part, found in parts.items()
            for name, array in found.items()
        ]
        table = [(*x[:2], x[2].dtype.str, x[2].shape) for x in arrays]
        return {
            "about": np.array(json.dumps([self.side, self.config, table])),
            "bytes": np.frombuffer(b"".join(x[2].tobytes() for x in arrays), np.uint8),
        }


@functools.cache
def goldens() -> dict[str, Case]:
    """The cases of the golden file by name."""
    with np.load(GOLDENS) as file:
        arrays = {key: file[key] for key in file}
    found = {}
    for name in sorted({key.partition("/")[0] for key in arrays}):
        side, config, table = json.loads(str(arrays[f"{name}/about"]))
        found[name] = case = Case(side, config, {}, {}, {})
        content, at = arrays[f"{name}/bytes"].tobytes(), 0
        for part, key, dtype, shape in table:
            size = math.prod(shape)
            array = np.frombuffer(content, dtype, size, at).reshape(shape)
            getattr(case, part)[key] = array
            at += array.nbytes
        assert at == len(content)
    return found


def write(case: Case, folder: pathlib.Path) -> str:
    """The files of a case; returns what is to be read."""
    path = folder / "model.safetensors"
    tensor_files.write_safetensors(path, case.tensors)
    if case.config is None:
        return str(path)
    (folder / "config.json").write_text(json.dumps(case.config))
    return str(folder)


@functools.partial(jax.jit, static_argnums=0)
def apply(tower, variables, *inputs):
    return tower.apply(variables, *inputs, False)


def variables_of(params, stats):
    return {"params": params, **({"batch_stats": stats} if stats else {})}


def check(case: Case, name: str) -> None:
    """Our tower with their weights gives what theirs gave; the weights come back."""
    pools = [pool for pool in TEXT_POOLS if pool in case.outputs] or [""]
    for pool in pools:
        options = {"pool": pool} if pool else {}
        settings, params, stats = read_tower.read_tower(name, case.side, options)
        tower = read_tower.build(settings)
        variables = variables_of(params, stats)
        if case.side == "text":
            text, mask = case.inputs["text"], case.inputs["mask"]
            found = apply(tower, variables, text, mask)
            tokens = found["tokens"] * mask[:, :, None]
        else:
            found = apply(tower, variables, case.inputs["image"])
            tokens = found["tokens"]
        assert_near(found["pooled"], case.outputs[pool or "pooled"], pool)
        assert_near(tokens, case.outputs["tokens"], "tokens")
        assert_comes_back(case.tensors, settings, params, stats)


def assert_comes_back(tensors, settings, params, stats):
    """Every tensor that a tower has is bit for bit as it was."""
    dtypes = {name: array.dtype for name, array in tensors.items()}
    back = read_tower.to_tensors(settings, params, stats, dtypes)
    # A class token without a position lacks a row of ours.
    row = settings.options["width"] if vits.BARE_CLASS in settings.layout else 0
    ours = sum(x.size for x in jax.tree.leaves((params, stats)))
    assert sum(x.size for x in back.values()) == ours - row
    for name, array in back.items():
        assert array.shape == tensors[name].shape, name
        assert array.tobytes() == tensors[name].tobytes(), name


def assert_near(ours, theirs, what=""):
    """Equal to 1e-4 of the largest value."""
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape, what
    worst = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert worst < 1e-4, f"{what}: off by {worst:.1e} of the largest value"
