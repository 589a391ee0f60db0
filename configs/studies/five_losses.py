"""Report 4 as a study: five losses x three optimizers from scratch on Flickr8k.

    python -m clipjax.study configs/studies/five_losses.py --workdir studies/five \\
        --config.data.train.path=DATA/flickr8k \\
        --config.evals.zeroshot.data.path=DATA/flowers

ResNet-18 at 64 pixels and BERT mini, with the report's losses, optimizers, rates and
temperature. Each cell runs as the report set it with 3 seeds, then 4 trials of a third
of the length tune its learning rate from the report's, and the best one's runs with
the same 3 seeds. The score is the report's: the mean of both recalls at 1 and of the
zero-shot top-1 accuracy. 90 whole runs and 60 trials, about 4 minutes a run on two
cores: 7.3 hours.
"""

from clipjax.studies import Study, Tuning, factor_range


def get_study():
    return Study(
        config=(
            "configs/reports/five_losses.py:data=captions,image=resnet,text=bert,"
            "tokenizer=words,evals=retrieval+zeroshot@imagefolder+score"
        ),
        axes={
            "loss": ("clip", "sogclr", "cyclip", "vicreg", "onlineclr"),
            "optim": ("adamw", "sgd", "adam"),
        },
        seeds=3,
        metric="score/mean",
        epochs=4.0,
        minutes=4.0,
        tuning=Tuning(
            {"optim.lr": factor_range(0.3, 100.0)},
            trials=4,
            length=1 / 3,
            untuned_too=True,
        ),
        options={
            "data.image_size": 64,
            "data.workers": 0,
            "data.threads": 2,
            "model.image.variant": "18",
            "model.text.variant": "mini",
            "optim.schedule.warmup": 0.05,
            "checkpoint.keep": 1,
            "log.tensorboard": False,
        },
    )
