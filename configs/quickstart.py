"""The first run: a tiny CLIP on scenes drawn on the fly, minutes on two CPU cores.

    python -m clipjax.train --config configs/quickstart.py

The evaluation uses scenes with shape-colour combinations that training never shows
(retrieval), and attributes of single shapes (zero-shot).
"""

from clipjax.config import base


def get_config(arg: str | None = None):
    return base(
        arg,
        data="scenes",
        tokenizer="words",
        evals="retrieval+zeroshot@scenes",
        optim="muon",
        options={
            "data": {"image_size": 48, "batch_size": 128},
            "data.train=scenes": {"resolution": 48},
            "data.eval=scenes": {"split": "heldout"},
            "evals.zeroshot.data=scenes": {"resolution": 48, "split": "attributes"},
            "model.image=vit": {
                "variant": "Ti/8",
                "width": 128,
                "depth": 4,
                "heads": 4,
            },
            "model.text=transformer": {"width": 128, "depth": 2, "heads": 4},
            "model=two_tower": {"embed_dim": 128},
            "optim=muon": {"lr": 2e-3, "weight_decay": 0.1},
            "optim.schedule=cosine": {"warmup": 0.07},
            "train": {"steps": 300},
            "checkpoint": {"every": 100},
        },
    )
