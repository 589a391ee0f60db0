"""Towers of transformers, timm and torchvision as ours: outputs and gradients."""

from __future__ import annotations

import pathlib

import big_vision_tools
import hf_clip
import jax
import numpy as np
import pytest
import single_towers
import tower_tools

pytest.importorskip("torch")
torch = hf_clip.import_torch()
pytest.importorskip("torchvision")
pytest.importorskip("timm")
pytest.importorskip("transformers")

from clipjax import param_paths  # noqa: E402
from clipjax.models.common.layers import ACTIVATIONS  # noqa: E402
from clipjax.types import UserError  # noqa: E402
from clipjax.weights import read_tower, rename_table  # noqa: E402
from clipjax.weights.formats import vits  # noqa: E402

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SIGLIP = {"class_token": False, "global_pool": "map"}
MAKE = {
    "bert": lambda: single_towers.bert(20),
    "bert_pretraining": lambda: single_towers.bert(21, "BertForPreTraining"),
    "bert_masked": lambda: single_towers.bert(22, "BertForMaskedLM", 1),
    "distilbert": lambda: single_towers.bert(23, "DistilBertModel"),
    "distilbert_masked": lambda: single_towers.bert(24, "DistilBertForMaskedLM"),
    "roberta": lambda: single_towers.bert(38, "RobertaModel"),
    "xlm_roberta": lambda: single_towers.bert(39, "XLMRobertaModel", 1),
    "xlm_roberta_masked": lambda: single_towers.bert(
        40, "XLMRobertaForMaskedLM", pools=("cls", "mean", "last")
    ),
    "hf_vit": lambda: single_towers.hf_vit(25),
    "hf_vit_classifier": lambda: single_towers.hf_vit(26, classifier=True),
    "hf_resnet": lambda: single_towers.hf_resnet(27),
    "hf_resnet_basic": lambda: single_towers.hf_resnet(28, "basic"),
    "timm_resnet": lambda: single_towers.torch_resnet(
        29, "timm", "Bottleneck", [1, 2, 1, 1]
    ),
    "resnet18": lambda: single_towers.torch_resnet(
        30, "torchvision", "BasicBlock", [2, 2, 2, 2]
    ),
    "resnet_bottleneck": lambda: single_towers.torch_resnet(
        31, "torchvision", "Bottleneck", [1, 2, 1, 1]
    ),
    "torchvision_vit": lambda: single_towers.torchvision_vit(32),
    "timm_vit": lambda: single_towers.timm_vit(33),
    "timm_vit_bare_class": lambda: single_towers.timm_vit(
        34, no_embed_class=True, act_layer="gelu_tanh"
    ),
    "timm_vit_map": lambda: single_towers.timm_vit(35, **SIGLIP),
    "timm_vit_mean": lambda: single_towers.timm_vit(
        36, class_token=False, global_pool="avg", fc_norm=False
    ),
    "timm_vit_clip": lambda: single_towers.timm_vit(
        37, pre_norm=True, act_layer="quick_gelu"
    ),
}


@pytest.mark.parametrize("name", MAKE)
def test_outputs(name, tmp_path):
    case = MAKE[name]()
    tower_tools.check(case, tower_tools.write(case, tmp_path))


def test_variant_by_depths(tmp_path):
    case = MAKE["resnet18"]()
    settings, *_ = read_tower.read_tower(tower_tools.write(case, tmp_path), "image")
    assert settings.options == {"variant": "18", "width": 64}


@pytest.mark.parametrize("name", ["timm_vit", "bert", "distilbert"])
def test_gradients(name, tmp_path):
    """In training mode without dropout, of a weighted sum of "pooled"."""
    case = MAKE[name]()
    assert case.call is not None
    for part in case.module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    pooled = case.call(case.module.train())
    toward = np.random.default_rng(0).standard_normal(pooled.shape).astype("f4")
    (pooled * torch.tensor(toward)).sum().backward()
    theirs = {
        key: x.grad.numpy()
        for key, x in case.module.named_parameters()
        if x.grad is not None
    }

    path = tower_tools.write(case, tmp_path)
    options = {"dropout": 0.0}
    settings, params, stats = read_tower.read_tower(path, case.side, options)
    tower = read_tower.build(settings)
    assert stats == {}
    names = ("image",) if case.side == "image" else ("text", "mask")
    inputs = [case.inputs[key] for key in names]

    @jax.jit
    def gradient(params):
        def value(params):
            found = tower.apply({"params": params}, *inputs, True)
            return (found["pooled"] * toward).sum()

        return jax.grad(value)(params)

    ours = read_tower.to_tensors(settings, jax.tree.map(np.asarray, gradient(params)))
    assert len(ours) > 20
    largest = max(np.abs(x).max() for x in theirs.values())
    for key, found in ours.items():
        gap = np.abs(found - theirs[key]).max()
        # Attention's key bias has none but rounding.
        limit = 1e-4 * np.abs(theirs[key]).max() + 1e-6 * largest
        assert gap < limit, f"{key}: off by {gap:.1e}"


@pytest.mark.parametrize(
    ("pool", "options", "change", "prefix"),
    [
        ("map", SIGLIP, dict, "params/img/"),
        ("map", SIGLIP, big_vision_tools.stacked, "params/"),
        ("old", {}, big_vision_tools.numbered, ""),
    ],
)
def test_big_vision_as_timm_reads_it(pool, options, change, prefix, tmp_path):
    """timm's reader of the same file agrees on every name and axis."""
    from timm.models.vision_transformer import VisionTransformer

    draw = np.random.default_rng(0)
    image = draw.standard_normal((2, 12, 12, 3)).astype("f4")
    params = big_vision_tools.noisy(big_vision_tools.Image(pool), image)
    arrays = big_vision_tools.named(params)
    arrays = {prefix + name: array for name, array in change(arrays).items()}
    path = tmp_path / "model.npz"
    np.savez(path, **arrays)
    theirs = VisionTransformer(
        img_size=12,
        patch_size=4,
        embed_dim=big_vision_tools.WIDTH,
        depth=big_vision_tools.DEPTH,
        num_heads=big_vision_tools.HEADS,
        mlp_ratio=big_vision_tools.HIDDEN / big_vision_tools.WIDTH,
        num_classes=0,
        act_layer="gelu_tanh",
        **options,
    ).eval()
    theirs.load_pretrained(str(path))
    with torch.no_grad():
        expected = theirs(torch.tensor(image.transpose(0, 3, 1, 2))).numpy()
    settings, params, _ = read_tower.read_tower(str(path), "image")
    tower = read_tower.build(settings)
    found = tower_tools.apply(tower, {"params": params}, image)["pooled"]
    tower_tools.assert_near(found, expected)


# Read although their images are cropped to the patches that fit.
CROPPED = ("vit_so400m_patch14_siglip_384", "vit_so400m_patch14_siglip_gap_384")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("family", ["vit_*", "deit*", "flexivit*", "resnet*"])
def test_settings_of_every_timm_model(family):
    """Whatever timm has is read as what it is, or refused; nothing is computed."""
    import timm

    read = []
    for name in timm.list_models(family):
        with torch.device("meta"):
            module = timm.create_model(name)
        shapes = {key: tuple(x.shape) for key, x in module.state_dict().items()}
        config = {
            "architecture": name,
            "global_pool": getattr(module, "global_pool", "avg"),
            "pretrained_cfg": module.pretrained_cfg,
        }
        if not isinstance(config["global_pool"], str):
            config["global_pool"] = "avg"
        kinds = [kind for kind in read_tower.FORMATS if kind.recognise(config, shapes)]
        try:
            settings = fitting(kinds[0], config, shapes) if kinds else None
        except UserError:
            continue
        if settings is not None:
            read.append(name)
            compare(module, settings, name)
    assert len(read) >= {"vit_*": 70, "deit*": 4, "flexivit*": 3}.get(family, 7)


def fitting(kind, config, shapes):
    """The settings of a file with tensors of these shapes.

    Raises UserError where it would be refused.
    """
    settings = kind.settings(config, shapes, pathlib.Path("nowhere"), "here")
    tower = read_tower.build(settings)
    blank = {
        key: np.broadcast_to(np.float16(0), shape) for key, shape in shapes.items()
    }
    rules = read_tower.table(kind, settings, tower)
    expected = rename_table._their_shapes(
        rules, param_paths.flatten(read_tower.tower_shapes(tower))
    )
    rename_table._check_names(rules, blank, expected, "here")
    rename_table._check_arrays(rules, blank, expected, "here")
    return settings


def compare(module, settings, name):
    tower = read_tower.build(settings)
    if settings.component == "resnet":
        block = module.layer2[0]
        assert type(module.maxpool).__name__ == "MaxPool2d", name
        assert type(module.act1).__name__ == "ReLU", name
        strided = block.conv2 if hasattr(block, "conv3") else block.conv1
        assert strided.stride == (2, 2), name
        assert hasattr(block, "conv3") == (tower.variant not in ("18", "34")), name
        return
    block = module.blocks[0]
    acts = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}
    assert set(acts.values()) == set(ACTIVATIONS)
    assert type(block).__name__ == "Block", name
    assert acts[type(block.mlp.act).__name__] == tower.activation, name
    assert block.attn.num_heads == tower.heads, name
    assert block.norm1.eps == module.norm.eps == tower.norm_epsilon, name
    assert len(module.blocks) == tower.depth, name
    if module.cls_token is not None:
        assert module.no_embed_class == (vits.BARE_CLASS in settings.layout), name
    if name not in CROPPED:
        assert module.pretrained_cfg["input_size"][-1] == settings.size, name
