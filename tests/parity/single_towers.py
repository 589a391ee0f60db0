"""Small towers of other libraries with random weights: files and outputs."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import hf_clip
import numpy as np
from tower_tools import TEXT_POOLS, Case

from clipjax.weights.tensors import tensor_files


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[Any]:
    """PyTorch with a generator of this seed, which is put back after."""
    torch = hf_clip.import_torch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield torch


def randomise(torch: Any, module: Any) -> Any:
    """Every parameter and statistic away from its start, in float16's numbers.

    Fresh biases of zero and scales of one would hide what is swapped or left out.
    """
    with torch.no_grad():
        for name, x in module.state_dict().items():
            if not x.is_floating_point():
                continue
            noise = torch.randn(x.shape)
            if name.endswith("running_var"):
                x.copy_((1 + 0.3 * noise).abs() + 0.2)
            elif x.ndim == 1:
                centre = 1.0 if name.endswith("weight") else 0.0
                x.copy_(centre + 0.3 * noise)
            else:
                fan_in = max(x[0].numel(), 4) if x.ndim in (2, 4) else 4
                # A variance near the normalisations' epsilons, so that those show.
                first = re.search("embeddings|_embed|_token|conv_proj", name)
                x.copy_(noise * (3e-3 if first else fan_in**-0.5))
            x.copy_(x.half())
    return module.eval()


def tensors_of(module: Any, drop: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """A state dict, floating-point numbers as float16."""
    return {
        name: (x.half() if x.is_floating_point() else x).numpy()
        for name, x in module.state_dict().items()
        if name not in drop
    }


def saved(module: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """config.json and tensors as transformers writes them, whose names differ from
    those of its modules.
    """
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        module.half().save_pretrained(name)
        folder = pathlib.Path(name)
        tensors = {
            key: np.array(value)
            for key, value in tensor_files.read(folder / "model.safetensors").items()
        }
        config = json.loads((folder / "config.json").read_text())
    module.float()
    return config, tensors


def images(torch: Any, size: int) -> Any:
    """float32 [2 3 h w], of few different numbers so that they are stored in little."""
    return torch.randint(-8, 9, (2, 3, size, size)) / 4


def channels_last(image: Any) -> np.ndarray:
    return image.permute(0, 2, 3, 1).contiguous().numpy()


def texts(torch: Any, vocab_size: int, length: int) -> tuple[Any, Any]:
    """Ids [4 length] and mask; the padding has ids too, which must not be seen.

    Not id 0, whose embedding transformers keeps from training.
    """
    ids = torch.randint(1, vocab_size, (4, length))
    ends = torch.tensor([length, 2, length // 2 + 1, 1])
    return ids, torch.arange(length)[None] < ends[:, None]


def numpy(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in values.items()}


def bert(
    seed: int,
    kind: str = "BertModel",
    depth: int = 2,
    pools: tuple[str, ...] = TEXT_POOLS,
) -> Case:
    """BertModel, RobertaModel, XLMRobertaModel, DistilBertModel, or one of their models
    with heads."""
    width, pad = 12, 0
    with seeded(seed) as torch:
        import transformers

        distil = kind.startswith("Distil")
        if distil:
            config: Any = transformers.DistilBertConfig(
                vocab_size=29,
                dim=width,
                n_layers=depth,
                n_heads=3,
                hidden_dim=2 * width,
                max_position_embeddings=11,
            )
        else:
            make: Any = transformers.BertConfig
            more = {"layer_norm_eps": 1e-3 if depth == 1 else 1e-12}
            if "Roberta" in kind:
                xlm = kind.startswith("XLM")
                make = transformers.XLMRobertaConfig if xlm else None
                make = make or transformers.RobertaConfig
                pad, more = 1, {"layer_norm_eps": 1e-5, "type_vocab_size": 1}
            config = make(
                vocab_size=29,
                hidden_size=width,
                num_hidden_layers=depth,
                num_attention_heads=3,
                intermediate_size=2 * width,
                max_position_embeddings=11,
                hidden_act="quick_gelu" if depth == 1 else "gelu",
                **more,
            )
        module = randomise(torch, getattr(transformers, kind)(config))
        name = "distilbert" if distil else "roberta" if pad else "bert"
        inner = getattr(module, name, module)
        ids, mask = texts(torch, 29, 9)
        if pad:  # positions are counted over what is not padding
            ids = torch.where(mask, ids.clamp(min=2), pad)
        found = inner(ids, attention_mask=mask.long())
        tokens = found.last_hidden_state
        weights = mask[:, :, None].float()
        ends = mask.sum(dim=1) - 1
        outputs = {
            "cls": tokens[:, 0],
            "mean": (tokens * weights).sum(1) / weights.sum(1),
            "last": tokens[torch.arange(4), ends],
            "tokens": tokens * weights,
        }
        if getattr(found, "pooler_output", None) is not None:
            outputs["pooler"] = found.pooler_output

        outputs = {x: outputs[x] for x in ("tokens", *pools) if x in outputs}

        def call(module):
            return module(ids, attention_mask=mask.long()).last_hidden_state[:, 0]

        described, tensors = saved(module)
        given = {"text": ids.int().numpy(), "mask": mask.numpy()}
        return Case("text", described, tensors, given, numpy(outputs), inner, call)


def hf_vit(seed: int, classifier: bool = False, depth: int = 2) -> Case:
    with seeded(seed) as torch:
        import transformers

        make: Any = transformers.ViTConfig
        config = make(
            hidden_size=12,
            num_hidden_layers=depth,
            num_attention_heads=3,
            intermediate_size=20,
            image_size=12,
            patch_size=4,
            num_labels=5,
        )
        kind = "ViTForImageClassification" if classifier else "ViTModel"
        module = randomise(torch, getattr(transformers, kind)(config))
        image = images(torch, 12)
        tokens = getattr(module, "vit", module)(image).last_hidden_state
        outputs = {"pooled": tokens[:, 0], "tokens": tokens[:, 1:]}
        if classifier:
            outputs["logits"] = module(image).logits
        described, tensors = saved(module)
        given = {"image": channels_last(image)}
        return Case("image", described, tensors, given, numpy(outputs), module)


def hf_resnet(seed: int, layer_type: str = "bottleneck", width: int = 2) -> Case:
    with seeded(seed) as torch:
        import transformers

        factor = 4 if layer_type == "bottleneck" else 1
        make: Any = transformers.ResNetConfig
        config = make(
            embedding_size=width,
            hidden_sizes=[width * factor * 2**i for i in range(4)],
            depths=[1, 2, 1, 1],
            layer_type=layer_type,
            num_labels=5,
        )
        module = randomise(torch, transformers.ResNetForImageClassification(config))
        image = images(torch, 33)
        found = module.resnet(image)
        outputs = {
            "pooled": found.pooler_output.flatten(1),
            "tokens": found.last_hidden_state.flatten(2).mT,
            "logits": module(image).logits,
        }
        described, tensors = saved(module)
        given = {"image": channels_last(image)}
        return Case("image", described, tensors, given, numpy(outputs), module)


def torch_resnet(seed: int, library: str, block: str, depths: list[int]) -> Case:
    """torchvision's or timm's ResNet; timm's is narrow."""
    with seeded(seed) as torch:
        module: Any
        if library == "timm":
            import timm.models.resnet as place

            module = _narrow(torch, place, getattr(place, block), tuple(depths))
            features = module.forward_features
        else:
            import torchvision

            place = torchvision.models.resnet
            module = place.ResNet(getattr(place, block), depths, num_classes=5)

            def features(x):
                x = module.maxpool(module.relu(module.bn1(module.conv1(x))))
                for stage in (1, 2, 3, 4):
                    x = getattr(module, f"layer{stage}")(x)
                return x

        randomise(torch, module)
        image = images(torch, 33)
        last = features(image)
        outputs = {
            "pooled": last.mean(dim=(2, 3)),
            "tokens": last.flatten(2).mT,
            "logits": module(image),
        }
        given = {"image": channels_last(image)}
        return Case("image", None, tensors_of(module), given, numpy(outputs), module)


def _narrow(torch: Any, place: Any, block: Any, depths: tuple[int, ...]) -> Any:
    """timm's ResNet of width 2, in whose stem the width is always 64."""
    width = 2
    channels = tuple(width * 2**i for i in range(4))
    module = place.ResNet(block, depths, num_classes=5, channels=channels)
    module.conv1 = torch.nn.Conv2d(3, width, 7, 2, 3, bias=False)
    module.bn1 = torch.nn.BatchNorm2d(width)
    first, basic = module.layer1[0], block is place.BasicBlock
    size = 3 if basic else 1
    first.conv1 = torch.nn.Conv2d(width, width, size, 1, size // 2, bias=False)
    if basic:
        first.downsample = None
    else:
        wide = width * block.expansion
        first.downsample[0] = torch.nn.Conv2d(width, wide, 1, bias=False)
    return module


def timm_vit(seed: int, **options: Any) -> Case:
    """timm's VisionTransformer of these options, with a config.json that says them."""
    with seeded(seed) as torch:
        from timm.models.vision_transformer import VisionTransformer

        given: dict[str, Any] = {
            "img_size": 12,
            "patch_size": 4,
            "embed_dim": 12,
            "depth": 2,
            "num_heads": 3,
            "mlp_ratio": 1.5,
            "num_classes": 5,
            **options,
        }
        epsilon: Any = {"norm_layer": None}
        if given.get("pre_norm"):
            norm = torch.nn.LayerNorm
            epsilon = {"norm_layer": lambda *a, **k: norm(*a, **{**k, "eps": 1e-5})}
        module = randomise(torch, VisionTransformer(**given, **epsilon))
        image = images(torch, 12)
        tokens = module.forward_features(image)
        outputs = {
            "pooled": module.forward_head(tokens, pre_logits=True),
            "tokens": tokens[:, module.num_prefix_tokens :],
            "logits": module(image),
        }
        described = {
            "architecture": "vit_base_patch16_224",
            "num_classes": 5,
            "global_pool": module.global_pool,
            "model_args": given,
            "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
        }

        def call(module):
            return module.forward_head(module.forward_features(image), pre_logits=True)

        seen = {"image": channels_last(image)}
        tensors = tensors_of(module)
        return Case("image", described, tensors, seen, numpy(outputs), module, call)


def torchvision_vit(seed: int) -> Case:
    """Heads follow from its width of 192, as nothing in its files says them."""
    with seeded(seed) as torch:
        import torchvision

        module = torchvision.models.VisionTransformer(
            image_size=8,
            patch_size=4,
            num_layers=1,
            num_heads=3,
            hidden_dim=192,
            mlp_dim=20,
            num_classes=5,
        )
        randomise(torch, module)
        image = images(torch, 8)
        patches = module._process_input(image)
        token = module.class_token.expand(len(image), -1, -1)
        tokens = module.encoder(torch.cat([token, patches], dim=1))
        outputs = {
            "pooled": tokens[:, 0],
            "tokens": tokens[:, 1:],
            "logits": module(image),
        }
        seen = {"image": channels_last(image)}
        return Case("image", None, tensors_of(module), seen, numpy(outputs), module)
