"""Report 1: a ViT-B/16 CLIP from scratch on pairs of Flickr30k.

    python -m clipjax.train --config configs/reports/flickr30k_clip.py \\
        --config.data.train.path=DATA/flickr30k
    ... --config configs/reports/flickr30k_clip.py:size=all    # all pairs, not 1,000

Repository Siddharth-magesh/ai_research_learning. 137,011,457 parameters; 149,620,993
with `--config.model.text.depth=12`, as in the report's checkpoints of 598 MB. 1,000
pairs are 200 images with five captions each, so a batch of 64 pairs has 8 pairs of the
same image on average; `--config.loss.same_image=mask` leaves those out. Adam's weight
decay is coupled (L2), as in the report. Three things differ. The tokenizer is CLIP's;
the report numbered words by Python's hash, which changes from run to run. Padding is
masked; the report's attention saw it. Validation uses images that training does not
see.
"""

from clipjax.config import base, word


def get_config(arg: str | None = None):
    few = word(arg, "size", ("few", "all")) == "few"
    return base(
        arg,
        words=["size"],
        data="captions",
        tokenizer="clip_bpe",
        preprocess="squash",
        augment="crop",
        optim="adam",
        evals="retrieval",
        options={
            "data": {"image_size": 224, "batch_size": 64, "unit": "pair", "workers": 4},
            "data.train=captions": {
                "path": "data/flickr30k",
                "max_samples": 200 if few else 0,
            },
            "data.eval=captions": {"max_samples": 200 if few else 1000},
            "model.image=vit": {
                "variant": "B/16",
                "pre_norm": False,
                "patch_bias": True,
                "dropout": 0.1,
            },
            "model.text=transformer": {"depth": 8, "causal": False, "dropout": 0.1},
            "model=two_tower": {
                "embed_dim": 512,
                "image_head": "affine",
                "text_head": "affine",
                "mean": (0.485, 0.456, 0.406),
                "std": (0.229, 0.224, 0.225),
            },
            "data.augment=crop": {"scale": (1.0, 1.0)},
            "optim=adam": {"lr": 1e-4, "weight_decay": 1e-4},
            "optim.schedule=cosine": {"floor": 1e-6, "per_epoch": True},
            "train": {"epochs": 50.0, "eval_every": 80 if few else 2500},
            "checkpoint": {"keep_every": 80 if few else 0},
            "evals=retrieval": {"protocols": ("standard", "pair_diagonal")},
        },
    )
