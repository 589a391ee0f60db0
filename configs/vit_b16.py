"""CLIP with a ViT-B/16 from scratch on image-caption pairs, such as Flickr30k.

    python -m clipjax.train --config configs/vit_b16.py \\
        --config.data.train.path=data/flickr30k

The folder has the images and a table of captions (docs/data.md lists the forms). The
towers are those of OpenAI's ViT-B/16 (arXiv 2103.00020), 149,620,737 parameters. The
optimizer's settings are the paper's for ViT towers, except the learning rate and weight
decay, which suit a small data set and one accelerator's batch.
"""

from clipjax.config import base


def get_config(arg: str | None = None):
    return base(
        arg,
        data="captions",
        tokenizer="clip_bpe",
        augment="crop",
        evals="retrieval",
        options={
            "data": {"image_size": 224, "batch_size": 256, "workers": 8},
            "data.train=captions": {"path": "data/flickr30k"},
            "model.image=vit": {"variant": "B/16"},
            "model.text=transformer": {"variant": "B"},
            "model=two_tower": {"embed_dim": 512, "precision": "bfloat16"},
            "data.augment=crop": {"scale": (0.5, 1.0)},
            "optim=adamw": {"lr": 3e-4, "weight_decay": 0.2},
            "optim.schedule=cosine": {"warmup": 0.05},
            "train": {"epochs": 30.0, "eval_every": 500},
            "checkpoint": {"every": 500},
        },
    )
