"""The Multimodal Memory Network in PyTorch, written from its description, on torch's
own transformer layers, attention and convolutions; and our parameters as its.

Test-time updates as described: the mean over the batch is written into slots that all
examples share, and they stay written for the calls that follow.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

NAMES = ("text", "image", "audio")


def mlp(*widths):
    """Dense layers; after each but the last a LayerNorm and a ReLU."""
    layers = []
    for i, (one, two) in enumerate(zip(widths, widths[1:], strict=False)):
        layers.append(nn.Linear(one, two))
        if i < len(widths) - 2:
            layers += [nn.LayerNorm(two), nn.ReLU()]
    return nn.Sequential(*layers)


def encoder(width, heads, depth):
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True
    )
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


class Memory(nn.Module):
    def __init__(self, slots, d, heads, k, rate=0.1):
        super().__init__()
        self.slots = nn.Parameter(torch.zeros(slots, d))
        self.attention = nn.MultiheadAttention(d, heads, batch_first=True)
        self.norm = nn.LayerNorm(d)
        self.gate, self.proposal = mlp(2 * d, d, d), mlp(2 * d, d, d)
        self.k, self.rate = k, rate
        self.learning: Any = False

    def read(self, x):
        slots = self.slots.expand(len(x), -1, -1)
        found = self.attention(x[:, None], slots, slots)[0][:, 0]
        return self.norm(found + x)

    def write(self, x):
        found = self.read(x)
        if self.learning:
            with torch.no_grad():
                c = x.mean(0)
                for s in torch.argsort(self.slots @ c, descending=True)[: self.k]:
                    z = torch.cat([self.slots[s], c])
                    step = self.rate * torch.sigmoid(self.gate(z))
                    self.slots[s] = self.slots[s] * (1 - step) + step * self.proposal(z)
        return found


class Network(nn.Module):
    """norm_last: the text's final LayerNorm comes after the mean over its tokens."""

    def __init__(
        self, vocab, length, patches, patch, d, heads, depth, slots, k, norm_last
    ):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab, d), nn.Embedding(length, d)
        self.text, self.text_norm = encoder(d, heads, depth), nn.LayerNorm(d)
        self.text_projection = nn.Linear(d, d)
        self.cut = nn.Conv2d(3, d, patch, patch)
        self.first = nn.Parameter(torch.zeros(d))
        self.image_places = nn.Parameter(torch.zeros(patches + 1, d))
        self.image, self.image_norm = encoder(d, heads, depth), nn.LayerNorm(d)
        channels = (1, 64, 128, 256, 512)
        self.convs = nn.ModuleList(
            nn.Conv2d(one, two, 3, 2, 1)
            for one, two in zip(channels, channels[1:], strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels[1:])
        self.audio_projection, self.audio_norm = nn.Linear(512, d), nn.LayerNorm(d)
        self.types = nn.Parameter(torch.zeros(3, d))
        self.memories = nn.ModuleDict(
            {name: Memory(slots // 2, d, heads, k // 2) for name in NAMES}
        )
        self.central = Memory(slots, d, heads, k)
        self.fusion = nn.Sequential(*mlp(3 * d + 3, 2 * d, d), nn.LayerNorm(d))
        self.feedback = nn.Sequential(nn.Linear(d, d), nn.LayerNorm(d), nn.ReLU())
        self.decoders = nn.ModuleDict({name: mlp(d, d, d, d) for name in NAMES})
        self.norm_last = norm_last

    def learn(self, on=True):
        memories: list[Any] = [self.central, *self.memories.values()]
        for memory in memories:
            memory.learning = on

    def encode(self, name, x):
        if name == "text":
            x = self.tokens(x) + self.places.weight[None, : x.shape[1]]
            x = self.text(x)
            norm = self.text_norm
            x = norm(x.mean(1)) if self.norm_last else norm(x).mean(1)
            return self.text_projection(x)
        if name == "image":
            x = self.cut(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.first.expand(len(x), 1, -1), x], 1) + self.image_places
            return self.image_norm(self.image(x)[:, 0])
        x = x[:, None]
        layers: Any = zip(self.convs, self.norms, strict=True)
        for conv, norm in layers:
            x = F.relu(norm(conv(x)))
        return self.audio_norm(self.audio_projection(x.mean((2, 3))))

    def forward(self, given):
        """The latent vector of any of text ids, pixels [b 3 h w], audio [b f t]."""
        memories: Any = self.memories
        read = {
            name: memories[name].write(self.encode(name, given[name]))
            for name in NAMES
            if name in given
        }
        some = next(iter(read.values()))
        parts = [
            read.get(name, torch.zeros_like(some)) + self.types[i]
            for i, name in enumerate(NAMES)
        ]
        bits = torch.tensor([[float(name in read) for name in NAMES]] * len(some))
        x = self.central.write(self.fusion(torch.cat([*parts, bits.to(some)], 1)))
        for _ in range(2):
            x = self.central.read(x + self.feedback(x))
        return x

    def loss(self, given, scale):
        """Three InfoNCE and half the error of the audio decoded from the others."""
        found = {name: F.normalize(self({name: given[name]})) for name in NAMES}
        total = 0.0
        for one, other in (("image", "text"), ("image", "audio"), ("text", "audio")):
            logits = scale * found[one] @ found[other].T
            own = torch.arange(len(logits))
            total += (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        both = self({name: given[name] for name in ("text", "image")})
        with torch.no_grad():
            target = self.encode("audio", given["audio"])
        return total + 0.5 * F.mse_loss(self.decoders["audio"](both), target)


ALL = slice(None)


def pairs_of(network):
    """[(our path, the network's parameter, which of its rows, ours to its form)]"""
    pairs = []

    def same(theirs, *path, rows=ALL):
        pairs.append((path, theirs, rows, lambda a: a))

    def turned(theirs, *path, rows=ALL):
        pairs.append((path, theirs, rows, lambda a: a.T))

    def dense(theirs, *path):
        turned(theirs.weight, *path, "kernel")
        same(theirs.bias, *path, "bias")

    def norm(theirs, *path):
        same(theirs.weight, *path, "scale")
        same(theirs.bias, *path, "bias")

    def hidden(linear, layer_norm, *path):
        dense(linear, *path, "dense")
        norm(layer_norm, *path, "norm")

    def transformer(theirs, *path):
        for i, layer in enumerate(theirs.layers):
            at = (*path, "transformer", f"block_{i}")
            qkv = layer.self_attn
            turned(qkv.in_proj_weight, *at, "attention", "qkv", "kernel")
            same(qkv.in_proj_bias, *at, "attention", "qkv", "bias")
            dense(qkv.out_proj, *at, "attention", "out")
            norm(layer.norm1, *at, "norm_1")
            norm(layer.norm2, *at, "norm_2")
            dense(layer.linear1, *at, "mlp", "fc1")
            dense(layer.linear2, *at, "mlp", "fc2")

    def memory(theirs, at):
        d = theirs.slots.shape[1]
        same(theirs.slots, at, "memory")
        attention = theirs.attention
        for rows, part in ((slice(0, d), "query"), (slice(d, None), "key_value")):
            turned(attention.in_proj_weight, at, part, "kernel", rows=rows)
            same(attention.in_proj_bias, at, part, "bias", rows=rows)
        dense(attention.out_proj, at, "out")
        norm(theirs.norm, at, "norm")
        for name in ("gate", "proposal"):
            net = getattr(theirs, name)
            hidden(net[0], net[1], at, name, "hidden")
            dense(net[3], at, name, "out")

    same(network.tokens.weight, "text", "token_embedding")
    same(network.places.weight, "text", "positions")
    transformer(network.text, "text")
    norm(network.text_norm, "text", "post_norm")
    dense(network.text_projection, "text_projection")

    d, _, p, _ = network.cut.weight.shape
    cut = lambda a: a.reshape(p, p, 3, d).transpose(3, 2, 0, 1)  # noqa: E731
    pairs.append((("image", "patch_embedding", "kernel"), network.cut.weight, ALL, cut))
    same(network.cut.bias, "image", "patch_embedding", "bias")
    same(network.first, "image", "class_token")
    same(network.image_places, "image", "positions")
    transformer(network.image, "image")
    norm(network.image_norm, "image", "post_norm")

    for i, (conv, batch_norm) in enumerate(
        zip(network.convs, network.norms, strict=True), start=1
    ):
        kernel = ("audio", f"conv_{i}", "kernel")
        pairs.append((kernel, conv.weight, ALL, lambda a: a.transpose(3, 2, 0, 1)))
        same(conv.bias, "audio", f"conv_{i}", "bias")
        norm(batch_norm, "audio", f"norm_{i}")
    dense(network.audio_projection, "audio", "projection")
    norm(network.audio_norm, "audio", "norm")

    for name in NAMES:
        memory(network.memories[name], f"{name}_memory")
    memory(network.central, "central_memory")
    same(network.types, "fusion", "types")
    hidden(network.fusion[0], network.fusion[1], "fusion", "hidden")
    dense(network.fusion[3], "fusion", "out")
    norm(network.fusion[4], "fusion", "norm")
    hidden(network.feedback[0], network.feedback[1], "feedback")
    for name in NAMES:
        net = network.decoders[name]
        hidden(net[0], net[1], f"{name}_decoder", "hidden_1")
        hidden(net[3], net[4], f"{name}_decoder", "hidden_2")
        dense(net[6], f"{name}_decoder", "out")

    return pairs


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def load(network, tree):
    """Copies a tree like our parameters into the network."""
    for path, theirs, rows, form in pairs_of(network):
        theirs.data[rows] = torch.as_tensor(form(at(tree, path)).copy())


def load_statistics(norm, stats):
    """Copies running statistics like ours into a batch normalisation."""
    norm.running_mean.copy_(torch.as_tensor(stats["mean"]))
    norm.running_var.copy_(torch.as_tensor(stats["var"]))
