"""Small two-tower models of every released format, and their files."""

from __future__ import annotations

import functools
import json

import jax
import numpy as np

from clipjax.models import two_tower
from clipjax.models.image import modified_resnet, vit
from clipjax.models.text import transformer
from clipjax.weights import rename_table
from clipjax.weights.beside import tokenizer_files
from clipjax.weights.formats import hf_clip, hf_siglip, open_clip, open_clip_config
from clipjax.weights.tensors import tensor_files

VOCAB, LENGTH = 60, 7
ENDS = tokenizer_files.Ends(0, 1, 5)


COCA = {"pool": "query", "pool_width": 8, "pool_heads": 4}


SIGLIP = {"pool": "map", "pre_norm": False, "patch_bias": True, "norm_epsilon": 1e-6}


SIGLIP_TEXT = {
    "causal": False,
    "masked": False,
    "pool": "last",
    "norm_epsilon": 1e-6,
    "activation": "gelu_tanh",
}


SIGLIP_MODEL = {"image_head": "none", "text_head": "affine", "logit_bias_init": -10.0}


def make_model(image=None, text=None, vocab=VOCAB, **options):
    image = {"variant": "B/4", "width": 16, "depth": 2, "heads": 2} | (image or {})
    text = {"width": 12, "depth": 1, "heads": 3} | (text or {})
    return two_tower.make(
        vit.make(12, **image),
        transformer.make(vocab, LENGTH, **text),
        **{"embed_dim": 16, **options},
    )


def make_resnet():
    image = modified_resnet.make(
        32, width=4, depths=(1, 2, 1, 1), heads=2, output_dim=8
    )
    text = transformer.make(VOCAB, LENGTH, width=64, depth=1, heads=1)
    return two_tower.make(image, text, embed_dim=8, image_head="none")


MODELS = {
    "clip": (hf_clip, make_model()),
    "siglip": (hf_siglip, make_model(SIGLIP, SIGLIP_TEXT, **SIGLIP_MODEL)),
    "open_clip": (open_clip, make_model({"pre_norm": False})),
    "resnet": (open_clip, make_resnet()),
    "coca": (open_clip, make_model(COCA, {"pool": "appended"}, embed_dim=8)),
    "coca_wide": (open_clip, make_model({"pool": "query"}, {"pool": "appended"})),
    "timm": (open_clip, make_model(SIGLIP, SIGLIP_TEXT, **SIGLIP_MODEL)),
}


def noise(shapes, seed=0):
    draw = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: draw.standard_normal(leaf.shape, np.float32), shapes
    )


@functools.cache
def made(name):
    """A model's table, shapes, variables, and tensors."""
    kind, model = MODELS[name]
    its_table = kind.table(model, frozenset())
    shapes = rename_table.model_shapes(model)
    variables = noise(shapes)
    return its_table, shapes, variables, rename_table.to_theirs(its_table, variables)


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(a, b)


def write_hf(folder, name="clip", **changes):
    """A folder as transformers leaves it; changes: of the config.

    Its image processor names nothing, so that the kind's own values count.
    """
    kind, model = MODELS[name]
    described = kind.config_json(model, ENDS)
    for key, value in changes.items():
        section, _, inner = key.rpartition("__")
        (described[section] if section else described)[inner] = value
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "preprocessor_config.json").write_text("{}")
    tensor_files.write_safetensors(folder / "model.safetensors", made(name)[3])
    return folder


def write_open_clip(folder, name="open_clip", config=None, **changes):
    """A folder as open_clip leaves it; changes: of the model's config."""
    _, model = MODELS[name]
    described = open_clip_config.config_json(model, ENDS, {"name": "clip"}, {})
    described = described | (config or {})
    for key, value in changes.items():
        section, _, inner = key.rpartition("__")
        place = described["model_cfg"]
        (place[section] if section else place)[inner] = value
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    path = folder / "open_clip_model.safetensors"
    tensor_files.write_safetensors(path, made(name)[3])
    return folder
