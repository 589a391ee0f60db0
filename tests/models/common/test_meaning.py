"""Settings that change what weights mean are compared wherever weights change model."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import model_tools
import numpy as np
import pytest
from marks import mostly

import run_tools
import tiny
from clipjax import config_check, registry
from clipjax.engine import assemble, initial
from clipjax.models.common import lora, meaning
from clipjax.models.common.frozen import freeze
from clipjax.models.image import vit
from clipjax.models.text import transformer
from clipjax.types import UserError

# Component -> (options of a small one, every option with another value); of some with
# what it needs beside it.
TRANSFORMER: dict[str, Any] = {"width": 8, "depth": 1, "heads": 2}
COMPONENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "image.vit": (
        {"variant": "Ti/4", **TRANSFORMER},
        {
            "variant": "Ti/8",
            "width": 16,
            "depth": 2,
            "heads": 1,
            "mlp_dim": 16,
            "pool": "mean",
            "pool_width": ({"pool": "query"}, 16),
            "pool_heads": ({"pool": "query"}, 1),
            "class_token": ({"pool": "mean"}, True),
            "positions": "sincos",
            "pre_norm": False,
            "post_norm": True,
            "patch_bias": True,
            "crop_to_patches": True,
            "norm_epsilon": 1e-6,
            "activation": "quick_gelu",
            "dropout": 0.5,
            "patch_dropout": 0.5,
            "remat": True,
        },
    ),
    "image.eva": (
        {"variant": "B/8", **TRANSFORMER},
        {
            "variant": "g/8",
            "width": 16,
            "depth": 2,
            "heads": 1,
            "mlp_dim": 16,
            "norm_epsilon": 1e-5,
            "dropout": 0.5,
            "patch_dropout": 0.5,
            "remat": True,
        },
    ),
    "image.resnet": (
        {"variant": "18", "width": 4, "depths": (1, 1, 1, 1)},
        {
            "variant": "34",
            "width": 8,
            "depths": (1, 2, 1, 1),
            "zero_init_last": False,
            "bn_momentum": 0.5,
            "bn_epsilon": 1e-3,
            "remat": True,
        },
    ),
    "image.convnext": (
        {"width": 4, "depths": (1, 1, 1, 1)},
        {
            "variant": "xxlarge",
            "width": 8,
            "depths": (1, 2, 1, 1),
            "layer_scale": 0.5,
            "drop_path": 0.5,
            "remat": True,
        },
    ),
    "image.modified_resnet": (
        {"width": 4, "depths": (1, 1, 1, 1), "heads": 2, "output_dim": 8},
        {
            "variant": ({"output_dim": None}, "RN101"),
            "width": 8,
            "depths": (1, 2, 1, 1),
            "heads": 4,
            "output_dim": 4,
            "remat": True,
        },
    ),
    "text.transformer": (
        TRANSFORMER,
        {
            "variant": ({"depth": None}, "H"),
            "width": 16,
            "depth": 2,
            "heads": 1,
            "mlp_dim": 16,
            "causal": False,
            "masked": False,
            "pool": "mean",
            "norm_pooled": ({"pool": "mean"}, True),
            "post_norm": True,
            "norm_epsilon": 1e-6,
            "activation": "quick_gelu",
            "dropout": 0.5,
            "token_dropout": 0.5,
            "remat": True,
        },
    ),
    "text.bert": (
        TRANSFORMER,
        {
            "variant": ({"depth": None}, "tiny"),
            "width": 16,
            "depth": 2,
            "heads": 1,
            "mlp_dim": 16,
            "max_positions": 20,
            "first_position": 2,
            "pool": "mean",
            "token_types": 0,
            "norm_epsilon": 1e-6,
            "activation": "quick_gelu",
            "dropout": 0.5,
            "remat": True,
        },
    ),
    "text.distilbert": (
        TRANSFORMER,
        {
            "width": 16,
            "depth": 2,
            "heads": 1,
            "mlp_dim": 16,
            "max_positions": 20,
            "pool": "mean",
            "activation": "quick_gelu",
            "dropout": 0.5,
            "remat": True,
        },
    ),
    "model.two_tower": (
        {"embed_dim": 8},
        {
            "embed_dim": 4,
            "logit_scale_init": 2.0,
            "learnable_scale": False,
            "logit_bias_init": -1.0,
            "image_head": "mlp",
            "text_head": "affine",
            "expander": (4,),
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
            "precision": "bfloat16",
        },
    ),
    "model.classifier": (
        {"num_classes": 3},
        {
            "num_classes": 4,
            "dropout": 0.5,
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
            "precision": "bfloat16",
        },
    ),
    "model.memory_network": (
        {"latent_dim": 8, "memory_size": 8},
        {
            "latent_dim": 16,
            "memory_size": 16,
            "heads": 4,
            "feedback_steps": 1,
            "top_k": 4,
            "step_size": 0.5,
            "test_time": "off",
            "dropout": 0.5,
            "modality_dropout": 0.5,
            "audio": True,
            "decoders": ("text",),
            "joint": True,
            "ttt_layers": ("text",),
            "parity": True,
            "logit_scale_init": 2.0,
            "learnable_scale": False,
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
            "precision": "bfloat16",
        },
    ),
}
# Options that change nothing that weights mean.
FREE = {
    *("dropout", "patch_dropout", "token_dropout", "drop_path", "modality_dropout"),
    *("remat", "precision", "joint", "expander"),
    *("zero_init_last", "bn_momentum", "layer_scale"),
    *("logit_scale_init", "logit_bias_init"),
    *("crop_to_patches", "max_positions"),
    *("mean", "std"),  # compared apart, see test_pixels
}
IMAGE = vit.make(16, variant="Ti/4", **TRANSFORMER)
TEXT = transformer.make(20, 6, **TRANSFORMER)


def make(component, options):
    family, name = component.split(".")
    towers = {"image": (32,), "text": (20, 6), "model": (IMAGE, TEXT)}[family]
    towers = towers[:1] if name == "classifier" else towers
    return registry.load(family, name)(*towers, **options)


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_option_is_compared_unless_it_is_declared(component):
    small, others = COMPONENTS[component]
    family, name = component.split(".")
    assert set(others) == set(registry.options(registry.load(family, name)))
    path = "model" if family == "model" else f"model.{family}"
    for option, value in others.items():
        more = {}
        if isinstance(value, tuple) and isinstance(value[0], dict):
            more, value = value
        ours = make(component, small | more | {option: value})
        theirs = make(component, small | more)
        found = [one.option for one in meaning.differences(ours, theirs, path)]
        if option in FREE:
            assert not found, option
        else:
            assert found and all(one.startswith(f"{path}.") for one in found), option
        assert not list(meaning.differences(theirs, make(component, small | more)))


def test_names_are_of_fields():
    """So that a declared name cannot outlive its field."""
    for component, (small, _) in COMPONENTS.items():
        made = make(component, small)
        for one in (made, getattr(made, "module", made)):
            kind = type(one)
            for names in ("FREE", "FREE_ALONE", "OPTIONS"):
                for name in getattr(kind, names, ()):
                    assert name in kind.__dataclass_fields__, (component, name)


@pytest.mark.parametrize(
    "component",
    mostly(
        ["image.vit", "text.transformer", "image.convnext"],
        ["image.vit", "text.transformer"],
    ),
)
def test_what_is_free_changes_nothing_in_evaluation(component):
    small, others = COMPONENTS[component]
    free = {name: value for name, value in others.items() if name in FREE}
    theirs, ours = make(component, small), make(component, small | free)
    inputs = (jnp.ones((1, 32, 32, 3)),)
    if component.startswith("text"):
        inputs = jnp.array([[3, 4, 5, 0]]), jnp.array([[1, 1, 1, 0]], bool)
    shapes = jax.eval_shape(lambda: theirs.init(jax.random.key(0), *inputs, False))
    draw = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: draw.standard_normal(leaf.shape, np.float32), shapes
    )
    one, other = (
        model_tools.jit(lambda v, x, tower=tower: tower.apply(v, *x, False))(
            variables, inputs
        )
        for tower in (theirs, ours)
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_values_are_named():
    ours = tiny.model()
    quick = tiny.model().module.image.clone(activation="quick_gelu", hidden=7)
    theirs = registry.load("model", "two_tower")(quick, ours.module.text, embed_dim=16)
    frozen = freeze(ours, frozenset({"image/positions"}))
    assert list(meaning.differences(frozen, theirs)) == [
        ("model.image.mlp_dim", 128, 7),
        ("model.image.activation", "gelu", "quick_gelu"),
    ]
    with pytest.raises(UserError, match="^model.image.mlp_dim: 128 does not fit X, wh"):
        meaning.check(frozen, theirs, "X")


def test_additions():
    def made(**options):
        return lora.add(
            tiny.model(), **{"rank": 2, "alpha": 4.0, "on": "/qkv/"} | options
        )

    def found(ours, theirs):
        return [tuple(one) for one in meaning.differences(ours, theirs)]

    assert found(made(alpha=8.0), made()) == [("lora.alpha / lora.rank", 4.0, 2.0)]
    assert found(made(rank=4, alpha=8.0), made()) == [("lora.rank", 4, 2)]
    # Their names say which kernels have one; those that one of the two lacks are fresh.
    assert found(made(on="/(qkv|out)/"), made()) == []
    assert found(made(), tiny.model()) == found(tiny.model(), made()) == []


# Runs: what is refused needs no checkpoint.


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run's folder that lacks nothing but a checkpoint."""
    folder = tmp_path_factory.mktemp("base")
    config = run_tools.tiny()
    words = assemble.new_tokenizer(
        config, assemble.source(config.data.train, "--config.data.train.")
    )
    (folder / "config.json").write_text(json.dumps(config_check.to_dict(config)))
    assemble.save_tokenizer(config, words, folder)
    return folder, words


def read(base, key="init_from", arg="", **changes):
    """What was said before the checkpoint was looked for."""
    folder, words = base
    config = run_tools.tiny(arg, **{key: str(folder)}, **changes)
    said = []
    with pytest.raises(UserError) as caught:
        initial.read(key, config, assemble.model(config, words), words, said.append)
    return str(caught.value), said


@pytest.mark.parametrize(
    ("key", "changes", "option"),
    [
        ("init_from", {"model__image__heads": 4}, "model.image.heads: 4 does not fit"),
        (
            "init_from",
            {"model__text__activation": "quick_gelu"},
            "model.text.activation",
        ),
        ("init_from", {"model__text__pool": "mean"}, "model.text.pool: 'mean'"),
        ("init_from", {"model__text__causal": False}, "model.text.causal: False"),
        ("init_from", {"model__text__norm_epsilon": 1e-3}, "model.text.norm_epsilon"),
        ("init_from", {"model__image__positions": "sincos"}, "model.image.positions"),
        ("init_from", {"model__text_head": "mlp"}, "model.text_head: 'mlp' does not"),
        (
            "init_image_from",
            {"model__image__heads": 4},
            "model.image.heads: 4 does not",
        ),
        ("init_image_from", {"model__image__pool": "mean"}, "model.image.pool: 'mean'"),
        ("init_text_from", {"model__text__masked": False}, "model.text.masked: False"),
    ],
)
def test_a_run_of_other_settings_is_refused(base, key, changes, option):
    message, _ = read(base, key, **changes)
    assert message.startswith(option) and f"{key}={base[0]}" in message


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        (
            "init_from",
            {"model__image__patch_dropout": 0.5, "model__text__dropout": 0.1},
        ),
        ("init_from", {"model__logit_scale_init": 20.0, "lora__rank": 2}),
        ("init_from", {"data__image_size": 24, "model__precision": "bfloat16"}),
        ("init_image_from", {"model__image_head": "mlp", "model__text__pool": "mean"}),
        ("init_text_from", {"model__text__pool": "mean", "model__image__heads": 4}),
    ],
)
def test_what_may_differ(base, key, changes):
    message, said = read(base, key, **changes)
    assert "holds no checkpoint" in message
    assert said == []


def test_other_images_are_said(base):
    changes = {"model__mean": (0.0,) * 3, "model__std": (1.0,) * 3}
    for key in ("init_from", "init_image_from"):
        _, said = read(base, key, "preprocess=squash", **changes)
        assert len(said) == 3
        what = f"{key}={base[0]}"
        assert said[0].startswith("warning: model.mean is (0.0, 0.0, 0.0), and ")
        assert said[2] == (
            "warning: data.preprocess is squash (exif=True, interpolation=bicubic), "
            f"and {what} was trained with clip"
        )
    assert read(base, "init_text_from", "preprocess=squash", **changes)[1] == []
