"""Complete small released models in the public forms, with random weights."""

from __future__ import annotations

import functools
import json

import numpy as np
import tokenizer_tools
from weights_tools import noise

from clipjax.models import two_tower
from clipjax.models.image import vit
from clipjax.models.text import transformer
from clipjax.weights import rename_table
from clipjax.weights.beside import preprocessing, tokenizer_files
from clipjax.weights.formats import hf_clip, open_clip, open_clip_config
from clipjax.weights.tensors import tensor_files

OWN_VOCAB = 49408  # of CLIP's own tokenizer
SIZE, LENGTH = 12, 40
TOWER = {"width": 64, "depth": 1, "heads": 1, "activation": "quick_gelu"}


@functools.cache
def made(vocab):
    image = vit.make(SIZE, variant="B/4", **TOWER)
    text = transformer.make(vocab, LENGTH, **TOWER)
    model = two_tower.make(image, text, embed_dim=16)
    variables = noise(rename_table.model_shapes(model))
    variables["params"]["logit_scale"] = np.float32(2.5)
    return model, variables


@functools.cache
def tokenizer():
    return tokenizer_tools.clip_json()


def hf(folder):
    """As transformers' save_pretrained leaves model and processor."""
    folder.mkdir()
    spec = tokenizer()
    model, variables = made(len(json.loads(spec)["model"]["vocab"]))
    described = hf_clip.config_json(model, tokenizer_files.Ends(0, 1, 1))
    _json(folder / "config.json", described)
    _json(folder / "preprocessor_config.json", _processor(model))
    (folder / "tokenizer.json").write_text(spec)
    _json(folder / "tokenizer_config.json", {"pad_token": "<|endoftext|>"})
    table = hf_clip.table(model, frozenset())
    tensors = rename_table.to_theirs(table, variables)
    tensor_files.write_safetensors(folder / "model.safetensors", tensors)
    return folder


def in_open_clip(folder):
    """As open_clip's push_to_hf_hub leaves a model of CLIP's own tokenizer."""
    folder.mkdir()
    model, tensors = _own()
    ends = tokenizer_files.Ends(OWN_VOCAB - 2, OWN_VOCAB - 1, 0)
    described = open_clip_config.config_json(model, ends, {"name": "clip"}, {})
    _json(folder / "open_clip_config.json", described)
    path = folder / "open_clip_model.safetensors"
    tensor_files.write_safetensors(path, tensors)
    return folder


def openai(file):
    """As OpenAI's files are, but for the container."""
    model, tensors = _own()
    facts = {
        "input_resolution": model.module.image.image_size,
        "context_length": model.module.text.context_length,
        "vocab_size": OWN_VOCAB,
    }
    tensors = tensors | {key: np.int64(value) for key, value in facts.items()}
    tensor_files.write_safetensors(file, tensors)
    return file


FORMS = {"hf": hf, "open_clip": in_open_clip, "openai": openai}


def _own():
    model, variables = made(OWN_VOCAB)
    return model, rename_table.to_theirs(open_clip.table(model, frozenset()), variables)


def _processor(model):
    module = model.module
    size = module.image.image_size
    return preprocessing.to_hf({"name": "clip"}, size, module.mean, module.std)


def _json(path, value):
    path.write_text(json.dumps(value))
