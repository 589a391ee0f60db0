"""Report 3: a small CLIP trained on a CPU with synthetic pictures.

    python -m clipjax.train --config configs/reports/small_cpu.py

Repository QihongRuan/m1-clip-training-project. 76,736,001 parameters ("small"): both
towers and the embedding of width 512, 12 layers, characters as tokens. `size=tiny` has
9,885,441 (width 256, 6 layers), `size=base` 172,120,321 (width 768). 216 pictures for
training and 24 for validation, which show little beside the colour of their category;
`:data=scenes` has pictures whose content is known. In-batch accuracy is logged as
`image_to_text_accuracy`; by chance it is 1 / 12 = 8.3 % in batches of 12.
"""

from clipjax.config import base, word

SIZES = {"small": (512, 12, 8), "tiny": (256, 6, 4), "base": (768, 12, 12)}


def get_config(arg: str | None = None):
    width, depth, heads = SIZES[word(arg, "size", tuple(SIZES))]
    tower = {"width": width, "depth": depth, "heads": heads, "dropout": 0.1}
    return base(
        arg,
        words=["size"],
        data="categories",
        tokenizer="char",
        evals="retrieval+zeroshot",
        options={
            "data": {"image_size": 224, "batch_size": 12},
            "data.train=categories": {"resolution": 224},
            "data.train=scenes": {"size": 216, "eval_size": 100, "resolution": 224},
            "data.tokenizer=char": {
                "characters": " abcdefghijklmnopqrstuvwxyz.,",
                "unknown": True,
            },
            "model.image=vit": {
                "variant": "B/16",
                "pre_norm": False,
                "patch_bias": True,
                **tower,
            },
            "model.text=transformer": {"causal": False, **tower},
            "model=two_tower": {
                "embed_dim": width,
                "image_head": "affine",
                "text_head": "affine",
            },
            "optim=adamw": {"lr": 3e-4, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.01},
            "optim.schedule=cosine": {"floor": 3e-5},
            "train": {"epochs": 15.0},
        },
    )
