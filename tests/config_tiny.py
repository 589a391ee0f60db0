"""A run of seconds for tests: python -m clipjax.train --config tests/config_tiny.py"""

from clipjax.config import base

SMALL = {"width": 32, "depth": 1, "heads": 2}


def get_config(arg: str | None = None):
    return base(
        arg,
        data="scenes",
        tokenizer="words",
        evals="retrieval",
        options={
            "data.train=scenes": {"size": 160, "eval_size": 32, "resolution": 16},
            "data": {"image_size": 16, "batch_size": 16},
            "model.image=vit": {"variant": "Ti/8", **SMALL},
            "model.text=transformer": SMALL,
            "model=two_tower": {"embed_dim": 16},
            "train": {"steps": 8, "val_batches": 2},
            "checkpoint": {"every": 3},
            "log": {"every": 2, "tensorboard": False},
        },
    )
