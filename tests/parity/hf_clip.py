"""Hugging Face CLIP's weights as ours, for cases small enough to compute in a test.

Weights are made from their names, so that goldens need to hold results only.
"""

from __future__ import annotations

import dataclasses
import math
import zlib

import jax
import numpy as np

from clipjax.models import two_tower
from clipjax.models.common import layers
from clipjax.models.image import vit
from clipjax.models.text import transformer


@dataclasses.dataclass(frozen=True)
class Case:
    """The sizes of a CLIP model: width, depth, heads and MLP width of either tower."""

    image_size: int
    patch: int
    image: tuple[int, int, int, int]
    vocab_size: int
    context_length: int
    text: tuple[int, int, int, int]
    embed_dim: int
    activation: str


CASES = {
    "gelu": Case(30, 5, (48, 3, 3, 100), 97, 11, (36, 2, 2, 70), 20, "gelu"),
    "quick_gelu": Case(28, 7, (40, 2, 5, 160), 53, 9, (24, 3, 3, 96), 31, "quick_gelu"),
    "vit_b32": Case(
        224, 32, (768, 12, 12, 3072), 49408, 77, (512, 12, 8, 2048), 512, "quick_gelu"
    ),
}


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """The shape of every array of Hugging Face's CLIPModel, by its name there."""
    width, text_width = case.image[0], case.text[0]
    count = (case.image_size // case.patch) ** 2 + 1
    vision, text = "vision_model", "text_model"
    found: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "visual_projection.weight": (case.embed_dim, width),
        "text_projection.weight": (case.embed_dim, text_width),
        f"{vision}.embeddings.class_embedding": (width,),
        f"{vision}.embeddings.patch_embedding.weight": (width, 3, *(case.patch,) * 2),
        f"{vision}.embeddings.position_embedding.weight": (count, width),
        f"{text}.embeddings.token_embedding.weight": (case.vocab_size, text_width),
        f"{text}.embeddings.position_embedding.weight": (
            case.context_length,
            text_width,
        ),
    }

    def norm(name, size):
        found[f"{name}.weight"] = found[f"{name}.bias"] = (size,)

    def dense(name, size_in, size_out):
        found[f"{name}.weight"] = (size_out, size_in)
        found[f"{name}.bias"] = (size_out,)

    norm(f"{vision}.pre_layrnorm", width)
    norm(f"{vision}.post_layernorm", width)
    norm(f"{text}.final_layer_norm", text_width)
    for tower, sizes in ((vision, case.image), (text, case.text)):
        size, depth, _, hidden = sizes
        for index in range(depth):
            layer = f"{tower}.encoder.layers.{index}"
            norm(f"{layer}.layer_norm1", size)
            norm(f"{layer}.layer_norm2", size)
            for part in ("q", "k", "v", "out"):
                dense(f"{layer}.self_attn.{part}_proj", size, size)
            dense(f"{layer}.mlp.fc1", size, hidden)
            dense(f"{layer}.mlp.fc2", hidden, size)
    return found


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of mean 0 and variance 1 that depend on the name only."""
    size = math.prod(shape)
    # Raw bits are the one stream that NumPy promises never to change.
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(size // 2 + 1)
    bits = raw.view(np.uint32)[:size].reshape(shape)
    return (bits.astype(np.float32) * 2.0**-32 - np.float32(0.5)) * math.sqrt(12)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One array of the model, of a size that keeps every layer's output near 1."""
    if name == "logit_scale":
        return np.float32(math.log(1 / 0.07))
    values = uniform(name, shape)
    if len(shape) == 1 or "embedding.weight" in name and "patch" not in name:
        one = "norm" in name and name.endswith("weight")
        return (one + 0.3 * values).astype(np.float32)
    return (values * math.prod(shape[1:]) ** -0.5).astype(np.float32)


def convert(case: Case, arrays: dict[str, np.ndarray]) -> dict:
    """Hugging Face's arrays, by name, as our parameters."""

    def norm(name):
        return {"scale": arrays[f"{name}.weight"], "bias": arrays[f"{name}.bias"]}

    def dense(*names):
        kernels = [arrays[f"{name}.weight"].T for name in names]
        biases = [arrays[f"{name}.bias"] for name in names]
        return {"kernel": np.concatenate(kernels, 1), "bias": np.concatenate(biases)}

    def block(name):
        heads = f"{name}.self_attn"
        return {
            "norm_1": norm(f"{name}.layer_norm1"),
            "attention": {
                "qkv": dense(*(f"{heads}.{part}_proj" for part in "qkv")),
                "out": dense(f"{heads}.out_proj"),
            },
            "norm_2": norm(f"{name}.layer_norm2"),
            "mlp": {part: dense(f"{name}.mlp.{part}") for part in ("fc1", "fc2")},
        }

    def blocks(tower, depth):
        return {
            f"block_{index}": block(f"{tower}.encoder.layers.{index}")
            for index in range(depth)
        }

    vision, text = "vision_model.embeddings", "text_model.embeddings"
    patches = arrays[f"{vision}.patch_embedding.weight"].transpose(2, 3, 1, 0)
    return {
        "logit_scale": arrays["logit_scale"],
        "image_projection": {"kernel": arrays["visual_projection.weight"].T},
        "text_projection": {"kernel": arrays["text_projection.weight"].T},
        "image": {
            "class_token": arrays[f"{vision}.class_embedding"],
            "patch_embedding": {"kernel": patches.reshape(-1, case.image[0])},
            "positions": arrays[f"{vision}.position_embedding.weight"],
            "pre_norm": norm("vision_model.pre_layrnorm"),
            "post_norm": norm("vision_model.post_layernorm"),
            "transformer": blocks("vision_model", case.image[1]),
        },
        "text": {
            "token_embedding": arrays[f"{text}.token_embedding.weight"],
            "positions": arrays[f"{text}.position_embedding.weight"],
            "post_norm": norm("text_model.final_layer_norm"),
            "transformer": blocks("text_model", case.text[1]),
        },
    }


def inputs(case: Case) -> dict[str, np.ndarray]:
    """Three images and four texts, which end with the largest id, then padding 0."""
    size = (3, case.image_size, case.image_size, 3)
    image = ((uniform("image", size) / math.sqrt(12) + 0.5) * 255).astype(np.uint8)
    length = case.context_length
    text = uniform("text", (4, length)) / math.sqrt(12) + 0.5
    text = (1 + text * (case.vocab_size - 2)).astype(np.int32)
    ends = np.array([length - 1, 1, length // 2, 4])
    text[np.arange(4), ends] = case.vocab_size - 1
    mask = np.arange(length) <= ends[:, None]
    return {"image": image, "text": text * mask, "text_mask": mask}


def our_model(case: Case) -> two_tower.TwoTowerModel:
    width, depth, heads, hidden = case.image
    image = vit.make(
        case.image_size,
        variant=f"B/{case.patch}",
        width=width,
        depth=depth,
        heads=heads,
        mlp_dim=hidden,
        activation=case.activation,
    )
    width, depth, heads, hidden = case.text
    text = transformer.make(
        case.vocab_size,
        case.context_length,
        width=width,
        depth=depth,
        heads=heads,
        mlp_dim=hidden,
        activation=case.activation,
    )
    return two_tower.make(image, text, embed_dim=case.embed_dim)


def our_results(case: Case) -> dict[str, np.ndarray]:
    """Features and logits (images x texts) of our model."""
    model = our_model(case)
    arrays = {name: weight(name, shape) for name, shape in shapes(case).items()}
    variables = {"params": convert(case, arrays)}
    given = inputs(case)
    image = jax.jit(model.encode_image)(variables, given["image"])
    text = jax.jit(model.encode_text)(variables, given["text"], given["text_mask"])
    logits = image["image_embed"] @ text["text_embed"].T * image["logit_scale"]
    return {
        "image_features": np.asarray(image["image_features"]),
        "text_features": np.asarray(text["text_features"]),
        "logits": np.asarray(logits),
    }


def their_model(case: Case, **options):
    """Hugging Face's model with weights made from their names."""
    torch = import_torch()
    from transformers import CLIPConfig, CLIPModel

    def tower(sizes):
        names = "hidden_size num_hidden_layers num_attention_heads intermediate_size"
        values = dict(zip(names.split(), sizes, strict=True))
        return values | {"hidden_act": case.activation}

    config = CLIPConfig(
        text_config=tower(case.text)
        | {
            "vocab_size": case.vocab_size,
            "max_position_embeddings": case.context_length,
            "eos_token_id": case.vocab_size - 1,
            "bos_token_id": 1,
        },
        vision_config=tower(case.image)
        | {"image_size": case.image_size, "patch_size": case.patch},
        projection_dim=case.embed_dim,
        **options,
    )
    theirs = CLIPModel(config).eval()
    arrays = {name: weight(name, shape) for name, shape in shapes(case).items()}
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    theirs.load_state_dict(tensors, strict=True)
    return theirs


def their_inputs(case: Case):
    """Normalised pixels and ids, as their model takes them."""
    torch = import_torch()
    given = inputs(case)
    pixels = (given["image"] / 255 - layers.MEAN) / layers.STD
    pixels = torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
    return pixels, torch.tensor(given["text"])


def their_results(case: Case) -> dict[str, np.ndarray]:
    """The same of Hugging Face's model; needs the parity extra."""
    torch = import_torch()
    theirs = their_model(case)
    pixels, text = their_inputs(case)
    with torch.no_grad():
        # Through the parts, whose outputs before normalisation keep their names.
        image = theirs.vision_model(pixel_values=pixels).pooler_output
        image = theirs.visual_projection(image)
        words = theirs.text_model(input_ids=text).pooler_output
        words = theirs.text_projection(words)
        logits = theirs(input_ids=text, pixel_values=pixels).logits_per_image
    results = {"image_features": image, "text_features": words, "logits": logits}
    return {name: value.numpy() for name, value in results.items()}


def import_torch():
    """Imports torch so that what imports torchvision can be imported after it."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        # A CUDA build beside a CPU build of torch lacks the operators that its import
        # describes. Nothing here calls them.
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}",
                "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            )
    return torch
