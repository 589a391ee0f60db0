"""A tiny CLIP whose captions often name one object of several, for maps (docs/maps.md).

    python -m clipjax.train --config configs/pointing.py
    python benchmarks/pointing.py --model runs/pointing

Else as configs/quickstart.py, in smaller batches. The maps of docs/maps.md are its.
"""

from clipjax.config import base


def get_config(arg: str | None = None):
    return base(
        arg,
        data="scenes",
        tokenizer="words",
        evals="retrieval",
        optim="muon",
        options={
            "data": {"image_size": 48, "batch_size": 64},
            "data.train=scenes": {"resolution": 48, "parts": True},
            "data.eval=scenes": {"split": "val", "resolution": 48},
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
            "train": {"steps": 400},
            "checkpoint": {"every": 100},
        },
    )
