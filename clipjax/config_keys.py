"""The keys that every config has, whatever its components: defaults and meanings."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Key:
    """default: its type is the key's. meaning: the text of `--help train.steps`."""

    default: Any
    meaning: str


_NO_DECAY = r"(^|/)(positions|class_token|logit_scale|logit_bias)$"
_LORA_ON = r"/(qkv|query|key_value|out|fc1|fc2)/kernel$"

# Sections of nothing but their keys.
PLAIN = ("lora", "train", "early_stop", "checkpoint", "log", "mesh")

# Section -> key. The section "" is the config itself.
KEYS: dict[str, dict[str, Key]] = {
    "": {
        "seed": Key(0, "seed of initialisation, data order, augmentation and dropout"),
        "init_from": Key(
            "",
            "a run, or a released model (a folder, a file, or hf-hub:ORG/NAME), whose "
            "parameters the run starts from",
        ),
        "init_image_from": Key("", "as init_from, for the image tower alone"),
        "init_text_from": Key("", "as init_from, for the text tower alone"),
    },
    "data": {
        "image_size": Key(224, "height and width of the images in pixels"),
        "batch_size": Key(128, "examples per step, over all devices and hosts"),
        "label_set": Key(
            "", "labels that a classifier learns; empty: the data's only ones"
        ),
        "mixup": Key(
            0.0, "share of a classifier's examples that are blended with another"
        ),
        "mixup_alpha": Key(0.2, "the blend's share is from Beta(alpha, alpha)"),
        "cutmix": Key(
            0.0, "share of a classifier's examples that get a patch of another"
        ),
        "cutmix_alpha": Key(1.0, "the rest's share is from Beta(alpha, alpha)"),
        "unit": Key("image", 'an epoch visits every "image" once, or every "pair"'),
        "text_buckets": Key(
            (),
            "lengths, such as (8, 16, 24): texts are padded to the shortest that holds "
            "a batch, or to the whole context; empty: always to the whole context",
        ),
        "workers": Key(
            0, "processes that read and decode; 0: threads of the training process"
        ),
        "threads": Key(1, "decoding threads if workers is 0"),
        "timeout": Key(600.0, "most seconds to wait for a batch; 0: no limit"),
        "on_broken": Key(
            "replace",
            'an unreadable example: "replace" takes another, "raise" ends the run',
        ),
    },
    "optim": {
        "clip_norm": Key(1.0, "limit of the global gradient norm; 0: no clipping"),
        "no_decay": Key(
            _NO_DECAY,
            "pattern of parameters without weight decay; those of fewer than two "
            "dimensions never have it",
        ),
        "groups": Key(
            (),
            "(pattern, learning rate factor, weight decay factor) of parameters; the "
            "first match wins; a rate factor of 0 freezes",
        ),
        "layer_decay": Key(
            1.0,
            "learning rate factor of each block, times that of the block after it; 1: "
            "the same rate for all",
        ),
    },
    "lora": {
        "rank": Key(
            0, "rank of the additions to frozen kernels; 0: none, the kernels train"
        ),
        "alpha": Key(16.0, "the additions are scaled by alpha / rank"),
        "on": Key(_LORA_ON, "pattern of the kernels that get an addition"),
    },
    "train": {
        "steps": Key(0, "length of the run in steps; or set train.epochs"),
        "epochs": Key(0.0, "length of the run in epochs; or set train.steps"),
        "micro_batches": Key(
            1, "parts into which a batch is split for the towers, to save memory"
        ),
        "norm_in_parts": Key(
            False, "batch normalisation sees one micro-batch at a time"
        ),
        "ema": Key(0.0, "decay of the moving average of parameters; 0: none"),
        "max_logit_scale": Key(
            100.0, "the inverse temperature stays between 1 and this; 0: no limits"
        ),
        "max_bad_steps": Key(10, "non-finite steps in a row that end the run"),
        "eval_every": Key(0, "steps between evaluations; 0: only at the end"),
        "eval_ema": Key(True, "evaluate the moving average if there is one"),
        "val_batches": Key(
            8, "batches of validation loss at each evaluation; 0: no validation loss"
        ),
    },
    "early_stop": {
        "metric": Key(
            "",
            'metric of the evaluations that ends the run early, "zeroshot/mean_top1" '
            'or "val_loss"; empty: that of the best checkpoint',
        ),
        "patience": Key(
            0, "evaluations in a row without a better value that end the run; 0: none"
        ),
        "min_delta": Key(0.0, "a value is better if it is so by more than this"),
        "threshold": Key(
            0.0, "the run ends once the metric reaches this value; 0: none"
        ),
    },
    "checkpoint": {
        "every": Key(0, "steps between saves; 0: one save per epoch"),
        "keep": Key(2, "number of latest saves to keep"),
        "keep_every": Key(0, "steps between saves that are never deleted; 0: none"),
        "best": Key(
            "",
            'metric whose best save is kept, "retrieval/mean_recall@1" or "val_loss"; '
            "empty: early_stop.metric, or the primary metric of the first evaluator",
        ),
        "best_mode": Key(
            "",
            'whether that metric\'s "max" or "min" is best; empty: as it declares',
        ),
        "keep_best": Key(
            1, "number of best saves to keep; checkpoints/best names them by the metric"
        ),
    },
    "log": {
        "every": Key(10, "steps between rows of metrics"),
        "tensorboard": Key(True, "write TensorBoard files beside metrics.jsonl"),
        "wandb": Key(
            "", "project of Weights & Biases that gets the numbers; empty: none"
        ),
        "writers": Key(
            "", "modules of your own that get the numbers, as my.module,other"
        ),
    },
    "mesh": {
        "data": Key(-1, "devices along the batch; -1: all others"),
        "fsdp": Key(1, "devices that share each parameter"),
        "timeout": Key(
            300.0,
            "seconds that one process of several may be absent, silent or without "
            "progress; 0: no limit",
        ),
    },
}

# The defaults alone.
SHARED: dict[str, dict[str, Any]] = {
    section: {name: key.default for name, key in keys.items()}
    for section, keys in KEYS.items()
}
