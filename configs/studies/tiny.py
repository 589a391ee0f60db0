"""Two losses x two optimizers x two seeds on a tiny form of the quickstart.

    python -m clipjax.study configs/studies/tiny.py --workdir studies/tiny

It shows what a study is in a few minutes on two cores. Two seeds tell hardly anything
apart, as it says itself.
"""

from clipjax.studies import Study


def get_study():
    return Study(
        config="configs/quickstart.py",
        axes={"loss": ("clip", "sogclr"), "optim": ("adamw", "muon")},
        seeds=2,
        metric="retrieval/mean_recall@1",
        steps=30,
        options={
            "data.image_size": 16,
            "data.batch_size": 32,
            "data.train.resolution": 16,
            "data.train.size": 2000,
            "data.train.eval_size": 100,
            "evals.zeroshot.data.resolution": 16,
            "evals.zeroshot.data.size": 2000,
            "evals.zeroshot.data.eval_size": 100,
            "model.embed_dim": 32,
            "model.image.width": 32,
            "model.image.depth": 1,
            "model.image.heads": 2,
            "model.text.width": 32,
            "model.text.depth": 1,
            "model.text.heads": 2,
            "checkpoint.every": 10,
            "log.every": 5,
            "log.tensorboard": False,
        },
    )
