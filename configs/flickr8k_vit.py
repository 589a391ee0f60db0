"""A small CLIP from scratch on Flickr8k: one GPU, or `:size=cpu` for two CPU cores.

    python -m clipjax.train --config configs/flickr8k_vit.py:size=cpu \\
        --config.data.train.path=DATA/flickr8k

The folder has webdataset shards train-*.tar and val-*.tar (docs/data.md); choose
`data=captions` to read the data set's published form. Measured results:
docs/results.md.
"""

from clipjax.config import base, word


def get_config(arg: str | None = None):
    cpu = word(arg, "size", ("gpu", "cpu")) == "cpu"
    options = {
        "data": {"image_size": 224, "batch_size": 512, "workers": 8},
        "model.image=vit": {"variant": "S/16", "patch_dropout": 0.25},
        "model.text=transformer": {"variant": "S", "depth": 6},
        "data.tokenizer=bpe": {"vocab_size": 6000, "context_length": 40},
        "model=two_tower": {"embed_dim": 384, "precision": "bfloat16"},
        "data.augment=crop": {"scale": (0.5, 1.0), "flip": 0.5, "color_jitter": 0.2},
        "optim=adamw": {"lr": 1e-3, "weight_decay": 0.2},
        "optim.schedule=cosine": {"warmup": 0.05},
        "train": {"epochs": 60.0, "eval_every": 100},
        "evals=retrieval": {"protocols": ("standard", "pair_diagonal")},
    }
    if cpu:
        # Small patches with half of them dropped cost about as much as large ones, and
        # learn more.
        options |= {
            "data": {"image_size": 96, "batch_size": 128},
            "model.image=vit": {
                "variant": "Ti/16",
                "depth": 6,
                "pool": "mean",
                "positions": "sincos",
                "patch_dropout": 0.5,
            },
            "model.text=transformer": {
                "variant": "Ti",
                "depth": 2,
                "causal": False,
                "pool": "mean",
                "token_dropout": 0.2,
            },
            "data.tokenizer=words": {"min_count": 3, "context_length": 20},
            "model=two_tower": {"embed_dim": 256},
            "data.augment=crop": {
                "scale": (0.3, 1.0),
                "flip": 0.5,
                "color_jitter": 0.4,
            },
            "loss=clip": {"label_smoothing": 0.1},
            "optim=muon": {"lr": 1e-3, "weight_decay": 0.5},
            "train": {"epochs": 40.0, "eval_every": 470, "ema": 0.995},
            "checkpoint": {"every": 235},
        }
    return base(
        arg,
        words=["size"],
        data="webdataset",
        tokenizer="words" if cpu else "bpe",
        augment="crop",
        optim="muon" if cpu else "adamw",
        options=options,
    )
