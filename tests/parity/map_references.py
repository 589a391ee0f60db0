"""Maps by PyTorch in others' models, pair by pair, from the papers' formulas.

Hugging Face's CLIPModel for attention, torchvision's and timm's towers for Grad-CAM;
weights as in hf_clip.py and conv_towers.py.
"""

from __future__ import annotations

import conv_towers
import hf_clip
import numpy as np

# Of hf_clip.CASES and conv_towers.CASES.
TRANSFORMERS = ("quick_gelu", "gelu")
CONVOLUTIONS = ("convnext", "bottleneck", "modified")


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def scaled(x):
    return (x - x.min()) / (x.max() - x.min())


def conv_targets(dim: int) -> np.ndarray:
    """Two unit-norm directions, float32 [2 dim]."""
    found = hf_clip.uniform("map targets", (2, dim))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


class Tower:
    """One of their towers, run once, with what its attentions take and give."""

    def __init__(self, tower, project, **given):
        self.queries, self.keys, self.values, self.mixed = [], [], [], []
        hooks = []
        for layer in tower.encoder.layers:
            part = layer.self_attn
            for module, kept in (
                (part.q_proj, self.queries),
                (part.k_proj, self.keys),
                (part.v_proj, self.values),
            ):
                hooks.append(
                    module.register_forward_hook(
                        lambda m, i, o, kept=kept: kept.append(o)
                    )
                )
            hooks.append(
                part.out_proj.register_forward_pre_hook(
                    lambda m, given: self.mixed.append(given[0])
                )
            )
        found = tower(output_attentions=True, **given)
        self.attentions = found.attentions
        self.embed = unit(project(found.pooler_output))
        for hook in hooks:
            hook.remove()


def chefer(torch, score, tower, item, row):
    """Relevances of the token `row` of one item, all tokens."""
    gradients = torch.autograd.grad(score, tower.attentions, retain_graph=True)
    size = tower.attentions[0].shape[-1]
    relevance = torch.eye(size)
    for weights, gradient in zip(tower.attentions, gradients, strict=True):
        flow = (gradient[item] * weights[item]).clamp(min=0).mean(dim=0)
        relevance = relevance + flow @ relevance
    return (relevance - torch.eye(size))[row].detach().numpy()


def grad_eclip(torch, score, tower, item, row, keys):
    (gradient,) = torch.autograd.grad(score, tower.mixed[-1], retain_graph=True)
    query, key = unit(tower.queries[-1][item, row]), unit(tower.keys[-1][item, keys])
    value = tower.values[-1][item, keys]
    found = (gradient[item, row] * value * scaled(key @ query)[:, None]).sum(dim=-1)
    return found.clamp(min=0).detach().numpy()


def maskclip(theirs, pixels, targets):
    """Cosines of the patches, [b t k], by the last layer without queries and keys."""
    model = theirs.vision_model
    states = model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
    layer = model.encoder.layers[-1]
    part = layer.self_attn
    states = states + part.out_proj(part.v_proj(layer.layer_norm1(states)))
    states = states + layer.mlp(layer.layer_norm2(states))
    patches = unit(theirs.visual_projection(model.post_layernorm(states[:, 1:])))
    return (targets @ patches.transpose(1, 2)).detach().numpy()


def of_transformer(name: str) -> dict[str, np.ndarray]:
    torch = hf_clip.import_torch()
    case = hf_clip.CASES[name]
    theirs = hf_clip.their_model(case, attn_implementation="eager")
    pixels, text = hf_clip.their_inputs(case)
    image = Tower(theirs.vision_model, theirs.visual_projection, pixel_values=pixels)
    words = Tower(theirs.text_model, theirs.text_projection, input_ids=text)
    cosines = image.embed @ words.embed.T
    ends = text.argmax(dim=1).tolist()
    found = {
        "maskclip": maskclip(theirs, pixels, words.embed),
        "heads": image.attentions[-1][:, :, 0, 1:].detach().numpy(),
        "cosines": cosines.detach().numpy(),
    }
    shape = (*cosines.shape, image.values[0].shape[1] - 1)
    found["chefer"], found["grad_eclip"] = np.zeros((2, *shape), np.float32)
    shape = (*cosines.shape, text.shape[1])
    found["text_chefer"], found["text_grad_eclip"] = np.zeros((2, *shape), np.float32)
    for i in range(len(pixels)):
        for t, end in enumerate(ends):
            score, patches = cosines[i, t], slice(1, None)
            found["chefer"][i, t] = chefer(torch, score, image, i, 0)[1:]
            found["grad_eclip"][i, t] = grad_eclip(torch, score, image, i, 0, patches)
            found["text_chefer"][i, t] = chefer(torch, score, words, t, end)
            seen = slice(0, end + 1)
            found["text_grad_eclip"][i, t, seen] = grad_eclip(
                torch, score, words, t, end, seen
            )
    return found


def of_convolutions(name: str) -> dict[str, np.ndarray]:
    torch = hf_clip.import_torch()
    case = conv_towers.CASES[name]
    theirs = conv_towers.their_model(case)
    last = theirs.stages[-1] if case.kind == "convnext" else theirs.layer4
    kept = []
    hook = last.register_forward_hook(lambda m, i, o: kept.append(o))
    image = torch.tensor(conv_towers.images(case, 0).transpose(0, 3, 1, 2))
    pooled = unit(theirs(image))
    hook.remove()
    targets = torch.tensor(conv_targets(pooled.shape[1]))
    maps = np.zeros((len(image), 2, *kept[0].shape[2:]), np.float32)
    for i in range(len(image)):
        for t in range(2):
            score = pooled[i] @ targets[t]
            (gradient,) = torch.autograd.grad(score, kept[0], retain_graph=True)
            weights = gradient[i].mean(dim=(1, 2), keepdim=True)
            maps[i, t] = (weights * kept[0][i]).sum(dim=0).clamp(min=0).detach().numpy()
    return {"grad_cam": maps}


def their_maps(name: str) -> dict[str, np.ndarray]:
    """[b t k] of images' patches, [b t l] of texts' tokens, [b t h w] of Grad-CAM."""
    if name in TRANSFORMERS:
        return of_transformer(name)
    return of_convolutions(name)
