"""Tiny foreign models: as folders, as ours, and as live models of their own projects.

Weights are made from their names, so that goldens need to hold settings, shapes and
results only.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from typing import Any

import jax
import numpy as np
from hf_clip import import_torch, uniform

from clipjax.weights import model_description, read_model
from clipjax.weights.tensors import tensor_files

VOCAB, LENGTH = 97, 11

HF_TOWER = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 80,
}
HF_TEXT = HF_TOWER | {
    "vocab_size": VOCAB,
    "max_position_embeddings": LENGTH,
    "bos_token_id": 1,
    "eos_token_id": VOCAB - 1,
}
HF_IMAGE = HF_TOWER | {"image_size": 30, "patch_size": 5}


def hf_config(kind: str, text=None, image=None, **options):
    return {
        "model_type": kind,
        "text_config": HF_TEXT | (text or {}),
        "vision_config": HF_IMAGE | (image or {}),
        **options,
    }


def open_clip_config(vision, text=None, **options):
    text = {"width": 48, "heads": 4, "layers": 1} | (text or {})
    sizes = {"vocab_size": VOCAB, "context_length": LENGTH}
    model = {"embed_dim": 20, "vision_cfg": vision, "text_cfg": sizes | text}
    return {"model_cfg": {**model, **options}, "preprocess_cfg": {}}


@dataclasses.dataclass(frozen=True)
class Case:
    """config: as the folder has it. sizes: that shrink a named model of timm.
    hf_sizes: of the text tower that open_clip takes from Hugging Face."""

    config: dict[str, Any]
    sizes: dict[str, Any] = dataclasses.field(default_factory=dict)
    hf_sizes: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def is_open_clip(self) -> bool:
        return "model_cfg" in self.config

    @property
    def pad(self) -> int:
        """The id of padding: RoBERTa's, or 0."""
        return int(bool(self.hf_sizes))


VIT = {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8}
SIGLIP_TEXT = {
    "no_causal_mask": True,
    "pool_type": "last",
    "proj_bias": True,
    "norm_kwargs": {"eps": 1e-6},
}
SIGLIP_VISION = {"timm_model_pretrained": False, "timm_pool": "map"}
# CoCa, whose decoder and whose queries but the first are left out.
COCA_VISION = {
    "attentional_pool": True,
    "attn_pooler_queries": 6,
    "attn_pooler_heads": 4,
    "output_tokens": True,
}
COCA_TEXT = {"embed_cls": True, "output_tokens": True}
COCA = {
    "custom_text": True,
    "multimodal_cfg": {
        "context_length": LENGTH,
        "vocab_size": VOCAB,
        "width": 48,
        "heads": 4,
        "layers": 1,
    },
}
CONVNEXT = {"depths": (1, 2, 1, 1), "dims": (8, 16, 32, 64)}

# What timm and Hugging Face have in the models of these names, but smaller.
EVA_VISION = {"timm_pool": "token", "timm_proj": None, "image_size": 32}
EVA02_SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 2}
EVA_SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2}
ROBERTA_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": LENGTH + 5,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}


def eva_config(name, **options):
    vision = EVA_VISION | {"timm_model_name": name, **options}
    return open_clip_config(vision, custom_text=True)


def roberta_config(name, vision=VIT, more=None, **options):
    text = {"context_length": LENGTH, "hf_model_name": name} | options
    model = {"embed_dim": 20, "vision_cfg": vision, "text_cfg": text, **(more or {})}
    return {"model_cfg": model, "preprocess_cfg": {}}


CASES = {
    "eva02": Case(eva_config("eva02_base_patch16_clip_224"), EVA02_SIZES),
    "eva02_large": Case(
        eva_config("eva02_large_patch14_clip_336", timm_proj="linear", image_size=56),
        EVA02_SIZES | {"img_size": 56, "embed_dim": 64, "depth": 1},
    ),
    "eva02_enormous": Case(
        eva_config("eva02_enormous_patch14_clip_224", timm_proj="mlp"), EVA_SIZES
    ),
    "eva": Case(eva_config("eva_giant_patch14_224"), EVA_SIZES | {"mlp_ratio": 1.5}),
    "xlm_roberta": Case(
        roberta_config("xlm-roberta-base", hf_pooler_type="mean_pooler"),
        hf_sizes=ROBERTA_SIZES,
    ),
    "roberta": Case(
        roberta_config(
            "FacebookAI/roberta-large", hf_proj_type="linear", hf_pooler_type=None
        ),
        hf_sizes=ROBERTA_SIZES | {"num_hidden_layers": 2},
    ),
    "roberta_pooler": Case(
        roberta_config("xlm-roberta-large", hf_pooler_type="cls_pooler"),
        hf_sizes=ROBERTA_SIZES,
    ),
    "roberta_first": Case(
        roberta_config(
            "roberta-base",
            hf_pooler_type="cls_last_hidden_state_pooler",
            hf_proj_type="linear",
        ),
        hf_sizes=ROBERTA_SIZES,
    ),
    "coca_roberta": Case(
        roberta_config(
            "roberta-base",
            VIT | {"output_tokens": True},
            COCA,
            hf_proj_type="linear",
            output_tokens=True,
        ),
        hf_sizes=ROBERTA_SIZES,
    ),
    "hf_clip": Case(hf_config("clip", projection_dim=20)),
    # As old files have it, and with a larger grid.
    "hf_clip_legacy": Case(
        hf_config(
            "clip",
            {"hidden_act": "gelu", "hidden_size": 36, "eos_token_id": 2},
            {"hidden_act": "gelu_new", "image_size": 45, "layer_norm_eps": 1e-3},
            projection_dim=33,
        )
    ),
    "hf_siglip": Case(
        hf_config(
            "siglip",
            {"num_hidden_layers": 1, "layer_norm_eps": 1e-2},
            {"layer_norm_eps": 1e-3},
        )
    ),
    # Images of which a rest fills no patch, as so400m-patch14-384's.
    "hf_siglip_rest": Case(hf_config("siglip", image={"image_size": 33})),
    "vit_rest": Case(open_clip_config(VIT | {"image_size": 37})),
    "timm_siglip_rest": Case(
        open_clip_config(
            SIGLIP_VISION
            | {
                "timm_model_name": "vit_so400m_patch14_siglip_384",
                "timm_proj": "none",
                "image_size": 34,
            },
            SIGLIP_TEXT,
            embed_dim=48,
            custom_text=True,
        ),
        {"img_size": 34, "embed_dim": 48, "depth": 1},
    ),
    "vit": Case(open_clip_config(VIT, {"layers": 2}, quick_gelu=True)),
    "vit_custom_text": Case(
        open_clip_config(
            VIT
            | {
                "no_ln_pre": True,
                "mlp_ratio": 2.5,
                "act_kwargs": {"approximate": "tanh"},
                "norm_kwargs": {"eps": 1e-3},
            },
            SIGLIP_TEXT | {"pool_type": "first"},
            custom_text=True,
            init_logit_bias=-9,
        )
    ),
    "vit_avg": Case(open_clip_config(VIT | {"pool_type": "avg"})),
    "vit_336": Case(
        open_clip_config(
            VIT | {"image_size": 336, "patch_size": 14, "layers": 1}, quick_gelu=True
        )
    ),
    "vit_eos": Case(
        open_clip_config(VIT | {"image_size": 48}, {"pool_type": "eos", "eos_id": 96})
    ),
    "coca": Case(open_clip_config(VIT | COCA_VISION, COCA_TEXT, embed_dim=32, **COCA)),
    # As wide as its tower: the products of the pool's attention are one tensor.
    "coca_wide": Case(
        open_clip_config(
            VIT | COCA_VISION,
            COCA_TEXT | {"layers": 2, "proj_bias": True, "pool_type": "eos"},
            embed_dim=64,
            quick_gelu=True,
            init_logit_bias=-9,
            **COCA,
        )
    ),
    # As we write it, with a text tower that sees both ways.
    "coca_towers": Case(
        open_clip_config(
            VIT | {"attentional_pool": True, "attn_pooler_queries": 1},
            {"embed_cls": True, "no_causal_mask": True, "layers": 2},
            embed_dim=24,
            custom_text=True,
        )
    ),
    "resnet": Case(
        open_clip_config(
            {
                "image_size": 64,
                "layers": [1, 2, 1, 1],
                "width": 16,
                "head_width": 32,
                "patch_size": None,
            },
            quick_gelu=True,
        )
    ),
    "timm_siglip": Case(
        open_clip_config(
            SIGLIP_VISION
            | {
                "timm_model_name": "vit_base_patch16_siglip_224",
                "timm_proj": "none",
                "image_size": 48,
            },
            SIGLIP_TEXT | {"act_kwargs": {"approximate": "tanh"}},
            embed_dim=24,
            custom_text=True,
            init_logit_bias=-10,
        ),
        {"img_size": 48, "embed_dim": 24, "depth": 2},
    ),
    "timm_siglip_2": Case(
        open_clip_config(
            SIGLIP_VISION
            | {
                "timm_model_name": "vit_so400m_patch16_siglip_256",
                "timm_proj": "linear",
                "image_size": 32,
            },
            SIGLIP_TEXT,
            custom_text=True,
        ),
        {"img_size": 32, "embed_dim": 48, "depth": 1},
    ),
    "convnext": Case(
        open_clip_config(
            {
                "timm_model_name": "convnext_base",
                "timm_pool": "",
                "timm_proj": "linear",
                "timm_drop_path": 0.1,
                "image_size": 64,
            }
        ),
        CONVNEXT,
    ),
    "convnext_mlp": Case(
        open_clip_config(
            {
                "timm_model_name": "convnext_xxlarge",
                "timm_pool": "avg",
                "timm_proj": "mlp",
                "image_size": 64,
            }
        ),
        CONVNEXT,
    ),
}


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor of a model, of a size that keeps every layer's output near 1."""
    if name in ("logit_scale", "logit_bias"):
        return np.full(shape, 2.5 if name == "logit_scale" else -1.5, np.float32)
    values = uniform(name, shape)
    if name.endswith("running_var"):
        values = 1 + 0.3 * np.abs(values)
    elif len(shape) == 1 or "embedding" in name and "patch" not in name:
        one = len(shape) == 1 and name.endswith("weight") or name.endswith("gamma")
        values = one + 0.3 * values
    elif not name.endswith(("pos_embed", "latent", "probe")):
        fan_in = shape[0] if name in ("visual.proj", "text_projection") else 0
        values = values * (fan_in or math.prod(shape[1:])) ** -0.5
    return values.astype(np.float32)


def write(folder, case: Case, shapes: dict[str, list[int]], dtype="float32") -> None:
    """The folder of a model as its project would leave it."""
    tensors = {
        name: np.asarray(tensor(name, tuple(shape)), dtype)
        for name, shape in shapes.items()
    }
    stem = "open_clip_" * case.is_open_clip
    (folder / f"{stem}config.json").write_text(json.dumps(case.config))
    tensor_files.write_safetensors(folder / f"{stem}model.safetensors", tensors)


def inputs(size: int, pad: int = 0) -> dict[str, np.ndarray]:
    """Three images and four texts, which end with the largest id, then padding."""
    image = uniform("image", (3, size, size, 3)) / math.sqrt(12) + 0.5
    text = uniform("text", (4, LENGTH)) / math.sqrt(12) + 0.5
    text = (1 + text * (VOCAB - 2)).astype(np.int32)
    ends = np.array([LENGTH - 1, 1, LENGTH // 2, 4])
    text[np.arange(4), ends] = VOCAB - 1
    text[text == pad] += 1
    mask = np.arange(LENGTH) <= ends[:, None]
    return {
        "image": (image * 255).astype(np.uint8),
        "text": np.where(mask, text, np.int32(pad)),
        "mask": mask,
    }


def our_results(folder, image=None, text=None, mask=None) -> dict[str, np.ndarray]:
    """Features before normalisation and logits, images x texts, of a folder's model."""
    found, variables = read_model.read_model(str(folder))
    if image is None:
        image, text, mask = inputs(found.image_size, found.pad_id or 0).values()
    model = model_description.build(found)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(variables, image, text, mask):
        batch = {"image": image, "text": text, "text_mask": mask}
        return model.apply(variables, batch, False, jax.random.key(0))[0]

    seen = run(variables, image, text, mask)
    logits = seen["image_embed"] @ seen["text_embed"].T * seen["logit_scale"]
    return {
        "image_features": np.asarray(seen["image_features"]),
        "text_features": np.asarray(seen["text_features"]),
        "logits": np.asarray(logits + seen.get("logit_bias", 0)),
    }


def live(case: Case, folder, weights: bool = True) -> Any:
    """The project's own model; needs the parity extra.

    folder: to work in; open_clip loads the weights that it holds. weights: from names.
    """
    import_torch()
    if case.is_open_clip:
        import open_clip
        from open_clip import hf_model, timm_model

        (folder / "open_clip_config.json").write_text(json.dumps(case.config))
        named = timm_model.timm.create_model
        timm_model.timm.create_model = functools.partial(named, **case.sizes)
        fetched = hf_model.AutoConfig.from_pretrained
        hf_model.AutoConfig.from_pretrained = functools.partial(hf_text, case)
        try:
            model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False)
        finally:
            timm_model.timm.create_model = named
            hf_model.AutoConfig.from_pretrained = fetched
    else:
        import transformers

        kind = case.config["model_type"]
        config = transformers.AutoConfig.for_model(**case.config)
        name = {"clip": "CLIPModel", "siglip": "SiglipModel"}[kind]
        model = getattr(transformers, name)(config)
    return fill(model) if weights else model.eval()


def hf_text(case: Case, name: str) -> Any:
    """The config of a text tower of Hugging Face's, by its name."""
    import transformers

    kind = "xlm-roberta" if "xlm" in name else "roberta"
    return transformers.AutoConfig.for_model(kind, **case.hf_sizes)


def fill(model) -> Any:
    """A live model with weights from their names."""
    torch = import_torch()
    with torch.no_grad():
        for name, values in model.state_dict().items():
            if values.dtype.is_floating_point:
                made = np.asarray(tensor(name, tuple(values.shape)))
                values.copy_(torch.tensor(made))
    return model.eval()


def save(case: Case, model, folder, dtype: str = "float32") -> None:
    """A live model as its project saves it."""
    from safetensors.torch import save_file

    model = model.to(getattr(import_torch(), dtype))
    if case.is_open_clip:
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
        (folder / "open_clip_config.json").write_text(json.dumps(case.config))
    else:
        model.save_pretrained(folder)


def shapes_of(model) -> dict[str, list[int]]:
    """Of a live model's tensors, but for the counters of batch normalisation."""
    return {
        name: list(values.shape)
        for name, values in model.state_dict().items()
        if values.dtype.is_floating_point
    }


def their_results(model, image, text, mean, std) -> dict[str, np.ndarray]:
    """The same of a live model."""
    torch = import_torch()
    pixels = (image / 255 - np.array(mean)) / np.array(std)
    pixels = torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
    text = torch.as_tensor(text, dtype=torch.int64)
    with torch.no_grad():
        if hasattr(model, "encode_image"):
            found = {
                "image_features": model.encode_image(pixels, normalize=False),
                "text_features": model.encode_text(text, normalize=False),
            }
            if hasattr(model, "get_logits"):
                found["logits"] = model.get_logits(pixels, text)[0]
            else:  # CoCa, which gives logits of the next token
                image = model.encode_image(pixels, normalize=True)
                text = model.encode_text(text, normalize=True)
                found["logits"] = model.logit_scale.exp() * image @ text.T
                if model.logit_bias is not None:
                    found["logits"] += model.logit_bias
        else:
            seen = model(input_ids=text, pixel_values=pixels)
            found = {
                "image_features": model.get_image_features(pixels).pooler_output,
                "text_features": model.get_text_features(text).pooler_output,
                "logits": seen.logits_per_image,
            }
    return {name: values.numpy() for name, values in found.items()}


def clip_with_words(folder):
    """CLIPModel with a tokenizer.json; returns it and its tokenizer as a function."""
    import tokenizer_tools
    import transformers

    spec = tokenizer_tools.clip_json()
    words = {"vocab_size": len(json.loads(spec)["model"]["vocab"])}
    words |= {"eos_token_id": 1, "bos_token_id": 0, "max_position_embeddings": 14}
    case = Case(hf_config("clip", words, projection_dim=20))
    model = live(case, folder)
    save(case, model, folder)
    (folder / "tokenizer.json").write_text(spec, encoding="utf-8")
    tokens = {"pad_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    return model, hf_tokenize(theirs, 14)


def clip_legacy_with_words(folder):
    """CLIPModel of old files, with CLIP's own vocabulary."""
    words = {"vocab_size": 49408, "eos_token_id": 2}
    case = Case(hf_config("clip", words))
    model = live(case, folder)
    save(case, model, folder)
    return model, open_clip_tokenize(LENGTH)


def siglip_with_words(folder):
    """SiglipModel with a SentencePiece model."""
    import tokenizer_tools
    import transformers

    path = tokenizer_tools.sentence_piece_model(folder / "spiece.model")
    theirs = transformers.SiglipTokenizer(str(path), pad_token="</s>")
    theirs.save_pretrained(folder)
    words = {"vocab_size": theirs.vocab_size, "max_position_embeddings": 16}
    case = Case(hf_config("siglip", words))
    model = live(case, folder)
    save(case, model, folder)
    return model, hf_tokenize(theirs, 16)


def open_clip_with_words(folder, vision=None, text=None, **options):
    """A model of open_clip with CLIP's own vocabulary."""
    words = {"vocab_size": 49408, **(text or {})}
    case = Case(open_clip_config(VIT | (vision or {}), words, **options))
    model = live(case, folder)
    save(case, model, folder)
    return model, open_clip_tokenize(LENGTH)


def open_clip_bias_with_words(folder):
    """One that Hugging Face's CLIPModel cannot be."""
    return open_clip_with_words(
        folder,
        {"no_ln_pre": True, "mlp_ratio": 80 / 64},
        {"pool_type": "last", "no_causal_mask": True, "proj_bias": True},
        init_logit_bias=-3,
    )


def coca_with_words(folder):
    """CoCa with CLIP's own vocabulary."""
    return open_clip_with_words(folder, COCA_VISION, COCA_TEXT, embed_dim=32, **COCA)


def xlm_roberta_with_words(folder):
    """One with XLM-RoBERTa's text tower and a small vocabulary of its form."""
    import string

    import open_clip
    import transformers

    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    letters = [(x, -4.0) for x in ("\u2581", *string.ascii_letters, *",!'&12")]
    words = [(f"\u2581{x}", -3.0) for x in ("a", "dog", "photo", "the", "sun", "tree")]
    vocab = [*special, *letters, *words, ("<mask>", 0.0)]
    transformers.XLMRobertaTokenizer(vocab=vocab).save_pretrained(folder)
    config = roberta_config("xlm-roberta-base", hf_tokenizer_name="xlm-roberta-base")
    case = Case(config, hf_sizes=ROBERTA_SIZES | {"vocab_size": len(vocab)})
    model = live(case, folder)
    save(case, model, folder)
    made = open_clip.tokenizer.HFTokenizer(str(folder), context_length=LENGTH)
    return model, lambda texts: made(texts).numpy()


# Name -> a function that makes a folder and returns (live model, texts -> ids).
WITH_WORDS = {
    "clip": clip_with_words,
    "clip_legacy": clip_legacy_with_words,
    "siglip": siglip_with_words,
    "open_clip": open_clip_with_words,
    "open_clip_bias": open_clip_bias_with_words,
    "coca": coca_with_words,
    "xlm_roberta": xlm_roberta_with_words,
}
# (name, target) -> what the error names.
NOT_EXPRESSIBLE = {
    ("siglip", "open_clip"): r"SigLIP's sizes only",
    ("open_clip_bias", "hf"): r"model\.image\.pre_norm=False",
    ("xlm_roberta", "open_clip"): r"Bert cannot be exported: open_clip has no such",
    ("xlm_roberta", "hf"): r"Bert cannot be exported: .* has no such tower",
    ("coca", "hf"): r"model\.image\.pool='query' cannot be exported: .* has 'cls' only",
}


def hf_tokenize(theirs, length):
    def tokenize(texts):
        return theirs(
            texts,
            padding="max_length",
            truncation=True,
            max_length=length,
            return_tensors="np",
        )["input_ids"]

    return tokenize


def open_clip_tokenize(length):
    import open_clip

    made = open_clip.SimpleTokenizer(context_length=length)
    return lambda texts: made(texts).numpy()


def load(folder, target, length):
    """An exported folder as its project loads it: (live model, texts -> ids)."""
    if target == "hf":
        import transformers

        model = transformers.AutoModel.from_pretrained(folder)
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        return model.eval(), hf_tokenize(theirs, length)
    import open_clip

    model = open_clip.create_model(f"local-dir:{folder}")
    made = open_clip.get_tokenizer(f"local-dir:{folder}")
    return model.eval(), lambda texts: made(texts).numpy()
