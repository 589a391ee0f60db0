"""Our readers of weight files against PyTorch and its safetensors, bit for bit."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import make_torch_goldens  # noqa: E402

from clipjax.types import UserError  # noqa: E402
from clipjax.weights.tensors import tensor_files  # noqa: E402

pytestmark = [
    pytest.mark.parity,
    # TorchScript, in which OpenAI's models are, is deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

TYPES = (
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8"),
    *("uint8", "bool"),
)


def assert_same(found, tensors):
    assert sorted(found) == sorted(tensors)
    for name, tensor in tensors.items():
        array = found[name]
        assert array.shape == tuple(tensor.shape), name
        assert str(tensor.dtype) == f"torch.{array.dtype.name}", name
        plain = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        assert array.tobytes() == plain.tobytes(), name


def random(dtype, *shape):
    """Any bits at all, NaNs and subnormals among them."""
    dtype = getattr(torch, dtype)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape).bool()
    bits = torch.randint(0, 256, (*shape, dtype.itemsize), dtype=torch.uint8)
    return bits.view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_and_view(tmp_path, dtype):
    torch.manual_seed(0)
    base = random(dtype, 4, 5, 6)
    tensors = {
        "base": base,
        "copy of nothing": base,
        "transposed": base.transpose(0, 2),
        "steps": base[1::2, :, ::3],
        "one": base[3, 2, 1],
        "expanded": base[:1, :1].expand(3, 7, 6),
        "none": base[:, :0],
        "scalar": random(dtype, 1).reshape(()),
        "by channel": random(dtype, 2, 3, 4, 5).to(memory_format=torch.channels_last),
        "overlapping": base.view(-1).as_strided((5, 4), (3, 1), 7),
        "cut out": base[1].clone(),
    }
    torch.save(tensors, tmp_path / "x.pth")
    assert_same(tensor_files.read(tmp_path / "x.pth"), tensors)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
        self.norm = torch.nn.BatchNorm2d(4)
        self.blocks = torch.nn.ModuleList(
            [torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)]
        )
        self.blocks[1].weight = self.blocks[0].weight
        self.act = self.act_again = torch.nn.ReLU()
        self.sizes = [1, 2]
        self.register_buffer("positions", torch.arange(5).expand(1, -1))
        self.fine = torch.nn.Parameter(torch.randn(3).half())

    def forward(self, x):
        x = self.act(self.norm(self.stem(x))).mean((2, 3))
        for block in self.blocks:
            x = self.act_again(block(x))
        return x.sum() + self.fine.sum() + self.positions.sum() + self.sizes[0]


def test_models(tmp_path):
    torch.manual_seed(0)
    net = Net().eval()
    state = net.state_dict()
    path = tmp_path / "x.pt"
    torch.save(state, path)
    assert_same(tensor_files.read(path), state)
    torch.save({"net": list(net.parameters())}, path)
    assert tensor_files.read(path)["net.1"].shape == (4, 3, 2, 2)
    parallel = torch.nn.DataParallel(net)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(2, 3, 4, 4)).backward()
    optimizer.step()
    whole = {"state_dict": parallel.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(whole | {"loss": 0.5, "size": torch.Size([2])}, path)
    assert_same(tensor_files.read(path), net.state_dict())


@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript(tmp_path, how):
    torch.manual_seed(0)
    net = Net().eval()
    path = tmp_path / "any name.pt"
    made = torch.jit.script(net)
    if how == "trace":
        made = torch.jit.trace(net, torch.randn(2, 3, 4, 4))
    made.save(str(path))
    expected = torch.jit.load(str(path)).state_dict()
    assert len(expected) > 9
    assert_same(tensor_files.read(path), dict(expected))


def test_goldens_are_of_this_torch(tmp_path):
    """What the generator says, read by torch: the stored files hold the same."""
    stored = torch.load(make_torch_goldens.GOLDENS / "torch_plain.pt")
    for name, tensor in make_torch_goldens.plain().items():
        assert torch.equal(stored[name], tensor), name


@pytest.mark.parametrize("how", ["namespace", "module", "legacy", "new type"])
def test_the_way_out_works(tmp_path, monkeypatch, how):
    """The command that a refusal gives makes a file that we read."""
    monkeypatch.chdir(tmp_path)
    expected = Net().state_dict()
    if how == "namespace":
        arguments = argparse.Namespace(lr=0.1)
        torch.save({"state_dict": expected, "args": arguments}, "x.pt")
    elif how == "module":
        expected = torch.nn.Linear(2, 3).state_dict()
        linear = torch.nn.Linear(2, 3)
        linear.load_state_dict(expected)
        torch.save(linear, "x.pt")
    elif how == "legacy":
        torch.save(expected, "x.pt", _use_new_zipfile_serialization=False)
    else:
        torch.save({"w": torch.zeros(2, dtype=torch.uint16)}, "x.pt")
    with pytest.raises(UserError, match="^x.pt: refused: ") as caught:
        tensor_files.read("x.pt")
    command = re.search('python (-c ".*")$', str(caught.value))
    assert command
    if how == "new type":  # for which this is no way out: it says which
        assert "_rebuild_tensor_v3" in str(caught.value)
        return
    subprocess.run([sys.executable, *shlex.split(command[1])], check=True)
    assert_same(tensor_files.read("weights.pt"), dict(expected))


@pytest.mark.parametrize("dtype", TYPES)
def test_safetensors(tmp_path, dtype):
    library = pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    tensors = {
        "b": random(dtype, 3, 4),
        "a": random(dtype, 5),
        "c": random(dtype, 0, 2),
    }
    path = tmp_path / "x.safetensors"
    library.save_file(tensors, path)
    found = tensor_files.read(path)
    assert_same(found, tensors)
    tensor_files.write_safetensors(tmp_path / "y.safetensors", found, {"format": "pt"})
    back = library.load_file(tmp_path / "y.safetensors")
    assert_same(found, back)
    np.testing.assert_equal(sorted(back), ["a", "b", "c"])
