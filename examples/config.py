"""Trains with all components in this folder: half a minute on two CPU cores.

    python -m clipjax.train --config examples/config.py

Run it in the folder that contains `examples`, so that Python finds `examples.mixer`.
"""

from clipjax.config import base


def get_config(arg: str | None = None):
    return base(
        arg,
        data="examples.stripes",
        image="examples.mixer",
        tokenizer="examples.byte_tokenizer",
        loss="examples.hardest_loss",
        optim="examples.lion",
        evals="retrieval+examples.alignment",
        options={
            "data": {"image_size": 32, "batch_size": 24},
            "model.image=examples.mixer": {"width": 48},
            "model.text=transformer": {"width": 48, "depth": 2, "heads": 4},
            "model=two_tower": {"embed_dim": 48},
            "optim=examples.lion": {"lr": 5e-4, "weight_decay": 0.1},
            "train": {"steps": 100},
            "checkpoint": {"every": 100},
        },
    )
