"""The Multimodal Memory Network (docs/memory_network.md), by `size`:

    python -m clipjax.train --config configs/memory_network.py \\
        --config.data.train.path=DATA/flickr8k

- improved: Flickr8k, with what report 2 of the network's first version proposed: byte
  pairs, masked padding, augmentation, a learned temperature, warmup, 100 epochs.
- parity: Flickr8k, 43,269,504 parameters, trained as the first version: 30 epochs of
  SGD on characters. Retrieval also uses its protocol ("pair_diagonal").
- large: as improved, with a latent width of 768, 12 layers and 201 million parameters.
- synthetic: image, text and audio of ten classes drawn on the fly; no files.

Flickr8k's folder has webdataset shards train-*.tar and val-*.tar; choose
`data=captions` to read its published form (docs/data.md).
"""

from clipjax.config import base, word

# Tower options of the first version.
FIRST = {"post_norm": True, "dropout": 0.1}
IMAGE = {"pre_norm": False, "patch_bias": True, **FIRST}
TEXT = {"causal": False, "pool": "mean", "norm_pooled": True, **FIRST}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
NO_DECAY = r"(^|/)(positions|class_token|logit_scale|logit_bias|memory|types)$"


def get_config(arg: str | None = None):
    size = word(arg, "size", ("improved", "parity", "large", "synthetic"))
    kinds = {"parity": _parity, "synthetic": _synthetic}
    chosen, options = kinds[size]() if size in kinds else _improved(size == "large")
    return base(
        arg,
        words=["size"],
        model="memory_network",
        **chosen,
        options={"optim": {"no_decay": NO_DECAY}, **options},
    )


def _improved(large: bool):
    width, depth, heads = (768, 12, 12) if large else (512, 4, 8)
    sizes = {"width": width, "depth": depth, "heads": heads, "dropout": 0.1}
    options = {
        "data": {"image_size": 224, "batch_size": 128, "workers": 8},
        "model.image=vit": {"variant": "B/16", **sizes},
        "model.text=transformer": {"causal": False, "pool": "mean", **sizes},
        "data.tokenizer=bpe": {"vocab_size": 8192, "context_length": 40},
        "model=memory_network": {
            "latent_dim": width,
            "heads": heads,
            "joint": True,
            "precision": "bfloat16",
        },
        "loss=tri_modal": {"joint": 0.5},
        "data.augment=crop": {"scale": (0.5, 1.0), "color_jitter": 0.2},
        "optim=adamw": {"lr": 5e-4, "weight_decay": 0.2},
        "optim.schedule=cosine": {"warmup": 0.05},
        "train": {"epochs": 100.0, "eval_every": 500},
        "checkpoint": {"every": 500},
        "evals=retrieval": {"protocols": ("standard", "pair_diagonal")},
    }
    return {
        "data": "webdataset",
        "tokenizer": "bpe",
        "augment": "crop",
        "loss": "tri_modal",
        "evals": "retrieval",
    }, options


def _parity():
    sizes = {"width": 512, "depth": 4, "heads": 8}
    options = {
        "data": {"image_size": 224, "batch_size": 64, "unit": "pair", "workers": 4},
        "model.image=vit": {"variant": "B/16", **sizes, **IMAGE},
        "model.text=transformer": {**sizes, **TEXT},
        "data.tokenizer=char": {"context_length": 77, "special": False},
        "model=memory_network": {
            "audio": True,
            "decoders": ("text", "image", "audio"),
            "test_time": "off",
            "parity": True,
            **IMAGENET,
        },
        # A square with (224 / 256)^2 of the area; the first version squashed first.
        "data.augment=crop": {
            "scale": (0.766, 0.766),
            "ratio": (1.0, 1.0),
            "flip": 0.5,
        },
        "optim=sgd": {"lr": 0.01, "momentum": 0.9, "nesterov": True},
        "optim.schedule=cosine": {"floor": 1e-4, "per_epoch": True},
        "train": {"epochs": 30.0},
        "evals=retrieval": {"protocols": ("pair_diagonal", "standard")},
    }
    return {
        "data": "webdataset",
        "tokenizer": "char",
        "augment": "crop",
        "preprocess": "squash",
        "loss": "clip",
        "optim": "sgd",
        "evals": "retrieval",
    }, options


def _synthetic():
    sizes = {"width": 256, "depth": 3, "heads": 4}
    options = {
        "data": {"image_size": 64, "batch_size": 32},
        "model.image=vit": {"variant": "B/8", **sizes, **IMAGE},
        "model.text=transformer": {**sizes, **TEXT},
        "data.tokenizer=words": {"vocab_size": 1000, "context_length": 32},
        "model=memory_network": {
            "latent_dim": 256,
            "memory_size": 64,
            "heads": 4,
            "audio": True,
            "decoders": ("text", "image", "audio"),
            "joint": True,
            "test_time": "off",
            "parity": True,
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
        },
        "optim=sgd": {"lr": 0.01, "momentum": 0.9, "nesterov": True},
        "train": {"epochs": 20.0},
    }
    return {
        "data": "multimodal",
        "tokenizer": "words",
        "loss": "tri_modal",
        "optim": "sgd",
        "schedule": "constant",
        "evals": "retrieval+zeroshot",
    }, options
