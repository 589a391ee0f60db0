"""Writes goldens/torch_*.pt: what PyTorch itself makes of known numbers.

    python tests/parity/make_torch_goldens.py

Needs the parity extra. To be run when a case is added, never because our reader
changed; tests/weights/tensors/test_tensor_files.py knows what is inside.
"""

from __future__ import annotations

import pathlib
import warnings

import torch

GOLDENS = pathlib.Path(__file__).parents[1] / "weights" / "tensors" / "goldens"


def numbers(*shape: int, start: int = 0) -> torch.Tensor:
    """start, start + 1, ... in float32."""
    return torch.arange(start, start + torch.Size(shape).numel()).float().view(shape)


class Block(torch.nn.Module):
    """Parameters, a buffer, a module inside, and attributes of other kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [2, 3]
        self.rate = 0.5
        self.inner = torch.nn.Linear(2, 3)
        self.scale = torch.nn.Parameter(numbers(3, start=100).half())
        self.register_buffer("count", torch.tensor(7))
        with torch.no_grad():
            self.inner.weight.copy_(numbers(3, 2))
            self.inner.bias.copy_(numbers(3, start=50))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).to(torch.float16) * self.scale * self.rate + self.sizes[0]


def plain() -> dict:
    """Views of one storage, and a number of each of two other types."""
    base = numbers(4, 5)
    return {
        "base": base,
        "transposed": base.t(),
        "inside": base[1:3, 1::2],
        "row": base[2],
        "expanded": base[0, :1].expand(3, 4),
        "last": base[3, 4],
        "none": base[:0],
        "parameter": torch.nn.Parameter(numbers(2, start=30)),
        "bfloat16": numbers(3, start=1).bfloat16() / 3,
        "mask": torch.tensor([True, False]),
    }


def training() -> dict:
    """A training program's checkpoint of a model on several devices."""
    state = torch.nn.DataParallel(Block()).state_dict()
    optimizer = torch.optim.Adam(Block().parameters())
    return {
        "epoch": 3,
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
        "size": torch.Size([2, 3]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
    }


def main() -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript
    for name, content in {"plain": plain(), "training": training()}.items():
        torch.save(content, GOLDENS / f"torch_{name}.pt")
    torch.jit.script(Block().eval()).save(str(GOLDENS / "torch_script.pt"))
    torch.save(
        plain(), GOLDENS / "torch_legacy.pt", _use_new_zipfile_serialization=False
    )
    for path in sorted(GOLDENS.glob("torch_*.pt")):
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
