"""Report 5: a supervised ResNet-50, and the tiny run that inherits from it.

    python -m clipjax.train --config configs/reports/resnet_classifier.py \\
        --config.data.train.path=DATA/imagenet
    python -m clipjax.train --config configs/reports/resnet_classifier.py:size=tiny \\
        --config.data.train.path=DATA/tiny --config.model.num_classes=5

Repository cydal/ImageNet-Full-training. Folders train/CLASS/*.jpg and val/CLASS/*.jpg;
23,518,277 parameters with 5 classes. A config inherits from another by changing what
its function returns, as `tiny` does here. Batch normalisation's running statistics mean
little after a handful of steps: the report's validation loss of 109.59 after 7 steps
was theirs, not the weights'.
"""

from clipjax.config import base, word


def get_config(arg: str | None = None):
    size = word(arg, "size", ("imagenet", "tiny"))
    options = {
        "data": {"image_size": 224, "batch_size": 256, "workers": 8},
        "model.image=resnet": {"variant": "50"},
        "model=classifier": {
            "num_classes": 1000,
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "precision": "bfloat16",
        },
        "data.augment=crop": {"scale": (0.08, 1.0), "flip": 0.5},
        "loss=cross_entropy": {"label_smoothing": 0.1},
        "optim=sgd": {"lr": 0.1, "weight_decay": 1e-4, "nesterov": False},
        "optim.schedule=cosine": {"warmup": 0.055},
        "train": {"epochs": 90.0},
    }
    config = base(
        arg,
        words=["size"],
        model="classifier",
        image="resnet",
        data="imagefolder",
        augment="crop",
        optim="sgd",
        options=options,
    )
    return tiny(config) if size == "tiny" else config


def tiny(config):
    """One epoch of five classes on a CPU, evaluated twice."""
    config.update_from_flattened_dict(
        {
            "data.batch_size": 32,
            "data.workers": 2,
            "model.num_classes": 5,
            "model.precision": "float32",
            "loss.label_smoothing": 0.0,
            "optim.lr": 0.01,
            "optim.schedule.warmup": 0.0,
            "train.epochs": 1.0,
            "train.eval_every": 4,
            "train.val_batches": 1,
            "log.every": 5,
        }
    )
    return config
